"""Checkpoints: everything comes back, another run's is refused, and they are saved when they are due."""

from __future__ import annotations

import errno
import resource
from contextlib import contextmanager

import pytest
import torch
from tiny_bundle import write_base
from torch import nn

from edgereason.errors import ConfigError, TrainingError
from edgereason.quant.gguf_file import GgufModel
from edgereason.train.quant import checkpoint as module
from edgereason.train.quant.checkpoint import Checkpoint
from edgereason.train.quant.load import load_torch
from edgereason.train.quant.run import _append, _keep, _lines


def trained(steps: int, *, frozen: bool = False):
    """A small model after some steps of AdamW, with its optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    if frozen:
        model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.0
    )
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(3)).square().sum().backward()
    optimizer.step()


def same(one, other):
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("frozen", [False, True])
def test_training_goes_on_as_if_it_had_not_been_interrupted(tmp_path, frozen):
    model, optimizer = trained(5, frozen=frozen)
    Checkpoint(tmp_path / "c", "run").save(model, optimizer, 5)
    again, its_optimizer = trained(0, frozen=frozen)
    assert Checkpoint(tmp_path / "c", "run").load(again, its_optimizer) == 5
    assert same(again, model)
    for _ in range(3):
        step(model, optimizer)
        step(again, its_optimizer)
    assert same(again, model)


def test_a_checkpoint_does_not_hang_on_its_file(tmp_path):
    model, optimizer = trained(2)
    saved = Checkpoint(tmp_path / "c", "run")
    saved.save(model, optimizer, 2)
    again, its_optimizer = trained(0)
    saved.load(again, its_optimizer)
    saved.save(again, its_optimizer, 2)  # over the file that it came from
    step(again, its_optimizer)
    step(model, optimizer)
    assert same(again, model)


def test_buffers_come_back_even_those_that_a_new_model_lacks(tmp_path):
    model, optimizer = trained(1)
    model.register_buffer("found", torch.arange(3.0))
    model[1].register_buffer("a/b", torch.full((2, 2), 7.0))
    Checkpoint(tmp_path / "c", "run").save(model, optimizer, 1)
    again, its_optimizer = trained(0)
    again.register_buffer("found", torch.zeros(3))  # there is one, and it is replaced
    Checkpoint(tmp_path / "c", "run").load(again, its_optimizer)
    assert torch.equal(again.get_buffer("found"), torch.arange(3.0))
    assert torch.equal(again[1].get_buffer("a/b"), torch.full((2, 2), 7.0))


def test_without_a_file_nothing_is_loaded(tmp_path):
    model, optimizer = trained(0)
    before = [parameter.clone() for parameter in model.parameters()]
    fresh = Checkpoint(tmp_path / "c", "run")
    assert not fresh.exists
    assert fresh.load(model, optimizer) == 0
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_a_checkpoint_of_another_run_is_refused_and_left_alone(tmp_path):
    Checkpoint(tmp_path / "c.safetensors", "one recipe").save(*trained(1), 1)
    data = (tmp_path / "c.safetensors").read_bytes()
    model, optimizer = trained(0)
    with pytest.raises(ConfigError, match=r"c\.safetensors.*another recipe, teacher or text"):
        Checkpoint(tmp_path / "c.safetensors", "another").load(model, optimizer)
    assert (tmp_path / "c.safetensors").read_bytes() == data


def test_it_is_saved_when_it_is_due(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    model, optimizer = trained(1)
    due = Checkpoint(tmp_path / "c", "run", every_s=60)

    def saved_after(seconds):
        (tmp_path / "c").unlink(missing_ok=True)
        now[0] += seconds
        due.save_if_due(model, optimizer, 1)
        return due.exists

    assert [saved_after(s) for s in (59, 1, 59, 2)] == [False, True, False, True]


def test_a_save_that_fails_leaves_the_older_one(tmp_path, monkeypatch):
    model, optimizer = trained(1)
    saved = Checkpoint(tmp_path / "c", "run")
    saved.save(model, optimizer, 1)
    data = (tmp_path / "c").read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(TrainingError, match=r"no space left.*same command again"):
        saved.save(model, optimizer, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert (tmp_path / "c").read_bytes() == data


@contextmanager
def full_behind(num_bytes):
    """As long as this lasts, no file can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("num_bytes", [0, 1, 100, 500])
def test_a_disk_that_is_full_is_one_line_and_training_goes_on_from_what_was_there(tmp_path, num_bytes):
    model, optimizer = trained(3)
    saved = Checkpoint(tmp_path / "c", "run")
    saved.save(model, optimizer, 3)
    data = (tmp_path / "c").read_bytes()
    assert len(data) > 500
    for _ in range(2):
        step(model, optimizer)
    with full_behind(num_bytes), pytest.raises(TrainingError, match="can't be written") as failed:
        saved.save(model, optimizer, 5)
    assert "\n" not in str(failed.value)
    assert "File too large" in str(failed.value)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert (tmp_path / "c").read_bytes() == data
    again, its_optimizer = trained(0)
    assert Checkpoint(tmp_path / "c", "run").load(again, its_optimizer) == 3
    for _ in range(2):
        step(again, its_optimizer)
    assert same(again, model)


def test_a_conversion_that_finds_no_room_is_one_line_and_is_made_again(tmp_path):
    base = write_base(tmp_path / "tiny.gguf")
    model = GgufModel(base)
    with full_behind(4_000), pytest.raises(TrainingError, match="can't be written") as failed:
        load_torch(model, "0" * 64, tmp_path / "cache")
    assert "\n" not in str(failed.value)
    assert not list((tmp_path / "cache").rglob("*safetensors*"))
    assert load_torch(model, "0" * 64, tmp_path / "cache").num_parameters() > 0


@pytest.mark.parametrize("room", [0, 1, 10, 29])
def test_a_line_of_progress_that_finds_no_room_leaves_those_before_it_whole(tmp_path, room):
    path = tmp_path / "progress.jsonl"
    for number in range(3):
        _append(path, {"step": number, "loss": "x" * 10})
    before = path.read_bytes()
    with full_behind(len(before) + room), pytest.raises(OSError, match=r"File too large|No space left"):
        _append(path, {"step": 3, "loss": "x" * 10})
    assert path.read_bytes() == before
    _append(path, {"step": 3, "loss": "x" * 10})
    assert [line["step"] for line in _lines(path)] == [0, 1, 2, 3]


@pytest.mark.parametrize("torn", ["{", '{"step": 4', '{"step": 4, "loss": "é"}'])
def test_a_line_that_a_killed_writer_left_is_not_read(tmp_path, torn):
    path = tmp_path / "progress.jsonl"
    for number in range(4):
        _append(path, {"step": number})
    with path.open("ab") as file:
        file.write(torn.encode()[:-1])
    _keep(path, 2)
    assert [line["step"] for line in _lines(path)] == [0, 1, 2]
    assert path.read_text().count("\n") == 3


def test_it_can_be_removed_once_and_again(tmp_path):
    saved = Checkpoint(tmp_path / "c", "run")
    saved.save(*trained(1), 1)
    saved.remove()
    saved.remove()
    assert not saved.exists


def test_it_says_how_many_steps_it_holds(tmp_path):
    model = torch.nn.Linear(2, 2)
    checkpoint = Checkpoint(tmp_path / "c", "mine")
    assert (checkpoint.exists, checkpoint.step) == (False, 0)
    checkpoint.save(model, torch.optim.AdamW(model.parameters()), 7)
    assert (checkpoint.exists, checkpoint.step) == (True, 7)
