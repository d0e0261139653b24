"""`bcls doctor`: what this machine has, what is wrong with it, and what could not be told."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import socket
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from bcls_core.errors import BclsError
from bcls_core.workers import usable_processors
from flows.context import Context
from flows.result import Grid, Result

State = Literal["ok", "note", "wrong", "not checked"]

_PACKAGES = (
    "torch", "ray", "transformers", "sentence-transformers", "spacy", "pyarrow", "mlflow", "numpy", "numba", "pydantic",
    "scikit-image",
)  # fmt: skip
_MODULES = {"scikit-image": "skimage"}
_PORTS = {"Ray's head": 6379, "Ray's dashboard and job API": 8265}
_LEAST_FREE = 5 * 2**30
_LEAST_SHARED = 2 * 2**30
_EQUAL = {"ddp": 1e-5, "amp": 0.05, "fsdp": 1e-5}
_WAYS = {"ddp": "data parallelism", "amp": "data parallelism in bfloat16", "fsdp": "sharded parameters"}


@dataclass(frozen=True)
class Finding:
    """What one check saw.

    Attributes:
        advice: what to do where something is wrong.
    """

    check: str
    state: State
    found: str
    advice: str = ""


def run(context: Context, *, processes: bool = True) -> Result:
    """All checks; exit code 1 where something is wrong.

    Args:
        processes: whether two processes are started, to compare what they compute with what one does.
    """
    findings = [finding for check in _checks(context, processes=processes) for finding in _guarded(check)]
    wrong = [finding for finding in findings if finding.state == "wrong"]
    rows = [(one.state, one.check, one.found + (f"\n-> {one.advice}" if one.advice else "")) for one in findings]
    unknown = sum(finding.state == "not checked" for finding in findings)
    return Result(
        f"{len(wrong)} wrong, {unknown} not checked, {len(findings)} looked at",
        {"findings": [asdict(finding) for finding in findings], "wrong": [finding.check for finding in wrong]},
        (Grid(("", "what", "found"), rows),),
        frozenset({"findings", "wrong"}),
        exit_code=1 if wrong else 0,
    )


Check = Callable[[], Iterator[Finding]]


def _checks(context: Context, *, processes: bool) -> list[tuple[str, Check]]:
    return [
        ("packages", packages),
        ("machine", machine),
        ("ports", ports),
        ("tokens", tokens),
        ("store", lambda: store(context)),
        ("MLflow", lambda: mlflow(context)),
        ("Ray", lambda: ray_cluster(context)),
        ("GPUs", gpus),
        ("two processes", lambda: two_processes(start=processes)),
    ]


def _guarded(check: tuple[str, Check]) -> list[Finding]:
    """A check that breaks is a finding, too; what it saw before that stays."""
    name, look = check
    found: list[Finding] = []
    try:
        found += look()
    except BclsError as error:
        found.append(Finding(name, "wrong", str(error)))
    except Exception as error:
        found.append(Finding(name, "wrong", f"{type(error).__name__}: {error}"))
    return found


def packages() -> Iterator[Finding]:
    """Versions, what they must be, and from where each is imported."""
    yield Finding("Python", "ok", f"{sys.version.split()[0]} from {sys.executable}")
    wanted = _requirements()
    if not wanted:
        yield Finding("bcls", "note", "is run from its source folder; versions are not compared with what it asks for")
    for name in _PACKAGES:
        yield _package(name, wanted.get(name))


def _requirements() -> dict[str, Requirement]:
    try:
        asked = importlib.metadata.requires("bcls") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    parsed = [Requirement(line) for line in asked]
    return {one.name: one for one in parsed if one.marker is None or one.marker.evaluate()}


def _package(name: str, wanted: Requirement | None) -> Finding:
    module = _MODULES.get(name, name.replace("-", "_"))
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "wrong", "is not installed", f"pip install {wanted or name}")
    spec = importlib.util.find_spec(module)
    origin = Path(spec.origin).resolve() if spec is not None and spec.origin is not None else None
    if origin is None:
        return Finding(
            name, "wrong", f"{distribution.version} is installed, but cannot be imported", "Install it anew."
        )
    found = f"{distribution.version} from {origin.parent}"
    installed = Path(str(distribution.locate_file(""))).resolve()
    if not origin.is_relative_to(installed) and _is_editable(distribution):
        found += ", installed as editable"
    elif not origin.is_relative_to(installed):
        hidden = f"{found}, which hides {installed / module}"
        return Finding(name, "wrong", hidden, "Take that folder out of PYTHONPATH, or start elsewhere.")
    if wanted is not None and not wanted.specifier.contains(distribution.version, prereleases=True):
        return Finding(name, "wrong", f"{found}, needed is {wanted.specifier}", f"pip install '{wanted}'")
    return Finding(name, "ok", found)


def _is_editable(distribution: importlib.metadata.Distribution) -> bool:
    """Whether it was installed from a folder that it is imported from (`pip install -e`)."""
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool(origin.get("dir_info", {}).get("editable"))


def machine() -> Iterator[Finding]:
    """Processors, shared memory, and a compiler for `torch.compile`."""
    yield Finding("processors", "ok", f"{usable_processors()} of {os.cpu_count()} can be used")
    shared = Path("/dev/shm")  # noqa: S108 - not written to
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        enough = free >= _LEAST_SHARED
        advice = "" if enough else "Ray keeps objects there: give the container more (docker run --shm-size=8g)."
        yield Finding("shared memory", "ok" if enough else "note", f"{free / 2**30:.1f} GiB free in {shared}", advice)
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    advice = "" if compiler else "runtime.compile needs one."
    yield Finding("C++ compiler", "ok" if compiler else "note", compiler or "none", advice)


def ports() -> Iterator[Finding]:
    """Whether this machine's name leads to it, and who listens where Ray usually does."""
    name = socket.gethostname()
    try:
        yield Finding("host name", "ok", f"{name} is {socket.gethostbyname(name)}")
    except OSError as error:
        yield Finding("host name", "note", f"{name}: {error}", "Nodes find each other by it: add it to /etc/hosts.")
    for what, port in _PORTS.items():
        with socket.socket() as probe:
            probe.settimeout(1.0)
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        yield Finding(f"port {port}", "note" if taken else "ok", f"{what}: {'somebody listens' if taken else 'free'}")


