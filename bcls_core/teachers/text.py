"""A frozen sentence encoder: captions in, unit fp16 rows out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.errors import ModelError
from bcls_core.teachers.resolve import fetch_model, model_digest

TEXT_TEACHER_VERSION = 1
"""Raised by hand whenever stored rows change: batching, precision, normalisation, rounding."""

BATCH_SIZE = 32
"""Captions encoded at once. An encoder's last bits depend on it, so it is part of the fingerprint and no setting."""

_WINDOW = 4096  # captions sorted by length together: bounds memory, keeps batches alike in length
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


class TextTeacher:
    """Any sentence-transformers model (or plain transformers text model, then mean-pooled), frozen, in fp32.

    No code that comes with a model is run, and weights are read from safetensors only.
    """

    def __init__(self, model: str, *, revision: str | None = None, prompt: str = "", device: str = "cpu") -> None:
        """
        Args:
            model: hub name, folder, or `package:NAME` for a model carried in an installed package.
            revision: branch, tag or commit of a hub model.
            prompt: put before every caption.
            device: torch device.
        Raises:
            ModelError: the model is missing, is not stored as safetensors, or cannot be built; says what to do.
        """
        folder = fetch_model(model, revision)
        _refuse_pickles(folder, model)
        self.fingerprint = _fingerprint(folder, revision, prompt)
        self._name = model
        self._prompt = prompt
        self._model = _load(folder, model, device)
        self.dimension: int = _dimension(self._model, model)

    def encode(self, captions: Sequence[str]) -> NDArray[np.float16]:
        """(captions, dimension) rows of unit length, rounded to fp16.

        Equal captions are encoded once. Batches are cut from the captions in the order given, never by who runs it.

        Raises:
            ModelError: the model gives NaN, infinity or zero for a caption; the message names it.
        """
        distinct = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
        texts = list(distinct)
        rows = np.empty((len(texts), self.dimension), dtype=np.float16)
        for batch in _batches([len(text) for text in texts]):
            rows[batch] = self._encode_batch([texts[place] for place in batch])
        places = np.fromiter((distinct[caption] for caption in captions), dtype=np.int64, count=len(captions))
        return rows[places]

    def _encode_batch(self, texts: list[str]) -> NDArray[np.float16]:
        wide = self._model.encode(
            texts,
            prompt=self._prompt,
            batch_size=len(texts),
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=False,
        ).astype(np.float64)
        norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
        usable = np.isfinite(norms) & (norms > 0)
        if not usable.all():
            place = int(np.argmin(usable))
            raise ModelError(
                f"model {self._name!r} gives an embedding of norm {norms[place]} for the caption {texts[place]!r}. "
                "Drop the caption from the corpus, or use another model."
            )
        rows: NDArray[np.float16] = (wide / norms[:, None]).astype(np.float16)
        return rows


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
        "dtype": "float32",
        "batch_size": BATCH_SIZE,
    }


def _batches(lengths: list[int]) -> Iterator[NDArray[np.int64]]:
    """Row numbers of each batch: windows in the order given, sorted by length inside."""
    for start in range(0, len(lengths), _WINDOW):
        window = np.array(lengths[start : start + _WINDOW], dtype=np.int64)
        order = np.argsort(window, kind="stable") + start
        for first in range(0, len(order), BATCH_SIZE):
            yield order[first : first + BATCH_SIZE]


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
