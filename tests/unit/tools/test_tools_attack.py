"""The attack finds what was planted, and says nothing of what is sound."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mutations import mutate, mutate_arguments, mutate_template, mutate_text

from edgereason.core.types import Stop
from tools.attack import asks
from tools.attack.tally import Tally

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> dict[str, list[str]]:
    """What the attack said of every planted fault; in another process, which has one thread and may fork."""
    done = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("planted.py")),
            str(tmp_path_factory.mktemp("planted")),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["sound", "well", "refused"])
def test_what_is_sound_is_not_a_violation(said, name):
    assert said[name] == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("torn", "result is another than without kills"),
        ("left_behind", "left behind: work/.result.*"),
        ("forgetful", "rows.jsonl lost rows"),
        ("stubborn", "does not go on: code 1; ; edgereason: the folder holds something else"),
        ("traceback", "traceback: ZeroDivisionError: division by zero"),
        ("signal", "ended by SIGSEGV"),
        ("endless", "took "),
        ("silent", "code 1 with 0 lines of error"),
        ("two lines", "code 2 with 2 lines of error"),
        ("escape", "'\\x1b' reaches the terminal"),
        ("odd code", "exit code 7"),
        ("large", "took 5.4 GB"),
    ],
)
def test_a_planted_fault_is_a_violation(said, name, says):
    assert any(says in one for one in said[name]), said[name]


def response(answer: str = "4", *, stop: Stop = Stop.NATURAL, route: str = "think", tokens: int = 30) -> Any:
    return SimpleNamespace(
        answer=answer,
        stop=stop,
        route=route,
        usage=SimpleNamespace(answer_tokens=min(tokens, len(answer))),
        candidates=[SimpleNamespace(trace=SimpleNamespace(num_tokens=tokens))],
    )


@pytest.mark.parametrize(
    ("got", "options", "seconds", "says"),
    [
        (response(), {"budget": 32}, 0.1, None),
        (response(tokens=33), {"budget": 32}, 0.1, "33 tokens of 32"),
        (response(tokens=33), {"budget": 64, "max_tokens": 32}, 0.1, "33 tokens of 32"),
        (response("", stop=Stop.LENGTH), {"budget": 32}, 0.1, "an empty answer, stop length"),
        (response("", route="chat", tokens=0), {"max_tokens": 5}, 0.1, None),  # the model said nothing at all
        (response(route="chat", tokens=6), {"max_tokens": 5}, 0.1, "6 tokens of 5"),
        (response(tokens=500), {"budget": "2s"}, 2.4, None),
        (response(), {"budget": "2s"}, 3.2, "3.20 s of 2"),
    ],
)
def test_an_answer_is_judged_by_what_it_may_be(monkeypatch, got, options, seconds, says):
    monkeypatch.setattr(asks, "crowding", lambda: 1.0)
    assert asks.faults(got, options, seconds) == ([] if says is None else [says])


def test_memory_that_grows_is_a_violation(monkeypatch):
    tally = Tally("asks", 1)
    monkeypatch.setattr(asks, "resident_bytes", lambda: 100_000_000)
    asks._check_growth(tally, "asks", 80_000_000)
    assert tally.violations == []
    asks._check_growth(tally, "asks", 70_000_000)
    assert tally.violations == ["asks: 30.0 MB more than after the warm-up"]
    assert tally.to_json()["num_violations"] == 1


def test_mutations_are_the_same_for_the_same_seed_and_others_for_others():
    line = ["ask", "Hi", "--repeats", "2"]
    given = [mutate_arguments(line, seed, others=["x.gguf"], calm=["--repeats"]) for seed in range(300)]
    assert given[:20] == [mutate_arguments(line, s, others=["x.gguf"], calm=["--repeats"]) for s in range(20)]
    assert len({*map(tuple, given)}) > 150
    counts = [one[one.index("--repeats") + 1] for one in given if "--repeats" in one[:-1]]
    assert not [count for count in counts if count[:1] in set("3456789")]  # long work is not a fault
    for data in (b"", b"3", b" [32]", b'"x"\n'):
        assert len({mutate(data, seed, [0]) for seed in range(100)}) >= min(2, 1 + len(data))
        assert len({mutate_text(data or b"0", seed) for seed in range(100)}) > 10
    source = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert mutate_template(source, 3) == mutate_template(source, 3)
    assert len({mutate_template(source, seed) for seed in range(100)}) > 60


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(1800)
def test_a_small_attack_finds_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tools.attack", "--scale", "0.03", "--seed", "2", "-o", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    texts = {path.stem: path.read_text() for path in tmp_path.iterdir()}
    found = {name: json.loads(text) for name, text in texts.items()}
    assert [part["violations"] for part in found.values()] == [[]] * 4
    assert {name: part["cases"] for name, part in found.items()} == {
        "kills": 6,
        "files": 60,
        "lines": 15,
        "asks": 15,
    }
    assert not [text for text in texts.values() if "/tmp" in text]
