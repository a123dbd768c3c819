"""Fine-tuning a tiny model: what it learns, and that a run which was killed goes on as if it had not been."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tomllib
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
import torch
from safetensors.torch import load_file
from tiny_lora import OPENING, base_model, lora_model, random_rows

from edgereason.errors import BundleError, ConfigError, TrainingError
from edgereason.records.context import RunContext
from edgereason.train.lora import loop
from edgereason.train.lora.adapters import WEIGHTS as ADAPTER
from edgereason.train.lora.adapters import LoraSettings, adapter_sha256, load_adapter, new_adapter
from edgereason.train.lora.checkpoints import last_checkpoint, require_launch
from edgereason.train.lora.examples import Example, HintConfig
from edgereason.train.lora.loop import LengthGrouped, TrainConfig
from edgereason.train.lora.masked_lora import MaskedLora, ResponseBatch
from edgereason.train.lora.run import BaseConfig, SftRecipe, TorchBase, sft

SHA256 = "ab" * 32
CONFIG = TrainConfig(epochs=3, batch_rows=4, micro_rows=2, learning_rate=2e-2, seed=1)
RECIPE = SftRecipe(base=BaseConfig(name="tiny"), lora=LoraSettings(rank=4, dropout=0.1), training=CONFIG)


def other_base():
    return TorchBase(base_model(), "cd" * 32, OPENING)


def examples(count=16):
    """Prompts at random, and responses that count."""
    rows = random_rows(7, prompts=(4, 9) * (count // 2), responses=(10, 14) * (count // 2))
    return [
        Example(id=str(n), prompt=p, response=OPENING + tuple(range(n, n + len(r) - 2)), num_forced=2)
        for n, (p, r, _) in enumerate(rows)
    ]


def train(folder, recipe=RECIPE, rows=None, **how):
    context = RunContext(should_stop=how.pop("should_stop", lambda: False))
    base = TorchBase(base_model(), SHA256, OPENING)
    return sft(recipe, base, rows or examples(), folder, context, **how)


def after(steps):
    """Asked once an update: stops behind the last of so many."""
    asked = iter(range(1, 1000))
    return lambda: next(asked) >= steps


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder):
    return [line["loss"] for line in lines(folder)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft") / "run"
    return folder, train(folder)


def test_the_loss_is_that_of_a_token_and_falls(finished):
    folder, record = finished
    found = losses(folder)
    assert record["steps"] == len(found) == 12  # 16 rows, 4 an update, 3 epochs
    assert record["num_examples"] == 16
    assert found[-1] < found[0] - 0.5
    # The first: B is zero, so the loss is the base's own, over the update's trained tokens.
    rows = [(one.prompt, one.response, one.trained) for one in examples()]
    order = list(LengthGrouped([len(r) for _, r, _ in rows], 4, 1))[:4]
    model = lora_model()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    batch = ResponseBatch.of([rows[n] for n in order])
    with torch.no_grad():
        expected = -MaskedLora(model)(batch).sum() / batch.trained.sum()
    assert found[0] == pytest.approx(float(expected), abs=1e-4)


def test_the_rate_rises_to_its_highest_and_falls_as_a_cosine(finished):
    rates = [line["learning_rate"] for line in lines(finished[0])]
    # One step of warm-up (a tenth of 12), then half a cosine over the 11 others.
    assert rates == pytest.approx(
        [2e-2, *(2e-2 * 0.5 * (1 + math.cos(math.pi * n / 11)) for n in range(11))], rel=1e-6
    )


def test_the_time_of_a_run_that_went_on_is_that_of_all_its_updates(tmp_path):
    assert train(tmp_path / "run", should_stop=after(5)) is None
    before = [line["seconds"] for line in lines(tmp_path / "run")]
    record = train(tmp_path / "run")
    found = [line["seconds"] for line in lines(tmp_path / "run")]
    assert found[:5] == before
    assert min(found) > 0
    assert record["training_s"] == pytest.approx(sum(found))


@pytest.mark.parametrize("stop_after", [2, 5])
def test_a_run_that_was_stopped_goes_on_to_the_same_adapter(finished, tmp_path, stop_after):
    # GIVEN one that stops in the middle of an epoch
    assert train(tmp_path / "run", should_stop=after(stop_after)) is None
    assert len(lines(tmp_path / "run")) == stop_after
    # WHEN
    train(tmp_path / "run")
    # THEN
    assert losses(tmp_path / "run") == losses(finished[0])
    expected = load_file(finished[0] / "adapter" / "adapter_model.safetensors")
    found = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_kill_in_the_middle_of_saving_leaves_the_checkpoint_before_it(finished, tmp_path):
    train(tmp_path / "run", should_stop=after(3))
    broken = tmp_path / "run" / "checkpoint-4"
    broken.mkdir()
    (broken / "adapter_model.safetensors").write_bytes(b"half")
    train(tmp_path / "run")
    assert losses(tmp_path / "run") == losses(finished[0])


def test_a_light_checkpoint_has_no_optimizer_and_its_rate_rises_again(finished, tmp_path):
    train(tmp_path / "a", should_stop=after(6))
    light = tmp_path / "a" / "light"
    assert not list(light.glob("optimizer*"))
    whole = sum(path.stat().st_size for path in (tmp_path / "a" / "checkpoint-6").iterdir())
    assert (
        sum(path.stat().st_size for path in light.iterdir()) < 0.35 * whole
    )  # a tiny adapter: the states weigh
    exact = load_file(tmp_path / "a" / "checkpoint-6" / "adapter_model.safetensors")
    rounded = load_file(light / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in rounded.values()} == {torch.float16}
    assert all(torch.equal(rounded[name], tensor.half()) for name, tensor in exact.items())
    recipe = replace(RECIPE, training=replace(CONFIG, rewarm_steps=4))
    record = train(tmp_path / "b", recipe, resume=light)
    found, plain = lines(tmp_path / "b"), lines(finished[0])
    assert record["rewarmed_at"] == 6
    assert [line["step"] for line in found] == [7, 8, 9, 10, 11, 12]
    assert [line.get("rewarmed", False) for line in found] == [True] + [False] * 5
    shares = [a["learning_rate"] / b["learning_rate"] for a, b in zip(found[:5], plain[6:11], strict=True)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    # the same rows, from weights that are the same but for their rounding
    assert losses(tmp_path / "b")[0] == pytest.approx(losses(finished[0])[6], rel=1e-4)


def test_a_folder_whose_light_checkpoint_is_all_that_is_left_goes_on_from_it(finished, tmp_path):
    train(tmp_path / "run", should_stop=after(6))
    for checkpoint in (tmp_path / "run").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    record = train(tmp_path / "run")
    assert record["rewarmed_at"] == 6
    found = lines(tmp_path / "run")
    assert [line["step"] for line in found] == list(range(1, 13))
    assert [line["step"] for line in found if line.get("rewarmed")] == [7]
    assert losses(tmp_path / "run")[:6] == losses(finished[0])[:6]


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    train(tmp_path / "run", should_stop=after(2))
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    real = loop._loss
    monkeypatch.setattr(loop, "_loss", lambda logprobs, *a, **k: real(logprobs * float("nan"), *a, **k))
    with pytest.raises(TrainingError, match="loss became nan"):
        train(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_what_is_too_long_is_left_out_and_counted(tmp_path):
    recipe = replace(RECIPE, training=replace(CONFIG, max_tokens=20, epochs=1))
    rows = examples()
    num_long = sum(len(one.prompt) + len(one.response) > 20 for one in rows)
    assert num_long == 8
    record = train(tmp_path / "run", recipe, rows)
    assert (record["num_examples"], record["num_too_long"]) == (8, 8)


def test_the_record_names_the_budgets_that_were_trained(tmp_path):
    """Not those of the recipe that no example announces, or only one that is too long."""
    recipe = replace(
        RECIPE,
        hints=HintConfig(buckets=(16, 32, 64), share=1.0),
        training=replace(CONFIG, max_tokens=20, epochs=1),
    )
    rows = [
        replace(one, bucket=64 if one.num_tokens > 20 else (32 if n else None))
        for n, one in enumerate(examples())
    ]
    record = train(tmp_path / "run", recipe, rows)
    assert (record["buckets"], record["recipe"]["hints"]["buckets"]) == ([32], [16, 32, 64])


def test_bad_input_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="2 of 2 examples"):
        train(tmp_path / "run", rows=examples()[:2])
    with pytest.raises(ConfigError, match="is not a multiple of micro_rows"):
        train(tmp_path / "other", replace(RECIPE, training=replace(CONFIG, micro_rows=3)))
    with pytest.raises(ConfigError, match="is for the base"):
        train(tmp_path / "run", replace(RECIPE, base=BaseConfig(name="tiny", sha256="00")))
    assert not (tmp_path / "run").exists()


def test_a_folder_with_another_run_is_refused(finished):
    with pytest.raises(ConfigError, match="holds another training"):
        train(finished[0], replace(RECIPE, lora=LoraSettings(rank=8)))
    with pytest.raises(ConfigError, match=r"examples\.sha256: '\w+' there, '\w+' now"):
        train(finished[0], rows=examples(18))


def test_only_an_earlier_lock_does_not_fill_a_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").touch()
    assert train(folder, should_stop=after(1)) is None
    (other := tmp_path / "other").mkdir()
    (other / ".lock").touch()
    (other / "diary.txt").touch()
    with pytest.raises(ConfigError, match="holds something else"):
        train(other)
    assert sorted(path.name for path in other.iterdir()) == [".lock", "diary.txt"]


def test_a_checkpoint_of_another_base_is_refused(tmp_path):
    train(tmp_path / "run", should_stop=after(1))
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"base_file\.sha256: 'abab\w+' there, 'cdcd\w+' now"):
        sft(RECIPE, other_base(), examples(), folder)
    (folder / "recipe.toml").write_text(of_an_earlier_version(folder))
    with pytest.raises(BundleError, match="made for the base abab"):
        sft(RECIPE, other_base(), examples(), folder)


def of_an_earlier_version(folder):
    """A folder's recipe without the hash of the base, as it was written before."""
    tables = tomllib.loads((folder / "recipe.toml").read_text())
    assert tables.pop("base_file") == {"sha256": SHA256}
    return tomli_w.dumps(tables)


