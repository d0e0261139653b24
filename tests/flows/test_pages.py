"""A page is there whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from bcls_core.errors import ConfigError
from flows.pages import check_page, write_page


def test_the_old_page_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_page(page, "old")
    with pytest.raises(UnicodeEncodeError):
        write_page(page, "new" * 10_000 + "\ud800")
    assert page.read_text() == "old"
    assert list(tmp_path.iterdir()) == [page]
    write_page(page, "new")
    assert page.read_text() == "new"
    assert page.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [page]


def test_where_no_page_can_be_is_said_before(tmp_path: Path) -> None:
    check_page(None)
    check_page(tmp_path / "page.html")
    for path in (tmp_path, tmp_path / "nowhere" / "page.html"):
        with pytest.raises(ConfigError, match="not a file in a folder that exists"):
            check_page(path)
