"""A run's folder: who may claim it, what is refused, and what stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgereason.errors import ConfigError
from edgereason.records.folder import RECIPE, RECORD, RunFolder, differences, differences_but

CONTENT = {"training": {"seed": 1, "layers": [1, 2]}, "base": {"name": "tiny"}}


def test_differences_are_named_by_their_tables_and_equal_tables_have_none() -> None:
    now = {"training": {"seed": 2, "layers": [1, 2], "new": True}}
    assert differences(CONTENT, now) == [
        "base: {'name': 'tiny'} there, None now",
        "training.new: None there, True now",
        "training.seed: 1 there, 2 now",
    ]
    assert differences(CONTENT, CONTENT) == []


@pytest.mark.parametrize("name", [RECIPE, "run.json"])
def test_the_same_run_claims_a_folder_again_and_another_is_told_what_differs(
    tmp_path: Path, name: str
) -> None:
    folder = RunFolder(tmp_path / "deep" / "run", "training")
    assert folder.claim(name, CONTENT) == folder.claim(name, CONTENT) == CONTENT
    written = (folder.path / name).read_bytes()
    with pytest.raises(ConfigError, match=r"holds another training \(training.seed: 1 there, 2 now\)"):
        folder.claim(name, {**CONTENT, "training": {"seed": 2, "layers": [1, 2]}})
    assert (folder.path / name).read_bytes() == written


def test_a_tuple_is_the_list_that_the_file_has(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "training")
    folder.claim(RECIPE, {"training": {"layers": (1, 2)}})
    folder.claim(RECIPE, {"training": {"layers": (1, 2)}})


@pytest.mark.parametrize("other", ["notes.txt", ".notes", f".{RECORD}.ab12"])
def test_a_folder_with_somebody_elses_files_is_left_as_it_is(tmp_path: Path, other: str) -> None:
    (tmp_path / other).write_text("x")
    with pytest.raises(ConfigError, match="holds something else"):
        RunFolder(tmp_path, "training").claim(RECIPE, CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == [other]


@pytest.mark.parametrize("name", [RECIPE, RECORD, "run.toml", "recipe.json"])
def test_what_a_killed_claim_left_is_no_obstacle_and_is_cleared(tmp_path: Path, name: str) -> None:
    for random in ("ffffffab", "fffff000"):
        (tmp_path / f".{name}.{random}").write_text("[trai")
    (tmp_path / ".lock").touch()
    assert RunFolder(tmp_path, "training").claim(name, CONTENT) == CONTENT
    assert {path.name for path in tmp_path.iterdir()} == {".lock", name}


def test_one_process_at_a_time_claims_a_vacant_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "training")
    with folder.lock(), pytest.raises(ConfigError, match="another process"):
        RunFolder(tmp_path, "training").claim(RECIPE, CONTENT)
    assert not (tmp_path / RECIPE).exists()


def test_a_claimed_folder_can_be_checked_while_its_run_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "training")
    folder.claim(RECIPE, CONTENT)
    with folder.lock():
        assert folder.claim(RECIPE, CONTENT) == CONTENT


@pytest.mark.parametrize("text", ["", "[training", "\x00"])
def test_a_damaged_file_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(ConfigError, match="can't be read"):
        RunFolder(tmp_path, "set of traces").claim_record("edgereason-traces", {"seed": 1})
    assert (tmp_path / RECORD).read_text() == text


def test_a_finished_record_is_still_its_runs_and_another_formats_is_not(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "set of traces")
    folder.claim_record("edgereason-traces", {"seed": 1})
    folder.write({"format": "edgereason-traces", "run": {"seed": 1}, "rows": 3})
    folder.claim_record("edgereason-traces", {"seed": 1})
    assert folder.record() == {"format": "edgereason-traces", "run": {"seed": 1}, "rows": 3}
    with pytest.raises(ConfigError, match="format: 'edgereason-traces' there, 'edgereason-head' now"):
        folder.claim_record("edgereason-head", {"seed": 1})


def test_a_record_reads_back_as_it_was_returned(tmp_path: Path) -> None:
    written = RunFolder(tmp_path, "training").write({"by": {64: 1}, "text": "é"})
    assert written == {"by": {"64": 1}, "text": "é"} == json.loads((tmp_path / RECORD).read_text("utf-8"))


@pytest.mark.parametrize(
    ("found", "now", "says"),
    [
        ({"t": {"rows": 1, "seed": 0}}, {"t": {"rows": 2, "seed": 0}}, []),  # free
        ({"t": {"seed": 0}}, {"t": {"rows": 2, "seed": 0}}, []),
        ({"t": {"rows": 1, "seed": 0}}, {"t": {"rows": 2, "seed": 1}}, ["t.seed: 0 there, 1 now"]),
        ({"t": {"rows_max": 1}}, {"t": {"rows_max": 2}}, ["t.rows_max: 1 there, 2 now"]),  # another setting
        ({"rows": 1}, {"rows": 2}, ["rows: 1 there, 2 now"]),
        ({}, {"base": {"sha256": "a"}}, []),  # of an earlier version
        ({"base": {"sha256": "a"}}, {"base": {"sha256": "a"}}, []),
        ({"base": {"sha256": "a"}}, {"base": {"sha256": "b"}}, ["base.sha256: 'a' there, 'b' now"]),
        ({"base": {"sha256": "a"}}, {}, ["base: {'sha256': 'a'} there, None now"]),
        ({"of": {"name": "x"}}, {"of": {"name": "x", "hash": "a"}}, []),
        ({"of": {"hash": "a"}}, {"of": {"hash": "b"}}, ["of.hash: 'a' there, 'b' now"]),
        ({}, {"more": 1}, ["more: None there, 1 now"]),
    ],
)
def test_some_settings_may_change_and_some_are_missing_from_older_folders(found, now, says) -> None:
    assert differences_but({"t.rows"}, {"base", "of.hash"})(found, now) == says
