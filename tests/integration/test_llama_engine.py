"""The engine on a real model (SmolLM2-135M): forks, adapters, states, samplers, limits, release."""

from __future__ import annotations

import ctypes
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgereason.bench.files import write_random_adapter
from edgereason.core.types import Sampling
from edgereason.engine.base import Adapter, Feed, Sequence
from edgereason.engine.handles import KvType
from edgereason.engine.llama import LlamaEngine
from edgereason.engine.native import C
from edgereason.engine.scoring import SCORE_TOKENS
from edgereason.errors import (
    AdapterCrossing,
    BundleError,
    ContextOverflow,
    EngineError,
    ModelFileError,
    NoRoomNow,
)
from edgereason.quant.gguf_file import Reader

pytestmark = pytest.mark.model
GREEDY = Sampling(temperature=0)
STORY = "Once upon a time there was a small engine that could think before it spoke. One day"


THREADS = 2
"""Also where a worker has one core: native batches are cut for several threads, and must not depend on it."""


@pytest.fixture(params=[True, False], ids=["shared cells", "own cells"])
def engine(request: pytest.FixtureRequest, real_model: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine(real_model, threads=THREADS, shares_cells=request.param) as engine:
        yield engine


@pytest.fixture
def shared(real_model: Path) -> Iterator[LlamaEngine]:
    """An engine whose cells are one pool."""
    with LlamaEngine(real_model, threads=THREADS) as engine:
        yield engine


@pytest.fixture(scope="session")
def adapter_paths(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two random LoRAs on all linears, strong enough to change logits."""
    folder = tmp_path_factory.mktemp("adapters")
    paths = folder / "1.gguf", folder / "2.gguf"
    for seed, path in enumerate(paths, start=1):
        write_random_adapter(real_model, path, rank=32, seed=seed)
    return paths


@pytest.fixture
def adapter_path(adapter_paths: tuple[Path, Path]) -> Path:
    """The first of the two."""
    return adapter_paths[0]


@pytest.fixture(scope="session")
def output_matrix(real_model: Path) -> np.ndarray:
    """The model's head in float32, (V, hidden size)."""
    tensors = {t.name: t for t in Reader(real_model).tensors}
    head = tensors.get("output.weight", tensors["token_embd.weight"])
    return gguf.quants.dequantize(head.data, head.tensor_type)


def encoded(engine: LlamaEngine, text: str) -> Sequence:
    sequence = engine.new_sequence()
    engine.encode(sequence, engine.tokenize(text))
    return sequence


def greedy_tokens(engine: LlamaEngine, sequence: Sequence, count: int) -> list[int]:
    sampler = engine.sampler(GREEDY, seed=0)
    drawn = [engine.sample(sequence, sampler).token]
    while len(drawn) < count:
        drawn.append(engine.step([Feed(sequence, drawn[-1:], sampler)])[0].token)
    return drawn


def test_a_lone_fork_has_its_parents_logits_bit_for_bit(engine: LlamaEngine) -> None:
    with engine.reserve(cells=512, sequences=4):
        alone = encoded(engine, STORY)
        engine.encode(alone, [30])
        expected = engine.logits(alone)
        engine.release(alone)
        fork = engine.fork(parent := encoded(engine, STORY))
        engine.release(parent)
        engine.encode(fork, [30])
        assert np.array_equal(engine.logits(fork), expected)


def test_forks_stepped_together_have_the_logits_of_separate_prefills(engine: LlamaEngine) -> None:
    tails = [engine.tokenize(t) for t in (" the", " a man came by and", "!", " nobody knew why it was so")]
    with engine.reserve(cells=1024, sequences=16):
        expected = []
        for tail in tails:
            alone = encoded(engine, STORY)
            engine.encode(alone, tail)
            expected.append(engine.logits(alone))
            engine.release(alone)
        parent = encoded(engine, STORY)
        forks = [engine.fork(parent) for _ in tails]
        sampler = engine.sampler(GREEDY, seed=0)
        drawn = engine.step([Feed(f, t, sampler) for f, t in zip(forks, tails, strict=True)])
        for fork, token, logits in zip(forks, drawn, expected, strict=True):
            got = engine.logits(fork)
            # Another batch shape, another order of summation: f16 KV and 8-bit activations leave ≈ 1e-2.
            assert np.abs(got - logits).max() < 0.02 * np.abs(logits).max()
            assert token.token == int(got.argmax())


def test_forks_do_not_change_their_parent(engine: LlamaEngine) -> None:
    with engine.reserve(cells=512, sequences=4):
        parent = encoded(engine, STORY)
        before = greedy_tokens(engine, engine.fork(parent), 12)
        engine.encode(parent, [30])
        untouched = engine.logits(parent)
        other = encoded(engine, STORY)
        engine.encode(other, [30])
        assert np.argmax(engine.logits(other)) == np.argmax(untouched)
        assert len(before) == 12


def test_the_adapter_changes_what_follows_and_off_is_the_base_bit_for_bit(
    engine: LlamaEngine, adapter_path: Path
) -> None:
    opening = engine.tokenize("<think>\n")
    with engine.reserve(cells=512, sequences=4):
        base = encoded(engine, STORY)
        expected = engine.logits(base)
        engine.release(base)

        adapter = engine.load_adapter(adapter_path)
        prompt = encoded(engine, STORY)
        assert np.array_equal(engine.logits(prompt), expected)  # loaded is not yet on

        plain, adapted = engine.fork(prompt), engine.fork(prompt)
        engine.encode(plain, opening)
        without = engine.logits(plain)
        engine.cross(adapted, adapter)
        engine.encode(adapted, opening)
        assert np.abs(engine.logits(adapted) - without).max() > 0.1

        for sequence in (prompt, plain, adapted):
            engine.release(sequence)
        again = encoded(engine, STORY)  # after a crossing the base is the base again
        assert np.array_equal(engine.logits(again), expected)
        engine.release(again)
        engine.unload_adapter(adapter)
        after = encoded(engine, STORY)
        assert np.array_equal(engine.logits(after), expected)


def test_one_step_serves_base_and_adapter_sequences_side_by_side(
    engine: LlamaEngine, adapter_path: Path
) -> None:
    adapter = engine.load_adapter(adapter_path)
    with engine.reserve(cells=512, sequences=6):
        prompt = encoded(engine, STORY)
        chat, think = engine.fork(prompt), engine.fork(prompt)
        engine.cross(think, adapter)
        sampler = engine.sampler(GREEDY, seed=0)
        together = [d.token for d in engine.step([Feed(think, [30], sampler), Feed(chat, [30], sampler)])]
        alone = []
        for encoder in (adapter, None):
            single = engine.fork(prompt)
            engine.cross(single, encoder)
            alone.append(engine.step([Feed(single, [30], sampler)])[0].token)
        assert together == alone
        with pytest.raises(AdapterCrossing):
            engine.cross(think, None)


def test_an_adapter_can_be_hot_swapped_for_another(
    engine: LlamaEngine, adapter_paths: tuple[Path, Path], tmp_path: Path
) -> None:
    seen = []
    for number in (0, 1, 0):
        shutil.copyfile(adapter_paths[number], tmp_path / "swap.gguf")
        adapter = engine.load_adapter(tmp_path / "swap.gguf")
        with engine.reserve(cells=512, sequences=4):
            sequence = encoded(engine, STORY)
            engine.cross(sequence, adapter)
            engine.encode(sequence, [30])
            seen.append(engine.logits(sequence))
            engine.release(sequence)
        engine.unload_adapter(adapter)
    assert not np.array_equal(seen[0], seen[1])
    assert np.array_equal(seen[0], seen[2])


def test_an_adapter_that_is_none_is_refused(engine: LlamaEngine, real_model: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"not a LoRA adapter|tensor of ggml's type"):
        engine.load_adapter(real_model)
    with pytest.raises(BundleError, match="no adapter file"):
        engine.load_adapter(tmp_path / "missing.gguf")
    assert engine.num_handles == 1  # nothing was kept


def test_prompt_states_have_a_row_a_token_and_do_not_look_ahead(engine: LlamaEngine) -> None:
    tokens = engine.tokenize(STORY * 40)  # more than one chunk of 512
    with engine.reserve(cells=2048, sequences=4):
        whole: list[np.ndarray] = []
        engine.encode(first := engine.new_sequence(), tokens, on_states={-2: whole.append})
        engine.release(first)
        part: list[np.ndarray] = []
        engine.encode(engine.new_sequence(), tokens[:100], on_states={-2: part.append})
    rows, head = np.concatenate(whole), np.concatenate(part)
    assert rows.shape == (len(tokens), engine.info.hidden_size)
    assert [len(chunk) for chunk in whole] == [512, len(tokens) - 512]
    norms = np.linalg.norm(rows, axis=1)
    assert norms[0] > 5 * np.median(norms)  # the attention sink at position 0
    cosine = (rows[:100] * head).sum(1) / (np.linalg.norm(rows[:100], axis=1) * np.linalg.norm(head, axis=1))
    assert cosine.min() > 0.999


def test_several_layers_come_in_one_pass_as_each_comes_alone(engine: LlamaEngine) -> None:
    tokens, layers = engine.tokenize(STORY), (-4, -2, -engine.info.num_layers)

    def rows_of(*asked: int) -> list[np.ndarray]:
        found: dict[int, list[np.ndarray]] = {layer: [] for layer in asked}
        takes = {layer: chunks.append for layer, chunks in found.items()}
        with engine.reserve(cells=512, sequences=1):
            engine.encode(sequence := engine.new_sequence(), tokens, on_states=takes)
            engine.release(sequence)
        return [np.concatenate(chunks) for chunks in found.values()]

    together, alone = rows_of(*layers), [rows_of(layer)[0] for layer in layers]
    assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))
    first, last = together[2], together[1]
    assert not np.allclose(first, last, atol=1.0)
    for layer in (-1, 0, -engine.info.num_layers - 1):
        with pytest.raises(EngineError, match=f"counted from the end, got {layer}"):
            rows_of(layer)


