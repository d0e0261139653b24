"""The layers of a frozen BERT, made for running only: one product for queries, keys and values, nothing copied twice.

Most sentence encoders are BERTs (MiniLM, BGE, E5, GTE), and captions are short: a layer's time goes to products of a
few hundred rows and to what stands between them. Here weights stand as the product likes them, sums and activations
are made in place, and dropout and what only a decoder needs are gone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class FusedLayers(nn.Module):
    """Does what the encoder of a `transformers` BERT does when it is frozen; results differ by rounding alone."""

    def __init__(self, encoder: Any, heads: int) -> None:
        """
        Args:
            encoder: a `BertEncoder`.
            heads: of attention.
        """
        super().__init__()
        self._layers = nn.ModuleList(_FusedLayer(layer, heads) for layer in encoder.layer)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Any:
        """As `BertEncoder`, of whose results it gives the last hidden states.

        Args:
            hidden_states: (captions, tokens, width).
            attention_mask: as scaled dot-product attention takes it; None where every token counts.
        """
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        captions, tokens, width = hidden_states.shape
        rows = hidden_states.reshape(captions * tokens, width)
        for layer in self._layers:
            rows = layer(rows, captions, attention_mask)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=rows.view(captions, tokens, width))


class _FusedLayer(nn.Module):
    def __init__(self, layer: Any, heads: int) -> None:
        super().__init__()
        own, behind = layer.attention.self, layer.attention.output
        self._heads = heads
        self._attended = _Product(own.query, own.key, own.value)
        self._joined, self._widened, self._narrowed = (
            _Product(linear) for linear in (behind.dense, layer.intermediate.dense, layer.output.dense)
        )
        self._first, self._second = behind.LayerNorm, layer.output.LayerNorm

    def forward(self, rows: Tensor, captions: int, mask: Tensor | None) -> Tensor:
        width = rows.shape[1]
        parts = self._attended(rows).view(captions, -1, 3, self._heads, width // self._heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)
        seen = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        seen = seen.transpose(1, 2).reshape(-1, width)
        rows = self._first(_sum(self._joined(seen), rows))
        inner = torch.ops.aten.gelu_(self._widened(rows))
        normed: Tensor = self._second(_sum(self._narrowed(inner), rows))
        return normed


class _Product(nn.Module):
    """Linear maps of the same rows, side by side in one matrix."""

    def __init__(self, *linears: nn.Linear) -> None:
        super().__init__()
        weight = torch.cat([linear.weight.detach() for linear in linears])
        self._weight = nn.Parameter(weight.t().contiguous(), requires_grad=False)
        self._bias = nn.Parameter(torch.cat([linear.bias.detach() for linear in linears]), requires_grad=False)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.addmm(self._bias, rows, self._weight)


def _sum(made: Tensor, rows: Tensor) -> Tensor:
    """In place where that rounds no more than the sum of the two does."""
    return made.add_(rows) if made.dtype == rows.dtype else made + rows


def fuse(model: Any) -> bool:
    """Puts fused layers into a sentence-transformers model, in place, if it is a plain BERT.

    Returns:
        Whether it is one.
    """
    from transformers import BertModel

    bert = getattr(model[0], "model", None)
    if bert is None or type(bert) is not BertModel:
        return False
    config = bert.config
    plain = config.hidden_act == "gelu" and not config.is_decoder and not config.add_cross_attention
    absolute = getattr(config, "position_embedding_type", "absolute") in (None, "absolute")
    recorded = config.output_hidden_states or config.output_attentions
    if not plain or not absolute or recorded or config._attn_implementation != "sdpa":
        return False
    names = ("dense", "query", "key", "value")
    maps = [part for name, part in bert.encoder.named_modules() if name.endswith(names)]
    usual = [part for part in maps if type(part) is nn.Linear and part.bias is not None]
    if len(usual) != len(maps) or len(maps) != 6 * len(bert.encoder.layer):
        return False
    bert.encoder = FusedLayers(bert.encoder, config.num_attention_heads)
    return True
