"""Graphs against transformers' models of the same weights: logits, states, keys and values, the switch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from exported import IDS, InTorch, greedy, quantized_file, write_full_adapter
from tiny_gguf import FAMILIES, QWEN2, random_weights, write_gguf

from edgereason.errors import ContextOverflow
from edgereason.export.decoder import Decoder
from edgereason.export.graph import Form, build
from edgereason.export.weights import StoredModel, TensorFile
from edgereason.quant.adapter_file import AdapterGrid, read_stored_adapter
from edgereason.quant.gguf_file import GgufModel

CONTEXT, WIDTH = 40, 8


def write_graphs(base: Path, adapter: Path | None, folder: Path, forms: dict[str, Form]) -> None:
    """Graphs of these forms by their files' names, all on one file of tensors."""
    folder.mkdir()
    products, alpha = read_stored_adapter(adapter) if adapter else ({}, 0.0)
    with TensorFile(folder / "weights") as file:
        for name, form in forms.items():
            graph, _ = build(StoredModel(GgufModel(base), products, alpha), form, file)
            (folder / name).write_bytes(graph.SerializeToString())
    for name in forms:
        onnx.checker.check_model(str(folder / name), full_check=True)


def decoder_of(base: Path, folder: Path, graphs: dict[str, int | None]) -> Decoder:
    dims = GgufModel(base).dims
    about = {"context": CONTEXT, "head_dim": dims.head_dim, "rope_base": dims.rope_base}
    found = [{"file": name, "tokens": tokens} for name, tokens in graphs.items()]
    return Decoder(folder, about | {"graphs": found}, threads=1, is_exact=True)


def open_decoder(base: Path, adapter: Path | None, folder: Path, **form) -> Decoder:
    write_graphs(base, adapter, folder, {"model.onnx": Form(is_quantized=True, **form)})
    return decoder_of(base, folder, {"model.onnx": None})


def fixed_decoder(base: Path, adapter: Path | None, folder: Path, **form) -> Decoder:
    graphs = {"prefill.onnx": WIDTH, "decode.onnx": 1}
    forms = {n: Form(is_quantized=False, tokens=t, context=CONTEXT, **form) for n, t in graphs.items()}
    write_graphs(base, adapter, folder, forms)
    return decoder_of(base, folder, graphs)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda shape: shape.arch)
def base(request, tmp_path_factory) -> Path:
    """Each family in 4 and 8 bits."""
    folder = tmp_path_factory.mktemp("base")
    shape = request.param
    source = write_gguf(folder / "float.gguf", shape, random_weights(shape, 7))
    return quantized_file(source, folder / "w4.gguf")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    return write_full_adapter(tmp_path_factory.mktemp("adapter") / "a.gguf", base)


@pytest.fixture(scope="module")
def simulation(base, adapter, tmp_path_factory) -> InTorch:
    return InTorch(base, adapter, tmp_path_factory.mktemp("torch"))


def close(got, expected) -> bool:
    """Equal but for the order of sums."""
    return bool(np.abs(got - expected).max() < 2e-5 * np.abs(expected).max())


def test_prefill_and_decode_say_what_torch_says(base, simulation, tmp_path):
    decoder = open_decoder(base, None, tmp_path / "export")
    expected, _, _ = simulation.push(IDS)
    step = decoder.push(IDS[:13])
    assert close(step.logits[-1], expected[12])
    for place in range(13, len(IDS)):
        step = decoder.push([IDS[place]], step.cache)
        assert close(step.logits[-1], expected[place])


def test_fixed_shapes_say_what_torch_says_however_a_text_is_cut(base, simulation, tmp_path):
    # 13 tokens are a full chunk and five of eight; then single ones, then five at once
    decoder = fixed_decoder(base, None, tmp_path / "export")
    expected, _, _ = simulation.push(IDS)
    step = decoder.push(IDS[:13])
    assert close(step.logits, expected[:13])
    step = decoder.push(IDS[13:14], step.cache)
    assert close(step.logits, expected[13:14])
    step = decoder.push(IDS[14:19], step.cache)
    assert close(step.logits, expected[14:19])


