"""Gradient caching at several times the batch: the memory of a small batch, the gradients of the large one.

    python -m tests.benchmarks.gradient_cache

A vision transformer and a text transformer of CLIP's kind, smaller and with random weights, InfoNCE, one step: with a
small batch, with eight times as many pairs at once, and with as many encoded a small batch at a time. Memory is what a
step adds in a process of its own, beside model and inputs: with an allocator that gives back what is freed, so that it
is what the step needs, and once more with glibc's defaults, which keep pieces of it. Seconds are medians of rounds in
which all three take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bcls_core.students import Student
from bcls_core.students.loading import build_model, make_config
from bcls_core.students.towers import Tower
from bcls_core.training.batches import Batch
from bcls_core.training.encoder import StepEncoder
from bcls_core.workers import Workers
from tests.benchmarks import measure, record

SMALL, TIMES = 64, 8
WAYS = {"small batch": (SMALL, None), "at once": (SMALL * TIMES, None), "cached": (SMALL * TIMES, SMALL)}
SHAPE = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 768}
IMAGE = {"model_type": "vit", "image_size": 96, "patch_size": 16, **SHAPE}
TEXT = {"model_type": "bert", "vocab_size": 4096, "max_position_embeddings": 32, **SHAPE}
TOKENS = 24
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


class Pair(Student):
    """Both towers; random weights, no dropout."""

    def __init__(self) -> None:
        super().__init__({}, None)  # type: ignore[arg-type]
        torch.manual_seed(0)
        silent = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        towers = (("image", IMAGE, "cls"), ("text", TEXT, "mean"))
        self.image_tower, self.text_tower = (
            Tower(
                build_model(make_config({**config, **silent}, "benchmark"), pooler=False),
                side,  # type: ignore[arg-type]
                pooling=pooling,  # type: ignore[arg-type]
                trained=True,
                dim=SHAPE["hidden_size"],
                unread=[],
            )
            for side, config, pooling in towers
        )

    def encode_images(self, batch: Any) -> Tensor:
        return functional.normalize(self.image_tower(batch), dim=-1)

    def encode_captions(self, batch: Any) -> Tensor:
        return functional.normalize(self.text_tower(batch), dim=-1)


def inputs(rows: int) -> Batch:
    """Random pixels and words."""
    random = torch.Generator().manual_seed(1)
    images = {"pixel_values": torch.randn(rows, 3, 96, 96, generator=random)}
    words = torch.randint(5, 4096, (rows, TOKENS), generator=random)
    return Batch(images, {"input_ids": words, "attention_mask": torch.ones_like(words)}, {}, [rows])


def step(student: Student, batch: Batch, piece: int | None) -> None:
    """Gradients of one batch."""
    student.zero_grad(set_to_none=True)
    encoded = StepEncoder(student, Workers(), piece=piece).encode(batch, (0,))
    scores = encoded.images @ encoded.captions.T / 0.07
    target = torch.arange(len(scores))
    encoded.backward(functional.cross_entropy(scores, target) + functional.cross_entropy(scores.T, target))


def added(way: str) -> int:
    """Bytes that a step adds; to be run in a process of its own."""
    rows, piece = WAYS[way]
    student, batch = Pair().train(), inputs(rows)
    step(student, inputs(2), None)  # libraries loaded, gradients there
    return measure.peak_bytes(lambda: step(student, batch, piece))


def gradients(way: str) -> list[Tensor]:
    """Of all parameters."""
    rows, piece = WAYS[way]
    student = Pair().train()
    step(student, inputs(rows), piece)
    return [parameter.grad.clone() for parameter in student.parameters() if parameter.grad is not None]


def furthest(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest difference of a gradient, as a share of the largest gradient.

    Of all parameters together: some, such as biases of keys, have gradients that are nothing but rounding.
    """
    apart = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
    return apart / max(float(gradient.abs().max()) for gradient in expected)


def memory_of(allocator: dict[str, str]) -> dict[str, int]:
    """Bytes that a step adds, each way in a process of its own."""
    found = {}
    for way in WAYS:
        command = [sys.executable, "-m", "tests.benchmarks.gradient_cache", "--memory", way]
        environment = os.environ | allocator
        done = subprocess.run(command, cwd=record.REPOSITORY, env=environment, stdout=subprocess.PIPE, check=True)
        found[way] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", choices=WAYS)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    if chosen.memory:
        sys.stdout.write(json.dumps(added(chosen.memory)))
        return
    memory, kept = memory_of(GIVES_BACK), memory_of({})
    student: nn.Module = Pair().train()
    batches = {way: inputs(rows) for way, (rows, _) in WAYS.items()}
    seconds = measure.interleaved(
        {way: (lambda way=way: step(student, batches[way], WAYS[way][1])) for way in WAYS}, rounds=chosen.rounds
    )
    figures = {
        "rows": {way: rows for way, (rows, _) in WAYS.items()},
        "MiB": {way: round(size / 2**20, 1) for way, size in memory.items()},
        "MiB, glibc's defaults": {way: round(size / 2**20, 1) for way, size in kept.items()},
        "memory, cached to small": round(memory["cached"] / memory["small batch"], 3),
        "memory, at once to small": round(memory["at once"] / memory["small batch"], 3),
        "seconds": {way: round(value, 3) for way, value in seconds.items()},
        "seconds, cached to at once": round(seconds["cached"] / seconds["at once"], 3),
        "gradients differ by": furthest(gradients("cached"), gradients("at once")),
        "threads": torch.get_num_threads(),
    }
    record.write("gradient_cache", "python -m tests.benchmarks.gradient_cache", figures)


if __name__ == "__main__":
    main()
