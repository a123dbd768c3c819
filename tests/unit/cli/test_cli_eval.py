"""`edgereason eval`: what is printed, what is refused, and with which exit code."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from refusals import FAILED, USAGE

from edgereason.engine.scripted import ScriptedEngine
from edgereason.reasoning.model import Model

REPLIES = [f"I count {n}.\n</think>\n\nThe final answer is {n}." for n in range(3)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    rows = [{"id": f"q{n}", "question": f"How many is {n}?", "answer": str(n % 3)} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def evaluate(cli, monkeypatch, data: Path, tmp_path: Path):
    """Runs `edgereason eval gsm8k` on the questions, into a folder, with more arguments."""
    monkeypatch.setattr("edgereason.evals.run.load", lambda *_, **__: Model(ScriptedEngine(REPLIES)))

    def run(*more: str, folder: str = "run"):
        return cli("eval", "gsm8k", "--data", str(data), "-o", str(tmp_path / folder), *more)

    return run


def test_a_task_ends_in_a_sentence_on_stdout_and_nothing_else(evaluate) -> None:
    ran = evaluate("--mode", "think", "--budget", "100")
    assert ran.code == 0
    assert ran.out.count("\n") == 1
    assert ran.out.startswith("gsm8k: ")
    assert "6 questions" in ran.out
    assert "6 of 6 done" in ran.err


def test_with_json_the_summary_is_all_there_is_on_stdout(evaluate, tmp_path: Path) -> None:
    ran = evaluate("--mode", "think", "--budget", "100", "--json")
    assert json.loads(ran.out) == json.loads((tmp_path / "run" / "summary.json").read_text())


def test_a_run_file_can_be_run_again_and_options_go_before_it(evaluate, cli, data, tmp_path: Path) -> None:
    evaluate("--mode", "think", "--budget", "100", "--limit", "4")
    again = ["eval", "--config", str(tmp_path / "run" / "run.toml"), "--data", str(data), "--json"]
    same = json.loads(cli(*again, "-o", str(tmp_path / "same")).out)
    assert (same["config"]["budget"], same["n"]) == (100, 4)
    other = json.loads(cli(*again, "-o", str(tmp_path / "other"), "--budget", "120", "--limit", "2").out)
    assert (other["config"]["budget"], other["n"]) == (120, 2)


def test_the_caches_type_is_recorded(evaluate, tmp_path: Path) -> None:
    evaluate("--mode", "think", "--budget", "100", "--kv", "q8_0")
    assert 'kv = "q8_0"' in (tmp_path / "run" / "run.toml").read_text()


@pytest.mark.parametrize(
    ("option", "line"), [("--enable-thinking", "true"), ("--no-enable-thinking", "false")]
)
def test_the_thinking_switch_is_recorded(evaluate, tmp_path: Path, option: str, line: str) -> None:
    assert evaluate("--mode", "chat", option).code == 0
    assert f"enable_thinking = {line}\n" in (tmp_path / "run" / "run.toml").read_text()
    evaluate("--mode", "chat", folder="plain")
    assert "enable_thinking" not in (tmp_path / "plain" / "run.toml").read_text()


def test_stages_are_recorded_and_so_are_the_streams_that_never_began(evaluate, cli, tmp_path: Path) -> None:
    asked = ("--mode", "think", "--budget", "100", "--streams", "4", "--vote", "majority")
    staged = json.loads(evaluate(*asked, "--stage", "3", "--json").out)
    whole = json.loads(evaluate(*asked, "--json", folder="whole").out)
    assert staged["config"]["stage"] == [3]
    assert "stage" not in whole["config"]
    assert tomllib.loads((tmp_path / "run" / "run.toml").read_text())["eval"]["stage"] == [3]
    # Streams say 0, 1, 2, 0 in turn, and no three agree, so that the fourth always begins.
    assert (staged["mean_streams_begun"], whole["mean_streams_begun"]) == (4.0, 4.0)
    assert staged["accuracy"] == whole["accuracy"]
    refused = evaluate(*asked)
    assert refused.code == FAILED
    assert "stage" in refused.err
    assert "in rising order, as 5 or '2,4,8'" in evaluate(*asked, "--stage", "3,2", folder="other").err
    votes = json.loads(cli("eval", "sweep", str(tmp_path / "run")).out)["votes"]
    assert votes["run"]["least_pool"] == 4


def test_a_sweep_prints_its_record_or_writes_it(evaluate, cli, tmp_path: Path) -> None:
    evaluate("--mode", "think", "--budget", "100", "--streams", "3", "--no-stop-early")
    run = str(tmp_path / "run")
    printed = json.loads(cli("eval", "sweep", run).out)
    assert list(printed["votes"]) == ["run"]
    target = tmp_path / "deep" / "sweep.json"
    ran = cli("eval", "sweep", run, "-o", str(target))
    assert (ran.code, ran.out) == (0, "")
    assert json.loads(target.read_text())["votes"] == printed["votes"]


def test_a_comparison_is_a_line_a_folder_or_one_object(evaluate, cli, tmp_path: Path) -> None:
    evaluate("--mode", "think", "--budget", "100")
    evaluate("--mode", "think", "--budget", "100", "--limit", "4", folder="fewer")
    run, fewer = str(tmp_path / "run"), str(tmp_path / "fewer")
    line = cli("eval", "compare", run, fewer).out
    assert "on 4 questions, +0.0 points (+0.0 to +0.0), 0 won, 0 lost, p = 1" in line
    found = json.loads(cli("eval", "compare", run, fewer, "--json").out)
    assert (found["base"], found["compared"][0]["name"]) == ("run", "fewer")
    assert (found["compared"][0]["num_questions"], found["compared"][0]["ci95"]) == (4, [0.0, 0.0])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["gsm9k"], FAILED, "did you mean 'gsm8k'"),
        (["gsm8k", "--data", "missing.jsonl"], FAILED, "missing.jsonl"),
        (["gsm8k", "--repeats", "0"], FAILED, "repeats must be at least 1"),
        (["gsm8k", "--score", "loglik", "--budget", "99"], FAILED, "no setting 'budget'"),
        (["gsm8k", "--orders", "given"], FAILED, "no setting 'orders'"),
        (["gsm8k", "--streams", "8", "--stage", "five"], USAGE, "'--stage': expected numbers"),
        (["gsm8k", "--kv", "q4_0"], USAGE, "'f16', 'q8_0'"),
        (["ppl", "missing.txt", "--kv", "q4_0"], USAGE, "'f16', 'q8_0'"),
        (["piqa", "--score", "loglik", "--orders", "cyclic"], FAILED, "piqa shows no options"),
        (["mmlu", "--score", "loglik", "--shots", "-1"], FAILED, "shots must be at least 0"),
        (["--mode", "think"], USAGE, "say which task"),
        (["--config", "missing.toml"], FAILED, "missing.toml"),
        (["gsm8k", "--mode", "quick"], USAGE, "'chat', 'think', 'auto'"),
        (["sweep", "missing"], FAILED, "samples.jsonl"),
        (["compare", "missing", "too"], FAILED, "missing holds no readable summary.json"),
        (["sweep", "x", "--budgets", "64,much"], USAGE, "64,much"),
        (["ppl", "missing.txt"], FAILED, "missing.txt"),
    ],
)
def test_bad_input_gets_one_line_and_an_exit_code(cli, monkeypatch, tmp_path, arguments, code, says) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli("eval", *arguments)
    assert (ran.code, ran.out) == (code, "")
    (line,) = [line for line in ran.err.splitlines() if not line.startswith("rows go to")]
    assert says in line
    assert not list(tmp_path.iterdir())


def test_a_broken_row_is_named_and_nothing_is_asked(evaluate, data: Path, tmp_path: Path) -> None:
    with data.open("a") as file:
        file.write('{"id": "q6", "question": "", "answer": "1"}\n')
    ran = evaluate("--mode", "think")
    assert ran.code == FAILED
    assert "questions.jsonl, line 7" in ran.err
    assert "question" in ran.err
    assert not (tmp_path / "run").exists()


def test_an_unknown_key_in_a_run_file_is_refused(cli, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[eval]\ntask = "gsm8k"\nbugdet = 100\n')
    ran = cli("eval", "--config", str(path))
    assert ran.code == FAILED
    assert "did you mean 'budget'?" in ran.err


def test_a_record_holds_the_command_that_was_given_with_names_in_place_of_paths(
    evaluate, cli, tmp_path: Path
) -> None:
    asked = ("--mode", "think", "--budget", "100", "--no-stop-early", "--system", "Either/or.")
    summary = json.loads(evaluate("--threads", "1", "--json", *asked).out)
    assert {*asked, "questions.jsonl", "run"} <= {*summary["command"]}
    assert not {"--threads", "1", "--json"} & {*summary["command"]}
    assert not any(str(tmp_path) in word for word in summary["command"])
    ran = cli("eval", "sweep", str(tmp_path / "run"), "--draws", "50")
    assert json.loads(ran.out)["command"] == ["edgereason", "eval", "sweep", "run", "--draws", "50"]
