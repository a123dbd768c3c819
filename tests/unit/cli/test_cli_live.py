"""What a person sees, rendered into a recording console."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console

from edgereason.cli.terminal.live import Board, watch
from edgereason.cli.terminal.text import Prose, Transcript, one_line, printable
from edgereason.core.types import Candidate, Route, Stop, Trace
from edgereason.engine.scripted import ScriptedEngine
from edgereason.reasoning.control import Phase
from edgereason.reasoning.events import Ended, Routed, Tallied, Text
from edgereason.reasoning.model import Model
from edgereason.reasoning.request import make_request


def recording(width: int = 100, height: int = 30) -> Console:
    return Console(
        file=io.StringIO(), record=True, force_terminal=True, width=width, height=height, markup=False
    )


def shown(console: Console) -> str:
    return console.export_text()


def _board(num_streams: int, *, route: Route = Route.THINK) -> Board:
    return Board(Routed(route, None, 10, num_streams, 200))


def _ended(index: int, answer: str | None, stop: Stop = Stop.NATURAL) -> Ended:
    trace = Trace(
        index=index, seed=index, thinking="", text="", thinking_tokens=100, answer_tokens=20, stop=stop
    )
    return Ended(Candidate(trace=trace, answer=answer))


def test_the_board_shows_each_streams_end_state_and_tokens():
    board = _board(4)
    board.take(Text(0, Phase.THINKING, "First " + "long\n" * 50 + "last words", 134))
    board.take(Text(1, Phase.ANSWER, "hidden tag\n</think>\n\nThe final", 150))
    board.take(_ended(2, "391"))
    board.take(_ended(3, None, Stop.CANCELLED))
    board.take(Tallied((("391", 1.0),), 2))
    console = recording()
    console.print(board)
    text = shown(console)
    for part in ("1 thinking", "134/200", "last words", "2 answering", "The final", "3 ✓ 391", "120/200"):
        assert part in text
    assert "4 cancelled" in text
    assert "tally  391 ×1 · 2 running" in text
    assert "First" not in text, "only the end of a long text fits"
    assert "</think>" not in text


def test_streams_that_wait_are_shown_behind_the_others_and_counted_apart():
    board = _board(10)
    for index in range(5):
        board.take(Text(index, Phase.THINKING, "hm", 1))
    board.take(_ended(0, "391"))
    board.take(Tallied((("391", 1.0),), 4))
    console = recording(height=26)
    console.print(board)
    text = shown(console)
    for part in ("1 ✓ 391", "2 thinking", "5 thinking", "6 waiting", "8 waiting"):
        assert part in text
    assert "tally  391 ×1 · 4 running · 5 waiting · 2 not shown" in text


def test_streams_that_never_began_are_said_so_with_what_they_saved():
    console = recording()
    reply = "think\n</think>\n\nThe final answer is 391."
    _watch(console, (reply,), streams=4, stage=3, vote="majority", budget=200, mode="think")
    rest = shown(console).partition("▸")[2]
    assert [line.rstrip() for line in rest.splitlines()[2:5]] == [
        "   3  ✓ 391        40/200  natural",
        "   4  not begun     0/200",
        "tally  391 ×3",
    ]
    assert "all streams 120 · 1 not begun, about 40 tokens saved" in rest


@pytest.mark.parametrize("num_streams", [2, 3, 5, 8, 64])
@pytest.mark.parametrize(("width", "height"), [(30, 10), (80, 24), (200, 60)])
def test_the_board_fits_any_terminal(num_streams, width, height):
    board = _board(num_streams)
    for index in range(num_streams):
        board.take(Text(index, Phase.THINKING, "word " * 500, 100))
    console = recording(width, height)
    console.print(board)
    lines = shown(console).rstrip("\n").split("\n")
    assert len(lines) < height, "it would scroll, and leave its traces"
    assert max(map(len, lines)) <= width


def test_when_not_all_fit_the_running_ones_are_shown():
    board = _board(20)
    for index in range(12):
        board.take(_ended(index, "1"))
    for index in range(12, 20):
        board.take(Text(index, Phase.THINKING, "hm", 1))
    console = recording()
    console.print(board)
    text = shown(console)
    assert "13 thinking" in text
    assert "20 thinking" in text
    assert "✓ 1" not in text
    assert "12 not shown" in text


def test_weighted_strengths_show_decimals():
    board = _board(2)
    board.take(Tallied((("a", 1.617), ("b", 0.5)), 0))
    console = recording()
    console.print(board)
    assert "a 1.62 · b 0.50" in shown(console)


def _watch(console: Console, replies: tuple[str, ...], **options):
    model = Model(ScriptedEngine(replies))
    events = model.run(make_request("What is 17 × 23?", **options))
    # Every look at the clock takes a tick of a minute: the board is drawn after every 30th event.
    return watch(events, console, model="scripted", clock=itertools.count(step=60).__next__)


def test_seconds_are_shown_as_seconds_and_tokens_without_a_limit():
    console = recording()
    response = _watch(console, ("think\n</think>\n\n391",), streams=2, budget="50s", mode="think")
    assert response.timing.overshoot_s == 0.0
    text = shown(console)
    assert "think · scripted · 2 streams · within 50 s" in text
    # Bytes: "think\n" 6, the tag 8, "\n\n" and the answer 5.
    assert "19 tokens" in text
    assert " of 50 s" in text


def test_a_race_leaves_its_results_tally_thinking_answer_and_figures():
    console = recording()
    replies = tuple(f"think {n}\n</think>\n\nThe final answer is {n}." for n in ("391", "390", "391"))
    response = _watch(console, replies, streams=3, budget=200, mode="think")
    assert response.answer == "391"
    text = shown(console)
    assert "think · scripted · 3 streams of at most 200 tokens" in text
    rest = text[text.index("▸") :]
    # Bytes: "think 391\n" 10, the tag 8, "\n\n" and the answer 26.
    assert rest.splitlines()[:4] == [
        "▸  1  ✓ 391    44/200  natural",
        "   2  ✓ 390    44/200  natural",
        "   3  ✓ 391    44/200  natural",
        "tally  391 ×2 · 390 ×1",
    ]
    assert rest.splitlines()[4:8] == ["", "think 391", "", "The final answer is 391."]
    assert "thinking 18 + answer 26 tokens · all streams 132" in rest
    assert "stop natural" in rest


def test_one_stream_is_written_as_it_comes_thinking_dimmed():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system="standard")
    _watch(console, ("Let me see.\n</think>\n\nThe final answer is 391.",), mode="think", budget=200)
    text = console.file.getvalue()
    assert "\x1b[2mLet" in text
    assert "</think>" not in text
    assert "\x1b[2mThe" not in text


def test_markup_of_the_model_is_shown_literally():
    reply = "[bold]x[/bold] :smile:\n</think>\n\nThe final answer is [red]7[/red]."
    for streams in (1, 2):
        console = recording()
        _watch(console, (reply,), mode="think", budget=200, streams=streams)
        text = shown(console)
        assert "[bold]x[/bold] :smile:" in text
        assert "[red]7[/red]" in text
    board = _board(2)
    board.take(Text(0, Phase.THINKING, "[bold]x[/bold]", 3))
    board.take(_ended(1, "[red]7[/red]"))
    console = recording()
    console.print(board)
    text = shown(console)
    assert "[bold]x[/bold]" in text
    assert "✓ [red]7[/red]" in text


def test_escape_sequences_of_the_model_are_defused():
    assert printable("a\x1b[2Jb\x9bc\rd\x07") == "a[2Jbcd"


def test_in_a_terminal_ask_shows_the_route_and_the_answer(cli):
    ran = cli("ask", "What is 17 × 23?", "--model", "x", in_terminal=True)
    assert ran.code == 0
    assert "think" in ran.out
    assert "391." in ran.out
    assert "tok/s" in ran.out
    assert ran.err == ""


def test_interrupted_in_a_terminal_it_shows_what_there_is(cli):
    cli.interrupt_at = (9,)
    ran = cli("ask", "What is 17 × 23?", "--streams", "2", in_terminal=True)
    assert ran.code == 130
    assert "17 · 23 =" in ran.out
    assert "cancelled" in ran.out


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    "text", ["a < b\n\nso </b>.\n</think>\n\n\nIt is\n\n4.\n\n", "</think>4.", "no end </thi"]
)
def test_a_transcript_is_the_same_however_the_text_is_cut(text, size):
    console = recording()
    transcript = Transcript(console, thinks=True)
    for start in range(0, len(text), size):
        transcript.push(text[start : start + size])
    transcript.finish()
    expected = {
        "a": "a < b\n\nso </b>.\n\nIt is\n\n4.\n",
        "<": "4.\n",
        "n": "no end </thi\n",
    }
    assert shown(console) == expected[text[0]]


def test_chat_keeps_a_tag_that_is_only_text():
    console = recording()
    transcript = Transcript(console, thinks=False)
    transcript.push("The tag </think> ends thinking.")
    transcript.finish()
    assert shown(console) == "The tag </think> ends thinking.\n"


def test_lines_break_between_words_and_long_words_run_on():
    console = recording(width=12)
    prose = Prose(console)
    for char in "one two three " + "x" * 15 + " y":
        prose.write(char, "")
    prose.finish("")
    # Of 12 cells 10 are used. "one two" is 7 of them, so "three" goes down; 15 x go down too, and leave the
    # cursor in column 3.
    assert shown(console) == "one two \nthree \n" + "x" * 15 + " y\n"


def test_an_answer_of_several_lines_fits_on_one():
    assert one_line("a\n  b\tc", 10) == "a b c"
    assert one_line("abcdefgh", 5) == "abcd…"


@pytest.mark.parametrize("streams", [1, 2])
def test_native_thinking_of_a_chat_answer_is_shown_without_its_tags(streams: int):
    console = recording()
    model = Model(ScriptedEngine(["\n<think>\nDraft 3.\n</think>\n\nIt is 4."]))
    watch(model.run(make_request("2+2?", mode="chat", streams=streams)), console, model="m")
    text = shown(console)
    assert "think>" not in text
    assert text.index("Draft 3.") < text.index("It is 4.")
