"""A frozen sentence encoder: captions in, unit fp16 rows out."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bcls_core.errors import ModelError
from bcls_core.teachers.batches import Batch, batches
from bcls_core.teachers.lanes import in_lanes, records_states
from bcls_core.teachers.resolve import fetch_model, model_digest

FloatArray = NDArray[np.float64]

TEXT_TEACHER_VERSION = 3
"""Raised by hand whenever stored rows change: batching, precision, normalisation, rounding."""

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens encoded at once. An encoder's last bits can depend on it: part of the fingerprint and no setting."""

Precision = Literal["auto", "float32", "bfloat16"]

LEAST_COSINE = 0.9999
"""What a row keeps to its fp32 embedding in any precision, as rows from other hardware do."""

_ROUNDED = 1e-6
"""What rounding may take from a cosine where the same is computed in another order."""

_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_PURE = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize")  # modules that several threads may call at once
_PROBES = (
    "",
    "Dogs.",
    "A man rides a horse.",
    "Two children in red jackets throw snow at each other.",
    "A crowded market street at night, with lanterns over the stalls and a cyclist who waits for a gap.",
    "No people are in this picture: an empty beach, three boats and a grey sky.",
    "An old woman, seen from behind, sells 12 kinds of apples; the sign beside her says CLOSED, and nobody minds.",
    "The player in the white shirt jumps for the ball while the goalkeeper, who has fallen, looks the other way. " * 2,
)


