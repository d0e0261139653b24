"""Tables that people keep as text, plain or gzip: every complaint about one names the file and the line."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal

from bcls_core.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"

Record = tuple[int, list[str]]
"""The line a record begins in, counted from 1, and its fields."""


def read_text(path: Path) -> tuple[str, str]:
    """The text of a UTF-8 file (a byte order mark is dropped), and the sha256 of the file as it lies on the disk.

    Raises:
        InputError: the file cannot be read, is a damaged gzip, or holds no text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    try:
        plain = gzip.decompress(data) if data.startswith(_GZIP_MAGIC) else data
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip ({error}). Fetch the file again.") from error
    try:
        text = plain.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = plain.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: line {line}: not UTF-8 ({error.reason}). Save the file as UTF-8 text.") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path}: line {line}: a zero byte. Save the file as UTF-8 text.")
    return text, sha256(data).hexdigest()


def records_of(text: str, path: Path, delimiter: str, *, quoted: bool = True) -> Iterator[Record]:
    """The records of a table; a blank line is none.

    Args:
        quoted: whether a field may stand in double quotes and then hold separators, doubled quotes and line ends;
            else a quote is a character like any other.

    Raises:
        InputError: quotes do not close, or stand where they mean nothing.
    """
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        hint = 'Quote a field that holds quotes or line ends, and write a quote inside as "".'
        raise InputError(f"{path}: line {line}: no table row ({error}). {hint}") from error


def columns_of(text: str, path: Path, delimiter: str, choices: Sequence[tuple[str, ...]]) -> Iterator[Record]:
    """The rows of a table with a header, reduced to the first set of columns that the header names in full.

    Raises:
        InputError: the header names none of the sets, or one of the columns twice; a row has more or fewer fields than
            the header.
    """
    records = records_of(text, path, delimiter)
    _, cells = next(records, (1, []))
    header = [cell.strip() for cell in cells]
    names = next((names for names in choices if set(names) <= {*header}), None)
    if names is None:
        wanted = ", or ".join(", ".join(names) for names in choices)
        raise InputError(f"{path}: the header is {shown(', '.join(header))}. Give one that names {wanted}.")
    twice = next((name for name in names if header.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}: the header names {twice} {header.count(twice)} times. Keep one such column.")
    places = [header.index(name) for name in names]
    for line, fields in records:
        if len(fields) != len(header):
            raise InputError(
                f"{path}: line {line}: {len(fields)} fields, but the header has {len(header)}. Quote a field that "
                "holds the separator."
            )
        yield line, [fields[place] for place in places]


def number_of(field: str, place: str) -> float:
    """A finite number; `place` says where it stands. Raises InputError for anything else."""
    try:
        value = float(field) if "_" not in field else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{place}: found {shown(field)}, expected a finite number. Correct it, or leave the row out.")
    return value


def shown(text: str) -> str:
    """A field for a message: quoted, escaped, and cut where it is long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
