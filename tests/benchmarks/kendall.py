"""The Kendall loss against its formula written out, and SW-HS against a hardest triplet.

    python -m tests.benchmarks.kendall               # writes tests/benchmarks/results/kendall.json
    python -m tests.benchmarks.kendall --crossover   # both forms of the exact hinge, by length of row
    python -m tests.benchmarks.kendall --tables      # what that file says, as the losses' README shows it

Every time is forward and backward of both directions; peers take turns, medians of five, on the same threads, in a
process whose allocator keeps what is freed: otherwise the kernel clears new pages for the formula at every call, which
makes large batches look worse for it than they are. Memory is what one call adds to a process of its own. The formula
is written down in two ways, and compared is the better one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bcls_core.compiled import over_rows
from bcls_core.config import load_recipe
from bcls_core.losses import hinge, kendall_loss, triplet_loss
from bcls_core.order_kernels import ascending
from bcls_core.students import build_student
from flows import recipes
from tests.benchmarks import measure, record

GAP = 0.2
NAIVE_UP_TO = 512
SIZES = (32, 128, 512, 1024, 2048, 4096)


def batch(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    scores = torch.randn(size, size, generator=generator).mul_(0.2).tanh_()
    labels = torch.rand(size, size, generator=generator).fill_diagonal_(1.0)
    return scores.requires_grad_(), labels


def naive_kendall(scores: Tensor, labels: Tensor, dtype: torch.dtype = torch.bool) -> Tensor:
    """The formula, broadcast over (rows, columns, columns), with a mask of this dtype."""

    def direction(s: Tensor, r: Tensor) -> Tensor:
        ordered = (r[:, :, None] - r[:, None, :] > GAP).to(dtype)
        return (F.relu(s[:, None, :] - s[:, :, None]) * ordered).sum() / ordered.sum()

    return (direction(scores, labels) + direction(scores.T, labels.T)) / 2


NAIVE = {"naive": naive_kendall, "naive, float mask": partial(naive_kendall, dtype=torch.float32)}


def exact(scores: Tensor, labels: Tensor) -> Tensor:
    return kendall_loss(scores, labels, gap=GAP)


def plain_hardest_triplet(scores: Tensor) -> Tensor:
    """VSE++ as one would write it down."""
    own = scores.diagonal()
    others = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)
    i2t = F.relu(0.2 - own + others.amax(1)).mean()
    return (i2t + F.relu(0.2 - own + others.amax(0)).mean()) / 2


def sw_hs(scores: Tensor, labels: Tensor, sampling: str = "dead-zone") -> Tensor:
    return kendall_loss(scores, labels, gap=GAP, sampling=sampling, window=len(scores) // 8, hard=True)


def label_sort(labels: Tensor) -> None:
    """The sort that SW-HS begins with: rows of both directions, the same code on the same threads."""
    for rows in (labels.numpy(), labels.T.contiguous().numpy()):
        over_rows(lambda part, rows=rows: ascending(rows[part]), len(rows), rows.size * 64)


def forward_backward(loss: Callable[..., Tensor], scores: Tensor, *labels: Tensor) -> Callable[[], None]:
    def call() -> None:
        scores.grad = None
        loss(scores, *labels).backward()

    return call


def times() -> list[dict[str, float]]:
    rows = []
    for size in SIZES:
        scores, labels = batch(size)
        peers = {
            "exact": forward_backward(exact, scores, labels),
            "hardest triplet, plain": forward_backward(plain_hardest_triplet, scores),
            "SW-HS dead-zone": forward_backward(sw_hs, scores, labels),
            "SW-HS local": forward_backward(lambda s, r: sw_hs(s, r, "local"), scores, labels),
            "label sort": lambda labels=labels: label_sort(labels),
        }
        if size <= NAIVE_UP_TO:
            for name, naive in NAIVE.items():
                peers[name] = forward_backward(naive, scores, labels)
                torch.testing.assert_close(exact(scores, labels), naive(scores, labels), rtol=1e-5, atol=1e-8)
        seconds = measure.interleaved(peers)
        rows.append({"batch": size} | {f"{name} ms": round(value * 1e3, 3) for name, value in seconds.items()})
    return rows


def memory(size: int, form: str) -> dict[str, float]:
    """Run in a process of its own: what the call adds, and the most the process had with its libraries."""
    loss = (NAIVE | {"exact": exact})[form]
    forward_backward(loss, *batch(16))()  # libraries loaded and compiled code at hand
    torch.set_num_threads(torch.get_num_threads())
    call = forward_backward(loss, *batch(size))
    added = measure.peak_bytes(call)
    return {"added MiB": added / 2**20, "process MiB": measure.highest_resident_bytes() / 2**20}


def memory_in_a_process(size: int, form: str) -> dict[str, float]:
    arguments = [sys.executable, "-m", "tests.benchmarks.kendall", "--memory", str(size), form]
    environment = measure.without_kept_memory()
    done = subprocess.run(arguments, cwd=record.REPOSITORY, env=environment, stdout=subprocess.PIPE, check=True)
    return {name: round(value, 1) for name, value in json.loads(done.stdout).items()}


def step_share() -> dict[str, float]:
    """Share of SW-HS in a whole step of the demo's student at batch 128: encoders, losses, backward, optimiser."""
    settings = load_recipe(recipes.find("demo")).train
    generator = np.random.default_rng(0)
    words = [f"word{index}" for index in range(200)]
    captions = [" ".join(generator.choice(words, 12)) for _ in range(128)]
    images = [Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in captions]
    torch.manual_seed(0)
    student = build_student(settings.student, captions).train()
    optimiser = torch.optim.AdamW(student.parameters())
    prepared = student.prepare_images(images), student.prepare_captions(captions)
    scores, labels = batch(128)

    def step() -> None:
        optimiser.zero_grad()
        found = student.score(student.encode_images(prepared[0]), student.encode_captions(prepared[1]))
        (triplet_loss(found, mining="soft", tau=0.1) + sw_hs(found, labels)).backward()
        optimiser.step()

    seconds = measure.interleaved({"step": step, "SW-HS": forward_backward(sw_hs, scores, labels)})
    return {
        "step ms": round(seconds["step"] * 1e3, 2),
        "SW-HS ms": round(seconds["SW-HS"] * 1e3, 3),
        "share percent": round(100 * seconds["SW-HS"] / seconds["step"], 2),
    }


