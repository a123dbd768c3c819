"""docs/cli.md: it is what the program has."""

from __future__ import annotations

import pytest

from tool_scripts import load_tool

tool = load_tool("docs/cli.py")


@pytest.mark.parametrize("columns", ["40", "200"])
def test_the_page_is_up_to_date_at_any_terminal_width(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert tool.page() == tool.PAGE.read_text(encoding="utf-8"), "run python tools/docs/cli.py"


def test_an_option_is_shown_with_its_values_its_help_and_its_default() -> None:
    ask = tool.page().split("## edgereason ask\n")[1].split("\n## ")[0]
    options, rare = ask.split("| rare options | |")
    assert (
        "| `--mode chat\\|think\\|auto` | Answer at once, think first, or let the switcher decide. [auto] |"
        in options
    )
    assert "| `--calculator/--no-calculator` |" in options
    assert "| `--kv f16\\|q8_0` | Type of the KV cache. [f16] |" in rare
