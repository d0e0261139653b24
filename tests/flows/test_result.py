"""Results as people and as programs read them."""

from __future__ import annotations

from flows.result import Grid, Result


def test_hidden_facts_are_for_programs_only() -> None:
    result = Result(
        "done", {"rows": 1500.0, "secret": 1}, (Grid(("name", "value"), [("a [b]", 0.12345)]),), frozenset({"secret"})
    )
    text = result.as_text()
    assert "1,500" in text
    assert "0.1235" in text
    assert "a [b]" in text, "square brackets are text, not markup"
    assert "secret" not in text
    assert result.as_dict() == {"rows": 1500.0, "secret": 1}
