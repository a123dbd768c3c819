"""Tiny models of each family in transformers, in our conversion and in llama.cpp, and adapters on them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_models import KINDS, VOCAB, WINDOW, Kind, random_model, write_model
from peft import PeftModel
from tiny_gguf import learned_for
from tiny_torch import load as load_teacher
from tiny_torch import make_student, stir, student_logits
from torch import Tensor

from edgereason import load
from edgereason.engine import llama
from edgereason.engine.llama import LlamaEngine
from edgereason.engine.native import C
from edgereason.errors import ConfigError, ModelFileError
from edgereason.quant.adapter_file import AdapterGrid
from edgereason.quant.apply import apply
from edgereason.quant.gguf_file import GgufModel
from edgereason.train.lora.adapters import (
    LoraSettings,
    export_adapter,
    import_adapter,
    load_adapter,
    new_adapter,
    save_adapter,
    settings_of,
)
from edgereason.train.lora.masked_lora import MaskedLora, ResponseBatch
from edgereason.train.quant.load import load_torch
from edgereason.train.quant.student import CorrectionConfig
from edgereason.train.quant.transforms import TransformConfig

OPENING = tuple(b"<think>\n")
NUM_TOKENS = 60
BOUND = 2e-4
"""Of log-probabilities in nats (they go down to -30), between two float32 implementations."""
HALF_BOUND = 5e-3
"""The same, where one rounds to half precision: llama.cpp the products of adapters, and GELU in its table."""


@dataclass(frozen=True)
class Tiny:
    """A family's random model, and its file."""

    kind: Kind
    reference: Any
    path: Path
    sha256: str


@pytest.fixture(scope="module", params=KINDS, ids=str)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Each family in turn."""
    kind, folder = request.param, tmp_path_factory.mktemp("family")
    model = random_model(kind)
    path = write_model(folder / f"{kind}.gguf", kind, model)
    return Tiny(kind, model, path, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture(autouse=True)
def exact_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values in float32, attention as it stands in the book."""
    real = llama.context_params

    def params(*what: Any, **how: Any) -> Any:
        found = real(*what, **how)
        found.type_k = found.type_v = 0
        found.flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return found

    monkeypatch.setattr(llama, "context_params", params)


def random_ids(count: int = NUM_TOKENS, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB - 3, count).tolist()


@torch.no_grad()
def logprobs(model: Any, ids: list[int]) -> Tensor:
    """Of each token but the first, in nats."""
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(ids)[1:, None])[:, 0]


def torch_base(tiny: Tiny, folder: Path) -> Any:
    return load_torch(GgufModel(tiny.path), tiny.sha256, folder / "cache")


def in_engine(tiny: Tiny, prompt: list[int], response: list[int], adapter: Path | None) -> np.ndarray:
    """Log-probabilities of a response's tokens, but the first, behind a prompt of the base."""
    with LlamaEngine(tiny.path) as engine:
        loaded = engine.load_adapter(adapter) if adapter else None
        with engine.reserve(cells=len(prompt) + len(response) + 2, sequences=1):
            sequence = engine.new_sequence()
            engine.encode(sequence, prompt)
            engine.cross(sequence, loaded)
            (scored,) = engine.score([(sequence, response)])
            engine.release(sequence)
        return np.array(scored.logprobs[1:])


def test_llama_cpp_transformers_and_our_conversion_agree(tiny: Tiny, tmp_path: Path) -> None:
    # GIVEN more tokens than a window holds
    ids = random_ids()
    assert len(ids) > 2 * WINDOW
    # WHEN
    expected = logprobs(tiny.reference, ids)
    ours = logprobs(torch_base(tiny, tmp_path), ids)
    engine = in_engine(tiny, ids[:1], ids[1:], None)
    # THEN
    assert (ours - expected).abs().max() < BOUND
    bound = HALF_BOUND if tiny.kind.arch == "gemma3" else BOUND
    assert np.abs(engine - expected[1:].numpy()).max() < bound
    assert expected.std() > 0.5  # what the weights say matters


def with_adapter(tiny: Tiny, folder: Path) -> PeftModel:
    model = new_adapter(torch_base(tiny, folder), LoraSettings(rank=32), seed=0)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02)
        if "lora_" in name:
            parameter.data = parameter.data.half().float()
    save_adapter(model, folder / "adapter", base_name="t", base_sha256=tiny.sha256, opening=OPENING)
    return model


@pytest.mark.parametrize(("prompt_tokens", "response_tokens"), [(5, 10), (9, 30), (40, 30)])
def test_an_adapter_says_the_same_in_training_in_peft_and_in_llama_cpp(
    tiny: Tiny, tmp_path: Path, prompt_tokens: int, response_tokens: int
) -> None:
    # GIVEN all within a window, a prompt that is within it, one that is not; an adapter on every linear
    prompt, response = random_ids(prompt_tokens, 1), [*OPENING, *random_ids(response_tokens, 2)]
    model, file = with_adapter(tiny, tmp_path), GgufModel(tiny.path)
    exported = tmp_path / "a.gguf"
    export_adapter(tmp_path / "adapter", file, exported, base_sha256=tiny.sha256, grid=AdapterGrid.F16)
    # WHEN
    other = (random_ids(4, 3), [*OPENING, *random_ids(6, 4)])
    rows = [(p, r, (False,) + (True,) * (len(r) - 1)) for p, r in ((prompt, response), other)]
    with torch.no_grad():
        masked = MaskedLora(model)(ResponseBatch.of(rows))[0, 1:].numpy()
    peft = PeftModel.from_pretrained(torch_base(tiny, tmp_path), tmp_path / "adapter")
    in_peft = logprobs(peft, prompt + response)[len(prompt) :].numpy()
    engine, plain = (in_engine(tiny, prompt, response, one) for one in (exported, None))
    # THEN
    assert np.abs(masked - in_peft).max() < BOUND
    assert np.abs(masked - engine).max() < HALF_BOUND
    assert np.abs(engine - plain).max() > 0.1


