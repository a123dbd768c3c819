"""The attack on the server: what it calls a fault, and the campaign itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools.attack import serves
from tools.attack.serves import Answer, faults
from tools.attack.tally import Tally

CHAT = "/v1/chat/completions"
ASKED = {"stream": False, "think": True, "thinking_budget_tokens": 64}


def completion(text: str = "4", tokens: int = 30, status: int = 200) -> Answer:
    body: dict[str, Any] = {
        "choices": [{"message": {"content": text}}],
        "edgereason": {"streams": [{"tokens": tokens}]},
    }
    return Answer(status, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("answer", "asked", "says"),
    [
        (completion(), ASKED, None),
        (completion(" "), ASKED, "an empty answer"),
        (completion(tokens=65), ASKED, "65 tokens of 64"),
        (Answer(500, b"oh"), None, "status 500"),
        (Answer(400, b'{"error": {"message": "no", "code": "invalid_json"}}'), None, None),
        (Answer(400, b'{"error": {"message": "no"}}'), None, "without words"),
        (Answer(400, b'{"error": {"message": "no", "code": "x"}}'), ASKED, "status 400: no"),
        (Answer(200, b'data: {"choices": []}\n\n'), {**ASKED, "stream": True}, "no end"),
        (Answer(200, b'data: {"error": {"message": "x"}}\n\n'), {**ASKED, "stream": True}, "failed"),
    ],
)
def test_faults_are_found_and_nothing_else(
    answer: Answer, asked: dict[str, Any] | None, says: str | None
) -> None:
    found = faults(answer, CHAT, asked)
    assert [says in one for one in found] == [True] if says else found == []


def test_a_small_campaign_finds_nothing(tmp_path: Path) -> None:
    tally = Tally("serves", 120)
    serves.attack(tally, tmp_path, 2)
    assert tally.violations == []
    assert tally.done == 120


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_10000_requests_a_fifth_cut_off_and_a_tenth_senseless(tmp_path: Path) -> None:
    tally = Tally("serves", 10_000)
    serves.attack(tally, tmp_path, 1)
    assert tally.violations == []
