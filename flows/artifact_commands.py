"""`bcls artifacts …`: what is in the store."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bcls_core.config import load_runtime
from flows.options import JsonOption, RootOption, VersionArgument, open_context, show

artifacts_app = typer.Typer(help="Versions of corpora, label sets and trainings.", no_args_is_help=True)


@artifacts_app.command("list")
def artifacts_list(
    kind: Annotated[str | None, typer.Argument(help="corpus, labels or training.")] = None,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Every published version."""
    _artifacts("list_versions", root, as_json, kind)


@artifacts_app.command("show")
def artifacts_show(
    kind: str, version: VersionArgument = "current", root: RootOption = None, as_json: JsonOption = False
) -> None:
    """One version: tables, rows, parents, statistics, gates."""
    _artifacts("show", root, as_json, kind, version)


@artifacts_app.command("verify")
def artifacts_verify(
    kind: str, version: VersionArgument = "current", root: RootOption = None, as_json: JsonOption = False
) -> None:
    """Hash every file again and compare with the manifest."""
    _artifacts("verify", root, as_json, kind, version)


@artifacts_app.command("rollback")
def artifacts_rollback(kind: str, version: str, root: RootOption = None, as_json: JsonOption = False) -> None:
    """Make an older version current, by publishing it again."""
    _artifacts("rollback", root, as_json, kind, version)


def _artifacts(command: str, root: str | None, as_json: bool, *arguments: Any) -> None:
    from flows import artifacts as flow

    show(getattr(flow, command)(open_context("artifacts", load_runtime(), root).root, *arguments), as_json)
