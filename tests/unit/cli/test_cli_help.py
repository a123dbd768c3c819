"""Help: an example of every command that its parser takes, and rare options apart from the others."""

from __future__ import annotations

import pytest

from command_lines import commands, parse
from edgereason.cli.help import EXAMPLES
from unit.cli.conftest import Cli


def test_every_command_has_an_example_and_every_example_a_command() -> None:
    assert set(EXAMPLES) == set(commands())


@pytest.mark.parametrize("path", EXAMPLES)
def test_an_example_is_a_line_that_the_parser_takes_for_its_command(path: str) -> None:
    assert parse(EXAMPLES[path]) == path


@pytest.mark.parametrize(
    "line", ["ask --stream 4 q", "bundle build", "bench parallel --rounds many", "aks q"]
)
def test_the_parser_of_these_tests_refuses_what_the_program_refuses(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|missing|valid"):
        parse(f"edgereason {line}")


@pytest.mark.parametrize("columns", ["40", "200"])
def test_help_shows_the_example_on_one_line_at_any_width(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for path, example in EXAMPLES.items():
        assert cli(*path.split(), "--help").out.endswith(f"\n\nExample:\n  {example}\n")


def test_rare_options_stand_behind_the_others(cli: Cli) -> None:
    text = cli("ask", "--help").out
    usual, rare = text.split("\nRare options:\n")
    assert "  --budget" in usual
    assert "  --kv" not in usual
    assert "  --kv" in rare
