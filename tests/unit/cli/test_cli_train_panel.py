"""The panel of a training by reinforcement."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from edgereason.cli.terminal.training import panel, rows, update_panel
from edgereason.train.grpo.metrics import RolloutFigures, UpdateFigures


def update(step: int = 3, **changes: float | None) -> UpdateFigures:
    values: dict[str, float | None] = {"kl": 0.0123, "entropy": 0.5, "mismatch": 0.02, "clipped": 0.031}
    return UpdateFigures(
        step=step,
        steps=10,
        seconds=17.1,
        loss=0.1,
        learning_rate=1e-4,
        grad_norm=1.0,
        trained_tokens_per_s=61.4,
        rollouts=RolloutFigures(
            reward=0.25,
            accuracy=0.5,
            mean_tokens=140.0,
            mean_answer_tokens=9.0,
            tokens_by_bucket={128: 110.0, 256: 170.0},
            accuracy_by_bucket={128: 0.25, 256: 0.75},
            share_within=0.9,
            groups=6,
            dropped=2,
            tokens_per_s=97.0,
        ),
        **(values | changes),  # type: ignore[arg-type]
    )


def test_a_line_says_everything_once(capsys: pytest.CaptureFixture[str]) -> None:
    with update_panel() as report:
        report(update(), ["the KL is 3.00 nats a token"])
    line, alarm = capsys.readouterr().err.splitlines()
    for said in ("3 of 10 done", "reward 0.250", "right 50%", "110 of 128, 170 of 256", "KL 0.0123"):
        assert said in line
    assert line.endswith(", 2:00 left")  # seven times 17.1 s are 119.7 s
    assert alarm == "  ! the KL is 3.00 nats a token"


def test_what_nothing_was_learned_from_has_no_figures_of_tokens() -> None:
    found = rows(update(kl=None, entropy=None, mismatch=None, clipped=None))
    assert {found[name] for name in ("KL", "entropy", "engine/torch gap", "clipped")} == {"–"}


def test_the_panel_shows_figures_and_alarms() -> None:
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(panel(update(), "12:00 left", ["the entropy fell"]))
    text = console.export_text()
    for said in ("update 3 of 10, 12:00 left", "groups dropped  2 of 6", "! the entropy fell"):
        assert said in text
