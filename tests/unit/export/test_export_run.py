"""`edgereason export onnx`: what lies in the folder, that it runs, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from exported import InTorch, quantized_file, write_full_adapter
from tiny_bundle import OPENING, write_tiny_heads

from edgereason.bundles.build import Parts, build
from edgereason.core.bundle import Bundle, file_sha256
from edgereason.errors import BundleError, ConfigError
from edgereason.export.encodings import quantize_by, read_encodings
from edgereason.export.run import ExportConfig, Target, export, open_export, require_exportable
from edgereason.heads.file import read_heads
from edgereason.quant.adapter_file import AdapterGrid, read_adapter, write_adapter
from edgereason.quant.gguf_file import GgufModel

CONFIG = ExportConfig(context=96, prefill_tokens=16)
PROMPT = [int(n) for n in np.random.default_rng(2).integers(0, 256, 40)]


@pytest.fixture(scope="module")
def bundle(tiny, tmp_path_factory) -> Bundle:
    """A base in 4 bits, an adapter on all linears, both heads."""
    folder = tmp_path_factory.mktemp("parts")
    base = quantized_file(tiny.base, folder / "base.gguf")
    products, alpha = read_adapter(write_full_adapter(folder / "a.gguf", base))
    adapter = folder / "adapter.gguf"
    model, sha256 = GgufModel(base), file_sha256(base)
    how = {"alpha": alpha, "grid": AdapterGrid.Q8_0, "base_sha256": sha256, "invocation": OPENING}
    write_adapter(adapter, model, products, **how)
    heads = write_tiny_heads(folder / "heads.safetensors", base, adapter)
    parts = Parts(base=base, adapter=adapter, heads=heads, include_base=True)
    return build(tmp_path_factory.mktemp("bundle") / "tiny", parts)


@pytest.fixture(scope="module")
def folder(bundle, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("export") / "onnx"
    export(bundle, bundle.folder / "base.gguf", path, CONFIG)
    return path


def test_the_manifest_names_every_file_by_its_hash(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    there = {path.name for path in folder.iterdir()} - {"manifest.json"}
    assert manifest["files"].keys() == there
    for name, about in manifest["files"].items():
        assert about["sha256"] == file_sha256(folder / name)
    assert str(folder) not in json.dumps(manifest)


@pytest.mark.torch
@pytest.mark.parametrize("target", Target)
def test_both_targets_think_as_the_simulation_does(target, bundle, folder, tmp_path):
    decoder, manifest = open_export(folder, target, threads=1, is_exact=True)
    opening = manifest["think"]["opening_ids"]
    simulation = InTorch(bundle.folder / "base.gguf", bundle.folder / "reasoning.gguf", tmp_path)
    step = decoder.push(PROMPT)
    _, _, cache = simulation.push(PROMPT)
    for ids in (opening, [7]):
        step = decoder.push(ids, step.cache, adapter=True)
        expected, _, _ = simulation.push(ids, cache, adapter=True)
        assert np.abs(step.logits[-1] - expected[-1]).max() < 1e-4 * np.abs(expected).max()


def test_the_switcher_reads_the_same_from_either_target(bundle, folder):
    # GIVEN the head as it ships, and the states of one prompt
    switcher = read_heads(folder / "heads.safetensors").switcher
    assert switcher is not None
    said = []
    for target in Target:
        decoder, manifest = open_export(folder, target, threads=1, is_exact=True)
        reader = switcher.reader()
        reader.push(decoder.push(PROMPT).states[manifest["heads"]["switcher"]["output"]])
        said.append(reader.p_think())
    assert said[0] == pytest.approx(said[1], abs=1e-5)


def test_the_encodings_hold_every_matrix_of_the_float_graph(folder):
    encodings = read_encodings(folder / "npu.encodings")
    for name in ("prefill.onnx", "decode.onnx"):
        graph = onnx.load(folder / name).graph
        weights = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
        matrices = {n: w for n, w in weights.items() if w.ndim == 2 and w.dtype == np.float32}
        assert matrices.keys() == encodings.keys()
        for name_of, values in matrices.items():
            rows = values if name_of == "token_embd.weight" else values.T
            assert np.array_equal(quantize_by(encodings[name_of], rows), rows)


def test_activations_on_their_grids_change_logits_little(bundle, folder, tmp_path):
    # GIVEN graphs whose activations have ranges by three prompts
    config = replace(CONFIG, targets=(Target.NPU,), prompts=(tuple(PROMPT), tuple(PROMPT[:9]), (3, 4, 5)))
    export(bundle, bundle.folder / "base.gguf", tmp_path / "a16", config)
    encodings = read_encodings(tmp_path / "a16" / "npu.encodings")
    exact, _ = open_export(folder, Target.NPU, threads=1)
    expected = exact.push(PROMPT)
    # WHEN every value that has one is rounded to its grid
    rounded = [simulate(tmp_path / "a16" / name, encodings) for name in ("prefill.onnx", "decode.onnx")]
    decoder, _ = open_export(tmp_path / "a16", Target.NPU, threads=1)
    got = decoder.push(PROMPT)
    # THEN none is left out, keys and values have 8 bits, and the logits are close
    assert [count for _, count in rounded] == [0, 0]
    assert encodings["past_key_0_in"]["bw"] == encodings["past_value_1_out"]["bw"] == 8
    assert encodings["blk.0.silu"]["bw"] == encodings["logits"]["bw"] == 16
    error = np.abs(got.logits - expected.logits).max() / np.abs(expected.logits).max()
    assert 1e-6 < error < 0.05


def simulate(path: Path, encodings: dict) -> tuple[int, int]:
    """Rounds every value of a graph that has an encoding; how many, and how many values have none."""
    made = onnx.load(path, load_external_data=False)
    graph, fresh, bare = made.graph, [], 0
    weights = {one.name for one in graph.initializer}
    for node in graph.node:
        node.input[:] = [
            f"{name}.q" if name in encodings and name not in weights else name for name in node.input
        ]
    for name in [one.name for one in graph.input] + [node.output[0] for node in graph.node]:
        if name not in encodings:
            bare += name != "input_ids"
            continue
        kind = np.uint8 if encodings[name]["bw"] == 8 else np.uint16
        graph.initializer.extend(
            [
                onnx.numpy_helper.from_array(np.float32(encodings[name]["scale"][0]), f"{name}.s"),
                onnx.numpy_helper.from_array(np.array(-encodings[name]["offset"][0], kind), f"{name}.z"),
            ]
        )
        pair = [f"{name}.s", f"{name}.z"]
        fresh.append((name, onnx.helper.make_node("QuantizeLinear", [name, *pair], [f"{name}.i"])))
        fresh.append((name, onnx.helper.make_node("DequantizeLinear", [f"{name}.i", *pair], [f"{name}.q"])))
    made_by = {node.output[0]: node for node in graph.node}
    nodes = [node for name, node in fresh if name not in made_by]
    for node in graph.node:
        nodes += [node, *(one for name, one in fresh if name == node.output[0])]
    del graph.node[:]
    graph.node.extend(nodes)
    path.write_bytes(made.SerializeToString())
    return len(fresh) // 2, bare


def test_graphs_of_fixed_shapes_share_their_weights(folder):
    weights = sum(tensor.size for tensor in _initializers(folder / "prefill.onnx"))
    assert (folder / "npu.weights").stat().st_size < 4 * weights + 4096 * len(
        _initializers(folder / "prefill.onnx")
    )


def _initializers(path: Path) -> list[np.ndarray]:
    return [onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]


def test_genie_is_told_of_the_switch_and_the_context(folder):
    dialog = json.loads((folder / "genie_config.json").read_text())["dialog"]
    assert dialog["context"]["size"] == CONFIG.context
    assert dialog["engine"]["model"]["binary"]["lora"]["alpha-tensor-name"] == "lora_alpha"
    names = [one.name for one in onnx.load(folder / "decode.onnx", load_external_data=False).graph.input]
    assert "lora_alpha" in names


def test_what_can_not_be_exported_changes_nothing(bundle, folder, tmp_path):
    base = bundle.folder / "base.gguf"
    with pytest.raises(BundleError, match="is there already"):
        export(bundle, base, folder, CONFIG)
    with pytest.raises(ConfigError, match="1000 tokens is more than the 512"):
        export(bundle, base, tmp_path / "x", ExportConfig(context=1000))
    with pytest.raises(ConfigError, match="fewer than the context has"):
        ExportConfig(context=64, prefill_tokens=64)
    assert not any(tmp_path.iterdir())


def test_what_a_killed_export_left_is_removed_by_the_next(bundle, tmp_path):
    # GIVEN the folder of a writer whose process is gone: a number that none here has
    left = tmp_path / ".out.ffffff00"
    left.mkdir()
    (left / "model.weights").write_bytes(b"half")
    config = replace(CONFIG, targets=(Target.ONNXRUNTIME,))
    export(bundle, bundle.folder / "base.gguf", tmp_path / "out", config)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_float_base_is_exported_with_a_notice(tiny, tmp_path):
    bundle = build(tmp_path / "tiny", Parts(base=tiny.base))
    said: list[str] = []
    config = ExportConfig(targets=(Target.ONNXRUNTIME,), context=64, prefill_tokens=8)
    export(bundle, tiny.base, tmp_path / "onnx", config, said.append)
    assert said == [
        "16 matrices of tiny.gguf are neither Q4_0 nor Q8_0 and stand in float32: "
        "a base made by edgereason quantize is smaller"
    ]
    decoder, manifest = open_export(tmp_path / "onnx", Target.ONNXRUNTIME, threads=1)
    assert manifest["switch"] is None
    assert np.isfinite(decoder.push(PROMPT).logits).all()
    with pytest.raises(BundleError, match="not the manifest of an export for npu"):
        open_export(tmp_path / "onnx", Target.NPU)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"arch": "gemma3"}, "family 'gemma3'"),
        ({"arch": "phi3"}, "family 'phi3'"),
        ({"arch": "smollm3"}, "family 'smollm3'"),
        ({"rope_factors": (1.0, 2.0)}, "scales its rope"),
        ({"rope_scale": 8.0}, "scales its rope"),
    ],
)
def test_a_family_whose_layers_the_graph_lacks_is_refused_by_name(bundle, changes, why):
    dims = GgufModel(bundle.folder / "base.gguf").dims
    require_exportable(dims, "base.gguf")
    with pytest.raises(BundleError, match=why):
        require_exportable(replace(dims, **changes), "base.gguf")
