"""What a sentence-transformers folder says about its model, read from its JSON files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bcls_core.errors import ModelError

_POOLINGS = {"cls": "cls", "mean": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
"""As a folder may name them (the longer names come from older versions) -> as towers do."""


@dataclass(frozen=True)
class SentenceFolder:
    """A text model's folder; of a plain `transformers` folder only `transformer` is known.

    Dense and normalising modules after the pooling are left out: a student's projection comes there.

    Attributes:
        transformer: where config.json, the weights and the tokenizer are.
        modes: how the folder says to pool, in its own words; empty if it does not.
        max_tokens: the longest input it was made for, if it says so.
    """

    transformer: Path
    modes: tuple[str, ...] = ()
    max_tokens: int | None = None

    @classmethod
    def read(cls, folder: Path) -> SentenceFolder:
        """What modules.json and the files it points to say."""
        if not (folder / "modules.json").is_file():
            return cls(folder)
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        paths = {module["type"].rpartition(".")[2]: folder / module["path"] for module in modules}
        transformer = paths.get("Transformer", folder)
        pooling = _read_json(paths["Pooling"] / "config.json") if "Pooling" in paths else {}
        modes = pooling.get("pooling_mode") or [
            key for key in sorted(pooling) if key.startswith("pooling_mode_") and pooling[key] is True
        ]
        limit = _read_json(transformer / "sentence_bert_config.json").get("max_seq_length")
        return cls(transformer, (modes,) if isinstance(modes, str) else tuple(modes), limit)

    def pooling(self) -> str:
        """`mean`, `cls`, or `auto` where the folder says nothing.

        Raises:
            ModelError: it pools in a way that towers do not have.
        """
        if not self.modes:
            return "auto"
        if len(self.modes) == 1 and self.modes[0] in _POOLINGS:
            return _POOLINGS[self.modes[0]]
        raise ModelError(
            f"{self.transformer}: is pooled by {' and '.join(self.modes)}, which towers do not have.\n"
            "  Set the tower's pooling to mean or cls, or name another model."
        )


def _read_json(path: Path) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads(path.read_text("utf-8"))) if path.is_file() else {}
