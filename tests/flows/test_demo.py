"""The demo as a newcomer runs it: what it must reach, and what a second call does."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.slow
def test_the_demo_learns_to_retrieve_and_to_order(bcls: Any) -> None:
    result = bcls.json("demo")
    metrics = result["evaluation"]["metrics"]
    assert metrics["images"] == 200
    chance = 100 * 10 / 200
    assert metrics["t2i/r10"] >= 10 * chance
    untrained = untrained_metrics(bcls)
    for direction in ("i2t", "t2i"):
        gain = metrics[f"true/{direction}/kendall"] - untrained[f"true/{direction}/kendall"]
        assert gain >= 0.15, direction
    assert result["registered"]["alias"] == "models:/demo@champion"

    text = bcls.run("demo")
    assert text.count("already there") >= 3
    assert "mlflow ui --backend-store-uri sqlite:///" in text
    assert "models:/demo@champion is version 1" in text


def untrained_metrics(bcls: Any) -> dict[str, float]:
    from bcls_core.config import load_recipe
    from bcls_core.store import Store
    from bcls_core.training.evaluate import evaluate
    from bcls_core.training.initial import initial_student
    from flows import recipes

    store = Store(str(bcls.root))
    corpus, labels = store.current("corpus"), store.current("labels")
    student = initial_student(load_recipe(recipes.find("demo")).train, corpus)
    return evaluate(student, corpus, labels, "test").metrics()