def test_another_base_is_refused_in_a_folder_that_has_no_checkpoint_yet(tmp_path):
    folder = tmp_path / "run"
    assert train(folder, should_stop=after(1)) is None
    for path in [*folder.glob("checkpoint-*"), folder / "light"]:
        shutil.rmtree(path)
    before = sorted(folder.rglob("*"))
    with pytest.raises(ConfigError, match=r"base_file\.sha256"):
        sft(RECIPE, other_base(), examples(), folder)
    assert sorted(folder.rglob("*")) == before


def test_a_folder_of_an_earlier_version_goes_on(finished, tmp_path):
    folder = tmp_path / "run"
    assert train(folder, should_stop=after(5)) is None
    (folder / "recipe.toml").write_text(of_an_earlier_version(folder))
    train(folder)
    assert losses(folder) == losses(finished[0])


def test_the_record_and_the_adapter_have_name_and_hash_of_one_file(tmp_path):
    """Whatever the recipe calls its base: `--base` may have given another."""
    base = TorchBase(base_model(), SHA256, OPENING, "other.gguf")
    recipe = replace(RECIPE, training=replace(CONFIG, epochs=1))
    record = sft(recipe, base, examples(), tmp_path / "run")
    assert record["base"] == {"name": "other.gguf", "sha256": SHA256}
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "other.gguf"