def test_final_norm_states_times_the_output_matrix_are_the_logits(
    engine: LlamaEngine, output_matrix: np.ndarray
) -> None:
    texts = [engine.tokenize(STORY), engine.tokenize("The capital of France is")]
    with engine.reserve(cells=512, sequences=4):
        sequences = [engine.new_sequence() for _ in texts]
        states = engine.states(list(zip(sequences, texts, strict=True)))
        logits = [engine.logits(sequence) for sequence in sequences]
    for state, expected in zip(states, logits, strict=True):
        got = output_matrix @ state
        assert np.corrcoef(got, expected)[0, 1] > 0.999
        # llama.cpp rounds the state to 8 bits first: tokens that are nearly as likely may change places.
        assert got.max() - got[expected.argmax()] < 0.1


def test_states_of_base_and_adapter_sequences_come_in_the_order_asked_for(
    engine: LlamaEngine, adapter_path: Path
) -> None:
    adapter = engine.load_adapter(adapter_path)
    tokens = engine.tokenize(" Is this right?")
    with engine.reserve(cells=512, sequences=8):
        prompt = encoded(engine, STORY)

        def states(encoders: list[Adapter | None]) -> np.ndarray:
            forks = [engine.fork(prompt) for _ in encoders]
            for fork, encoder in zip(forks, encoders, strict=True):
                engine.cross(fork, encoder)
            found = engine.states([(fork, tokens) for fork in forks])
            for fork in forks:
                engine.release(fork)
            return found

        mixed, on, off = states([None, adapter, None]), states([adapter]), states([None])
    apart = np.linalg.norm(on[0] - off[0])  # what the adapter changes; batch shapes change far less
    for got, expected in zip(mixed, (off[0], on[0], off[0]), strict=True):
        assert np.linalg.norm(got - expected) < 0.5 * apart


