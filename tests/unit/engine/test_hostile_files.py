"""Damaged and hostile model files and adapters end in a typed error or in an answer, never in a signal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from mutations import mutate, spots
from tiny_bundle import FF, HIDDEN, write_base, write_tiny_adapter

from edgereason.engine.llama import LlamaEngine
from edgereason.errors import BundleError, ModelFileError
from edgereason.quant.adapter_file import read_adapter, read_adapter_info
from edgereason.quant.gguf_file import GgufModel

HERE = Path(__file__).parents[1]
STRING, FLOAT32 = gguf.GGUFValueType.STRING, gguf.GGUFValueType.FLOAT32
SOUND = {
    "general.type": ("adapter", STRING),
    "general.architecture": ("qwen2", STRING),
    "adapter.type": ("lora", STRING),
    "adapter.lora.alpha": (32.0, FLOAT32),
}


def write_keys(path: Path, keys: dict[str, tuple[object, gguf.GGUFValueType]], grid: str = "F16") -> Path:
    """An adapter with this metadata and no other."""
    writer = gguf.GGUFWriter(path, "qwen2")
    for values in writer.kv_data:
        values.clear()
    for key, (value, kind) in keys.items():
        item = gguf.GGUFValueType.INT32 if kind is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, value, kind, sub_type=item)
    kind = gguf.GGMLQuantizationType[grid]
    for name, shape in (("lora_a", (32, HIDDEN)), ("lora_b", (FF, 32))):
        matrix = np.ones(shape, np.dtype({"F16": "f2", "F32": "f4", "I32": "i4", "F64": "f8"}[grid]))
        writer.add_tensor(f"blk.1.ffn_up.weight.{name}", matrix, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "base.gguf")


@pytest.fixture(scope="module")
def engine(base):
    with LlamaEngine(base, threads=1) as engine:
        yield engine


def test_the_writer_of_this_test_writes_what_the_engine_loads(engine, tmp_path):
    for grid in ("F16", "F32"):
        engine.unload_adapter(engine.load_adapter(write_keys(tmp_path / f"{grid}.gguf", SOUND, grid)))


SLOW = [pytest.mark.slow, pytest.mark.timeout(1800)]
WRONG = [
    (1, gguf.GGUFValueType.UINT32),
    (1, gguf.GGUFValueType.INT8),
    (1, gguf.GGUFValueType.UINT64),
    (1.0, gguf.GGUFValueType.FLOAT64),
    (True, gguf.GGUFValueType.BOOL),
    ([1, 2], gguf.GGUFValueType.ARRAY),
]


@pytest.mark.parametrize("key", [*SOUND, "adapter.alora.invocation_tokens"])
@pytest.mark.parametrize("value", [*WRONG, ("text", STRING), (1.0, FLOAT32)], ids=lambda value: value[1].name)
def test_an_adapter_whose_keys_have_another_type_is_refused(engine, tmp_path, key, value):
    if SOUND.get(key, ("", None))[1] is value[1]:
        pytest.skip("the right type")
    path = write_keys(tmp_path / "adapter.gguf", SOUND | {key: value})
    with pytest.raises(BundleError, match=rf"adapter.gguf is not a LoRA adapter: {key} is of another type"):
        engine.load_adapter(path)
    for read in (read_adapter, read_adapter_info):
        with pytest.raises(BundleError, match=r"adapter.gguf"):
            read(path)


@pytest.mark.parametrize("grid", ["I32", "F64"])
def test_an_adapter_of_numbers_that_no_kernel_multiplies_is_refused(engine, tmp_path, grid):
    path = write_keys(tmp_path / "adapter.gguf", SOUND, grid)
    with pytest.raises(BundleError, match=r"an adapter has F32, F16, BF16 or Q8_0"):
        engine.load_adapter(path)


def test_a_missing_key_is_refused(engine, tmp_path):
    for key in ("general.type", "general.architecture", "adapter.type"):
        keys = {name: value for name, value in SOUND.items() if name != key}
        with pytest.raises(BundleError):
            engine.load_adapter(write_keys(tmp_path / "adapter.gguf", keys))


@pytest.mark.parametrize(
    ("first", "count"),
    [(0, 40), pytest.param(1000, 2000, marks=SLOW)],
)
def test_mutated_files_end_no_process(tmp_path, first, count):
    done = subprocess.run(
        [sys.executable, str(HERE / "ends.py"), str(tmp_path), str(first), str(count)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *bad, trials = done.stdout.splitlines()
    assert bad == []
    assert trials.startswith("trials ")


def test_mutated_models_are_described_or_refused(base, tmp_path):
    path = tmp_path / "model.gguf"
    data, places, refused = base.read_bytes(), spots(base), 0
    for seed in range(150):
        path.write_bytes(mutate(data, seed, places))
        try:
            assert GgufModel(path).dims.num_layers >= 0
        except ModelFileError:
            refused += 1
    assert 0 < refused < 150


def test_mutated_adapters_are_read_or_refused(base, tmp_path):
    path = write_tiny_adapter(tmp_path / "adapter.gguf", base)
    data, places = path.read_bytes(), spots(path)
    refused = 0
    for seed in range(300):
        path.write_bytes(mutate(data, seed, places))
        for read in (read_adapter, read_adapter_info):
            try:
                read(path)
            except BundleError:
                refused += 1
    assert 0 < refused < 600