@pytest.mark.parametrize(
    "changed",
    [
        {"checkpoint_minutes": 0.0},
        {"checkpoint_minutes": 77.0},
        {"cached_prompt_bytes": 1_000_000},
        {"checkpoint_activations": True},
        {"checkpoint_activations": True, "cached_prompt_bytes": 500, "checkpoint_minutes": 0.0},
    ],
)
def test_a_run_goes_on_to_the_same_bits_with_settings_that_teach_nothing(finished, tmp_path, changed):
    folder = tmp_path / "run"  # the adapter has dropout
    assert train(folder, should_stop=after(5)) is None
    train(folder, replace(RECIPE, training=replace(CONFIG, **changed)))
    expected = load_file(finished[0] / "adapter" / "adapter_model.safetensors")
    found = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("micro_rows", [1, 4])
def test_rows_of_a_forward_pass_may_change_where_they_change_the_last_bits_alone(tmp_path, micro_rows):
    plain = replace(RECIPE, lora=LoraSettings(rank=4))
    train(tmp_path / "plain", plain)
    folder = tmp_path / "run"
    assert train(folder, plain, should_stop=after(5)) is None
    train(folder, replace(plain, training=replace(CONFIG, micro_rows=micro_rows)))
    assert losses(folder) == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)


@pytest.mark.parametrize(
    ("dropout", "num_rows", "num_processes", "is_free"),
    [
        (0.0, 16, 1, True),
        (0.0, 18, 1, True),
        (0.0, 16, 2, True),
        (0.0, 18, 2, False),  # the last update of an epoch is filled up by rows that depend on the passes
        (0.1, 16, 1, False),  # every pass draws its own mask
        (0.1, 18, 2, False),
    ],
)
def test_rows_of_a_forward_pass_are_free_only_where_they_decide_nothing(
    dropout, num_rows, num_processes, is_free
):
    free = CONFIG.free_settings(dropout=dropout, num_rows=num_rows, num_processes=num_processes)
    assert ("training.micro_rows" in free) == is_free
    assert {"training.checkpoint_minutes", "training.cached_prompt_bytes"} < free


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"micro_rows": 4}, "training.micro_rows: 2 there, 4 now"),  # with dropout
        ({"learning_rate": 1e-3}, "training.learning_rate: 0.02 there, 0.001 now"),
        ({"epochs": 4}, "training.epochs: 3 there, 4 now"),
        ({"batch_rows": 8}, "training.batch_rows: 4 there, 8 now"),
        ({"warmup": 0.2}, "training.warmup: 0.1 there, 0.2 now"),
        ({"rewarm_steps": 3}, "training.rewarm_steps: 10 there, 3 now"),
        ({"weight_decay": 0.1}, "training.weight_decay: 0.0 there, 0.1 now"),
        ({"max_tokens": 1024}, "training.max_tokens: 2048 there, 1024 now"),
        ({"seed": 2}, "training.seed: 1 there, 2 now"),
    ],
)
def test_a_setting_that_decides_what_is_learned_is_named_and_refused(finished, changed, says):
    with pytest.raises(ConfigError) as refused:
        train(finished[0], replace(RECIPE, training=replace(CONFIG, **changed)))
    assert f"({says})" in str(refused.value)


