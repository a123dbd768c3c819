"""`edgereason bundle`: what is printed, what is refused, and with which exit code; on a base that runs."""

from __future__ import annotations

import json

import pytest
from refusals import FAILED, USAGE, assert_refused
from tiny_bundle import write_evaluation

from edgereason.core.bundle import MANIFEST, Bundle, file_sha256
from edgereason.core.types import Mode
from edgereason.hub.pull import resolve
from edgereason.reasoning.model import load

SMOLLM2 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.fixture
def run(cli, monkeypatch, tmp_path):
    """Runs `edgereason bundle …` with the real engine, in a folder of its own and with an empty cache."""
    monkeypatch.setattr("edgereason.reasoning.model.load", load)
    monkeypatch.setattr("edgereason.hub.pull.resolve", resolve)
    monkeypatch.setenv("EDGEREASON_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: cli("bundle", *map(str, arguments))


@pytest.fixture
def built(run, tiny, elsewhere):
    """A bundle called `b`."""
    ran = run("build", "-o", "b", "--base", tiny.base, "--adapter", tiny.adapter, "--heads", tiny.heads)
    assert ran.code == 0, ran.err
    return Bundle.read


def test_build_says_what_there_is_now(run, tiny, tmp_path):
    chat = write_evaluation(tmp_path / "chat", Mode.CHAT, [1, 0], base=tiny.base, data=tiny.data)
    ran = run(
        *("build", "-o", "b", "--base", tiny.base, "--adapter", tiny.adapter, "--heads", tiny.heads),
        *("--bucket", 64, "--bucket", 32, "--record", chat, "--name", "Tiny thinker", "--include-base"),
    )
    assert (ran.code, ran.err) == (0, "")
    size = tiny.adapter.stat().st_size + tiny.heads.stat().st_size
    assert (
        ran.out == f"b: reasoning.gguf, heads.safetensors; {size / 1e3:.1f} kB beside the base, 1 results\n"
    )
    assert Bundle.read(tmp_path / "b").buckets == (32, 64)
    ran = run("build", "-o", "c", "--from", "b")  # its base is in it
    assert ran.code == 0
    assert Bundle.read(tmp_path / "c").title == "Tiny thinker"


def test_show_says_what_is_in_it_without_the_base(run, built, tiny, tmp_path):
    ran = run("show", "b")
    adapter, heads = file_sha256(tiny.adapter)[:16], file_sha256(tiny.heads)[:16]
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "b",
        f"base      tiny.gguf, neither here nor in the catalogue, {file_sha256(tiny.base)[:16]}…",
        f"adapter   reasoning.gguf, 6.0 kB, {adapter}…",
        f"heads     heads.safetensors, 3.3 kB, {heads}…",
        "switcher  thinks from 0.5 on",
        "verifier  scores finished traces",
    ]
    described = json.loads(run("show", "b", "--json").out)
    assert described["heads"]["threshold"] == 0.5
    assert described["heads"]["sha256"] == file_sha256(tiny.heads)
    assert (described["base"]["is_here"], described["base"]["catalogue_name"]) == (False, None)
    (tmp_path / "b" / "heads.safetensors").unlink()
    assert f"heads     heads.safetensors, missing, {heads}…" in run("show", "b").out.splitlines()


def test_show_knows_a_base_of_the_catalogue(run, built, tmp_path):
    manifest = json.loads((tmp_path / "b" / MANIFEST).read_text())
    manifest["base"]["sha256"] = SMOLLM2
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(manifest))
    assert f"tiny.gguf, can be pulled as smollm2-135m, {SMOLLM2[:16]}…" in run("show", "b").out


def test_verify_is_a_line_a_check_and_fails_if_one_does(run, built, tiny, tmp_path):
    ran = run("verify", "b")
    assert (ran.code, ran.out.splitlines()[1][:19]) == (0, "left out  base     ")
    for base in (["--base", tiny.base], []):  # where it is has to be said once
        ran = run("verify", "b", *base)
        assert (ran.code, ran.err) == (0, "")
        assert len(ran.out.splitlines()) == 8
        assert all(line.startswith("ok ") for line in ran.out.splitlines())
    (tmp_path / "b" / "reasoning.gguf").write_bytes(b"GGUF")
    ran = run("verify", "b")
    assert ran.code == FAILED
    assert [line[:9].strip() for line in ran.out.splitlines()] == [
        "ok", "ok", "wrong", "wrong", "ok", "ok", "wrong",
    ]  # fmt: skip
    ran = run("verify", tmp_path)
    assert (ran.code, ran.out) == (
        FAILED,
        f"wrong     manifest  no bundle.json in {tmp_path}: that folder is not a bundle\n",
    )


def test_calibrate_by_share_prints_what_came_out_and_writes_it(run, built, tiny, tmp_path):
    ran = run("calibrate", "b", "--target-think-rate", 0.3, "--prompts", tiny.data, "--base", tiny.base)
    assert ran.code == 0, ran.err
    bundle = built(tmp_path / "b")
    assert ran.out == f"threshold {bundle.calibration['threshold']:.4g}: 25.0% of 8 prompts think\n"
    ran = run(
        "calibrate", "b", "--target-think-rate", 0.6, "--prompts", tiny.data, "--base", tiny.base, "--json"
    )
    assert json.loads(ran.out) == built(tmp_path / "b").calibration
    assert run("verify", "b", "--base", tiny.base).code == 0
    assert str(tmp_path) not in (tmp_path / "b" / MANIFEST).read_text()


