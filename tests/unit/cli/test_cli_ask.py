"""`edgereason ask`: where the question comes from, what goes to stdout, and how it stops."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from edgereason.cli.main import _part_for, app
from edgereason.cli.terminal.interrupt import stop_on_interrupt
from edgereason.reasoning.model import Model

ANSWER = "The final answer is 391."


def test_json_is_one_object_and_nothing_else_on_stdout(cli):
    ran = cli("ask", "What is 17 × 23?", "--json", "--streams", "2", "--vote", "weighted", "--seed", "3")
    assert ran.code == 0
    assert ran.out.count("\n") == 1
    got = json.loads(ran.out)
    timing = got.pop("timing")
    assert set(timing) == {"ttft_s", "total_s", "tokens_per_s", "budget_s", "overshoot_s", "verify_s"}
    assert 0 <= timing["ttft_s"] <= timing["total_s"]
    # The scripted engine's tokens are bytes: "17 · 23 = 391\n" is 15 of them ("·" is two), the closing's
    # tag 8 more; then "\n\n" and the answer are 26. Nothing is forced.
    assert got.pop("notices") == [line.removeprefix("note: ") for line in ran.err.splitlines()]
    stream = {"answer": "391", "score": None, "tokens": 49, "stop": "natural", "cancelled": False}
    prompt_tokens = got["usage"]["prompt_tokens"]
    assert got == {
        "model": "qwen2.5-coder-0.5b-think",
        "route": "think",
        "p_think": None,
        "answer": "391",
        "text": ANSWER,
        "thinking": "17 · 23 = 391",
        "stop": "natural",
        "finish_reason": "stop",
        "ended": True,
        "seed": 3,
        "budget": 512,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "cached_tokens": 0,
            "thinking_tokens": 23,
            "answer_tokens": 26,
            "total_tokens": prompt_tokens + 49,
            "all_streams_tokens": 98,
            "streams_not_begun": 0,
            "tokens_saved": 0,
        },
        "kv_bytes": got["kv_bytes"],
        "streams": [{"seed": 3, **stream}, {"seed": 4, **stream}],
        "winner": 0,
    }
    assert "weighted vote falls back" in ran.err


def test_without_a_terminal_stdout_is_the_answer_alone(cli):
    ran = cli("ask", "What is 17 × 23?")
    assert (ran.code, ran.out) == (0, f"{ANSWER}\n")
    assert ran.err.startswith("note: no switcher head")


@pytest.mark.parametrize("arguments", [["ask"], ["ask", "-"], ["ask", "--file", "-"]])
def test_the_question_comes_from_standard_input(cli, arguments):
    # In chat nothing but the prompt depends on the question: its bytes are the prompt's tokens.
    one = json.loads(cli(*arguments, "--json", "--mode", "chat", stdin="Wie weit?\n").out)
    other = json.loads(cli("ask", "Wie weit?", "--json", "--mode", "chat").out)
    assert one["usage"] == other["usage"]
    assert one["thinking"] is None


def test_the_question_comes_from_a_file(cli, tmp_path):
    file = tmp_path / "question.txt"
    file.write_text("Wie weit?\n", encoding="utf-8")
    one = json.loads(cli("ask", "--file", str(file), "--json").out)
    other = json.loads(cli("ask", "Wie weit?", "--json").out)
    assert one["usage"] == other["usage"]


def test_a_question_given_as_argument_leaves_standard_input_alone(cli):
    assert cli("ask", "What is 17 × 23?", stdin=b"\xff not even text").code == 0


def test_options_reach_the_library(cli):
    cli("ask", "q", "--kv", "q8_0", "--threads", "3", "--context", "900")
    (load,) = cli.loads
    assert (load["kv"], load["threads"], load["context_tokens"]) == ("q8_0", 3, 900)


def test_interrupted_it_prints_what_there_is(cli):
    cli.interrupt_at = (9,)
    before = signal.getsignal(signal.SIGINT)
    ran = cli("ask", "What is 17 × 23?", "--json", "--streams", "2")
    got = json.loads(ran.out)
    assert ran.code == 130
    assert got["stop"] == "cancelled"
    assert got["answer"] == ""
    # The first token is drawn before the first step, and the ninth step is completed: ten bytes.
    assert got["thinking"] == "17 · 23 ="
    assert [stream["cancelled"] for stream in got["streams"]] == [True, True]
    assert [stream["answer"] for stream in got["streams"]] == [None, None]
    assert ran.err.splitlines()[-1] == "edgereason: interrupted"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_or_killed_twice_the_process_ends_at_once(first, second):
    code = (
        "import signal, time\n"
        "from edgereason.cli.terminal.interrupt import stop_on_interrupt\n"
        "with stop_on_interrupt() as should_stop:\n"
        f"    signal.raise_signal({int(first)})\n"
        "    print(should_stop(), flush=True)\n"
        f"    signal.raise_signal({int(second)})\n"
        "    print('still here')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-second, "True\n", "")


def test_in_the_background_where_interrupts_are_ignored_a_kill_still_asks_for_an_end():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.getsignal(signal.SIGTERM)
    try:
        with stop_on_interrupt() as should_stop:
            signal.raise_signal(signal.SIGTERM)
            assert should_stop()
        assert signal.getsignal(signal.SIGTERM) is before[1]
    finally:
        signal.signal(signal.SIGINT, before[0])


def test_an_ignored_interrupt_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_interrupt() as should_stop:
            signal.raise_signal(signal.SIGINT)
            assert not should_stop()
    finally:
        signal.signal(signal.SIGINT, before)


def test_interrupted_while_loading_it_says_so_in_one_line(cli, monkeypatch):
    def load(*arguments: object, **options: object) -> Model:
        signal.raise_signal(signal.SIGINT)  # as if inside a callback of the native library: it must not raise
        return cli.load(*arguments, **options)

    monkeypatch.setattr("edgereason.reasoning.model.load", load)
    ran = cli("ask", "q", "--json", "--model", "smollm2-135m")
    assert (ran.code, ran.out, ran.err) == (130, "", "edgereason: interrupted\n")
    assert len(cli.loads) == 1


def test_interrupted_while_pulling_it_says_so_in_one_line(cli, monkeypatch):
    monkeypatch.setattr("edgereason.hub.pull.resolve", lambda *_a, **_o: signal.raise_signal(signal.SIGINT))
    ran = cli("ask", "q", "--json", "--model", "smollm2-135m")
    assert (ran.code, ran.out, ran.err) == (130, "", "edgereason: interrupted\n")


def test_importing_the_command_line_loads_nothing_heavy():
    heavy = {"llama_cpp", "numpy", "rich.console", "jinja2", "math_verify", "edgereason.engine"}
    code = "import sys, edgereason.cli.main; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(found.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "commands", "groups"),
    [(["ask", "q", "--seed", "1"], ["ask"], []), (["bench", "engine"], [], ["bench"])],
)
def test_only_the_command_that_is_called_makes_its_options_ready(arguments, commands, groups):
    part = _part_for(arguments)
    assert [one.callback.__name__ for one in part.registered_commands] == commands
    assert [one.typer_instance.info.name for one in part.registered_groups] == groups


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["aks", "q"], [""]])
def test_help_and_unknown_words_see_all_commands(arguments):
    assert _part_for(arguments) is app


def test_a_model_that_is_here_needs_neither_network_nor_locks():
    code = "import sys, edgereason.hub.pull; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"http.client", "ssl", "urllib.request", "filelock"} & set(found.stdout.split())
