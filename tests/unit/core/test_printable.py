"""Foreign text is shown without what could drive a terminal, a page, or the direction of writing."""

from __future__ import annotations

import json

import pytest

from edgereason.cli.terminal import text as terminal
from edgereason.cli.terminal.echo import echo
from edgereason.core.printable import json_text, on_one_line, printable
from edgereason.report.markdown import cell

HOSTILE = [
    ("\x1b[31mred\x1b[0m", "[31mred[0m"),
    ("\x1b]0;title\x07", "]0;title"),
    ("\x1b]8;;http://evil\x1b\\link", "]8;;http://evil\\link"),
    ("\x1b]52;c;cGF5bG9hZA==\x07", "]52;c;cGF5bG9hZA=="),
    ("\x9b2J", "2J"),
    ("\x9d0;title\x9c", "0;title"),
    ("\x1bPq#0\x1b\\", "Pq#0\\"),
    ("back\x08\x08\x08\x08front", "backfront"),
    ("bell\x07", "bell"),
    ("a\x00b", "ab"),
    ("del\x7f", "del"),
    ("\x0e\x0fshift", "shift"),
    ("exe.\u202efdp", "exe.fdp"),
    ("\u2066isolated\u2069", "isolated"),
    ("\x1b\x1b[31m", "[31m"),
    ("\x1bc", "c"),
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_what_drives_a_terminal_is_left_out(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown
    assert on_one_line(text) == shown
    assert terminal.printable(text) == shown
    assert terminal.one_line(text, 80) == shown


@pytest.mark.parametrize(
    "text", ["a\tb\nc", "Grüße, 你好, שלום, سلام", "👩\u200d👧", "−½ × 3", "x\u00a0y", ""]
)
def test_what_people_read_stays(text):
    assert printable(text) == text


def test_on_one_line_every_white_space_is_a_blank():
    assert on_one_line("  a\r\nb\x0bc\x85d\u2028e\tf ") == "a b c d e f"


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_a_cell_of_a_page_holds_no_control_characters(text, shown):
    assert cell(text).replace("\\", "") == shown.replace("\\", "")


def test_a_cell_is_no_html_and_no_link():
    assert cell("<script>\x1b[x](y)") == r"&lt;script>\[x\](y)"


@pytest.mark.parametrize(("text", "_shown"), HOSTILE)
@pytest.mark.parametrize("options", [{}, {"ensure_ascii": False}, {"indent": 2, "ensure_ascii": False}])
def test_json_keeps_them_and_shows_none(text, _shown, options):
    shown = json_text({"name": text}, **options)
    assert printable(shown) == shown
    assert json.loads(shown) == {"name": text}


@pytest.mark.parametrize("err", [False, True])
def test_what_commands_print_drives_nothing(capsys, err):
    for text, shown in HOSTILE:
        echo(text, err=err)
        out, err_text = capsys.readouterr()
        assert (out, err_text) == (("", shown + "\n") if err else (shown + "\n", ""))
