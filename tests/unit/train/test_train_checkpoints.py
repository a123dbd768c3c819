"""Which checkpoint a run goes on from, whatever a kill left of the last one."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgereason.errors import ConfigError
from edgereason.train.lora.checkpoints import last_checkpoint, step_of


def checkpoint(path: Path, step: int, *, rewarmed: str | None = "null") -> Path:
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    if rewarmed is not None:
        (path / "rewarmed_at.json").write_text(rewarmed)
    return path


@pytest.mark.parametrize("name", ["trainer_state.json", "rewarmed_at.json"])
@pytest.mark.parametrize("content", ["", "{", "[1", '{"global_st', "\x00\x00", "[" * 100_000, '"x"'])
def test_a_torn_file_falls_back_to_the_checkpoint_before(tmp_path, name, content):
    before = checkpoint(tmp_path / "checkpoint-8", 8)
    torn = checkpoint(tmp_path / "checkpoint-12", 12)
    (torn / name).write_text(content)
    assert last_checkpoint(tmp_path) == before
    if name == "trainer_state.json":
        with pytest.raises(ConfigError, match="checkpoint-12 is not a checkpoint"):
            step_of(torn)


def test_the_light_one_is_taken_where_no_other_is_whole_and_none_where_nothing_is(tmp_path):
    torn = checkpoint(tmp_path / "checkpoint-12", 12)
    (torn / "trainer_state.json").write_text("")
    assert last_checkpoint(tmp_path) is None
    light = checkpoint(tmp_path / "light", 8)
    assert last_checkpoint(tmp_path) == light
    (light / "rewarmed_at.json").write_text("")
    assert last_checkpoint(tmp_path) is None


def test_checkpoints_are_ordered_by_their_steps_and_early_ones_lack_a_file(tmp_path):
    checkpoint(tmp_path / "checkpoint-9", 9)
    checkpoint(tmp_path / "checkpoint-99x", 99)
    latest = checkpoint(tmp_path / "checkpoint-10", 10, rewarmed=None)
    assert last_checkpoint(tmp_path) == latest
    (latest / "rewarmed_at.json").write_text("4")
    assert last_checkpoint(tmp_path) == latest
