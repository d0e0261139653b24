"""What commands share: options of one name and meaning, what they open, how results are shown."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bcls_core.config import RuntimeSettings, Split
from bcls_core.errors import ConfigError
from flows.context import Context, absolute_root

ConfigOption = Annotated[str, typer.Option("-c", "--config", help="Recipe: a YAML file or a shipped name.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")]
RootOption = Annotated[str | None, typer.Option("--root", envvar="BCLS_ROOT", help="Folder or URL of all artefacts.")]
LocalOption = Annotated[bool, typer.Option("--local", help="Run the inner work in this process, without Ray.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
CorpusOption = Annotated[
    str | None, typer.Option("--corpus", help="Corpus version; the newest of the recipe if unset.")
]
LabelsOption = Annotated[
    str | None, typer.Option("--labels", help="Label set version; the newest of the recipe if unset.")
]
VersionArgument = Annotated[str, typer.Argument(help="Version, a unique prefix of one, or `current`.")]
ModelOption = Annotated[
    str, typer.Option("--model", help="models:/NAME@alias, models:/NAME/VERSION or a training version.")
]
SplitOption = Annotated[Split, typer.Option(help="What to evaluate on.")]
RatingsOption = Annotated[
    list[Path] | None, typer.Option("--ratings", help="People's ratings of captions for images; may be repeated.")
]
CaptionRatingsOption = Annotated[
    list[Path] | None,
    typer.Option("--caption-ratings", help="People's ratings of how alike two captions are (STS); may be repeated."),
]
ImageGroupsOption = Annotated[
    Path | None, typer.Option("--image-groups", help="CSV of image_id and group: image-to-image retrieval.")
]
CocoOption = Annotated[
    str | None,
    typer.Option("--coco", help="`package` or a folder of ground truth: COCO 1K and 5K, CxC, ECCV Caption."),
]


def open_context(name: str, runtime: RuntimeSettings, root: str | None, *, local: bool = False) -> Context:
    """Where a command works: `--root`, or else the recipe's; with `--local` without Ray."""
    if local:
        runtime = runtime.model_copy(update={"backend": "local"})
    return Context(name, runtime, absolute_root(root or runtime.root))


def show(result: Any, as_json: bool) -> None:
    """Every flow's result knows how it is shown: `as_dict()` for programs, `as_text()` for people."""
    typer.echo(json.dumps(result.as_dict(), indent=2, sort_keys=True) if as_json else result.as_text())
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def by_measure(option: str, values: Sequence[str]) -> dict[str, float]:
    """`MEASURE=SIMILARITY` options as a dictionary.

    Raises:
        ConfigError: one is not of that form, or its measure is named twice.
    """
    found: dict[str, float] = {}
    for value in values:
        measure, _, text = value.partition("=")
        try:
            similarity = float(text)
        except ValueError:
            similarity = math.nan
        if not measure or not -1 <= similarity <= 1:
            raise ConfigError(
                f"{option} {value}: expected MEASURE=SIMILARITY, a number from -1 to 1, as in minilm=0.9."
            )
        if measure in found:
            raise ConfigError(f"{option}: measure {measure} is named twice. Name it once.")
        found[measure] = similarity
    return found