def test_a_checkpoint_with_no_updates_left_is_refused_before_anything_is_written(finished, tmp_path):
    with pytest.raises(ConfigError, match=r"light has 12 updates behind it, and the recipe makes 12: raise"):
        train(tmp_path / "run", resume=finished[0] / "light")
    with pytest.raises(ConfigError, match="and the recipe makes 4"):
        train(
            tmp_path / "run",
            replace(RECIPE, training=replace(CONFIG, epochs=1)),
            resume=finished[0] / "checkpoint-12",
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ACCELERATE_USE_FSDP", "true", "FSDP shards"),
        ("ACCELERATE_USE_FSDP", "1", "FSDP shards"),
        ("ACCELERATE_USE_DEEPSPEED", "true", r"DeepSpeed \(ZeRO\) shards"),
        ("ACCELERATE_USE_DEEPSPEED", "True", r"DeepSpeed \(ZeRO\) shards"),
        ("ACCELERATE_USE_MEGATRON_LM", "yes", "Megatron-LM shards"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "parallelism configuration shards"),
        ("WORLD_SIZE", "2", "LOCAL_RANK, MASTER_ADDR, MASTER_PORT, RANK is not set"),
    ],
)
def test_a_launch_that_can_not_save_a_whole_adapter_is_refused(tmp_path, monkeypatch, name, value, says):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=says):
        train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("environment", "is_refused"),
    [
        # what `accelerate launch --cpu --num_processes 2` sets: an address to meet at, and no number
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}, True),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, False),  # --num_processes 1
        ({"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}, False),  # of a cluster, without any launcher
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "a", "OMPI_COMM_WORLD_SIZE": "2"}, False),
        ({"WORLD_SIZE": "1"}, False),
        ({"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, False),
        ({"WORLD_SIZE": "4", "RANK": "0"}, True),
        ({"ACCELERATE_USE_FSDP": "false", "ACCELERATE_USE_DEEPSPEED": "0"}, False),
    ],
)
def test_a_process_that_was_to_have_others_and_has_none_is_noticed(environment, is_refused):
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node") if is_refused else nullcontext():
        require_launch(environment)