def crossover() -> list[dict[str, float]]:
    rows = []
    for columns in (32, 128, 512, 1024, 2048, 4096):
        scores, labels = batch(columns)

        def form(swept_from: int, scores: Tensor = scores, labels: Tensor = labels) -> None:
            hinge.SWEPT_FROM = swept_from
            hinge.hinge_discordance(scores, labels, gap=GAP, window=1, margin=0.0)

        seconds = measure.interleaved(
            {"comparing": lambda form=form: form(10**9), "sweeping": lambda form=form: form(1)}
        )
        rows.append({"columns": columns} | {name: round(value * 1e3, 3) for name, value in seconds.items()})
    return rows


def tables(figures: dict[str, Any]) -> str:
    """Markdown of the results: time and memory of the exact loss, then SW-HS with and without its sort."""
    exact_rows, window_rows = [], []
    for row in figures["sizes"]:
        formula = ["", "", "", ""]
        if "times faster" in row:
            time, size = (min(row[f"{form} {unit}"] for form in NAIVE) for unit in ("ms", "added MiB"))
            formula = [_short(time), f"{row['times faster']:.0f}", f"{size:.0f}", f"{row['times less memory']:.0f}"]
        exact_ms, exact_size = _short(row["exact ms"]), _short(row["exact added MiB"])
        exact_rows.append([str(row["batch"]), exact_ms, *formula[:2], exact_size, *formula[2:]])
        sort, times = row["label sort ms"], (row["SW-HS dead-zone ms"], row["SW-HS local ms"])
        swept = [_short(part) for time in times for part in (time, max(time - sort, 0.0))]
        window_rows.append([str(row["batch"]), _short(row["hardest triplet, plain ms"]), *swept])
    exact_head = ["B", "exact, ms", "formula, ms", "times faster", "exact, MiB", "formula, MiB", "times less"]
    window_head = ["B", "hardest triplet, ms", "dead zone, ms", "without sort", "local, ms", "without sort"]
    return "\n\n".join([_markdown(exact_head, exact_rows), _markdown(window_head, window_rows)])


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.2g}" if number < 10 else f"{number:.1f}"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["--:"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crossover", action="store_true")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--memory", nargs=2, metavar=("SIZE", "FORM"), help="in this process, for the benchmark itself")
    chosen = parser.parse_args()
    if chosen.memory:
        sys.stdout.write(json.dumps(memory(int(chosen.memory[0]), chosen.memory[1])))
        return
    if chosen.tables:
        sys.stdout.write(tables(record.read("kendall")) + "\n")
        return
    measure.keep_freed_memory("tests.benchmarks.kendall")
    if chosen.crossover:
        sys.stdout.write(json.dumps(crossover(), indent=1) + "\n")
        return
    rows = times()
    for row in rows:
        size = int(row["batch"])
        row |= {f"exact {name}": value for name, value in memory_in_a_process(size, "exact").items()}
        if size <= NAIVE_UP_TO:
            for form in NAIVE:
                row |= {f"{form} {name}": value for name, value in memory_in_a_process(size, form).items()}
            fastest, smallest = (min(row[f"{form} {unit}"] for form in NAIVE) for unit in ("ms", "added MiB"))
            row["times faster"] = round(fastest / row["exact ms"], 1)
            row["times less memory"] = round(smallest / max(row["exact added MiB"], 0.1), 1)
    figures = {
        "threads": torch.get_num_threads(),
        "sizes": rows,
        "step": step_share(),
        "crossover ms": crossover(),
    }
    record.write("kendall", "python -m tests.benchmarks.kendall", figures)


if __name__ == "__main__":
    main()
