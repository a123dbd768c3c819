"""A threshold by the share of prompts that are to think.

Knows prompts in files; does not know bundles or how a threshold is put in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from edgereason.core.types import Message, Request
from edgereason.evals.bundles.calibrate import Found
from edgereason.evals.bundles.threshold import probabilities, require_think_rate, threshold_for_share
from edgereason.evals.record import data_entry
from edgereason.hub.rows import Row, Rows, read_file
from edgereason.reasoning.model import Model

_ROLES: Final = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class ByShare:
    """So many of these prompts are to think."""

    share: float
    rows: Rows
    requests: tuple[Request, ...]

    def __post_init__(self) -> None:
        require_think_rate(self.share)

    @classmethod
    def read(cls, share: float, prompts: Path) -> Self:
        """From a file of rows with a `prompt`, a `question` or `messages` each.

        Raises:
            ConfigError: the share is out of range, or a row has no prompt; the message names file and line.
        """
        rows = read_file(prompts)
        return cls(
            share=share, rows=rows, requests=tuple(Request(messages=_messages(row)) for row in rows.rows)
        )

    def find(
        self, model: Model, progress: Callable[[int, int], None], should_stop: Callable[[], bool]
    ) -> Found | None:
        """The threshold; None if it was stopped."""
        said = probabilities(model, self.requests, progress, should_stop)
        if said is None:
            return None
        fitting = [p for p in said if p is not None]
        return Found(
            point=threshold_for_share(fitting, self.share),
            method={
                "target_think_rate": self.share,
                "prompts": data_entry(self.rows.name, self.rows.sha256, self.rows.revision),
            },
            num_left_out=len(said) - len(fitting),
        )


def _messages(row: Row) -> tuple[Message, ...]:
    if "messages" not in row.values:
        field = next((name for name in ("prompt", "question") if name in row.values), "prompt")
        return (Message("user", row.text(field)),)
    turns = row.value("messages")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns) or not turns:
        row.fail("messages", "is no list of turns")
    for turn in turns:
        if turn.get("role") not in _ROLES or not isinstance(turn.get("content"), str):
            row.fail("messages", f"has a turn without a role of {', '.join(_ROLES)} or without a content")
    if turns[-1]["role"] != "user" or not turns[-1]["content"].strip():
        row.fail("messages", "must end with what the user says")
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)