def test_an_adapter_learns_and_comes_back_from_what_ships(tiny: Tiny, tmp_path: Path) -> None:
    # GIVEN
    model, file = with_adapter(tiny, tmp_path), GgufModel(tiny.path)
    response = [*OPENING, *random_ids(8, 2)]
    row = (random_ids(5, 1), response, (False,) * len(OPENING) + (True,) * 8)
    masked, before = MaskedLora(model), []
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    # WHEN it is trained, saved, exported and imported again
    for _ in range(8):
        loss = -masked(ResponseBatch.of([row])).sum() / 8
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        before.append(loss.item())
    save_adapter(model, tmp_path / "adapter", base_name="t", base_sha256=tiny.sha256, opening=OPENING)
    export_adapter(
        tmp_path / "adapter", file, tmp_path / "a.gguf", base_sha256=tiny.sha256, grid=AdapterGrid.F16
    )
    about = {"base_name": "t", "base_sha256": tiny.sha256, "opening": OPENING}
    import_adapter(tmp_path / "a.gguf", file, tmp_path / "back", **about)
    settings = settings_of(tmp_path / "back")
    again = new_adapter(torch_base(tiny, tmp_path), settings, seed=3)
    load_adapter(again, tmp_path / "back", base_sha256=tiny.sha256)
    # THEN
    assert settings == LoraSettings(rank=32, alpha=64.0)
    assert before[-1] < 0.7 * before[0]
    with torch.no_grad():
        (one, same) = (MaskedLora(m)(ResponseBatch.of([row])) for m in (model, again))
    assert (one - same).abs().max() < 5e-3


QUANTIZED = [kind for kind in KINDS if kind.arch not in ("gemma3", "phi3")]


@pytest.mark.parametrize("kind", QUANTIZED, ids=str)
def test_the_base_that_is_made_says_what_the_trained_student_says(kind: Kind, tmp_path: Path) -> None:
    # GIVEN a student of which everything has moved a little
    reference = random_model(kind)
    teacher = load_teacher(write_model(tmp_path / "teacher.gguf", kind, reference), tmp_path)
    transforms = TransformConfig(keys=not teacher.dims.normalises_keys)
    student = make_student(teacher, None, transforms, CorrectionConfig(rank=3))
    stir(student, spread=0.03)
    ids = random_ids()
    # WHEN its base is made
    said = student_logits(student, torch.tensor([ids]))[0]
    path = tmp_path / "base.gguf"
    apply(teacher.path, learned_for(teacher.path, student.learned()), path)
    # THEN transformers says of it what the student says, and so does llama.cpp, which rounds activations
    expected = said[:-1].log_softmax(-1).gather(1, torch.tensor(ids)[1:, None])[:, 0].numpy()
    ours = logprobs(load_torch(GgufModel(path), "ab" * 32, tmp_path / "cache"), ids)
    assert np.abs(ours.numpy() - expected).mean() < 5e-3  # a weight on an edge may be rounded otherwise
    engine = in_engine(Tiny(kind, None, path, ""), ids[:1], ids[1:], None)
    assert np.abs(engine - expected[1:]).mean() < 0.25


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in QUANTIZED], ids=str)
def test_a_family_that_is_not_quantized_is_refused_by_name(kind: Kind, tmp_path: Path) -> None:
    path = write_model(tmp_path / "teacher.gguf", kind, random_model(kind))
    with pytest.raises(ModelFileError, match=f"family '{kind.arch}' can't be quantized: it"):
        apply(path, learned_for(path, {}), tmp_path / "base.gguf")
    assert not (tmp_path / "base.gguf").exists()


def test_forks_cuts_and_saved_states_change_nothing_of_what_follows(tiny: Tiny) -> None:
    # GIVEN more tokens than a window holds
    prompt, wrong, rest = random_ids(50, 5), random_ids(20, 6), random_ids(20, 7)
    fresh = in_engine(tiny, prompt, rest, None)
    with LlamaEngine(tiny.path) as engine, engine.reserve(cells=400, sequences=4):
        # WHEN a sequence is cut back, put back from bytes, or forked
        cut = engine.new_sequence()
        engine.encode(cut, [*prompt, *wrong])
        engine.trim(cut, len(prompt) - 1)
        back = engine.new_sequence()
        engine.restore(back, engine.save(cut), len(prompt) - 1)
        # THEN
        for sequence in (engine.fork(cut), back, cut):
            engine.encode(sequence, prompt[-1:])
            (scored,) = engine.score([(sequence, rest)])
            assert np.abs(np.array(scored.logprobs[1:]) - fresh).max() < HALF_BOUND


def test_it_chats_and_thinks_under_a_budget(tiny: Tiny) -> None:
    with load(tiny.path) as model:
        for mode in ("chat", "think"):
            response = model.ask("What is 2+2?", mode=mode, budget=64, max_tokens=64, streams=2)
            assert all(0 < one.trace.num_tokens <= 64 for one in response.candidates)


def test_a_part_of_a_matrix_can_not_be_a_target() -> None:
    kind = next(one for one in KINDS if one.name == "phi3")
    model = random_model(kind)
    with pytest.raises(
        ConfigError, match=r"has q_proj, and this base has q_proj, k_proj, v_proj in one matrix"
    ):
        new_adapter(model, LoraSettings(rank=4, targets=("q_proj", "o_proj")), 0)