def test_rows_of_similar_length_go_together_and_every_epoch_has_all_of_them():
    # 82 rows, half of them ten times as long: four groups of ten batches, each sorted, and a last one of two.
    lengths = [5 + n % 3 if n % 2 else 50 + n % 3 for n in range(82)]
    sampler = LengthGrouped(lengths, 2, 0)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(82))
        pairs = [orders[-1][at : at + 2] for at in range(0, 82, 2)]
        mixed = sum(abs(lengths[a] - lengths[b]) > 10 for a, b in pairs)
        assert mixed <= 5  # where a group passes from long to short; 20 by chance
    assert len({frozenset(map(frozenset, zip(*[iter(order)] * 2, strict=True))) for order in orders}) == 3
    sampler.set_epoch(0)
    assert list(sampler) == orders[0]


def test_two_processes_learn_what_one_learns(tmp_path):
    # The same four rows an update: two forward passes of one process, or one of each of two (gloo).
    command = [sys.executable, Path(__file__).with_name("two_processes.py"), tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (losses(tmp_path / folder) for folder in ("one", "two"))
    assert len(two) == 12
    assert two == pytest.approx(one, rel=1e-4)
    weights = [
        load_file(tmp_path / folder / "adapter" / "adapter_model.safetensors") for folder in ("one", "two")
    ]
    for name, tensor in weights[0].items():
        assert torch.allclose(weights[1][name], tensor, atol=1e-4), name


def test_two_processes_that_were_killed_in_a_later_epoch_go_on_with_its_rows(tmp_path):
    # 16 rows, 4 an update: epochs end behind updates 4, 8 and 12. Killed within each, and between two.
    steps = ("2", "5", "7", "8", "10")
    script = Path(__file__).with_name("two_processes_resumed.py")
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, tmp_path, *steps], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = losses(tmp_path / "whole")
    assert len(expected) == 12
    for step in steps:
        assert losses(tmp_path / step) == pytest.approx(expected, rel=1e-6), step


def test_another_number_of_processes_goes_on_with_a_checkpoint(tmp_path):
    script = Path(__file__).with_name("processes_change.py")
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = losses(tmp_path / "whole")
    for folder in ("2-1", "1-2"):
        assert losses(tmp_path / folder) == pytest.approx(expected, rel=1e-5), folder


def test_an_adapter_can_be_learned_further(finished, tmp_path):
    # The first loss is the one that the finished adapter leaves on the first rows.
    start = finished[0] / "adapter"
    record = train(tmp_path / "run", start=start)
    rows = [(one.prompt, one.response, one.trained) for one in examples()]
    order = list(LengthGrouped([len(r) for _, r, _ in rows], 4, 1))[:4]
    model = new_adapter(base_model(), LoraSettings(rank=4), 0)
    load_adapter(model, start, base_sha256=SHA256)
    batch = ResponseBatch.of([rows[n] for n in order])
    with torch.no_grad():
        expected = -MaskedLora(model)(batch).sum() / batch.trained.sum()
    # Dropout of a tenth stands between the two.
    assert losses(tmp_path / "run")[0] == pytest.approx(float(expected), abs=0.3)
    assert losses(tmp_path / "run")[0] < losses(finished[0])[0] - 0.5
    assert record["start"] == adapter_sha256(start)
    with pytest.raises(ConfigError, match="holds another training"):
        train(tmp_path / "run")
    with pytest.raises(BundleError, match="another shape"):
        train(tmp_path / "other", replace(RECIPE, lora=LoraSettings(rank=8)), start=start)


@contextmanager
def full_behind(num_bytes):
    """As long as this lasts, no file can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("what", [ADAPTER, "optimizer.pt", "trainer_state.json"])
def test_a_disk_that_is_full_leaves_the_last_checkpoint_and_the_run_goes_on(tmp_path, finished, what):
    folder = tmp_path / "run"
    train(folder, should_stop=after(4))
    (checkpoint,) = folder.glob("checkpoint-*")
    size = (checkpoint / what).stat().st_size
    with full_behind(size - 1), pytest.raises((TrainingError, OSError)) as failed:
        train(folder, should_stop=after(4))
    if what != "trainer_state.json":  # smaller than the metrics, which are written first
        assert isinstance(failed.value, TrainingError)
        assert "can't be written" in str(failed.value)
        assert "same command again" in str(failed.value)
        assert "\n" not in str(failed.value)
    assert last_checkpoint(folder) == checkpoint
    train(folder)
    assert losses(folder) == losses(finished[0])
