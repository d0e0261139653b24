"""`bcls FLOW …`: options in, exit code out. Nothing heavy is imported before a recipe has been checked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bcls_core.config import EvaluateSettings, Recipe, Split, load_methods, load_recipe, load_runtime
from bcls_core.errors import BclsError, ConfigError
from flows import preflight, recipes
from flows.artifact_commands import artifacts_app
from flows.context import Context
from flows.options import (
    CaptionRatingsOption,
    CocoOption,
    ConfigOption,
    CorpusOption,
    ImageGroupsOption,
    JsonOption,
    LabelsOption,
    LocalOption,
    ModelOption,
    RatingsOption,
    RootOption,
    SetOption,
    SplitOption,
    by_measure,
    open_context,
    show,
)
from flows.pages import check_page
from flows.process import begin_process

app = typer.Typer(
    name="bcls",
    help="Graded supervision for image-text retrieval, at cluster scale.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(artifacts_app, name="artifacts")
bench_app = typer.Typer(help="Comparisons that a recipe describes.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

_RUN_HELP = "models:/NAME@alias, models:/NAME/VERSION, a training version, or the id of an MLflow run."


def _evaluate_settings(
    split: Split,
    ratings: list[Path] | None,
    caption_ratings: list[Path] | None,
    image_groups: Path | None,
    coco: str | None,
) -> EvaluateSettings:
    settings = EvaluateSettings(
        split=split,
        ratings=ratings or [],
        caption_ratings=caption_ratings or [],
        image_groups=image_groups,
        coco=coco,
    )
    preflight.check_references(settings)
    return settings


def _recipe(
    config: str, overrides: list[str] | None, root: str | None, *, local: bool, extra: Sequence[str] = ()
) -> tuple[Recipe, Context]:
    recipe = load_recipe(recipes.find(config), [*(overrides or []), *extra])
    return recipe, open_context(recipe.name, recipe.runtime, root, local=local)


@app.command()
def demo(
    overrides: SetOption = None, root: RootOption = None, local: LocalOption = False, as_json: JsonOption = False
) -> None:
    """Everything, on drawn scenes: the same as `run -c demo`."""
    run("demo", overrides, root, local, as_json)


@app.command()
def run(
    config: ConfigOption,
    overrides: SetOption = None,
    root: RootOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Ingest, label, train, evaluate and register."""
    recipe, context = _recipe(config, overrides, root, local=local)
    preflight.check_all(recipe)
    from flows import run as flow

    show(flow.run(context, recipe), as_json)


@app.command()
def ingest(
    config: ConfigOption,
    overrides: SetOption = None,
    root: RootOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
    features: Annotated[Path | None, typer.Option(help="Image features (.npz) instead of an image folder.")] = None,
) -> None:
    """Raw annotations and images to a validated, versioned corpus."""
    extra = [f"ingest.features={features}", "ingest.images=null"] if features else []
    recipe, context = _recipe(config, overrides, root, local=local, extra=extra)
    preflight.check_ingest(recipe)
    from flows import ingest as flow

    show(flow.run(context, recipe), as_json)


@app.command()
def label(
    config: ConfigOption,
    overrides: SetOption = None,
    root: RootOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
    corpus: CorpusOption = None,
) -> None:
    """Caption representations, neighbours and gap quantiles of a corpus."""
    recipe, context = _recipe(config, overrides, root, local=local)
    preflight.check_models(recipe, label=True, train=False)
    from flows import label as flow

    show(flow.run(context, recipe, corpus=corpus), as_json)


@app.command()
def audit(
    config: ConfigOption,
    corpus: CorpusOption = None,
    labels: LabelsOption = None,
    html: Annotated[Path | None, typer.Option(help="Also write a self-contained page with examples.")] = None,
    near: Annotated[
        list[str] | None,
        typer.Option(help="MEASURE=SIMILARITY from which captions of two splits are near duplicates; may be repeated."),
    ] = None,
    false_negative: Annotated[
        list[str] | None,
        typer.Option(help="MEASURE=LABEL from which unannotated pairs are likely false negatives; may be repeated."),
    ] = None,
    bits: Annotated[
        int | None, typer.Option(min=0, max=256, help="Of 256 in which hashes of one picture may differ.")
    ] = None,
    cosine: Annotated[float | None, typer.Option(min=-1, max=1, help="From which features are of one picture.")] = None,
    examples: Annotated[int, typer.Option(min=0, max=1000, help="How many to show of each kind.")] = 8,
    fail_above: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Exit 3 if a larger share of a split's captions or images leaks."),
    ] = None,
    overrides: SetOption = None,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Leaks between splits, and labels that contradict annotations, before training on them."""
    recipe, context = _recipe(config, overrides, root, local=True)
    check_page(html)
    near_from = by_measure("--near", near or [])
    negative_from = by_measure("--false-negative", false_negative or [])
    from bcls_core.audit import NEAR_BITS, NEAR_COSINE, AuditSettings
    from flows import audit as flow

    settings = AuditSettings(
        near=near_from,
        false_negative=negative_from,
        bits=NEAR_BITS if bits is None else bits,
        cosine=NEAR_COSINE if cosine is None else cosine,
        examples=examples,
    )
    show(flow.run(context, recipe, settings, corpus=corpus, labels=labels, html=html, fail_above=fail_above), as_json)


@app.command()
def train(
    config: ConfigOption,
    overrides: SetOption = None,
    root: RootOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
    corpus: CorpusOption = None,
    labels: LabelsOption = None,
) -> None:
    """Train the recipe's student with its objective."""
    recipe, context = _recipe(config, overrides, root, local=local)
    preflight.check_models(recipe, label=False, train=True)
    from flows import train as flow

    show(flow.run(context, recipe, corpus=corpus, labels=labels), as_json)


