"""How trainings are launched: the shipped configuration, trackers, and one conversion for all."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from test_train_sft import CONFIG

from edgereason.errors import ConfigError
from edgereason.quant.gguf_file import GgufModel
from edgereason.train.grpo.config import GrpoConfig
from edgereason.train.lora.loop import TrainConfig, common_arguments
from edgereason.train.quant import load

CONFIGS = Path(__file__).parents[3] / "configs"


def test_accelerate_reads_the_shipped_configuration_as_plain_data_parallelism():
    found = load_config_from_file(str(CONFIGS / "accelerate" / "ddp.yaml"))
    assert str(found.distributed_type).endswith("MULTI_GPU")
    assert (found.num_processes, found.num_machines, found.mixed_precision) == (8, 1, "no")
    assert not found.fsdp_config and not found.deepspeed_config


@pytest.mark.parametrize("make", [TrainConfig, GrpoConfig])
def test_a_tracker_that_is_unknown_or_not_installed_is_refused_by_its_name(make, monkeypatch):
    with pytest.raises(ConfigError, match=r"there is no 'tensorbord'.*tensorboard"):
        make(report_to=("tensorbord",))
    monkeypatch.setitem(sys.modules, "trackio", None)  # as where it is not installed
    with pytest.raises(ConfigError, match="trackio is not installed: pip install trackio"):
        make(report_to=("trackio",))


def test_trackers_are_transformers_own_and_nothing_is_reported_unasked(tmp_path, monkeypatch):
    assert common_arguments(tmp_path, CONFIG)["report_to"] == "none"
    monkeypatch.setattr("edgereason.train.data.trackers.find_spec", lambda name: object())
    assert common_arguments(tmp_path, replace(CONFIG, report_to=("trackio",)))["report_to"] == ["trackio"]


def test_processes_that_start_together_convert_a_base_once(tiny, tmp_path, monkeypatch):
    made, convert = [], load.convert

    def counted(model):
        made.append(model)
        return convert(model)

    monkeypatch.setattr(load, "convert", counted)
    with ThreadPoolExecutor(3) as pool:
        loaded = list(
            pool.map(lambda _: load.load_torch(GgufModel(tiny.base), "ab" * 32, tmp_path), range(3))
        )
    assert len(made) == 1
    assert len({model.config.hidden_size for model in loaded}) == 1
