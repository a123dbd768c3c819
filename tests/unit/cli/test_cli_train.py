"""`edgereason train traces`: what is printed, what is refused, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from refusals import FAILED, USAGE, assert_refused, assert_stopped

from edgereason.cli.long_run import command_given
from edgereason.engine.scripted import ScriptedEngine
from edgereason.train.lora import run as lora_run

REPLIES = ("Two a day, nine days: 9 × 2 = \\boxed{18}.", "Three a day, so \\boxed{27}.")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "hens.jsonl"
    rows = [
        {"id": f"q{n}", "question": f"How many eggs does hen {n} lay in 9 days?", "answer": "18"}
        for n in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def make(cli, data: Path, tmp_path: Path):
    """Runs `edgereason train traces --questions …` with two samples a question, and more arguments."""
    cli.replies = REPLIES
    fixed = ("--questions", str(data), "--samples", "2", "-o", str(tmp_path / "out"))
    return lambda *more: cli("train", "traces", *fixed, *more)


def test_making_traces_ends_in_a_sentence_on_stdout_and_nothing_else(make, tmp_path: Path) -> None:
    ran = make("--keep", "1")
    assert ran.code == 0
    assert ran.out == (
        f"{tmp_path / 'out' / 'traces.jsonl'}: 4 traces; hens.jsonl: 4 traces for 4 of 4 questions, "
        "68 tokens on average; 50% of 8 samples right\n"  # 34 bytes of thinking, 1, 10 and 23
    )
    assert "8 of 8 done" in ran.err
    assert len((tmp_path / "out" / "traces.jsonl").read_text().splitlines()) == 4


def test_with_json_the_record_is_all_there_is_on_stdout(make, data: Path, tmp_path: Path) -> None:
    ran = make("--json", "--against", str(data), "--limit", "3")
    record = json.loads(ran.out)
    assert record == json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["yield"]["hens.jsonl"]["contaminated"] == 3  # short, and word for word the same
    assert record["against"][0]["name"] == "hens.jsonl"
    assert {"date", "machine", "versions"} <= record.keys()
    assert str(tmp_path) not in ran.out


def test_a_teacher_can_be_told_something_else_and_the_record_says_what(make, tmp_path: Path) -> None:
    told = "Say what is asked. Then calculate."
    record = json.loads(make("--json", "--instruction", told).out)
    assert record["config"]["instruction"] == record["run"]["instruction"] == told
    refused = make("--instruction", "Guess.")  # samples of one instruction are no samples of another
    assert refused.code == FAILED
    assert "instruction" in refused.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--teacher", "qwq"), "--teacher is for a teacher behind an --endpoint"),
        (("--key-env", "KEY"), "--key-env is for a teacher behind an --endpoint"),
        (("--endpoint", "http://host", "--calculator"), "--calculator works on this engine"),
        (("--endpoint", "host:8000"), "must be an address"),
        (("--endpoint", "http://host", "--key-env", "NO_SUCH_KEY"), "NO_SUCH_KEY holds no key"),
    ],
)
def test_an_endpoint_that_can_not_be_asked_gets_one_line(make, tmp_path: Path, arguments, says) -> None:
    ran = make(*arguments)
    assert ran.code != 0
    assert says in " ".join(ran.err.replace("│", " ").split())
    assert not (tmp_path / "out" / "samples.jsonl").exists()


def test_a_recorded_command_does_not_say_where_a_teacher_was_served() -> None:
    given = [
        "train",
        "traces",
        "--endpoint",
        "http://node-7:8000/v1",
        "--teacher",
        "qwq",
        "--endpoint=http://n",
    ]
    assert command_given(given) == (
        *("edgereason", "train", "traces", "--endpoint", "URL", "--teacher", "qwq", "--endpoint", "URL"),
    )


def test_an_interruption_leaves_what_is_done_and_the_same_command_goes_on(cli, make, tmp_path: Path) -> None:
    cli.interrupt_at = (110,)
    ran = make("--parallel", "2", "--max-tokens", "100")
    assert_stopped(ran, tmp_path / "out")
    done = (tmp_path / "out" / "samples.jsonl").read_text()
    assert 2 <= done.count("\n") < 8
    cli.interrupt_at = ()
    assert make("--parallel", "2", "--max-tokens", "100").code == 0
    assert (tmp_path / "out" / "samples.jsonl").read_text().startswith(done)


def test_traces_of_others_are_read_and_what_is_left_out_is_said(cli, tmp_path: Path) -> None:
    path = tmp_path / "open.jsonl"
    talks = ["<think>\nAdd.\n</think>\n\n4", "<think>\nAdd", "<think>\nAgain.\n</think>\n\n"]
    rows = [
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": said}]}
        for said in talks
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    ran = cli("train", "traces", "--from", str(path), "--format", "openthoughts3", "-o", str(out))
    assert (ran.code, ran.out) == (
        0,
        f"{out / 'traces.jsonl'}: 1 trace; open.jsonl: 1 of 3 rows, 16 tokens on average "
        "(no_answer 1, no_closing 1)\n",
    )
    again = cli(
        "train", "traces", "--from", str(out / "traces.jsonl"), "--format", "plain", "-o", str(out / "b")
    )
    assert again.code == 0
    assert (out / "b" / "traces.jsonl").read_text() == (out / "traces.jsonl").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], USAGE, "say which"),
        (["--questions", "q.jsonl", "--from", "t.jsonl", "--format", "plain"], USAGE, "say which"),
        (["--from", "t.jsonl"], USAGE, "--from and --format go together"),
        (["--questions", "q.jsonl", "--format", "plain"], USAGE, "--from and --format go together"),
        (["--from", "t.jsonl", "--format", "plain", "--samples", "3"], USAGE, "--samples is for traces"),
        (["--from", "t.jsonl", "--format", "alpaca"], USAGE, "'trl', 's1k', 'deepscaler', 'worked', 'plain'"),
        (["--from", "t.jsonl", "--format", "plain"], FAILED, "t.jsonl is not a file"),
        (["--questions", "q.jsonl"], FAILED, "q.jsonl is not a file"),
        (["--questions", "q.jsonl", "--samples", "0"], FAILED, "samples must be between 1 and 64"),
        (["--questions", "q.jsonl", "--temperature", "9"], FAILED, "temperature must be"),
    ],
)
def test_bad_input_gets_one_line_and_an_exit_code(cli, monkeypatch, tmp_path, arguments, code, says) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli("train", "traces", "-o", "out", *arguments)
    assert_refused(ran, code, says)
    assert not list(tmp_path.iterdir())


def test_a_broken_row_is_named_and_nothing_is_asked(make, data: Path, tmp_path: Path) -> None:
    with data.open("a") as file:
        file.write('{"id": "q4", "question": "", "answer": "1"}\n')
    ran = make()
    assert ran.code == FAILED
    assert "hens.jsonl, line 5: question is empty" in ran.err
    assert not (tmp_path / "out").exists()


def test_own_answers_end_in_a_sentence_and_an_interruption_in_how_to_go_on(
    cli, data: Path, tmp_path: Path
) -> None:
    cli.replies = REPLIES
    out = tmp_path / "own"
    asked = ("train", "answers", "--questions", str(data), "-o", str(out))
    cli.interrupt_at = (30,)
    assert_stopped(cli(*asked), out)
    cli.interrupt_at = ()
    ran = cli(*asked)
    assert ran.code == 0
    record = json.loads((out / "record.json").read_text())
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    mean_tokens = sum(row["num_tokens"] for row in rows) / 4
    assert ran.out == f"{out / 'samples.jsonl'}: 4 answers, {mean_tokens:.0f} tokens on average\n"
    assert {"date", "machine", "versions"} <= record.keys()


@pytest.mark.torch
def test_a_sweep_over_processes_is_refused(cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    study = str(Path(__file__).parents[3] / "configs" / "study-smollm2-135m.toml")
    ran = cli("train", "sweep", study, "--traces", "t.jsonl", "-o", str(tmp_path / "out"))
    assert ran.code == FAILED
    assert "is one process, and 2 were started" in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.torch
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["sft", "r.toml", "-o", "out"], USAGE, "say which: --traces, or --examples in ids"),
        (["sft", "r.toml", "--traces", "t", "--examples", "e", "-o", "out"], USAGE, "say which"),
        (["grpo", "r.toml", "--from", "sft", "-o", "out"], USAGE, "--questions"),
        (["grpo", "r.toml", "--from", "sft", "--questions", "q", "-o", "out"], FAILED, "r.toml"),
        (
            ["grpo", "g.toml", "--from", "sft", "--questions", "q", "-o", "out"],
            FAILED,
            "did you mean 'margin'",
        ),
        (["grpo", "h.toml", "--from", "sft", "--questions", "q", "-o", "out"], FAILED, "q is not a file"),
        (["shortest", "h.toml", "--from", "sft", "--questions", "q", "-o", "out"], FAILED, "q is not a file"),
        (["shortest", "h.toml", "--from", "sft", "--questions", "hens", "-o", "out"], FAILED, "in sft"),
    ],
)
def test_bad_input_of_trainings_gets_one_line(cli, monkeypatch, tmp_path, arguments, code, says) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.toml").write_text('[base]\nname = "smollm2-135m"\n[reward]\nmargn = 0.5\n')
    (tmp_path / "h.toml").write_text('[base]\nname = "smollm2-135m"\n')
    (tmp_path / "hens").with_suffix(".jsonl").write_text('{"question": "2+2?", "answer": "4"}\n')
    ran = cli("train", *(f"{one}.jsonl" if one == "hens" else one for one in arguments))
    assert_refused(ran, code, says)
    assert not (tmp_path / "out").exists()


_COMMANDS = (
    "quantize m --recipe r.toml -o out",
    "train sft r.toml --traces t -o out",
    "train export sft",
    "train grpo r.toml --from sft --questions q -o out",
    "train shortest r.toml --from sft --questions q -o out",
    "train sweep s.toml --traces t -o out",
    "train heads switcher --prompts p -o out",
    "train heads verifier --questions q -o out",
    "bench train",
)


@pytest.mark.parametrize("command", _COMMANDS)
def test_threads_spin_briefly_before_torch_is_imported_and_its_warnings_stay_away(
    tmp_path: Path, command: str
) -> None:
    (tmp_path / "torch.py").write_text(
        "import os, sys, warnings\n"
        "warnings.warn('for developers', FutureWarning)\n"
        "print('spins', os.environ.get('GOMP_SPINCOUNT'), file=sys.stderr)\n"
        "raise ImportError\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "edgereason", *command.split()],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == FAILED, done.stderr
    spins, line = done.stderr.splitlines()
    assert (spins, line[:12]) == ("spins 3000", "edgereason: ")


SFT = '[base]\nname = "smollm2-135m"\n[hints]\nbuckets = {}\n'


class ClosingEngine(ScriptedEngine):
    """What trainings open for the time of reading."""

    def __init__(self, path: Path) -> None:
        super().__init__()

    def __enter__(self) -> ClosingEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@pytest.fixture
def scripted_base(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(lora_run, "LlamaEngine", ClosingEngine)


@pytest.mark.parametrize(
    ("buckets", "changed", "says"),
    [
        ([64, 128], {"base_sha256": "00"}, "e.jsonl was made for the base with SHA-256 00, this one has "),
        ([64, 128], {"vocab_sha256": "11"}, "e.jsonl was made for the vocabulary with SHA-256 11, this one "),
        ([64], {}, "e.jsonl was made for the buckets [64, 128], the recipe's [hints] has [64]"),
        ([64, 128, 256], None, "e.jsonl: no example announces the [hints] buckets [256] of the recipe"),
        ([64], None, "e.jsonl: example 'b' announces a budget of 128 tokens"),
        ([64, 128], {"no hint": 1}, "e.jsonl: example 'b' announces a budget of 128 tokens, so that"),
    ],
)
def test_examples_of_other_budgets_or_of_another_base_are_not_trained_on(
    cli, scripted_base: None, tmp_path: Path, buckets: list[int], changed: dict | None, says: str
) -> None:
    from edgereason.reasoning.model import describe_base
    from edgereason.train.lora.examples import Encoder, Example, ExamplesOrigin, write_examples

    engine = ScriptedEngine()
    encoder, base = Encoder.of(engine), describe_base(engine, cli.resolve("it"))
    examples = []
    for name, bucket in (("a", 64), ("b", 128)):
        forced = encoder.forced(None if name == "b" and changed == {"no hint": 1} else bucket)
        examples.append(
            Example(id=name, prompt=(65,), response=(*forced, 66), num_forced=len(forced), bucket=bucket)
        )
    origin = ExamplesOrigin.of(base, encoder.seams.opening, examples)
    if changed and "no hint" not in changed:
        origin = replace(origin, **changed)
    file = tmp_path / "e.jsonl"
    write_examples(file, origin, examples)
    if changed is None:  # as files were before they said what they are for
        file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    (tmp_path / "r.toml").write_text(SFT.format(buckets))
    out = tmp_path / "out"
    ran = cli("train", "sft", str(tmp_path / "r.toml"), "--examples", str(file), "-o", str(out))
    assert_refused(ran, FAILED, says)
    assert not out.exists()


@pytest.mark.parametrize(
    ("record", "expected"), [({"buckets": [64]}, (64,)), ({}, (64, 128)), (None, (64, 128))]
)
def test_an_exported_bundle_announces_the_budgets_that_the_record_says_were_trained(
    cli, scripted_base: None, monkeypatch, tmp_path: Path, record: dict | None, expected: tuple[int, ...]
) -> None:
    (tmp_path / "recipe.toml").write_text(SFT.format([64, 128]))
    if record is not None:
        (tmp_path / "record.json").write_text(json.dumps(record))
    seen = []

    def write_bundle(folder, path, base, opening, buckets, *, calculator):
        seen.append(buckets)
        return {"size_bytes": 1}

    monkeypatch.setattr(lora_run, "write_bundle", write_bundle)
    assert cli("train", "export", str(tmp_path)).code == 0
    assert seen == [expected]


def test_a_dry_run_says_what_a_training_takes_and_writes_nothing(cli, tmp_path: Path) -> None:
    configs = Path(__file__).parents[3] / "configs"
    fixed = (
        *("train", "sft", str(configs / "sft-qwen2.5-7b-paper.toml"), "-o", str(tmp_path / "out")),
        "--dry-run",
        *("--base", str(configs / "shapes" / "qwen2.5-7b-instruct.json"), "--assume", "devices=8"),
        *("--assume", "device_gb=80", "--assume", "disk_gb=1000"),
    )
    ran = cli(*fixed, "--assume", "host_gb=2000")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "fits")
    assert "adapter parameters: 322,961,408" in ran.out
    ran = cli(*fixed, "--assume", "host_gb=100", "--json")
    assert ran.code == 1
    found = json.loads(ran.out)
    assert found["device_bytes"]["optimizer"] == 8 * 322_961_408
    assert "the machine needs 152.3 GB" in found["problems"][0]
    ran = cli(*fixed, "--assume", "gpus=8")
    assert ran.code != 0
    assert "there is no 'gpus'" in ran.err
    assert not (tmp_path / "out").exists()
