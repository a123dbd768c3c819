"""`edgereason make`: what is printed, what is refused, and a plan from paces that are given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from refusals import FAILED, USAGE, assert_refused

pytestmark = pytest.mark.torch

RECIPE = """
name = "tiny"
model = "smollm2-135m"
[data.sums]
generate = "worked-sums:32"
[traces.sums]
data = "sums"
format = "worked"
[sft]
traces = ["sums"]
[grpo]
data = ["sums"]
[grpo.training]
steps = 10
prompts = 4
samples = 8
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def note(folder: Path, stage: str, **made: object) -> None:
    """What a smoke run noted of a stage."""
    path = folder / "smoke" / "stages" / f"{stage}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"made": made}))


def test_a_plan_says_what_each_stage_takes_by_the_paces_of_a_smoke_run(cli, recipe: Path, tmp_path: Path):
    out = tmp_path / "out"
    for stage in ("data/sums", "base", "traces/sums", "bundle", "card"):
        note(out, stage, seconds=3, disk_bytes=2_000_000, peak_bytes=500_000_000)
    # 10 s to load, then 2 s a row: 32 rows take 74 s.
    note(out, "sft", seconds=42, row_s=2, amount=16, peak_bytes=1_500_000_000, disk_bytes=90_000_000)
    # 20 s, then half a second for each of 10 · 4 · 8 responses: 180 s.
    note(out, "grpo", seconds=52, row_s=0.5, amount=64, peak_bytes=2_000_000_000, disk_bytes=80_000_000)
    ran = cli("make", str(recipe), "-o", str(out), "--dry-run")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "stage        is       to do          time   memory  disk",
        "data/sums    missing                 3 s    0.5 GB  2 MB",
        "base         missing                 3 s    0.5 GB  2 MB",
        "traces/sums  missing  32 rows        3 s    0.5 GB  2 MB",
        "sft          missing  32 rows        1 min  1.5 GB  90 MB",
        "grpo         missing  320 responses  3 min  2.0 GB  80 MB",
        "bundle       missing                 3 s    0.5 GB  2 MB",
        "card         missing                 3 s    0.5 GB  2 MB",
        "left: about 4 min, by the paces of finished stages and of --smoke",  # 15 + 74 + 180 s
    ]
    assert [path.name for path in out.iterdir()] == ["smoke"]
    rows = json.loads(cli("make", str(recipe), "-o", str(out), "--dry-run", "--json").out)
    assert [row["seconds"] for row in rows] == [3, 3, 3, 74, 180, 3, 3]


def test_without_a_measured_pace_a_plan_says_how_to_measure_one(cli, recipe: Path, tmp_path: Path) -> None:
    ran = cli("make", str(recipe), "-o", str(tmp_path / "out"), "--dry-run", "--set", "sft.epochs=3")
    assert ran.out.splitlines()[4].split() == ["sft", "missing", "96", "rows", "?", "?", "?"]
    assert ran.out.endswith("7 stages were never run: --smoke measures them\n")
    assert not (tmp_path / "out").exists()


def test_init_writes_a_recipe_that_make_understands(cli, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    ran = cli("make", "init", "smollm2-135m", "-o", str(path))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"{path}: look at it, then: edgereason make {path} -o FOLDER --smoke\n"
    plan = cli("make", str(path), "-o", str(tmp_path / "out"), "--dry-run")
    assert plan.code == 0, plan.err
    assert plan.out.splitlines()[-2].startswith("card")
    again = cli("make", "init", "smollm2-135m", "-o", str(path))
    assert_refused(again, FAILED, "is there already: choose another name, or remove it")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--set", "sft.epoch=2"], FAILED, "there is no setting 'epoch': did you mean 'epochs'"),
        (["--set", "sft.epochs=two"], FAILED, "epochs must be a whole number, got 'two'"),
        (["--until", "stf"], FAILED, "there is no stage 'stf': did you mean 'sft'"),
        (["--until", "sft", "--only", "sft"], FAILED, "give one of until and only"),
        (["--set", "data.more.file=no.jsonl"], FAILED, "no.jsonl is not beside the recipe"),
        (["--threads", "0"], USAGE, "threads"),
    ],
)
def test_bad_input_gets_one_line_and_changes_nothing(cli, recipe, tmp_path, arguments, code, says) -> None:
    out = tmp_path / "out"
    assert_refused(cli("make", str(recipe), "-o", str(out), *arguments), code, says)
    assert not out.exists()


def test_a_folder_of_something_else_is_refused(cli, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("…")
    refused = cli("make", str(recipe), "-o", str(out), "--until", "data")
    assert_refused(refused, FAILED, "holds something else: give a new folder (--output)")


def test_a_part_of_a_recipe_says_what_comes_next_and_a_change_what_is_stale(cli, recipe: Path, tmp_path):
    out = tmp_path / "out"
    ran = cli("make", str(recipe), "-o", str(out), "--until", "data")
    assert (ran.code, ran.out) == (0, f"{out}: 1 of 7 stages are finished; next is base\n")
    assert len((out / "stages/data/sums/sums.jsonl").read_text().splitlines()) == 32
    changed = ("make", str(recipe), "-o", str(out), "--until", "data", "--set", "data.sums.seed=5")
    refused = cli(*changed)
    assert_refused(
        refused, FAILED, "stale are data/sums (config.seed: 0 there, 5 now): --redo makes them again"
    )
    planned = cli(*changed, "--dry-run")
    assert planned.err == "data/sums is stale: config.seed: 0 there, 5 now\n"
    assert planned.out.splitlines()[1].startswith("data/sums    stale")
    ran = cli(*changed, "--redo")
    assert ran.err.startswith(f"data/sums is made again; {out}/earlier/data/sums-1 has what was there\n")
    assert (out / "earlier/data/sums-1/sums.jsonl").is_file()
    record = json.loads((out / "record.json").read_text())
    assert record["stages"]["data/sums"]["standing"] == "finished"
    assert str(tmp_path) not in (out / "record.json").read_text()
