"""`bcls artifacts`: what is in the store."""

from __future__ import annotations

from typing import Any

from bcls_core.store import Store
from flows.result import Grid, Result


def list_versions(root: str, kind: str | None) -> Result:
    """Every published version, newest publication first."""
    found: list[dict[str, Any]] = [
        {
            "kind": info.kind,
            "version": info.version,
            "current": info.current,
            "content_digest": info.content_digest,
            "rows": info.rows,
            "bytes": info.bytes,
        }
        for info in Store(root).list(kind)
    ]
    rows = [
        (item["kind"], item["version"], "*" if item["current"] else "", item["content_digest"][:12], item["bytes"])
        for item in found
    ]
    grid = Grid(("kind", "version", "current", "digest", "bytes"), rows)
    return Result(f"{len(found)} artefacts under {root}", {"artifacts": found}, (grid,), frozenset({"artifacts"}))


def show(root: str, kind: str, version: str) -> Result:
    """One version's manifest, in short."""
    artifact = Store(root).resolve(kind, version)
    manifest = artifact.manifest
    tables = {name: table.rows for name, table in manifest.tables.items()}
    facts: dict[str, Any] = {
        "kind": kind,
        "version": artifact.version,
        "content_digest": artifact.content_digest,
        "url": artifact.url,
        "schema": manifest.schema_name,
        "parents": manifest.parents,
        "tables": tables,
        "statistics": manifest.statistics,
        "gates": manifest.gates,
        "fingerprint": manifest.fingerprint,
    }
    return Result(f"{kind} {artifact.version}", facts)


def verify(root: str, kind: str, version: str) -> Result:
    """Every file hashed again; exit code 1 where one differs from the manifest."""
    store = Store(root)
    artifact = store.resolve(kind, version)
    problems = [{"path": problem.path, "what": problem.what} for problem in store.verify(artifact)]
    facts = {"kind": kind, "version": artifact.version, "problems": problems}
    title = f"{kind} {artifact.version}: " + (f"{len(problems)} problems" if problems else "every file is as published")
    grid = Grid(("file", "problem"), [(item["path"], item["what"]) for item in problems])
    return Result(title, facts, (grid,) if problems else (), frozenset({"problems"}), exit_code=1 if problems else 0)


def rollback(root: str, kind: str, version: str) -> Result:
    """Publishes an older version again, which makes it the current one."""
    published = Store(root).rollback(kind, version)
    facts = {"kind": kind, "version": published.version, "sequence": published.sequence}
    return Result(f"{kind}: version {published.version} is current again", facts)


if __name__ == "__main__":
    import sys

    from flows.cli import main

    main(["artifacts", *sys.argv[1:]])
