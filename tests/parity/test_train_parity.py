"""One trace through every path: masked training, PEFT's own activated LoRA, and the engine that ships."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from float_model import float_file
from peft import PeftModel

from edgereason.core.bundle import file_sha256
from edgereason.core.types import Message
from edgereason.engine import llama
from edgereason.engine.llama import LlamaEngine
from edgereason.engine.native import C
from edgereason.quant.adapter_file import AdapterGrid, read_adapter
from edgereason.quant.gguf_file import GgufModel
from edgereason.train.data.traces import TraceRow
from edgereason.train.lora.adapters import LoraSettings, export_adapter, new_adapter, save_adapter
from edgereason.train.lora.examples import Encoder, HintConfig
from edgereason.train.lora.masked_lora import MaskedLora, ResponseBatch
from edgereason.train.quant.load import load_torch
from tool_scripts import load_tool

pytestmark = [pytest.mark.model, pytest.mark.slow]

TRACE = TraceRow(
    id="natalia",
    messages=(
        Message(
            "user",
            "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
            "How many clips did Natalia sell altogether in April and May?",
        ),
    ),
    thinking="In May she sold half of 48, which is 24.\nTogether that is 48 + 24 = 72. Check: 72 - 24 = 48.",
    answer="The final answer is 72.",
    source="test",
)
HINTS = HintConfig(buckets=(128,), share=1.0)


@pytest.fixture
def exact_context(monkeypatch):
    """Keys and values in float32, attention as it stands in the book."""
    real = llama.context_params

    def params(*what, **how):
        found = real(*what, **how)
        found.type_k = found.type_v = 0
        found.flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return found

    monkeypatch.setattr(llama, "context_params", params)


def random_adapter(base, sha256, opening, folder):
    """A saved adapter that changes what is said; its numbers fit half precision."""
    model = new_adapter(base, LoraSettings(rank=32), seed=0)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.01)
        if "lora_" in name:
            parameter.data = parameter.data.half().float()
    save_adapter(model, folder, base_name="smollm2", base_sha256=sha256, opening=opening)
    return model


def engine_logprobs(engine, example, adapter):
    """Of a response's tokens, but the first, whose logits are the base's."""
    with engine.reserve(cells=example.num_tokens + 2, sequences=1):
        sequence = engine.new_sequence()
        try:
            engine.encode(sequence, example.prompt)
            engine.cross(sequence, adapter)
            (scored,) = engine.score([(sequence, example.response)])
        finally:
            engine.release(sequence)
    return scored.logprobs[1:]


def test_training_peft_and_the_engine_agree_on_a_trace(smollm2, tmp_path, exact_context):
    # GIVEN a float model, a random adapter in both forms, a trace in ids
    path = float_file(smollm2, tmp_path / "float.gguf")
    sha256 = file_sha256(path)
    file = GgufModel(path)
    base = load_torch(file, sha256, tmp_path / "cache")
    with LlamaEngine(path) as engine:
        encoder = Encoder.of(engine)
        example = encoder.encode(TRACE, HINTS)
        opening = encoder.seams.opening
        model = random_adapter(base, sha256, opening, tmp_path / "adapter")
        export_adapter(
            tmp_path / "adapter", file, tmp_path / "a.gguf", base_sha256=sha256, grid=AdapterGrid.F16
        )
        # WHEN each path scores the trace
        in_engine = engine_logprobs(engine, example, engine.load_adapter(tmp_path / "a.gguf"))
        plain = engine_logprobs(engine, example, None)
    everything = (False,) + (True,) * (len(example.response) - 1)
    with torch.no_grad():
        masked = MaskedLora(model)(ResponseBatch.of([(example.prompt, example.response, everything)]))[
            0, 1:
        ].numpy()
    reference = PeftModel.from_pretrained(load_torch(file, sha256, tmp_path / "cache"), tmp_path / "adapter")
    with torch.no_grad():
        logits = reference(input_ids=torch.tensor([example.prompt + example.response])).logits[0]
    start = len(example.prompt)
    realised = torch.tensor(example.response[1:])
    in_peft = logits.log_softmax(-1)[start:-1].gather(1, realised[:, None])[:, 0].numpy()
    # THEN
    assert np.abs(masked - in_peft).max() < 1e-4
    assert np.abs(masked - in_engine).max() < 5e-3
    assert np.abs(in_engine - plain).max() > 0.1  # the adapter says otherwise than the base


def test_an_adapter_in_the_weights_is_one_that_is_on_everywhere(smollm2, tmp_path, exact_context):
    # GIVEN the study's tool, a random adapter, a trace that is all response but for its first token
    tool = load_tool("study/unmasked.py")
    sha256, file = file_sha256(smollm2), GgufModel(smollm2)
    base = load_torch(file, sha256, tmp_path / "cache")
    with LlamaEngine(smollm2) as engine:
        encoder = Encoder.of(engine)
        example = tool.unmasked(encoder.encode(TRACE, HINTS))
        split = replace(example, prompt=example.response[:1], response=example.response[1:])
        plain = engine_logprobs(engine, split, None)
    model = random_adapter(base, sha256, encoder.seams.opening, tmp_path / "adapter")
    export_adapter(tmp_path / "adapter", file, tmp_path / "a.gguf", base_sha256=sha256, grid=AdapterGrid.F16)
    # WHEN it is merged, and run without an adapter
    tool.write_merged(file, *read_adapter(tmp_path / "a.gguf"), tmp_path / "merged.gguf", None)
    with LlamaEngine(tmp_path / "merged.gguf") as engine:
        merged = engine_logprobs(engine, split, None)
    everything = (False,) + (True,) * (len(example.response) - 1)
    with torch.no_grad():
        on = MaskedLora(model)(ResponseBatch.of([((), example.response, everything)]))[0, 2:].numpy()
    # THEN
    assert np.abs(merged - on).max() < 5e-3
    assert np.abs(merged - plain).mean() > 0.1
