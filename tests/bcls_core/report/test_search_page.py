"""The search page: self-contained, escaped, and harmless in a real browser."""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from bcls_core.report import SearchHit, SearchPage, render_search_page

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">{{ 7*7 }}"


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (640, 400), colour).save(buffer, "PNG")
    return buffer.getvalue()


def page(text: str | None = HOSTILE, image: bytes | None = None) -> str:
    hits = [
        SearchHit(1, 0.75, "a.jpg", [HOSTILE, "a red square"], picture("red")),
        SearchHit(2, 0.5, '"><b>', ["features only"], None),
    ]
    return render_search_page(SearchPage("models:/demo@champion", "abc", "images", text, image, hits))


def test_everything_from_outside_is_escaped() -> None:
    html = page()
    assert "<script" not in html
    assert 'onerror="' not in html
    assert html.count("&lt;script&gt;") == 2
    assert "{{ 7*7 }}" in html, "a caption is never a template"


def test_pictures_are_inside_and_nothing_is_fetched() -> None:
    html = page(text=None, image=picture("blue"))
    sources = re.findall(r'src="([^"]*)"', html)
    assert len(sources) == 2
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "://" not in html


@pytest.mark.needs("chromium")
def test_a_browser_shows_it_and_runs_nothing_of_it(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(), encoding="utf-8")
    dom = subprocess.run(
        [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert "<title>bcls search</title>" in dom
    assert "a red square" in dom
    assert dom.count("<img ") == 1, "the hostile caption made no element"
