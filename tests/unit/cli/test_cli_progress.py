"""How far a long run is, as a person is told."""

from __future__ import annotations

import io

import pytest
from figures import update_figures
from rich.console import Console

from edgereason.cli.long_run import run_context
from edgereason.cli.terminal.progress import details_panel, progress_display


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """A clock that the test sets."""
    now = [100.0]
    monkeypatch.setattr("edgereason.cli.terminal.progress.time.monotonic", lambda: now[0])
    return now


UPDATE = update_figures(
    kl=0.0123, reward=0.25, tokens_by_bucket={128: 110.0, 256: 170.0}, groups=6, dropped=2
)


def test_time_left_is_judged_by_what_was_done_since_the_stage_began(clock, capsys) -> None:
    with progress_display() as progress:
        progress("samples", 10, 40)  # ten are of an earlier call
        clock[0] += 90
        progress("samples", 25, 40, "31 tok/s")  # 15 in 90 s: the other 15 take 90 s
        clock[0] += 90
        progress("folds", 0, 5)  # another stage, another pace
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == "10 of 40 done, samples, …"
    assert second == "25 of 40 done, samples, 31 tok/s, 1:30 left"
    assert third == "0 of 5 done, folds, …"


def test_a_log_has_a_line_a_minute_and_the_last_one(clock, capsys) -> None:
    with progress_display() as progress:
        for done in range(1, 11):
            clock[0] += 30
            progress("rows", done, 10)
    said = [line.partition(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == [f"{done} of 10 done" for done in (1, 3, 5, 7, 9, 10)]


def test_a_line_with_details_says_everything_once_and_alarms_below(clock, capsys) -> None:
    with progress_display() as progress:
        progress("updates", 2, 10)
        clock[0] += 17
        progress("updates", 3, 10, details=[*UPDATE.texts(), "! the KL is 3.00 nats a token"])
    _, line, alarm = capsys.readouterr().err.splitlines()
    for said in ("3 of 10 done", "reward 0.250", "right 50%", "110 of 128, 170 of 256", "KL 0.0123"):
        assert line.count(said) == 1
    assert line.endswith(", 1:59 left")  # seven times 17 s
    assert alarm == "  ! the KL is 3.00 nats a token"


def test_what_nothing_was_learned_from_has_no_figures_of_tokens() -> None:
    found = update_figures(kl=None, entropy=None, mismatch=None, clipped=None).texts()
    assert {"KL –", "entropy –", "engine/torch gap –", "clipped –"} <= {*found}


def test_the_panel_shows_figures_and_alarms() -> None:
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(details_panel([*UPDATE.texts(), "! the entropy fell"]))
    text = console.export_text()
    for said in ("reward 0.250", "groups dropped 2 of 6", "! the entropy fell"):
        assert said in text


def test_a_notice_of_a_long_run_is_a_line_on_stderr(capsys):
    with run_context() as context:
        context.notice("no example announces the [hints] buckets [64]")
    assert capsys.readouterr().err == "no example announces the [hints] buckets [64]\n"