def test_states_of_a_step_are_those_of_a_plain_encoding_whoever_steps_beside(
    engine: LlamaEngine, adapter_path: Path
) -> None:
    adapter = engine.load_adapter(adapter_path)
    texts = ["One", " two three", " four five six seven", " eight", " nine ten"]
    with engine.reserve(cells=512, sequences=12):
        feeds, taken, expected = [], [], []
        for number, text in enumerate(texts):
            prompt, tokens = encoded(engine, STORY), engine.tokenize(text)
            sequence, again = engine.fork(prompt), engine.fork(prompt)
            for one in (sequence, again) if number % 2 else ():
                engine.cross(one, adapter)
            engine.release(prompt)
            alone: dict[int, list[np.ndarray]] = {-4: [], -2: []}
            engine.encode(again, tokens, on_states={layer: rows.append for layer, rows in alone.items()})
            engine.release(again)
            expected.append(alone)
            # One is not read, and one is read of a single layer.
            layers = {1: (), 3: (-2,)}.get(number, (-4, -2))
            taken.append({layer: [] for layer in layers})
            takes = {layer: rows.append for layer, rows in taken[-1].items()}
            feeds.append(Feed(sequence, tokens, engine.sampler(GREEDY, 0), on_states=takes or None))
        engine.step(feeds)
        for feed, some, alone in zip(feeds, taken, expected, strict=True):
            for layer, rows in some.items():
                found, by_itself = np.concatenate(rows), np.concatenate(alone[layer])
                assert found.shape == (len(feed.tokens), engine.info.hidden_size)
                error = np.linalg.norm(found - by_itself, axis=1) / np.linalg.norm(by_itself, axis=1)
                assert error.max() < 0.05  # what is encoded beside changes rounding
            assert feed.sequence.length == len(engine.tokenize(STORY)) + len(feed.tokens)


