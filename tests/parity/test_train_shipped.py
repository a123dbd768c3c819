"""Twenty traces on the base that ships: what training sees of them is what the engine says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_train_parity import engine_logprobs, random_adapter

from edgereason.core.bundle import file_sha256
from edgereason.engine import scoring
from edgereason.engine.llama import LlamaEngine
from edgereason.hub.pull import resolve
from edgereason.quant.adapter_file import AdapterGrid
from edgereason.quant.gguf_file import GgufModel
from edgereason.train.data.traces import read_traces
from edgereason.train.lora.adapters import export_adapter
from edgereason.train.lora.examples import Encoder, HintConfig
from edgereason.train.lora.masked_lora import MaskedLora, ResponseBatch
from edgereason.train.quant.load import load_torch

pytestmark = [pytest.mark.model, pytest.mark.slow]

TRACES = Path(__file__).with_name("traces.jsonl")
"""Made by `edgereason train traces` of GSM8K's training questions."""


@pytest.fixture
def logits_of(monkeypatch):
    """Logits of every token that the engine scores, as log-probabilities, in order."""
    seen: list[np.ndarray] = []
    real = scoring.exact_log_probability

    def watched(logits, token):
        wide = logits.astype(np.float64)
        seen.append((wide - np.logaddexp.reduce(wide)).astype(np.float32))
        return real(logits, token)

    monkeypatch.setattr(scoring, "exact_log_probability", watched)
    return seen


def test_the_shipped_base_says_in_the_engine_what_it_says_in_training(tmp_path, logits_of, record_property):
    # GIVEN the base of 4 bits, an adapter as it ships, and real traces, half of them with hints
    path = resolve("qwen2.5-coder-0.5b-w4")
    sha256, file = file_sha256(path), GgufModel(path)
    base = load_torch(file, sha256, tmp_path / "cache")
    hints = HintConfig(buckets=(256, 512, 1024))
    divergences, agreed = [], []
    with LlamaEngine(path) as engine:
        encoder = Encoder.of(engine)
        examples = [encoder.encode(trace, hints) for trace in read_traces(TRACES).traces]
        assert len(examples) == 20
        assert 0 < sum(one.bucket is not None for one in examples) < 20
        model = random_adapter(base, sha256, encoder.seams.opening, tmp_path / "adapter")
        export_adapter(
            tmp_path / "adapter", file, tmp_path / "a.gguf", base_sha256=sha256, grid=AdapterGrid.Q8_0
        )
        adapter = engine.load_adapter(tmp_path / "a.gguf")
        policy = MaskedLora(model.eval())
        for example in examples:
            # WHEN both are forced along the same response
            logits_of.clear()
            engine_logprobs(engine, example, adapter)
            in_engine = torch.from_numpy(np.stack(logits_of[-(len(example.response) - 1) :]))
            batch = ResponseBatch.of([(example.prompt, example.response, (True,) * len(example.response))])
            with torch.no_grad():
                states = policy.hidden(batch)[0, :-1]
                in_training = torch.nn.functional.linear(states, policy.head).log_softmax(-1)
            divergences.append((in_training.exp() * (in_training - in_engine)).sum(-1))
            agreed.append(in_training.argmax(-1) == in_engine.argmax(-1))
    # THEN
    divergence, agreement = torch.cat(divergences), torch.cat(agreed).float()
    record_property("mean_kl_nats", f"{divergence.mean():.5f}")
    record_property("argmax_agreement", f"{agreement.mean():.4f}")
    assert divergence.mean() < 5e-3
    assert agreement.mean() >= 0.95