@app.command()
def evaluate(
    model: ModelOption,
    split: SplitOption = "test",
    ratings: RatingsOption = None,
    caption_ratings: CaptionRatingsOption = None,
    image_groups: ImageGroupsOption = None,
    coco: CocoOption = None,
    overrides: SetOption = None,
    root: RootOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Metrics of a trained model on a split of the corpus it was trained on, with intervals."""
    settings = _evaluate_settings(split, ratings, caption_ratings, image_groups, coco)
    from flows import evaluate as flow

    context = open_context("evaluate", load_runtime(overrides or []), root, local=local)
    show(flow.run(context, model, settings), as_json)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN…", help=_RUN_HELP)],
    split: SplitOption = "test",
    ratings: RatingsOption = None,
    caption_ratings: CaptionRatingsOption = None,
    image_groups: ImageGroupsOption = None,
    coco: CocoOption = None,
    overrides: SetOption = None,
    root: RootOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Differences between models with intervals, and what differs in their settings.

    Runs whose settings differ in the seed alone are one group; the first run's group is the baseline.

    What was not evaluated yet is evaluated first.
    """
    settings = _evaluate_settings(split, ratings, caption_ratings, image_groups, coco)
    if len(runs) < 2:
        raise ConfigError("compare takes at least two runs.")
    from flows import compare as flow

    context = open_context("compare", load_runtime(overrides or []), root, local=local)
    show(flow.run(context, runs, settings), as_json)


@app.command()
def search(
    model: ModelOption,
    corpus: Annotated[str, typer.Option(help="Corpus version, a unique prefix of one, or `current`.")] = "current",
    text: Annotated[str | None, typer.Option(help="Query text.")] = None,
    image: Annotated[Path | None, typer.Option(help="Query image file.")] = None,
    to: Annotated[str | None, typer.Option(help="images or captions; the other side of the query if unset.")] = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="How many results.")] = 10,
    split: Annotated[str, typer.Option(help="Split to search, or `all`.")] = "test",
    html: Annotated[Path | None, typer.Option(help="Also write a self-contained page with thumbnails.")] = None,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find images or captions for a text or an image: all four directions."""
    if (text is None) == (image is None):
        raise ConfigError("search takes exactly one of --text and --image.")
    if to not in (None, "images", "captions"):
        raise ConfigError(f"--to {to}: expected images or captions.")
    if image is not None and not image.is_file():
        raise ConfigError(f"--image {image}: no such file.")
    check_page(html)
    from flows import search as flow

    query = flow.Query(
        text=text, image=image, to=to or ("images" if image is None else "captions"), top=top, split=split
    )
    context = open_context("search", load_runtime(), root)
    show(flow.run(context, query, model=model, corpus=corpus, html=html), as_json)


@app.command()
def doctor(
    processes: Annotated[
        bool, typer.Option(help="Compare what two processes compute with what one does (half a minute).")
    ] = True,
    root: RootOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """What this machine has for training and labelling, what is wrong, and what could not be told."""
    context = open_context("doctor", load_runtime(), root, local=local)
    from flows import doctor as flow

    show(flow.run(context, processes=processes), as_json)


@bench_app.command("methods")
def bench_methods(
    config: ConfigOption = "flickr8k-methods",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Trainings of each method, from train.seed on; 3 if unset.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The same as --seeds 1.")] = False,
    at_once: Annotated[int, typer.Option(min=1, help="Trainings at a time, each in a process of its own.")] = 1,
    overrides: SetOption = None,
    root: RootOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe's methods with several seeds, and compare each with the first, with intervals."""
    if quick and seeds not in (None, 1):
        raise ConfigError(f"--quick is --seeds 1, and --seeds {seeds} was given, too. Give one of them.")
    _, context = _recipe(config, overrides, root, local=local)
    methods = load_methods(recipes.find(config), overrides or [])
    for method in methods.values():
        preflight.check_all(method)
    from flows import bench as flow

    show(flow.run(context, methods, seeds=1 if quick else seeds or 3, at_once=at_once), as_json)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `bcls` and of `python -m flows.FLOW`."""
    begin_process()
    try:
        app(arguments, standalone_mode=True)
    except BclsError as error:
        typer.echo(f"{type(error).__name__.removesuffix('Error')} error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