def test_a_feed_longer_than_a_batch_is_encoded_in_pieces(engine: LlamaEngine) -> None:
    tokens = engine.tokenize(STORY * 60)[:1050]
    with engine.reserve(cells=2400, sequences=4):
        first, second = engine.new_sequence(), engine.new_sequence()
        drawn = engine.step([Feed(first, tokens, engine.sampler(GREEDY, 0))])[0]
        engine.encode(second, tokens)
        assert (first.length, drawn.token) == (1050, int(engine.logits(second).argmax()))


def test_a_draw_may_be_kept_from_ending_the_turn(smollm2: Path) -> None:
    # Six layers do not know where a turn ends.
    with LlamaEngine(smollm2) as engine, engine.reserve(cells=512, sequences=4):
        sequence = engine.new_sequence()
        asked = "<|im_start|>user\nSay only: yes<|im_end|>\n<|im_start|>assistant\nYes."
        engine.encode(sequence, engine.tokenize(asked, special=True))
        ranked = np.argsort(engine.logits(sequence))[::-1]
        assert engine.is_end(engine.sample(sequence, engine.sampler(GREEDY, 0)).token)
        kept = engine.sample(sequence, engine.sampler(GREEDY, 0), forbid_end=True).token
        assert kept == next(int(token) for token in ranked if not engine.is_end(int(token)))


def test_a_closed_engine_refuses_instead_of_crashing(real_model: Path) -> None:
    engine = LlamaEngine(real_model, threads=THREADS)
    reservation = engine.reserve(cells=256, sequences=2)
    sequence = encoded(engine, STORY)
    sampler = engine.sampler(GREEDY, 0)
    engine.close()
    for call in (
        lambda: engine.tokenize("hi"),
        lambda: engine.is_end(2),
        lambda: engine.reserve(cells=10, sequences=1),
        lambda: engine.encode(sequence, [30]),
        lambda: engine.sample(sequence, sampler),
        lambda: engine.fork(sequence),
        lambda: engine.load_adapter(real_model),
    ):
        with pytest.raises(EngineError):
            call()
    engine.release(sequence)
    reservation.close()


