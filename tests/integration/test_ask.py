"""Questions to a real model (SmolLM2-135M), through the Python entrance."""

from __future__ import annotations

import gc
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import edgereason
from edgereason.core.bundle import Bundle, Part, file_sha256
from edgereason.core.chat import CLOSING
from edgereason.core.types import Response, Stop
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import BundleError, ContextOverflow, RequestError
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.events import Answered, Ended
from edgereason.reasoning.model import Model, describe_base
from edgereason.reasoning.pipeline import Pipeline
from edgereason.reasoning.request import make_request
from edgereason.reasoning.runs import drive, drive_many, last_response

pytestmark = pytest.mark.model
QUESTION = "Tom has 3 apples and buys 5 more. How many apples does Tom have?"


def texts(response: Response) -> list[str]:
    return [(c.trace.thinking or "") + c.trace.text for c in response.candidates]


def test_every_stream_answers_within_its_budget_and_the_seed_fixes_the_text(model: Model) -> None:
    first, again = (model.ask(QUESTION, mode="think", streams=4, budget=80, seed=1) for _ in range(2))
    assert first.answer != ""
    finished = [c for c in first.candidates if c.trace.stop is not Stop.CANCELLED]
    assert all(c.answer for c in finished)
    assert all(c.trace.num_tokens <= 80 for c in first.candidates)
    assert texts(first) == texts(again)
    assert len(set(texts(first))) == 4  # four seeds, four traces


def test_a_stream_alone_says_what_it_says_under_another_seed_offset(model: Model) -> None:
    alone = model.ask(QUESTION, mode="think", streams=1, budget=60, seed=2, temperature=0)
    other = model.ask(QUESTION, mode="think", streams=1, budget=60, seed=9, temperature=0)
    assert texts(alone) == texts(other)  # greedy does not depend on the seed


def test_chat_answers_plainly_and_stops_at_max_tokens(model: Model) -> None:
    response = model.ask("Tell me a long story about a whale.", mode="chat", max_tokens=20, temperature=0)
    assert (response.route, response.thinking, response.stop) == ("chat", None, Stop.LENGTH)
    assert response.usage.answer_tokens == 20


def test_questions_share_native_steps_and_get_the_answers_that_each_gets_alone(real_model: Path) -> None:
    questions = [f"Tom has {n} apples and buys 5 more. How many apples does Tom have?" for n in (2, 3, 4)]
    requests = [make_request(q, mode="think", budget=48, streams=2, temperature=0) for q in questions]
    with LlamaEngine(real_model, context_tokens=1536, min_sequences=12) as engine:
        pipeline, batch = Pipeline(engine), Batch(engine)
        alone = [last_response(drive(pipeline.run(r, batch), batch)) for r in requests]
        widths: list[int] = []
        step = engine.step
        engine.step = lambda feeds: (widths.append(len(list(feeds))), step(feeds))[1]  # type: ignore
        starts = [lambda r=r: pipeline.run(r, batch) for r in requests]
        events = list(drive_many(starts, batch, max_running=6))
    together = {i: e.response for i, e in events if isinstance(e, Answered)}
    assert max(widths) == 6
    # Another batch width sums in another order, so a greedy trace may leave its twin late; it starts alike.
    for i, response in enumerate(alone):
        assert texts(together[i])[0][:40] == texts(response)[0][:40]
        assert together[i].usage.prompt_tokens == response.usage.prompt_tokens


def test_a_prompt_longer_than_the_context_names_both_numbers(smollm2: Path) -> None:
    with (
        edgereason.load(smollm2, context_tokens=256) as small,
        pytest.raises(ContextOverflow, match="the prompt"),
    ):
        small.ask("word " * 300)


def test_a_stopped_stream_shows_what_there_is_and_the_model_goes_on(model: Model) -> None:
    told = []
    for event in model.stream(
        QUESTION, mode="think", streams=2, budget=400, should_stop=lambda: len(told) > 20
    ):
        told.append(event)
    assert isinstance(told[-1], Answered)
    assert told[-1].response.stop is Stop.CANCELLED
    assert all(e.candidate.answer is None for e in told if isinstance(e, Ended))
    assert model.ask(QUESTION, mode="think", budget=60).answer


def test_words_that_are_no_choice_are_refused(model: Model) -> None:
    with pytest.raises(RequestError, match="chat, think, auto"):
        model.ask(QUESTION, mode="ponder")


@pytest.fixture
def bundle(smollm2: Path, random_adapter: Path, tmp_path: Path, model: Model) -> Bundle:
    shutil.copyfile(random_adapter, tmp_path / "reasoning.gguf")
    engine = model._engine
    made = Bundle(
        folder=tmp_path,
        base=describe_base(engine, smollm2),
        opening_ids=tuple(engine.tokenize("<think>\n")),
        closing=CLOSING,
        buckets=(64, 128),
        adapter=Part(file="reasoning.gguf", sha256=file_sha256(tmp_path / "reasoning.gguf")),
    )
    made.write()
    return made


def test_a_bundle_is_loaded_by_its_folder_and_its_adapter_is_used(bundle: Bundle, model: Model) -> None:
    with edgereason.load(bundle.folder) as loaded:
        adapted = loaded.ask(QUESTION, mode="think", budget=64, temperature=0)
        chat = loaded.ask(QUESTION, mode="chat", max_tokens=16, temperature=0)
    bare = model.ask(QUESTION, mode="think", budget=64, temperature=0)
    assert texts(adapted) != texts(bare)
    # after a thought with the adapter, chat is the base's, word for word
    assert texts(chat) == texts(model.ask(QUESTION, mode="chat", max_tokens=16, temperature=0))


def test_a_bundle_for_another_base_or_opening_is_refused(bundle: Bundle, smollm2: Path) -> None:
    replace(bundle, base=replace(bundle.base, hidden_size=896)).write()
    with pytest.raises(BundleError, match="another base: hidden_size is 576"):
        edgereason.load(bundle.folder, base=smollm2)
    replace(bundle, opening_ids=(1, 2)).write()
    with pytest.raises(BundleError, match="opens thinking with ids"):
        edgereason.load(bundle.folder, base=smollm2)
    (bundle.folder / "reasoning.gguf").write_bytes(b"GGUF changed")
    bundle.write()
    with pytest.raises(BundleError, match="SHA-256"):
        edgereason.load(bundle.folder, base=smollm2)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def grown_bytes(model: Model, asks: int) -> int:
    for seed in range(3):
        model.ask(QUESTION, mode="think", streams=3, budget=40, seed=seed)
    gc.collect()
    handles, before = model._engine.num_handles, _resident_bytes()  # type: ignore[attr-defined]
    for seed in range(asks):
        model.ask(QUESTION, mode="think", streams=3, budget=40, seed=seed)
    gc.collect()
    assert model._engine.num_handles == handles  # type: ignore[attr-defined]
    assert model._engine.used_cells == 0
    return _resident_bytes() - before


def test_repeated_asks_leak_nothing(shallow: Path) -> None:
    with edgereason.load(shallow) as model:
        assert grown_bytes(model, asks=8) < 4_000_000


@pytest.mark.slow
def test_two_hundred_asks_leak_nothing(model: Model) -> None:
    # A leaked sampler chain alone (151k candidates of 12 bytes at 49k vocabulary: 590 kB) would be 350 MB.
    assert grown_bytes(model, asks=200) < 8_000_000
