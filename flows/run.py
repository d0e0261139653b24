"""`bcls run`: everything a recipe says, each step only where it was not done before."""

from __future__ import annotations

from bcls_core.config import Recipe
from flows import evaluate, ingest, label, lineage, register, train
from flows.context import Context
from flows.result import Result


def run(context: Context, recipe: Recipe) -> Result:
    """Ingest, label, train, register, evaluate; ends with the metrics, the model's name and where to look at them."""
    corpus = ingest.ingest(context, recipe)
    for split in ("train", "val", recipe.evaluate.split):
        lineage.require_split(corpus.artifact, split)
    labels = label.label(context, recipe, corpus.artifact)
    training = train.train(context, recipe, corpus.artifact, labels.artifact)
    evaluated = evaluate.evaluate(context, training.artifact, recipe.evaluate, experiment=recipe.name)
    registered = register.run(context, recipe.registry, training.artifact, training.job)
    parts = (
        ingest.report(corpus),
        label.report(labels),
        train.report(training),
        evaluate.report(evaluated),
        registered,
    )
    names = ("corpus", "labels", "training", "evaluation", "registered")
    facts = {name: part.as_dict() for name, part in zip(names, parts, strict=True)}
    hints = [
        f"Search it:     bcls search --model {registered.facts['alias']} --root {context.root} --text 'a red boat'",
        f"Look at runs:  {context.tracker.how_to_look}",
    ]
    return Result("", facts, hidden=frozenset(names), hints=hints, exit_code=registered.exit_code, parts=parts)


if __name__ == "__main__":
    import sys

    from flows.cli import main

    main(["run", *sys.argv[1:]])
