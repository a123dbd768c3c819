"""`edgereason train heads`: what is printed, what is refused, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from refusals import FAILED, USAGE, assert_refused, assert_stopped

from edgereason.core.bundle import Base, Bundle, file_sha256
from edgereason.heads.file import Heads, read_heads, write_heads
from edgereason.heads.verifier import LinearVerifier, TraceFeatures

pytestmark = pytest.mark.torch
RIGHT = "2+2 is 4.\n</think>\n\nThe final answer is 4."
WRONG = "2+2 is 5, I think.\n</think>\n\nThe final answer is 5."


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = [
        {"id": str(n), "label": n % 2, "prompt": "".join(rng.choice(list("0123" if n % 2 else "abcd"), 20))}
        for n in range(60)
    ]
    return lines(tmp_path / "prompts.jsonl", rows)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows = [{"id": f"q{n}", "question": f"What is 2+2, the {n:02d}th?", "answer": "4"} for n in range(30)]
    return lines(tmp_path / "questions.jsonl", rows)


@pytest.fixture
def verify(cli, questions: Path, tmp_path: Path):
    cli.replies = (RIGHT, WRONG)
    fixed = ("--questions", questions, "-o", tmp_path / "verifier", "--samples", "2", "--budget", "100")
    return lambda *more: cli("train", "heads", "verifier", *map(str, (*fixed, *more)))


def test_a_switcher_ends_in_a_sentence_of_what_it_is_worth(cli, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    test = lines(tmp_path / "hard.jsonl", [{"prompt": "0123", "label": 1}])
    ran = cli("train", "heads", "switcher", "--prompts", str(prompts), "--test", str(test), "-o", str(out))
    record = json.loads((out / "record.json").read_text())
    held_out = record["reliability"]["held_out"]
    assert ran.code == 0
    assert ran.out.startswith(f"{out / 'heads.safetensors'}: switcher; validation: AUROC ")
    ranks = f"AUROC {held_out['auroc']:.3f} ± {held_out['auroc_standard_error']:.3f}"
    assert f"held_out: {ranks}, ECE {held_out['ece']:.3f} of 9; hard.jsonl: no AUROC" in ran.out
    assert "61 of 61 done, prompts" in ran.err
    assert "5 of 5 done, candidates" in ran.err
    assert {"date", "machine", "versions"} <= record.keys()


def test_both_heads_go_into_one_file_and_each_keeps_its_own(verify, cli, prompts: Path, tmp_path) -> None:
    into, out = tmp_path / "heads.safetensors", tmp_path / "switcher"
    ran = cli(
        *("train", "heads", "switcher", "--prompts", str(prompts), "-o", str(out)),
        *("--into", str(into), "--seed", "3"),
    )
    assert ran.out.startswith(f"{into}: switcher; ")
    ran = verify("--into", into, "--int8", "--json")
    record = json.loads(ran.out)
    assert record == json.loads((tmp_path / "verifier" / "record.json").read_text())
    assert record["heads"]["sha256"] == file_sha256(tmp_path / "verifier" / "heads.safetensors")
    found = read_heads(into)
    assert found.switcher is not None
    assert found.verifier is not None
    assert found.storage is None  # the switcher stays in float32
    switcher, verifier = (read_heads(folder / "heads.safetensors") for folder in (out, tmp_path / "verifier"))
    assert np.array_equal(found.switcher.hidden_weight, switcher.switcher.hidden_weight)
    assert np.array_equal(found.verifier.weight, verifier.verifier.weight)
    assert read_heads(out / "heads.safetensors").verifier is None
    assert str(tmp_path) not in ran.out


def test_a_records_command_makes_the_same_head_again_and_holds_no_path(
    verify, cli, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = lines(tmp_path / "hard.jsonl", [{"prompt": "0123", "label": 1}])
    out = tmp_path / "switcher"
    ran = cli(
        *("train", "heads", "switcher", "--prompts", str(prompts), "--test", str(test), "-o", str(out)),
        *("--into", str(tmp_path / "h.safetensors"), "--seed", "3", "--int8", "--layer", "-2", "--json"),
        *("--parts", "average", "--parts", "average+last"),
    )
    record = json.loads(ran.out)
    assert record["command"] == [
        *("edgereason", "train", "heads", "switcher", "--prompts", "prompts.jsonl", "--test", "hard.jsonl"),
        *("-o", "switcher", "--seed", "3", "--int8", "--layer", "-2"),
        *("--parts", "average", "--parts", "average+last"),
    ]
    pytest.importorskip("reasoning_gym")
    ran = verify("--temperature", "0.5", "--limit", "25", "--test", "reasoning-gym:chain_sum:9", "--json")
    other = json.loads(ran.out)
    assert other["command"][4:] == [
        *("--questions", "questions.jsonl", "-o", "verifier", "--samples", "2", "--budget", "100"),
        *("--temperature", "0.5", "--limit", "25", "--test", "reasoning-gym:chain_sum:9"),
    ]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in tmp_path.glob("*.jsonl"):
        (elsewhere / path.name).write_text(path.read_text())
    monkeypatch.chdir(elsewhere)
    for made in (record, other):
        assert cli(*made["command"][1:]).code == 0
        again = json.loads((elsewhere / made["head"] / "record.json").read_text())
        assert again["heads"]["sha256"] == made["heads"]["sha256"]
        assert again["command"] == made["command"]


def test_the_papers_verification_prompt_can_be_read_and_the_file_and_the_command_say_so(
    verify, tmp_path: Path
) -> None:
    assert verify().code == 0
    read = read_heads(tmp_path / "verifier" / "heads.safetensors").verifier
    assert read is not None
    assert not read.features.behind_prompt
    record = json.loads(verify("--reads", "prompt", "--json").out)
    read = read_heads(tmp_path / "verifier" / "heads.safetensors").verifier
    assert read is not None
    assert read.features == TraceFeatures(behind_prompt=True)
    assert read.prompt == "Is this solution correct? Answer yes or no."
    assert record["command"][-2:] == ["--reads", "prompt"]
    record = json.loads(verify("--reads", "means", "--json").out)
    assert record["fit"]["features"]["behind_prompt"] is False


def test_an_interruption_leaves_what_is_done_and_the_same_command_goes_on(cli, verify, tmp_path) -> None:
    cli.interrupt_at = (200,)
    ran = verify("--parallel", "4")
    assert_stopped(ran, tmp_path / "verifier")
    done = (tmp_path / "verifier" / "samples.jsonl").read_text()
    assert 2 <= done.count("\n") < 60
    cli.interrupt_at = ()
    assert verify("--parallel", "4").code == 0
    assert (tmp_path / "verifier" / "samples.jsonl").read_text().startswith(done)


def test_a_bundles_heads_are_left_out_while_others_are_trained(cli, verify, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    base = Base(name="b", sha256="b", arch="scripted", hidden_size=16, num_layers=2, vocab_sha256="v")
    Bundle(folder=folder, base=base, opening_ids=(1,), closing="</think>\n\n").write()
    assert verify("--bundle", folder).code == 0
    assert (cli.loads[0]["source"], cli.loads[0]["use_heads"]) == (folder, False)
    assert cli.num_resolved == 0


def of_another_base(path: Path) -> Path:
    vector = np.ones(16, np.float32)
    head = LinearVerifier(
        mean=vector, std=vector, weight=vector[None], bias=vector[:1], features=TraceFeatures(layers=(-2,))
    )
    write_heads(path, Heads(base_sha256="other", verifier=head))
    return path


@pytest.mark.parametrize("command", ["switcher", "verifier"])
def test_a_file_that_can_not_take_the_head_is_refused_before_the_work(
    cli, command: str, prompts: Path, questions: Path, tmp_path: Path
) -> None:
    asked = {"switcher": ("--prompts", str(prompts)), "verifier": ("--questions", str(questions))}[command]
    arguments = ("train", "heads", command, *asked, "-o", str(tmp_path / "out"), "--into")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no heads")
    ran = cli(*arguments, str(broken))
    assert (ran.code, ran.err.count("\n")) == (FAILED, 1)
    assert "broken.safetensors can't be read as heads" in ran.err
    ran = cli(*arguments, str(of_another_base(tmp_path / "other.safetensors")))
    assert (ran.code, ran.err.count("\n")) == (FAILED, 1)
    assert "heads of two bases can't be in one file: got scripted and other" in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["switcher"], USAGE, "--prompts"),
        (["verifier"], USAGE, "--questions"),
        (["switcher", "--prompts", "p.jsonl"], FAILED, "p.jsonl is not a file"),
        (["switcher", "--prompts", "p.jsonl", "--layer", "-1"], USAGE, "less than or equal to -2"),
        (
            ["switcher", "--prompts", "p.jsonl", "--parts", "first"],
            USAGE,
            "invalid value 'first'; expected average",
        ),
        (["verifier", "--questions", "q.jsonl"], FAILED, "q.jsonl is not a file"),
        (["verifier", "--questions", "q.jsonl", "--reads", "both"], USAGE, "'means', 'prompt'"),
        (
            ["verifier", "--questions", "q.jsonl", "--samples", "0"],
            FAILED,
            "samples must be between 1 and 64",
        ),
        (["verifier", "--questions", "q.jsonl", "--budget", "9"], FAILED, "budget of 9 tokens is too small"),
        (
            ["verifier", "--questions", "q.jsonl", "--model", "m.gguf", "--bundle", "b"],
            USAGE,
            "a bundle brings its model",
        ),
    ],
)
def test_bad_input_gets_one_line_and_an_exit_code(cli, monkeypatch, tmp_path, arguments, code, says) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli("train", "heads", *arguments, "-o", "out")
    assert_refused(ran, code, says)
    assert not list(tmp_path.iterdir())


def test_prompts_without_labels_or_of_one_label_are_refused(cli, prompts: Path, tmp_path: Path) -> None:
    with prompts.open("a") as file:
        file.write('{"prompt": "Why?"}\n')
    ran = cli("train", "heads", "switcher", "--prompts", str(prompts), "-o", str(tmp_path / "out"))
    assert (ran.code, ran.err.count("\n")) == (FAILED, 1)
    assert "prompts.jsonl, line 61: label is missing" in ran.err
    lines(prompts, [{"prompt": f"Why {n}?", "label": 1} for n in range(50)])
    ran = cli("train", "heads", "switcher", "--prompts", str(prompts), "-o", str(tmp_path / "out"))
    assert (ran.code, ran.err.count("\n")) == (FAILED, 1)
    assert "50 prompts" not in ran.err  # of the part that would be learned from
    assert "43 of them labelled 1; a switcher needs both labels" in ran.err


def test_a_folder_that_is_no_bundle_is_named(verify, tmp_path: Path) -> None:
    ran = verify("--bundle", tmp_path)
    assert (ran.code, ran.err.count("\n")) == (FAILED, 1)
    assert "that folder is not a bundle" in ran.err
