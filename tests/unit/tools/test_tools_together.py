"""Commands side by side: lines as they come, and the first failure's status."""

from __future__ import annotations

import re

import pytest

from tool_scripts import load_tool

together = load_tool("together.py")


def test_commands_run_at_the_same_time(tmp_path, capfd):
    # GIVEN two commands that each wait for a file which the other one makes
    def meets(mine, other):
        return f"cd '{tmp_path}'; touch {mine}; until [ -e {other} ]; do sleep 0.01; done; echo met"

    assert together.main(["one", meets("a", "b"), "two", meets("b", "a")]) == 0
    lines = sorted(re.sub(r"^ *\d+ s  ", "", line) for line in capfd.readouterr().out.splitlines())
    assert lines == ["one  met", "two  met"]


def test_what_is_said_on_stderr_is_shown_with_its_name(capfd):
    assert together.main(["pull", "echo '  hub: 49 of 491 MB' >&2"]) == 0
    assert re.fullmatch(r" +0 s  pull  hub: 49 of 491 MB\n", capfd.readouterr().out)


@pytest.mark.parametrize("first", ["exit 0", "exit 4"])
def test_a_failure_is_told_after_all_have_ended(tmp_path, first):
    late = f"sleep 0.2; touch '{tmp_path}/done'"
    assert together.main(["one", first, "two", "exit 3", "three", late]) == (4 if "4" in first else 3)
    assert (tmp_path / "done").exists()
