"""Bad input: one clear line on stderr, nothing on stdout, the right exit code, before anything is loaded."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from refusals import FAILED, USAGE

import edgereason
from edgereason.errors import EngineError


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["ask", "q", "--bugdet", "200"], USAGE, "--budget"),
        (["aks", "q"], USAGE, "'ask'"),
        (["ask", "q", "--mode", "quick"], USAGE, "'chat', 'think', 'auto'"),
        (["ask", "q", "--kv", "q4"], USAGE, "'f16', 'q8_0'"),
        (["ask", "q", "--budget", "much"], FAILED, "tokens, as 400, or seconds, as 5s"),
        (["ask", "q", "--budget", "0s"], FAILED, "above 0 s"),
        (["ask", "q", "--threads", "0"], USAGE, "--threads"),
        (["ask", "q", "--seed"], USAGE, "--seed"),
        (["ask", "two", "questions"], USAGE, "unexpected extra argument"),
        (["ask"], USAGE, "there is none"),
        (["ask", "q", "--file", "f"], USAGE, "one question"),
        (["ask", "q", "--bundle", "b", "--model", "m"], USAGE, "one of the two"),
        (["ask", "q", "--base", "b"], USAGE, "--bundle"),
        (["ask", "q", "--streams", "0"], FAILED, "between 1 and 64, got 0"),
        (["ask", "q", "--streams", "65"], FAILED, "between 1 and 64, got 65"),
        (["ask", "q", "--mode", "think", "--budget", "31"], FAILED, "the minimum is 32"),
        (["ask", "q", "--seed", "-1"], FAILED, "seed"),
        (["ask", "q", "--temperature", "nan"], FAILED, "temperature"),
        (["ask", " \n"], FAILED, "the question is empty"),
        (["ask", ""], FAILED, "the question is empty"),
        (["ask", "\udcff"], FAILED, "not UTF-8"),
        (["ask", "q", "--system", "\udcff"], FAILED, "not UTF-8"),
        (["ask", "--file", "missing\nfile"], FAILED, "No such file"),
        (["ask", "--file", "."], FAILED, "directory"),
        (["ask", "q", "--bundle", "missing"], FAILED, "bundle"),
    ],
)
def test_bad_input_gets_one_line_and_an_exit_code(cli, arguments, code, says):
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert_one_line(ran.err, says)
    assert not cli.loads


def test_empty_standard_input_is_an_empty_question(cli):
    ran = cli("ask", stdin="\n")
    assert (ran.code, ran.out) == (FAILED, "")
    assert_one_line(ran.err, "the question is empty")


def test_standard_input_that_is_no_text_is_refused(cli):
    ran = cli("ask", stdin=b"\xff\xfe\x00")
    assert ran.code == FAILED
    assert_one_line(ran.err, "standard input is not UTF-8")


def test_a_prompt_longer_than_the_context_says_both_numbers(cli):
    ran = cli("ask", "x" * 40_000)
    assert (ran.code, ran.out) == (FAILED, "")
    assert "40" in ran.err
    assert "32768 are available" in ran.err


def test_what_a_library_error_says_becomes_one_line(cli, monkeypatch):
    def failing(*_args: object, **_options: object) -> None:
        raise EngineError("it failed\n  llama.cpp said: no")

    monkeypatch.setattr("edgereason.reasoning.model.load", failing)
    ran = cli("ask", "q")
    assert (ran.code, ran.err) == (FAILED, "edgereason: it failed llama.cpp said: no\n")


def test_a_bug_is_not_dressed_up_as_bad_input(cli, monkeypatch):
    monkeypatch.setattr("edgereason.reasoning.model.load", lambda *_args, **_options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli("ask", "q")


@pytest.mark.parametrize(
    ("arguments", "commands"), [([], ["ask", "bench", "models", "pull"]), (["bench"], ["engine"])]
)
def test_without_a_command_it_shows_help(cli, arguments, commands):
    ran = cli(*arguments)
    assert (ran.code, ran.err) == (USAGE, "")
    assert all(f"\n  {command} " in ran.out for command in commands)


def test_version_is_the_packages(cli):
    ran = cli("--version")
    assert (ran.code, ran.out) == (0, f"edgereason {edgereason.__version__}\n")


def test_python_m_is_the_same_command_and_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m edgereason models --json"
    models = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert json.loads(models.stdout)
    left = subprocess.run(f"{command} | true", shell=True, capture_output=True, text=True, check=True)
    assert left.stderr == ""


def assert_one_line(err: str, says: str) -> None:
    assert err.startswith("edgereason: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert says in err
    assert "Traceback" not in err
    assert not set(err) & set("╭╮╰╯│─┌┐└┘")


ESCAPE = "\x1b]0;owned\x07\x9b2J\u202e"


def test_an_errors_line_drives_no_terminal(cli, monkeypatch):
    def failing(*_args: object, **_options: object) -> None:
        raise EngineError(f"the template of {ESCAPE}evil says\n{ESCAPE}no")

    monkeypatch.setattr("edgereason.reasoning.model.load", failing)
    ran = cli("ask", "q")
    assert ran.err == "edgereason: the template of ]0;owned2Jevil says ]0;owned2Jno\n"
    ran = cli("ask", "q", "--mode", ESCAPE)
    assert not set("\x1b\x07\x9b\u202e") & set(ran.err)


@pytest.mark.parametrize("in_terminal", [False, True])
@pytest.mark.parametrize("command", ["ask", "chat"])
def test_what_a_model_says_drives_no_terminal(cli, command, in_terminal):
    cli.replies = (f"so {ESCAPE}thinking\n</think>\n\n{ESCAPE}It is 4{ESCAPE}.",)
    arguments = ["q"] if command == "ask" else []
    ran = cli(command, *arguments, "--mode", "think", stdin="q\n", in_terminal=in_terminal)
    assert ran.code == 0
    assert "It is 4" in ran.out
    for sign in ("\x1b]", "\x07", "\x9b", "\u202e"):
        assert sign not in ran.out + ran.err


def test_json_for_programs_keeps_what_a_model_says_and_drives_no_terminal(cli):
    said = f"It is {ESCAPE}4\x7f."
    cli.replies = (said,)
    ran = cli("ask", "q", "--mode", "chat", "--json")
    assert json.loads(ran.out)["text"] == said
    assert not set("\x1b\x07\x9b\u202e\x7f") & set(ran.out)
