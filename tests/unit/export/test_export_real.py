"""SmolLM2 in 4 and 8 bits: an export says what the torch simulation says, in chat and in think."""

from __future__ import annotations

import numpy as np
import pytest
from exported import InTorch, greedy, quantized_file, write_full_adapter

from edgereason.bundles.build import Parts, build
from edgereason.core.bundle import Bundle, file_sha256
from edgereason.core.types import Message
from edgereason.engine.llama import LlamaEngine
from edgereason.export.run import ExportConfig, Target, export, open_export
from edgereason.quant.adapter_file import AdapterGrid, read_adapter, write_adapter
from edgereason.quant.gguf_file import GgufModel

pytestmark = [pytest.mark.slow, pytest.mark.torch]
QUESTIONS = ("What is 17 + 25?", "Name three colours of the rainbow.")
COUNT = 16


@pytest.fixture(scope="module")
def made(smollm2, tmp_path_factory):
    """Base, bundle and prompts."""
    folder = tmp_path_factory.mktemp("real")
    base = quantized_file(smollm2, folder / "base.gguf")
    with LlamaEngine(base) as engine:
        template, opening = engine.info.template, engine.tokenize("<think>\n")
        prompts = [template.encode([Message("user", text)], engine.tokenize) for text in QUESTIONS]
    model = GgufModel(base)
    products, _ = read_adapter(write_full_adapter(folder / "a.gguf", base))
    how = {"grid": AdapterGrid.Q8_0, "base_sha256": file_sha256(base), "invocation": opening}
    write_adapter(folder / "adapter.gguf", model, products, alpha=1.0, **how)
    bundle = build(folder / "bundle", Parts(base=base, adapter=folder / "adapter.gguf"))
    return base, bundle, [list(prompt) for prompt in prompts]


@pytest.mark.parametrize("target", Target)
def test_logits_and_greedy_text_are_the_simulations(target, made, tmp_path, record_property):
    base, bundle, prompts = made
    assert isinstance(bundle, Bundle)
    config = ExportConfig(targets=(target,), context=256, prefill_tokens=32)
    export(bundle, base, tmp_path / "onnx", config)
    decoder, manifest = open_export(tmp_path / "onnx", target, is_exact=True)
    opening = manifest["think"]["opening_ids"]
    simulation = InTorch(base, bundle.folder / "reasoning.gguf", tmp_path / "torch")
    for prompt in prompts:
        step, (expected, _, cache) = decoder.push(prompt), simulation.push(prompt)
        worst = np.abs(step.logits[-1] - expected[-1]).max()
        step = decoder.push(opening, step.cache, adapter=True)
        expected, _, _ = simulation.push(opening, cache, adapter=True)
        worst = max(worst, np.abs(step.logits[-1] - expected[-1]).max())
        record_property("max_logit_difference", float(worst))
        assert worst < 1e-3
        for ids, on in (([], False), (opening, True)):
            got = greedy(decoder, prompt, ids, COUNT, adapter=on)
            assert got == simulation.greedy(prompt, ids, COUNT, adapter=on)
