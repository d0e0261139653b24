"""A folder on a disk: every write is complete or absent, and stays after a power cut."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bcls_core.errors import StoreError
from bcls_core.store.filesystem import CHUNK, Filesystem, Written


@dataclass
class _Staged:
    """An unfinished file that readers do not see."""

    path: Path
    handle: IO[bytes]


class LocalFilesystem(Filesystem):
    """Files under a local folder, which needs hard links (every usual Linux and macOS file system has them).

    A file is written under a temporary name, flushed to the disk, then renamed (`write`) or linked (`put_if_absent`) to
    its own name, and the folder is flushed. Since the temporary name is resolved at that moment, taking the staging
    folder away stops even a writer that was paused just before it.
    """

    @property
    def url(self) -> str:
        return self.root

    def write(self, path: str, data: bytes, *, staging: str | None = None) -> Written:
        with self._staged(path, staging) as staged:
            staged.handle.write(data)
            stamp = _flush(staged)
            self._replace(staged.path, path)
        return Written(len(data), hashlib.sha256(data).hexdigest(), stamp)

    def copy_in(self, path: str, local: Path, *, staging: str | None = None) -> Written:
        digest, size = hashlib.sha256(), 0
        with self._staged(path, staging) as staged, local.open("rb") as source:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                size += staged.handle.write(chunk)
            stamp = _flush(staged)
            self._replace(staged.path, path)
        return Written(size, digest.hexdigest(), stamp)

    def name_again(self, path: str, existing: str, data: bytes, *, staging: str | None = None) -> Written | None:
        target, source = Path(self.full(path)), Path(self.full(existing))
        temporary = self._temporary(target, staging)
        try:
            if source.is_symlink() or source.read_bytes() != data:
                return None
            os.link(source, temporary)
        except OSError:  # gone, on another disk, or with as many names as a file can have
            return None
        try:
            stamp = _stamp(temporary.stat())
            self._replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)  # renaming a file to another name of itself leaves both
        return Written(len(data), hashlib.sha256(data).hexdigest(), stamp)

    def put_if_absent(self, path: str, data: bytes, *, staging: str | None = None) -> bool:
        target = Path(self.full(path))
        with self._staged(path, staging) as staged:
            staged.handle.write(data)
            _flush(staged)
            _make_folders(target.parent)
            try:
                os.link(staged.path, target)
            except FileExistsError:
                # Over a network the answer of a link that succeeded can get lost and the retry then says "exists":
                # the number of names the file has tells.
                return staged.path.stat().st_nlink == 2
            except FileNotFoundError:
                raise
            except OSError as error:
                raise StoreError(
                    f"{target.parent} cannot make hard links ({error.strerror}), which exclusive creation needs; "
                    "put the root on another disk."
                ) from error
            _sync_folder(target.parent)
        return True

    def stamp(self, path: str) -> str:
        return _stamp(Path(self.full(path)).stat())

    def make_folder(self, path: str, *, parents: bool = True) -> None:
        target = Path(self.full(path))
        if parents:
            _make_folders(target)
        else:
            target.mkdir(exist_ok=True)

    def set_aside(self, path: str, folder: str) -> None:
        target = Path(self.full(folder))
        try:
            Path(self.full(path)).rename(target / uuid.uuid4().hex)
        except FileNotFoundError:
            if not target.is_dir():
                raise

    def remove_file(self, path: str) -> None:
        Path(self.full(path)).unlink(missing_ok=True)

    def remove_tree(self, path: str) -> None:
        shutil.rmtree(self.full(path), onerror=_unless_missing)

    @contextlib.contextmanager
    def _staged(self, path: str, staging: str | None) -> Iterator[_Staged]:
        temporary = self._temporary(Path(self.full(path)), staging)
        with temporary.open("xb") as handle:
            try:
                yield _Staged(temporary, handle)
            finally:
                temporary.unlink(missing_ok=True)

    def _temporary(self, target: Path, staging: str | None) -> Path:
        if staging is None:
            _make_folders(target.parent)
        folder = target.parent if staging is None else Path(self.full(staging))
        return folder / f".{target.name[:100]}.{uuid.uuid4().hex}.tmp"

    def _replace(self, temporary: Path, path: str) -> None:
        target = Path(self.full(path))
        _make_folders(target.parent)
        temporary.replace(target)
        _sync_folder(target.parent)


def _flush(staged: _Staged) -> str:
    staged.handle.flush()
    os.fsync(staged.handle.fileno())
    return _stamp(os.fstat(staged.handle.fileno()))


def _stamp(status: os.stat_result) -> str:
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError("a folder, not a file")
    return f"{status.st_ino}-{status.st_mtime_ns}"  # both survive the renaming, and no later write has both


def _make_folders(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folders(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unless_missing(_function: Callable[..., Any], _path: str, failure: Any) -> None:
    if not isinstance(failure[1], FileNotFoundError):
        raise failure[1]