class TextTeacher:
    """Any sentence-transformers model (or plain transformers text model, then mean-pooled), frozen.

    No code that comes with a model is run, and weights are read from safetensors only.

    Attributes:
        dimension: numbers in a row.
        dtype: "float32" or "bfloat16", what the model computes in here; not in the fingerprint, for it may differ
            between the machines of one job, whose rows agree to a cosine of 0.9999 in any case.
        fingerprint: all that determines the rows up to that.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        prompt: str = "",
        device: str = "cpu",
        precision: Precision = "auto",
    ) -> None:
        """
        Args:
            model: hub name, folder, or `package:NAME` for a model carried in an installed package.
            revision: branch, tag or commit of a hub model.
            prompt: put before every caption.
            device: torch device.
            precision: "auto" takes bfloat16 where the device computes in it and the model keeps a cosine of 0.9999 to
                its fp32 embeddings, found by trying; else float32.
        Raises:
            ModelError: the model is missing, is not stored as safetensors, cannot be built, gives embeddings of
                another width than it says, or is not exact enough in the bfloat16 asked for; says what to do.
        """
        # Imported here: fingerprints are made before anything heavy is loaded.
        import torch

        folder = fetch_model(model, revision)
        _refuse_pickles(folder, model)
        self.fingerprint = _fingerprint(folder, revision, prompt)
        self.dtype = "float32"
        self._name = model
        self._prompt = prompt
        self._device = torch.device(device)
        self._model = _load(folder, model, device)
        self.dimension: int = _dimension(self._model, model)
        probes = self._try()
        if self._device.type == "cpu":
            self._fuse(probes)
        if precision == "bfloat16" or (precision == "auto" and _computes_in_bfloat16(self._device)):
            self.dtype = "bfloat16"
            cosine = float(np.einsum("nd,nd->n", probes, self._try()).min())
            # Half of what is allowed: other captions may be worse than the few that were tried.
            if 1 - cosine > (1 - LEAST_COSINE) / 2:
                self.dtype = "float32"
                if precision == "bfloat16":
                    raise ModelError(
                        f"model {model!r} in bfloat16 gives embeddings of cosine {cosine:.8f} to those in float32, "
                        f"too far for the {LEAST_COSINE} that is promised.\n  Leave `precision` at auto."
                    )

    def encode(self, captions: Sequence[str]) -> NDArray[np.float16]:
        """(captions, dimension) rows of unit length, rounded to fp16.

        Equal captions are encoded once. Batches hold captions of equally many tokens, cut from all that are given,
        never by who runs them; on a CPU one thread computes a batch, and several batches run side by side.

        Raises:
            ModelError: the model gives NaN, infinity or zero for a caption; the message names it.
        """
        distinct = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
        texts = list(distinct)
        rows = np.empty((len(texts), self.dimension), dtype=np.float16)
        with closing(self._embeddings(texts)) as found:
            for places, wide in found:
                norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
                usable = np.isfinite(norms) & (norms > 0)
                if not usable.all():
                    place = int(np.argmin(usable))
                    raise ModelError(
                        f"model {self._name!r} gives an embedding of norm {norms[place]} for the caption "
                        f"{texts[places[place]]!r}. Drop the caption from the corpus, or use another model."
                    )
                rows[places] = wide / norms[:, None]
        own = np.fromiter((distinct[caption] for caption in captions), dtype=np.int64, count=len(captions))
        return rows[own]

    def _embeddings(self, texts: list[str]) -> Generator[tuple[NDArray[np.int64], FloatArray], None, None]:
        """Places among `texts` and their embeddings, batch by batch."""
        tokens = BATCH_TOKENS.get(self._device.type, BATCH_TOKENS["cuda"])
        cut = batches(partial(self._model.preprocess, prompt=self._prompt), texts, tokens)
        if self._device.type == "cpu" and _is_pure(self._model):
            yield from in_lanes(self._embed, cut)
        else:
            yield from map(self._embed, cut)

    def _embed(self, batch: Batch) -> tuple[NDArray[np.int64], FloatArray]:
        import torch

        features = {
            name: value.to(self._device) if isinstance(value, torch.Tensor) else value
            for name, value in batch.features.items()
        }
        half = torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16")
        with torch.inference_mode(), half:
            embeddings = self._model(features)["sentence_embedding"]
        wide: FloatArray = embeddings.double().cpu().numpy()
        if self._model.truncate_dim is not None:
            wide = wide[:, : self._model.truncate_dim]
        if wide.shape != (len(batch.places), self.dimension):
            raise ModelError(
                f"model {self._name!r} says that its embeddings have {self.dimension} numbers, and gives an array of "
                f"shape {wide.shape} for {len(batch.places)} captions.\n  Correct its configuration (the widths in "
                "modules.json's folders), or use another model."
            )
        return batch.places, wide

    def _fuse(self, probes: FloatArray) -> None:
        """Faster layers, if the model is of a kind that has some and what they give is the same but for rounding."""
        from bcls_core.teachers.fused_bert import fuse

        layers = getattr(getattr(self._model[0], "model", None), "encoder", None)
        if fuse(self._model) and np.einsum("nd,nd->n", probes, self._try()).min() < 1 - _ROUNDED:
            self._model[0].model.encoder = layers

    def _try(self) -> FloatArray:
        """(usable probes, dimension) embeddings of unit length, so that what is wrong is known before the long run."""
        rows = np.empty((len(_PROBES), self.dimension))
        with closing(self._embeddings(list(_PROBES))) as found:
            for places, wide in found:
                rows[places] = wide
        norms: FloatArray = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (np.isfinite(norms[1:]) & (norms[1:] > 0)).all():
            raise ModelError(
                f"model {self._name!r} gives embeddings of norms {norms[1:, 0].tolist()} for ordinary sentences.\n"
                "  Its weights are damaged or not trained: fetch it again, or use another model."
            )
        unit: FloatArray = rows[1:] / norms[1:]
        return unit


def teacher_fingerprint(model: str, *, revision: str | None = None, prompt: str = "") -> dict[str, Any]:
    """All that determines a teacher's rows, read from its files without loading it.

    Raises:
        ModelError: the model is missing.
    """
    return _fingerprint(fetch_model(model, revision), revision, prompt)


def _fingerprint(folder: Path, revision: str | None, prompt: str) -> dict[str, Any]:
    transformer = _read_json(folder / "sentence_bert_config.json")
    modules = _read_json(folder / "modules.json")
    paths = [module["path"] for module in modules if module["type"].endswith(".Pooling")] if modules else []
    pooling = {name: value for path in paths for name, value in _read_json(folder / path / "config.json").items()}
    return {
        "version": TEXT_TEACHER_VERSION,
        "files": model_digest(folder),
        "revision": revision,
        "prompt": prompt,
        "max_length": transformer.get("max_seq_length"),
        "pooling": pooling or "mean",
        "cosine": LEAST_COSINE,
        "batch_tokens": dict(BATCH_TOKENS),
    }


def _is_pure(model: Any) -> bool:
    """Whether threads may run the model at once: its modules keep nothing, and no hidden states are recorded."""
    return not records_states(getattr(model[0], "model", None)) and all(
        type(module).__name__ in _PURE for module in model
    )


def _computes_in_bfloat16(device: Any) -> bool:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _refuse_pickles(folder: Path, name: str) -> None:
    if not any(folder.rglob("*.safetensors")):
        raise ModelError(
            f"model {name!r}: {folder} holds no safetensors weights, and other formats are not read. "
            "Convert it: load it with sentence-transformers where it is trusted, and save_pretrained() it again."
        )
    modules = _read_json(folder / "modules.json")
    for path in {module["path"] for module in modules} if modules else {""}:
        place = folder / path
        if any((place / pickled).exists() for pickled in _PICKLED) and not any(place.glob("*.safetensors")):
            raise ModelError(
                f"model {name!r}: {place} holds pickled weights only, which can run code when read. "
                "Convert it: load it with sentence-transformers where it is trusted, and save_pretrained() it again."
            )


def _load(folder: Path, name: str, device: str) -> Any:
    # Imported here: fingerprints are made before anything heavy is loaded.
    import torch
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer

    try:
        model = SentenceTransformer(
            str(folder),
            device=device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"model {name!r}: {folder} does not load as a sentence encoder: {error}\n"
            "  Name a sentence-transformers model (a folder with modules.json) or a transformers text model."
        ) from error
    return model.float().eval().requires_grad_(False)


def _dimension(model: Any, name: str) -> int:
    dimension = model.get_embedding_dimension()
    if dimension is None:
        raise ModelError(f"model {name!r} does not say how wide its embeddings are. Use a sentence-transformers model.")
    return int(dimension)


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error}). Fetch the model again.") from error