@pytest.mark.parametrize("make", [open_decoder, fixed_decoder])
def test_think_goes_on_from_the_prompt_of_chat(make, base, adapter, simulation, tmp_path):
    # GIVEN one prompt, encoded once with the adapter off
    decoder = make(base, adapter, tmp_path / "export")
    prompt, rest = IDS[:10], IDS[10:16]
    step = decoder.push(prompt)
    # WHEN both routes go on from it
    chat, think = (decoder.push(rest, step.cache, adapter=on).logits[-1] for on in (False, True))
    # THEN each says what torch says, and they differ
    for got, on in ((chat, False), (think, True)):
        _, _, cache = simulation.push(prompt)
        expected, _, _ = simulation.push(rest, cache, adapter=on)
        assert close(got, expected[-1])
    assert np.abs(chat - think).max() > 0.1


def test_with_the_switch_off_the_adapter_changes_no_bit(base, adapter, tmp_path):
    plain, switched = (
        open_decoder(base, one, tmp_path / name) for name, one in (("plain", None), ("switched", adapter))
    )
    one, other = plain.push(IDS), switched.push(IDS)
    assert np.array_equal(one.logits, other.logits)
    for name, tensor in one.cache.tensors.items():
        assert np.array_equal(tensor.numpy(), other.cache.tensors[name].numpy())


def test_greedy_text_is_that_of_the_simulation(base, adapter, simulation, tmp_path):
    decoder = fixed_decoder(base, adapter, tmp_path / "export")
    for on in (False, True):
        expected = simulation.greedy(IDS[:9], IDS[9:12], 12, adapter=on)
        assert greedy(decoder, IDS[:9], IDS[9:12], 12, adapter=on) == expected


def test_states_are_what_a_layer_hands_on(base, simulation, tmp_path):
    _, states, _ = simulation.push(IDS)
    for make in (open_decoder, fixed_decoder):
        step = make(base, None, tmp_path / make.__name__, state_layers=(0,)).push(IDS)
        assert close(step.states["states_0"], states[0])


@pytest.mark.parametrize("grid", AdapterGrid)
def test_an_adapter_in_any_grid_is_what_its_file_says(grid, tmp_path):
    source = write_gguf(tmp_path / "f.gguf", QWEN2, random_weights(QWEN2, 7))
    adapter = write_full_adapter(tmp_path / "a.gguf", source, grid=grid)
    decoder = open_decoder(source, adapter, tmp_path / "export")
    expected, _, _ = InTorch(source, adapter, tmp_path / "torch").push(IDS, adapter=True)
    assert close(decoder.push(IDS, adapter=True).logits[-1], expected[-1])


@pytest.mark.parametrize("per_row", [False, True])
def test_a_graph_holds_the_base_bit_by_bit(per_row, tmp_path):
    # GIVEN a base by block, or by row
    source = write_gguf(tmp_path / "f.gguf", QWEN2, random_weights(QWEN2, 7))
    path = quantized_file(source, tmp_path / "w4.gguf", per_row=per_row)
    write_graphs(path, None, tmp_path / "export", {"model.onnx": Form(is_quantized=True)})
    loaded = onnx.load(tmp_path / "export" / "model.onnx")
    tensors = {tensor.name: tensor for tensor in loaded.graph.initializer}
    model = GgufModel(path)
    linears = [name for name in model.names if name.startswith("blk.") and len(model.shape(name)) == 2]
    assert len(linears) == 14
    for name in linears:
        # WHEN its integers are multiplied by hand
        codes = onnx.numpy_helper.to_array(tensors[name]).astype(np.float32)
        scales = onnx.numpy_helper.to_array(tensors[f"{name}.scale"]).astype(np.float32)
        assert scales.ndim == (1 if per_row else 2)
        weights = codes * (scales if per_row else np.repeat(scales, 32, axis=0))
        # THEN
        assert tensors[name].data_type == onnx.TensorProto.INT4
        assert np.array_equal(weights.T, model.weights(name))


def test_the_last_places_are_filled_one_by_one(base, simulation, tmp_path):
    # 35 tokens leave 5 places: fewer than the prefill graph takes at a time
    ids = (IDS + IDS)[:CONTEXT]
    expected, _, _ = simulation.push(ids)
    decoder = fixed_decoder(base, None, tmp_path / "export")
    step = decoder.push(ids[:35])
    assert close(decoder.push(ids[35:], step.cache).logits, expected[35:])


def test_a_text_that_does_not_fit_is_refused(tmp_path):
    source = write_gguf(tmp_path / "f.gguf", QWEN2, random_weights(QWEN2, 7))
    decoder = fixed_decoder(source, None, tmp_path / "export")
    with pytest.raises(ContextOverflow, match=r"needs 41 tokens of context and 40 are available"):
        decoder.push([3] * 41)
