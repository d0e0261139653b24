from __future__ import annotations

import csv
import gzip
import hashlib
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bcls_core.data.text_table import columns_of, number_of, read_text, records_of, shown
from bcls_core.errors import InputError

HERE = Path("t.csv")


def test_text_is_read_plain_or_packed_with_or_without_a_mark(tmp_path: Path) -> None:
    text = "äö\t1\r\n"
    for data in (text.encode(), b"\xef\xbb\xbf" + text.encode(), gzip.compress(text.encode())):
        path = tmp_path / "any name"
        path.write_bytes(data)
        assert read_text(path) == (text, hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a\nb\nc\xff\n", "line 3: not UTF-8 (invalid start byte)"),
        ("a\n".encode("utf-16"), "line 1: not UTF-8"),
        (b"a\nb\0c", "line 2: a zero byte"),
        (b"\x1f\x8b and no more", "damaged gzip"),
        (gzip.compress(b"a" * 1000)[:-9], "damaged gzip"),
        (gzip.compress(b"a" * 1000)[:20] + b"\xff" * 20, "damaged gzip"),
    ],
)
def test_what_is_no_text_is_named_with_its_place(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_text(path)
    assert str(caught.value).startswith(f"{path}: {words}")


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_text(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(
        st.lists(st.text(st.sampled_from('a",\t\n\r é\u2028'), min_size=1, max_size=5), min_size=2, max_size=3),
        max_size=5,
    ),
    delimiter=st.sampled_from(",\t"),
)
def test_what_csv_writes_is_read_back(rows: list[list[str]], delimiter: str) -> None:
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(rows)
    found = list(records_of(written.getvalue(), HERE, delimiter))
    assert [fields for _, fields in found] == rows
    before = io.StringIO(newline="")
    for (line, _), row in zip(found, rows, strict=True):
        assert line == 1 + len(list(io.StringIO(before.getvalue(), newline="")))
        csv.writer(before, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerow(row)


def test_blank_lines_count_as_lines_and_are_no_records() -> None:
    assert list(records_of("\n\na,b\r\n\r\nc,d", HERE, ",")) == [(3, ["a", "b"]), (5, ["c", "d"])]


def test_quotes_are_characters_where_nothing_is_quoted() -> None:
    assert list(records_of('"a\tb"c\n', HERE, "\t", quoted=False)) == [(1, ['"a', 'b"c'])]


@pytest.mark.parametrize("text", ['a,b\n"x,y\nz,w\n', 'a,b\n"x"y,z\n'])
def test_a_quote_that_does_not_close_is_named_by_the_line_it_opens_in(text: str) -> None:
    with pytest.raises(InputError, match=r"^t.csv: line 2: no table row .*write a quote inside as"):
        list(records_of(text, HERE, ","))


def test_columns_come_in_the_asked_order_whatever_else_is_there() -> None:
    text = "extra, b ,a\n0,1,2\n3,4,5\n"
    assert list(columns_of(text, HERE, ",", [("x",), ("a", "b")])) == [(2, ["2", "1"]), (3, ["5", "4"])]
    assert list(columns_of("a,b\n", HERE, ",", [("a",)])) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the header is ''. Give one that names a, b, or c."),
        ("a,x\n1,2\n", "the header is 'a, x'. Give one that names a, b, or c."),
        ("a,b,a\n1,2,3\n", "the header names a 2 times. Keep one such column."),
        ("a,b\n1,2\n1,2,3\n", "line 3: 3 fields, but the header has 2. Quote a field that holds the separator."),
        ("a,b\n1\n", "line 2: 1 fields, but the header has 2."),
    ],
)
def test_a_table_of_another_shape_is_explained(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        list(columns_of(text, HERE, ",", [("a", "b"), ("c",)]))
    assert str(caught.value).startswith(f"t.csv: {words}")


@pytest.mark.parametrize("field", ["", "x", "nan", "inf", "-Infinity", "1,5", "0x1"])
def test_what_is_no_finite_number_is_refused(field: str) -> None:
    with pytest.raises(InputError) as caught:
        number_of(field, "t.csv: line 7")
    assert str(caught.value).startswith(f"t.csv: line 7: found {field!r}, expected a finite number.")


def test_numbers_and_messages() -> None:
    assert [number_of(field, "") for field in ("3", " -0.5", "1e3")] == [3.0, -0.5, 1000.0]
    assert shown("a\nb") == r"'a\nb'"
    assert shown("x" * 60) == repr("x" * 60)
    assert shown("x" * 61) == repr("x" * 57 + "...")