def test_a_context_that_can_not_be_made_leaves_an_engine_that_works(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.reserve(cells=256, sequences=2):
        pass
    with monkeypatch.context() as patch, pytest.raises(EngineError, match=r"no context of \d+ cells"):
        patch.setattr(C, "llama_init_from_model", lambda *_: None)
        engine.reserve(cells=10_000, sequences=2)
    with engine.reserve(cells=256, sequences=2):
        encoded(engine, STORY)


def test_an_adapter_is_unloaded_once_and_gone_for_good(engine: LlamaEngine, adapter_path: Path) -> None:
    old = engine.load_adapter(adapter_path)
    engine.unload_adapter(old)
    with pytest.raises(EngineError, match="not loaded"):
        engine.unload_adapter(old)
    engine.load_adapter(adapter_path)
    with engine.reserve(cells=256, sequences=2), pytest.raises(EngineError, match="unloaded"):
        engine.cross(engine.new_sequence(), old)


def test_log_probabilities_are_of_the_full_softmax_at_the_samplers_temperature(engine: LlamaEngine) -> None:
    with engine.reserve(cells=512, sequences=4):
        sequence = encoded(engine, STORY)
        for temperature, stated_at in ((0.5, 0.5), (2.0, 2.0), (0.0, 1.0)):
            drawn = engine.sample(
                sequence, engine.sampler(Sampling(temperature=temperature, top_p=1.0), 3), want_logprob=True
            )
            scaled = engine.logits(sequence).astype(np.float64) / stated_at
            expected = scaled[drawn.token] - np.logaddexp.reduce(scaled)
            assert drawn.logprob == pytest.approx(expected, abs=1e-4)


def scored_one_by_one(engine: LlamaEngine, sequence: Sequence, tokens: list[int]) -> np.ndarray:
    """Log-probabilities by feeding a token at a time and taking a log-softmax of the logits before it."""
    found = []
    for token in tokens:
        logits = engine.logits(sequence).astype(np.float64)
        found.append(logits[token] - np.logaddexp.reduce(logits))
        engine.encode(sequence, [token])
    return np.array(found)


def test_scores_are_the_log_softmax_of_one_token_at_a_time(engine: LlamaEngine) -> None:
    prefix, tail = engine.tokenize(STORY), engine.tokenize(" it said: the river is frozen, and so am I.")
    with engine.reserve(cells=512, sequences=2):
        engine.encode(alone := engine.new_sequence(), prefix)
        expected = scored_one_by_one(engine, alone, tail)
        last = engine.logits(alone)
        engine.release(alone)
        engine.encode(sequence := engine.new_sequence(), prefix)
        (scored,) = engine.score([(sequence, tail)])
        assert scored.logprobs == pytest.approx(expected, abs=1e-3)
        assert np.abs(engine.logits(sequence) - last).max() < 1e-2  # its last token's logits are fresh
        assert sequence.length == len(prefix) + len(tail)


def test_scores_of_a_long_text_do_not_depend_on_where_it_is_cut(engine: LlamaEngine) -> None:
    tokens = engine.tokenize(STORY * 20)[: 3 * SCORE_TOKENS + 10]  # four native batches
    cuts = (0, 7, 40, 41, 2 * SCORE_TOKENS, len(tokens))
    with engine.reserve(cells=512, sequences=2):
        (whole,) = engine.score([(first := engine.new_sequence(), tokens)])
        engine.release(first)
        second = engine.new_sequence()
        parts = [engine.score([(second, tokens[a:b])])[0].logprobs for a, b in pairwise(cuts)]
    assert np.isnan(whole.logprobs[0])  # nothing precedes the first token
    assert np.isfinite(whole.logprobs[1:]).all()
    assert np.concatenate(parts)[1:] == pytest.approx(whole.logprobs[1:], abs=1e-3)


def test_forks_are_scored_together_as_alone_and_leave_their_parent_as_it_was(engine: LlamaEngine) -> None:
    tails = [engine.tokenize(t) for t in (" a", " nobody came by, and it thought" * 8, " it met a man")]
    assert len(tails[1]) > SCORE_TOKENS  # batches are cut inside a tail, and one holds two tails' parts
    with engine.reserve(cells=512, sequences=6):
        alone = []
        for tail in tails:
            alone.append(engine.score([(sequence := encoded(engine, STORY), tail)])[0])
            engine.release(sequence)
        parent = encoded(engine, STORY)
        length, cells = parent.length, engine.used_cells
        forks = [engine.fork(parent) for _ in tails]
        together = engine.score(list(zip(forks, tails, strict=True)))
        for got, expected in zip(together, alone, strict=True):
            assert got.logprobs == pytest.approx(expected.logprobs, abs=1e-3)
        for fork in forks:
            engine.release(fork)
        assert (parent.length, engine.used_cells) == (length, cells)
        engine.encode(parent, [30])
        after = engine.logits(parent)
        engine.release(parent)
        engine.encode(fresh := encoded(engine, STORY), [30])
        assert np.array_equal(engine.logits(fresh), after)


def test_the_top_token_is_the_one_that_a_greedy_decode_draws(engine: LlamaEngine) -> None:
    with engine.reserve(cells=512, sequences=4):
        parent = encoded(engine, STORY)
        fork = engine.fork(parent)
        drawn = greedy_tokens(engine, parent, 6)
        engine.release(parent)
        engine.release(fork)
        wrong = [*drawn[:3], (drawn[3] + 1) % engine.info.vocab_size, *drawn[4:]]
        (right_scores,) = engine.score([(encoded(engine, STORY), drawn)])
        (wrong_scores,) = engine.score([(encoded(engine, STORY), wrong)])
    assert right_scores.is_top.all()
    assert wrong_scores.is_top[:4].tolist() == [True, True, True, False]


def test_sequences_of_base_and_adapter_are_scored_in_one_call(
    engine: LlamaEngine, adapter_path: Path
) -> None:
    adapter = engine.load_adapter(adapter_path)
    tail = engine.tokenize(" the cold wind sang")
    with engine.reserve(cells=512, sequences=6):
        prompt = encoded(engine, STORY)
        adapted, plain = engine.fork(prompt), engine.fork(prompt)
        engine.cross(adapted, adapter)
        with_adapter, without = engine.score([(adapted, tail), (plain, tail)])
        engine.release(prompt)
        expected = engine.score([(encoded(engine, STORY), tail)])[0]
    assert without.logprobs == pytest.approx(expected.logprobs, abs=1e-3)
    assert with_adapter.logprobs[0] == without.logprobs[0]  # the prompt is the base's
    assert np.abs(with_adapter.logprobs[1:] - without.logprobs[1:]).min() > 0.02


def test_sampling_follows_the_model_and_its_seed(engine: LlamaEngine) -> None:
    with engine.reserve(cells=512, sequences=4):
        sequence = encoded(engine, "The capital of France is")
        logits = engine.logits(sequence).astype(np.float64)
        assert engine.sample(sequence, engine.sampler(GREEDY, 0)).token == int(logits.argmax())
        top5 = set(np.argsort(logits)[-5:].tolist())
        narrow = Sampling(temperature=1.0, top_k=5, top_p=1.0)
        counts = Counter(engine.sample(sequence, engine.sampler(narrow, seed)).token for seed in range(2000))
        assert set(counts) <= top5
        weights = np.exp(logits[sorted(top5)] - logits.max())
        shares = weights / weights.sum()
        for token, share in zip(sorted(top5), shares, strict=True):
            # four binomial standard deviations, five tokens: a false alarm once in 3,000 seeds' worth
            assert abs(counts[token] / 2000 - share) < 4 * np.sqrt(share * (1 - share) / 2000) + 1e-3
        same = [engine.sample(sequence, engine.sampler(narrow, 7)).token for _ in range(3)]
        assert len(set(same)) == 1


def test_a_whole_softmax_is_drawn_from_as_it_is(engine: LlamaEngine) -> None:
    whole = Sampling(temperature=1.5, top_k=0, top_p=1.0)
    with engine.reserve(cells=512, sequences=4):
        sequence = encoded(engine, "The capital of France is")
        logits = engine.logits(sequence).astype(np.float64) / 1.5
        shares = np.exp(logits - np.logaddexp.reduce(logits))
        sampler = engine.sampler(whole, 0)
        drawn = np.array([engine.sample(sequence, sampler).token for _ in range(4000)])
        likely = np.argsort(shares)[-8:]
        for share, got in (*((shares[i], drawn == i) for i in likely), (shares[:9999].sum(), drawn < 9999)):
            # four binomial standard deviations, nine shares: a false alarm once in 1,700 seeds
            assert abs(got.mean() - share) < 4 * np.sqrt(share * (1 - share) / 4000)
        again = engine.sampler(whole, 0)
        assert [engine.sample(sequence, again).token for _ in range(50)] == drawn[:50].tolist()


def test_stale_logits_are_refused_not_mixed_up(engine: LlamaEngine) -> None:
    with engine.reserve(cells=512, sequences=4):
        first, _ = encoded(engine, STORY), encoded(engine, "Another")
        with pytest.raises(EngineError, match="fresh"):
            engine.sample(first, engine.sampler(GREEDY, 0))


def test_the_native_cache_overflows_exactly_where_the_ledger_says(real_model: Path) -> None:
    with (
        LlamaEngine(real_model, threads=THREADS, context_tokens=256) as engine,
        engine.reserve(cells=256, sequences=2),
    ):
        assert engine.num_cells == 256
        sequence = engine.new_sequence()
        engine.encode(sequence, engine.tokenize(STORY * 20)[:250])
        with pytest.raises(ContextOverflow) as caught:
            engine.encode(sequence, [30] * 7)
        assert (caught.value.needed_tokens, caught.value.available_tokens) == (257, 256)
        engine.encode(sequence, [30] * 6)  # the refusal left the sequence as it was
        assert sequence.length == engine.used_cells == 256


def test_a_context_of_open_size_grows_only_while_nobody_uses_it(shared: LlamaEngine) -> None:
    with shared.reserve(cells=300, sequences=2):
        assert shared.num_cells == 512
        with pytest.raises(NoRoomNow):
            shared.reserve(cells=5000, sequences=2)
    with shared.reserve(cells=5000, sequences=2):
        assert shared.num_cells == 5120


@pytest.mark.parametrize("kv", ["f16", "q8_0"])
def test_bytes_a_cell_are_what_llama_cpp_stores(real_model: Path, kv: str) -> None:
    with LlamaEngine(real_model, threads=THREADS, kv=kv) as engine, engine.reserve(cells=600, sequences=2):  # type: ignore[arg-type]
        sequence = engine.new_sequence()
        sizes = []
        for _ in range(2):
            engine.encode(sequence, engine.tokenize(STORY * 20)[:200])
            sizes.append(C.llama_state_seq_get_size(engine.native_context, sequence.slot))
        # each cell also stores its position and sequence number: 12 bytes
        assert (sizes[1] - sizes[0]) / 200 == engine.info.kv_bytes_per_cell + 12


def test_prefill_can_be_stopped_between_chunks(engine: LlamaEngine) -> None:
    with engine.reserve(cells=2048, sequences=2):
        sequence = engine.new_sequence()
        assert not engine.encode(sequence, engine.tokenize(STORY * 80), should_stop=lambda: True)
        assert sequence.length == 512


def test_every_handle_is_released(real_model: Path, adapter_path: Path) -> None:
    engine = LlamaEngine(real_model, threads=THREADS)
    adapter = engine.load_adapter(adapter_path)
    with engine.reserve(cells=512, sequences=4):
        sequence = encoded(engine, STORY)
        engine.cross(sequence, adapter)
        engine.sampler(GREEDY, 0)
        assert engine.num_handles == 5  # model, context, batch, adapter, sampler
    engine.close()
    engine.close()
    assert engine.num_handles == 0


def test_tokens_that_split_a_character_come_out_whole(engine: LlamaEngine) -> None:
    from edgereason.engine.base import TextDecoder

    text = "漢字 and 😀🏳️‍🌈 and naïve"
    tokens = engine.tokenize(text)
    assert any(not _is_utf8(engine.piece(token)) for token in tokens)  # the test has something to test
    decoder = TextDecoder()
    assert "".join(decoder.push(engine.piece(token)) for token in tokens) + decoder.flush() == text


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_missing_foreign_and_truncated_files_are_refused_by_name(real_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no model file"):
        LlamaEngine(tmp_path / "missing.gguf")
    foreign = tmp_path / "foreign.gguf"
    foreign.write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(ModelFileError, match="not a GGUF file"):
        LlamaEngine(foreign)
    with pytest.raises(ModelFileError, match="can't be read"):
        LlamaEngine(tmp_path)
    with real_model.open("rb") as file:
        for keep in (12, 100_000, 40_000_000):
            truncated = tmp_path / "truncated.gguf"
            file.seek(0)
            truncated.write_bytes(file.read(keep))
            with pytest.raises(ModelFileError, match="truncated"):
                LlamaEngine(truncated)


def test_no_native_log_reaches_the_terminal(real_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with LlamaEngine(real_model, threads=THREADS) as engine, engine.reserve(cells=300, sequences=1):
        encoded(engine, STORY)
    assert capfd.readouterr() == ("", "")


def test_the_bindings_struct_still_has_the_callback_that_states_come_through() -> None:
    assert dict(C.llama_context_params._fields_)["cb_eval"] is C.ggml_backend_sched_eval_callback
    assert ctypes.sizeof(C.ggml_backend_sched_eval_callback) == ctypes.sizeof(ctypes.c_void_p)


def test_a_trimmed_sequence_goes_on_bit_for_bit_like_one_that_was_never_longer(engine: LlamaEngine) -> None:
    with engine.reserve(cells=512, sequences=4):
        short = encoded(engine, STORY)
        engine.encode(short, [30, 31])
        expected = engine.logits(short)
        engine.release(short)
        long = encoded(engine, STORY)
        length, cells = long.length, engine.used_cells
        engine.encode(long, engine.tokenize(" something that is taken back"))
        engine.trim(long, length)
        assert (long.length, engine.used_cells) == (length, cells)
        with pytest.raises(EngineError, match="fresh"):
            engine.logits(long)
        engine.encode(long, [30, 31])
        assert np.array_equal(engine.logits(long), expected)


def test_trimming_a_parent_leaves_its_forks_alone(engine: LlamaEngine) -> None:
    with engine.reserve(cells=512, sequences=4):
        parent = encoded(engine, STORY)
        length = parent.length
        expected = greedy_tokens(engine, engine.fork(parent), 8)
        engine.encode(parent, [30])
        engine.trim(parent, length)
        fork = engine.fork(parent)
        engine.trim(parent, 4)
        assert (parent.length, fork.length) == (4, length)
        engine.trim(fork, length - 1)
        engine.encode(fork, engine.tokenize(STORY)[-1:])
        assert greedy_tokens(engine, fork, 8) == expected


@pytest.mark.parametrize("kv", ["f16", "q8_0"])
def test_a_kv_put_back_into_another_engine_gives_the_same_logits_bit_for_bit(
    real_model: Path, kv: KvType
) -> None:
    with LlamaEngine(real_model, threads=THREADS, kv=kv) as first, first.reserve(cells=1024, sequences=2):
        tokens = first.tokenize(STORY * 40)[:600]  # more than one chunk
        sequence = first.new_sequence()
        first.encode(sequence, tokens)
        state = first.save(sequence)
        first.encode(sequence, [30])
        expected = first.logits(sequence)
    with LlamaEngine(real_model, threads=THREADS, kv=kv) as second, second.reserve(cells=1024, sequences=2):
        assert second.state_format == first.state_format
        second.restore(sequence := second.new_sequence(), state, len(tokens))
        assert (sequence.length, second.used_cells) == (600, 600)
        second.encode(sequence, [30])
        assert np.array_equal(second.logits(sequence), expected)


def test_bytes_that_are_no_kv_are_refused_and_leave_the_sequence_empty(
    shared: LlamaEngine, real_model: Path
) -> None:
    with LlamaEngine(real_model, threads=THREADS, kv="q8_0") as other, other.reserve(cells=256, sequences=2):
        of_other_type = other.save(encoded(other, STORY))
        assert other.state_format != shared.state_format
    with shared.reserve(cells=256, sequences=2):
        sequence = encoded(shared, STORY)
        length, state, expected = sequence.length, shared.save(sequence), shared.logits(sequence)
        shared.release(sequence)
        sequence = shared.new_sequence()
        for bad in (b"", b"junk" * 100, state[:-1], state[: len(state) // 2], state + b"x", of_other_type):
            with pytest.raises(EngineError, match="not a KV of"):
                shared.restore(sequence, bad, length)
        with pytest.raises(EngineError, match="not a KV of"):
            shared.restore(sequence, state, length + 1)
        shared.encode(sequence, shared.tokenize(STORY))  # it is empty, and can be used
        assert np.array_equal(shared.logits(sequence), expected)


def test_a_kept_sequence_is_told_to_leave_before_the_context_is_made_anew(shared: LlamaEngine) -> None:
    saved: list[bytes] = []
    with shared.reserve(cells=256, sequences=2):
        sequence = encoded(shared, STORY)
    length = sequence.length

    def leave() -> None:
        saved.append(shared.save(sequence))
        shared.release(sequence)
        kept.close()

    kept = shared.keep(sequence, leave)
    with shared.reserve(cells=shared.num_cells - length, sequences=2):
        assert saved == []  # beside it there is room
    with shared.reserve(cells=shared.num_cells - length + 1, sequences=2):
        assert len(saved) == 1
        assert shared.num_cells == 512
        shared.restore(shared.new_sequence(), saved[0], length)


def test_with_cells_of_its_own_a_stream_does_not_feel_the_others_bit_for_bit(
    real_model: Path, adapter_path: Path
) -> None:
    texts = [STORY, "The capital of France is", STORY * 3, "1 2 3 4", "def f(x):", STORY * 2]
    with LlamaEngine(real_model, threads=THREADS, shares_cells=False) as engine:
        adapter = engine.load_adapter(adapter_path)

        def draws(numbers: list[int]) -> dict[int, list[np.ndarray]]:
            """Logits of five steps, of each; every other one thinks, and the longest leaves after two."""
            longest = max(len(engine.tokenize(text)) for text in texts) + 10
            logits: dict[int, list[np.ndarray]] = {number: [] for number in numbers}
            with engine.reserve(cells=6 * longest, sequences=12, longest=longest):
                prompts = [encoded(engine, texts[number]) for number in numbers]
                running = {
                    number: engine.fork(prompt) for number, prompt in zip(numbers, prompts, strict=True)
                }
                for number, sequence in running.items():
                    engine.cross(sequence, adapter if number % 2 else None)
                sampler = engine.sampler(GREEDY, seed=0)
                for step in range(5):
                    if step == 2 and 2 in running:
                        engine.release(running.pop(2))
                    engine.step([Feed(sequence, [40 + step], sampler) for sequence in running.values()])
                    bases = [(n, s) for n, s in running.items() if s.encoder is None]
                    last = [(n, s) for n, s in running.items() if s.encoder is not None] or bases
                    for number, sequence in last:  # the logits of the batch before are gone
                        logits[number].append(engine.logits(sequence))
                for sequence in (*prompts, *running.values()):
                    engine.release(sequence)
            return logits

        together = draws(list(range(len(texts))))
        for number in (1, 3, 5):
            for got, expected in zip(together[number], draws([number])[number], strict=True):
                assert np.array_equal(got, expected)


def test_cells_of_ones_own_are_refused_what_they_can_not_do(real_model: Path) -> None:
    with pytest.raises(EngineError, match="leave its size open"):
        LlamaEngine(real_model, threads=THREADS, shares_cells=False, context_tokens=512)
    with (
        LlamaEngine(real_model, threads=THREADS, shares_cells=False) as engine,
        engine.reserve(cells=256, sequences=2),
    ):
        sequence = encoded(engine, STORY)
        state, length = engine.save(sequence), sequence.length
        with pytest.raises(EngineError, match="cells of their own"):
            engine.restore(engine.new_sequence(), state, length)


def test_cells_of_ones_own_are_made_anew_for_a_longer_sequence_while_nobody_uses_them(
    real_model: Path,
) -> None:
    with LlamaEngine(real_model, threads=THREADS, shares_cells=False) as engine:
        with engine.reserve(cells=3000, sequences=10, longest=300):
            assert engine.num_cells == 10 * 512  # whole steps of cells for each
            with pytest.raises(NoRoomNow):
                engine.reserve(cells=600, sequences=1, longest=600)
        with engine.reserve(cells=600, sequences=2, longest=600):
            assert engine.num_cells == 10 * 768
            sequence = engine.new_sequence()
            engine.encode(sequence, [30] * 768)
            with pytest.raises(ContextOverflow):
                engine.encode(sequence, [30])