def test_calibrate_by_cost_prints_what_goes_the_right_way(run, built, tiny, tmp_path):
    rows = [json.loads(line) for line in tiny.data.read_text().splitlines()]
    labelled = (json.dumps({**row, "label": number % 2}) + "\n" for number, row in enumerate(rows))
    (tmp_path / "labelled.jsonl").write_text("".join(labelled))
    ways = ("--prompts", "labelled.jsonl", "--base", tiny.base)
    ran = run("calibrate", "b", "--needless-cost", 1.5, *ways)
    assert ran.code == 0, ran.err
    found = built(tmp_path / "b").calibration
    assert found["needless_cost"] == 1.5
    assert ran.out == (
        f"threshold {found['threshold']:.4g}: {found['share_think']:.1%} of 8 prompts think; "
        f"{found['chat_right']:.1%} of those labelled chat and {found['think_right']:.1%} of those labelled "
        "think go the right way\n"
    )


def test_calibrate_by_accuracy_prints_what_to_expect_and_what_can_not_be(run, built, tiny, tmp_path):
    both = {Mode.CHAT: ([1, 1, 0, 0, 0, 0, 0, 0], ()), Mode.THINK: ([1] * 6 + [0, 0], (tiny.adapter,))}
    for mode, (scores, parts) in both.items():
        tokens = 100 if parts else 10
        write_evaluation(
            tmp_path / mode, mode, scores, base=tiny.base, data=tiny.data, parts=parts, tokens=tokens
        )
    ways = ("--chat", "chat", "--think", "think", "--data", tiny.data, "--base", tiny.base)
    ran = run("calibrate", "b", "--min-accuracy", 0.5, *ways)
    assert ran.code == 0, ran.err
    calibration = built(tmp_path / "b").calibration
    share, tokens = calibration["share_think"], calibration["mean_tokens"]
    assert tokens == pytest.approx(10 + 90 * share)
    assert ran.out.startswith(
        f"threshold {calibration['threshold']:.4g}: {share:.1%} of 8 prompts think; expected "
    )
    held_out = calibration["held_out_accuracy"]
    assert f"expected accuracy {held_out:.1%} (95 % interval " in ran.out
    assert ran.out.endswith(
        f"{tokens:.0f} tokens a question (all chat: 25.0%, 10 tokens; all think: 75.0%, 100 tokens)\n"
    )
    before = (tmp_path / "b" / MANIFEST).read_bytes()
    ran = run("calibrate", "b", "--min-accuracy", 0.9, *ways)
    assert ran.code == FAILED
    assert "no threshold reaches an accuracy of 90.0% on these 8 questions: the best is 75.0%" in ran.err
    assert (tmp_path / "b" / MANIFEST).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["build", "-o", "c"], USAGE, "say which base, or --from which bundle"),
        (["build", "-o", "c", "--base", "nowhere"], FAILED, "neither a file nor a known model"),
        (["build", "-o", "c", "--from", "."], FAILED, "that folder is not a bundle"),
        (
            ["build", "-o", "c", "--from", "b"],
            FAILED,
            "nor known on this machine: give its file (base=…), or say once where it is",
        ),
        (["build", "-o", "b", "--base", "BASE"], FAILED, "b is there already"),
        (["build", "-o", "c", "--base", "BASE", "--bucket", "0"], USAGE, "bucket"),
        (["show", "nowhere"], FAILED, "that folder is not a bundle"),
        (["calibrate", "b"], USAGE, "got none"),
        (["calibrate", "b", "--target-think-rate", "0.3"], USAGE, "got --target-think-rate"),
        (
            ["calibrate", "b", "--prompts", "p", "--target-think-rate", "0.3", "--needless-cost", "1"],
            USAGE,
            "got --prompts, --target-think-rate, --needless-cost",
        ),
        (["calibrate", "b", "--prompts", "DATA", "--needless-cost", "1"], FAILED, "label is missing"),
        (["calibrate", "b", "--prompts", "DATA", "--needless-cost", "0"], FAILED, "must be above 0"),
        (["calibrate", "b", "--min-accuracy", "0.3", "--chat", "x"], USAGE, "got --min-accuracy, --chat"),
        (
            ["calibrate", "b", "--prompts", "p", "--target-think-rate", "0.3", "--data", "d"],
            USAGE,
            "with --data for a local file",
        ),
        (
            ["calibrate", "b", "--prompts", "p.jsonl", "--target-think-rate", "0.3"],
            FAILED,
            "p.jsonl is not a file",
        ),
        (["calibrate", "b", "--prompts", "DATA", "--target-think-rate", "30"], FAILED, "between 0 and 1"),
        (
            ["calibrate", "b", "--prompts", "DATA", "--target-think-rate", "0.3"],
            FAILED,
            "say once where it is",
        ),
        (["calibrate", ".", "--prompts", "DATA", "--target-think-rate", "0.3"], FAILED, "is not a bundle"),
    ],
)
def test_bad_input_gets_one_line_and_an_exit_code(run, built, tiny, arguments, code, says):
    files = {"BASE": tiny.base, "DATA": tiny.data}
    ran = run(*(files.get(one, one) for one in arguments))
    assert_refused(ran, code, says)


def test_a_bundle_without_a_switcher_can_not_be_calibrated(run, built, tiny):
    run("build", "-o", "bare", "--base", tiny.base, "--adapter", tiny.adapter)
    ran = run("calibrate", "bare", "--prompts", tiny.data, "--target-think-rate", "0.3")
    assert (ran.code, ran.out) == (FAILED, "")
    assert "bare has no switcher, and so no threshold: train one" in ran.err