def tokens() -> Iterator[Finding]:
    """Ray's and the model hub's; what they are is never shown."""
    mode, path = os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN_PATH")
    place = Path(path).expanduser() if path else Path.home() / ".ray" / "auth_token"
    if mode == "token":
        there = bool(os.environ.get("RAY_AUTH_TOKEN")) or place.is_file()
        advice = "" if there else "Copy the head's token there, or unset RAY_AUTH_MODE (see cluster/README.md)."
        yield Finding("Ray's token", "ok" if there else "wrong", f"{'there' if there else f'none at {place}'}", advice)
    else:
        advice = "A head may ask for it: set RAY_AUTH_MODE=token everywhere then." if place.is_file() else ""
        yield Finding("Ray's token", "ok", f"not used; {'one is' if place.is_file() else 'none'} at {place}", advice)
    if place.is_file() and place.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding("Ray's token", "note", f"{place} can be read by others", f"chmod 600 {place}")
    hub = os.environ.get("HF_TOKEN") or (Path.home() / ".cache" / "huggingface" / "token").is_file()
    offline = os.environ.get("HF_HUB_OFFLINE") in ("1", "true", "TRUE", "yes", "ON")
    found = f"{'a token' if hub else 'no token'}{', offline' if offline else ''}"
    yield Finding("model hub", "ok", found)


def store(context: Context) -> Iterator[Finding]:
    """Whether the root can do what publishing needs: write, replace, and create exclusively."""
    files, folder = context.store.filesystem, f".doctor-{uuid.uuid4().hex}"
    try:
        files.write(f"{folder}/probe", b"1")
        files.write(f"{folder}/probe", b"2")
        once, again = files.put_if_absent(f"{folder}/once", b"1"), files.put_if_absent(f"{folder}/once", b"2")
        right = files.read(f"{folder}/probe") == b"2" and once and not again
    finally:
        files.remove_tree(folder)
    yield Finding(
        "store",
        "ok" if right else "wrong",
        f"{files.url} {'writes, replaces and creates exclusively' if right else 'does not keep what is written'}",
        "" if right else "Put the root on another file system.",
    )
    if Path(files.url).is_absolute():
        free = shutil.disk_usage(files.url).free
        enough = free >= _LEAST_FREE
        yield Finding("disk of the root", "ok" if enough else "note", f"{free / 2**30:.1f} GiB free")


def mlflow(context: Context) -> Iterator[Finding]:
    """Whether the tracking store answers."""
    tracker = context.tracker
    count = len(tracker.client.search_experiments(max_results=1000))
    yield Finding("MLflow", "ok", f"{tracker.shown_uri} answers; experiments: {count}")


def ray_cluster(context: Context) -> Iterator[Finding]:
    """Whether Ray starts or is reached, and whether the workers fit."""
    if context.runtime.backend == "local":
        yield Finding("Ray", "not checked", "runtime.backend is local")
        return
    import ray

    from flows.cluster_session import ensure_ray
    from flows.fit_on_ray import require_workers

    ensure_ray()
    alive = [node for node in ray.nodes() if node["Alive"]]
    there = {name: amount for name, amount in ray.cluster_resources().items() if name in ("CPU", "GPU")}
    shown = ", ".join(f"{amount:g} {name}" for name, amount in sorted(there.items()))
    where = os.environ.get("RAY_ADDRESS", "a Ray of this process")
    yield Finding("Ray", "ok", f"{where}: {len(alive)} nodes, {shown}")
    require_workers(context.runtime, context.device)
    versions = {node.get("RayVersion") for node in alive} - {None}
    if len(versions) > 1:
        yield Finding("Ray", "wrong", f"nodes have {', '.join(sorted(map(str, versions)))}", "Install one version.")


def gpus() -> Iterator[Finding]:
    """What torch sees."""
    import torch

    if not torch.cuda.is_available():
        yield Finding("GPUs", "not checked", f"torch {torch.__version__} sees none here")
        return
    for index in range(torch.cuda.device_count()):
        properties: Any = torch.cuda.get_device_properties(index)
        bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        yield Finding(f"GPU {index}", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}")


def two_processes(*, start: bool) -> Iterator[Finding]:
    """Whether two processes have the gradients of one: over gloo here, over NCCL where there are two GPUs."""
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for backend, possible in (("gloo", True), ("nccl", there >= 2)):
        for way, most in _EQUAL.items():
            check = f"{backend}: {_WAYS[way]}"
            if not possible:
                yield Finding(check, "not checked", f"needs two GPUs, there are {there}")
            elif not start:
                yield Finding(check, "not checked", "no processes were to be started")
            else:
                yield _compared(check, backend, way, most)


def _compared(check: str, backend: str, way: str, most: float) -> Finding:
    from bcls_core.training import self_check

    try:
        apart = self_check.two_processes(backend, way)
    except Exception as error:
        last = str(error).strip().splitlines()[-1:]
        return Finding(
            check, "wrong", ": ".join([type(error).__name__, *last]), "See GLOO_SOCKET_IFNAME and NCCL_DEBUG=INFO."
        )
    state: State = "ok" if apart <= most else "wrong"
    return Finding(check, state, f"gradients of two processes differ from one's by {apart:.1e} of the largest")
