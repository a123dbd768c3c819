"""`edgereason chat`: lines in, answers out; commands; what stops, and what goes on."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from edgereason.cli.chat_commands import COMMANDS, Talk
from edgereason.engine.scripted import ScriptedEngine
from edgereason.reasoning.events import Routed
from edgereason.reasoning.model import Model
from edgereason.reasoning.runs import last_response

ANSWER = "The final answer is 391."
CHAT = ("chat", "--mode", "chat")


@pytest.fixture(autouse=True)
def replies(cli) -> None:
    # By seed: chat and thinking get the same reply, since the engine recites whatever the route.
    cli.replies = ("17 · 23 = 391\n</think>\n\nThe final answer is 391.", "It is 400.")


def test_lines_are_questions_and_stdout_is_their_answers_alone(cli):
    ran = cli("chat", stdin="What is 17 × 23?\n\nSure?\n")
    assert (ran.code, ran.out) == (0, f"{ANSWER}\n{ANSWER}\n")
    assert ran.err.splitlines() == ["note: no switcher head is loaded, so auto thinks on every question"]
    assert len(cli.loads) == 1


def test_a_turn_is_asked_behind_those_before_it(cli):
    # Of a conversation the engine's tokens are its bytes: the second prompt holds the first answer.
    cli("chat", "--seed", "1", "--mode", "chat", stdin="What is 17 × 23?\nSure?\n")
    said = cli.engines[0].prompts[-1]
    assert said.count("It is 400.") == 1
    assert said.index("17 × 23") < said.index("It is 400.") < said.index("Sure?")


def test_think_answers_the_last_question_again_thinking(cli):
    ran = cli(*CHAT, stdin="What is 17 × 23?\n/think\nSure?\n/think What is 2+2?\n")
    assert ran.code == 0
    # The engine recites the same on both routes: chat shows all four lines of it, thinking only the last.
    shown = ["17 · 23 = 391", "</think>", "", ANSWER, ANSWER]
    assert ran.out.splitlines() == shown * 2
    (sure,) = {prompt for prompt in cli.engines[0].prompts if prompt.endswith("Sure?\nassistant\n")}
    assert sure == f"user\nWhat is 17 × 23?\nassistant\n{ANSWER}\nuser\nSure?\nassistant\n"
    assert cli.engines[0].prompts[-1].endswith("What is 2+2?\nassistant\n")


def routes(lines: str, **options: object) -> list[tuple[str, int, int]]:
    """Route, most tokens of a stream, and number of streams of each answer in a talk."""
    found: list[Routed] = []

    def show(events):
        events = list(events)
        found.extend(event for event in events if isinstance(event, Routed))
        return last_response(iter(events))

    talk = Talk(Model(ScriptedEngine(["hm " * 3000])), options, show=show, say=lambda _: None)
    for line in lines.splitlines():
        talk.take(line, lambda: False)
    return [(routed.route.value, routed.limit_tokens, routed.num_streams) for routed in found]


def test_harder_is_the_next_effort_and_settings_that_were_changed_count():
    lines = "What?\n/harder\n/harder\n/streams 3\n/harder\n/harder\n/budget 100\n/harder\n/harder\n"
    assert routes(lines, effort="minimal", mode="think") == [
        ("think", 128, 1),
        ("think", 256, 1),
        ("think", 512, 1),
        ("think", 1024, 3),
        ("think", 2048, 3),
        ("think", 100, 3),
        ("think", 128, 3),
    ]


def test_think_takes_the_settings_as_they_are_but_thinks():
    lines = "What?\n/think\n/budget 100\n/think\n/mode think\n/mode chat\n/streams 2\n/think Else?\nAnd?\n"
    assert routes(lines, effort="none", max_tokens=60) == [
        ("chat", 60, 1),
        ("think", 512, 1),  # max_tokens are for answers that were not asked to be thought about again
        ("think", 100, 1),
        ("think", 60, 2),
        ("chat", 60, 2),
    ]


def test_settings_are_checked_before_they_are_set(cli):
    stdin = "/budget 0\n/budget soon\n/streams 0\n/streams many\n/mode quick\n/streams 2\n/mode chat\nq\n"
    ran = cli("chat", "--vote", "majority", "--seed", "1", stdin=stdin)
    assert (ran.code, ran.out) == (1, "It is 400.\n")
    lines = ran.err.splitlines()
    for line, says in zip(
        lines, ("at least 1", "as 5s", "between 1 and 64", "a number", "chat, think"), strict=False
    ):
        assert line.startswith("edgereason: ")
        assert says in line
    assert lines[5:] == ["streams 2", "mode chat"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/thnik", "no command /thnik: did you mean /think?"),
        ("/Harde", "did you mean /harder?"),
        ("/xyzzy", "no command /xyzzy: see /help"),
        ("/", "see /help"),
        ("/harder now", "takes nothing"),
        ("/quit now", "takes nothing"),
        ("/clear all", "takes nothing"),
        ("/save", "takes a file"),
        ("/drop x", "a number of turns"),
        ("/drop 1", "there are 0 turns"),
        ("/think", "no question to think harder about"),
        ("/load nowhere.kv", "can't read a conversation"),
    ],
)
def test_what_can_not_be_done_is_said_in_one_line_and_the_conversation_goes_on(cli, line, says):
    ran = cli(*CHAT, "--seed", "1", stdin=f"{line}\nWhat?\n")
    assert (ran.code, ran.out) == (1, "It is 400.\n")
    (said,) = ran.err.splitlines()
    assert said.startswith("edgereason: ")
    assert says in said


def test_a_line_that_is_no_text_is_refused_and_the_next_one_answered(cli):
    ran = cli(*CHAT, "--seed", "1", stdin=b"\xff\xfe\nWhat?\n")
    assert (ran.code, ran.out) == (1, "It is 400.\n")
    assert ran.err == "edgereason: this line of standard input is not UTF-8 text\n"


def test_help_lists_every_command_and_quit_ends_at_once(cli):
    ran = cli(*CHAT, stdin="/help\n/quit\nnever asked\n")
    assert (ran.code, ran.out) == (0, "")
    assert [line.split()[0] for line in ran.err.splitlines()] == list(COMMANDS)


def test_a_conversation_is_saved_loaded_cleared_and_shortened(cli, tmp_path: Path):
    file = tmp_path / "talk.kv"
    stdin = f"One?\nTwo?\n/save {file}\n/clear\nThree?\n/load {file}\n/drop 1\nFour?\n"
    ran = cli(*CHAT, "--seed", "1", "--system", "Be kind.", stdin=stdin)
    assert ran.code == 0
    assert ran.err.splitlines() == [
        f"saved to {file}",
        "a new conversation",
        f"2 turns from {file}",
        "1 turn left",
    ]
    three, four = cli.engines[0].prompts[-2:]
    assert "One?" not in three
    assert "Be kind." in three
    for part, count in (("Be kind.", 1), ("One?", 0), ("Two?", 1), ("Three?", 0), ("Four?", 1)):
        assert four.count(part) == count
    assert cli.engines[0].live_sequences == 0


def test_a_conversation_too_long_for_its_context_says_what_to_drop(cli):
    cli.context_tokens = 300
    stdin = f"{'x' * 80}\n{'y' * 120}\n/drop 1\n{'y' * 120}\n"
    ran = cli(*CHAT, "--seed", "1", "--max-tokens", "60", "--streams", "2", stdin=stdin)
    assert ran.out == "It is 400.\nIt is 400.\n"
    assert "drop the first turn (" in ran.err


# Interrupted


def test_interrupted_a_script_ends_with_what_there_is(cli):
    cli.interrupt_at = (9,)
    before = signal.getsignal(signal.SIGINT)
    ran = cli(*CHAT, stdin="What is 17 × 23?\nSure?\n")
    assert (ran.code, ran.out) == (130, "17 · 23 =\n")
    assert ran.err.splitlines()[-1] == "edgereason: interrupted"
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupted_in_a_terminal_the_answer_ends_and_the_conversation_goes_on(cli):
    cli.interrupt_at = (3,)
    ran = cli(*CHAT, "--seed", "1", "--model", "x", in_terminal=True, typed="What is 17 × 23?\nSure?\n")
    assert ran.code == 0
    assert "stop cancelled" in ran.out
    assert "stopped, so that the answer is not part of the conversation" in ran.out
    assert "It is 400." in ran.out
    assert ran.out.index("stopped, so") < ran.out.index("It is 400.")


def test_ctrl_c_at_the_prompt_only_takes_back_what_was_typed(cli, monkeypatch):
    typed = iter([KeyboardInterrupt, "What?", KeyboardInterrupt, EOFError])

    def read(prompt: str) -> str:
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)
    ran = cli(*CHAT, "--seed", "1", in_terminal=True)
    assert ran.code == 0
    assert "It is 400." in ran.out


def test_in_a_terminal_answers_look_as_those_of_ask(cli):
    ran = cli("chat", "--model", "x", in_terminal=True, typed="What is 17 × 23?\n/quit\n")
    assert ran.code == 0
    assert "x · /help lists the commands" in ran.out
    assert " · x · at most 512 tokens" in ran.out
    assert "tok/s" in ran.out
    assert ran.err == ""


# Options


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--bundle", "b", "--model", "m"], 2, "one of the two"),
        (["--base", "b"], 2, "--bundle"),
        (["--streams", "65"], 1, "between 1 and 64"),
        (["--system", "\udcff"], 1, "not UTF-8"),
        (["a question"], 2, "unexpected extra argument"),
    ],
)
def test_bad_options_are_refused_before_anything_is_loaded(cli, arguments, code, says):
    ran = cli("chat", *arguments, stdin="What?\n")
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert not cli.loads


def test_options_reach_the_library_as_they_do_for_ask(cli):
    cli("chat", "--kv", "q8_0", "--threads", "3", "--context", "900", stdin="")
    (load,) = cli.loads
    assert (load["kv"], load["threads"], load["context_tokens"]) == ("q8_0", 3, 900)
    assert json.dumps(load["allow_mirror"]) == "true"
