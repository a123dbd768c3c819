"""Rollouts: responses of both rollout_engines, and what a vocabulary makes of ids."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_lora import OPENING, lora_model

from edgereason.engine.scripted import END, ScriptedEngine
from edgereason.errors import ContextOverflow, EngineError
from edgereason.train.grpo.rollout import Drawn, EngineRollouts, Vocabulary, Want
from edgereason.train.grpo.torch_rollout import TorchRollouts
from edgereason.train.lora.masked_lora import MaskedLora, ResponseBatch

THINKS = "2+2=4\n</think>\n\nThe final answer is 4."
FORCED = tuple(b"<think>\n")


def want(*, prompt: bytes = b"2+2?", cap: int = 100, count: int = 2, seed: int = 0) -> Want:
    return Want(prompt=tuple(prompt), forced=FORCED, cap_tokens=cap, count=count, seed=seed)


def rollouts(engine: ScriptedEngine, tmp_path: Path, *, max_running: int = 32) -> EngineRollouts:
    made = EngineRollouts(engine, temperature=0.8, max_running=max_running)
    made.reload_adapter(lambda path: path.write_bytes(b"GGUF"), tmp_path / "a.gguf")
    return made


# ── on the engine ────────────────────────────────────────────────────────────────────────────────


def test_a_response_ends_by_itself_or_is_cut_at_its_cap(tmp_path: Path) -> None:
    engine = ScriptedEngine([THINKS, "longer than its cap"])
    ((at_its_cap, _),) = rollouts(engine, tmp_path)([want(cap=len(THINKS))])
    # It is cut there: nobody knows that it would have ended.
    assert (bytes(at_its_cap.ids).decode(), at_its_cap.is_whole) == (THINKS, False)
    ((whole, _),) = rollouts(engine, tmp_path)([want(cap=len(THINKS) + 1)])
    assert whole.ids == (*THINKS.encode(), END)
    assert (whole.is_whole, whole.num_tokens) == (True, len(THINKS))
    assert len(whole.logprobs) == len(whole.ids)
    ((_, cut),) = rollouts(engine, tmp_path)([want(cap=6)])
    assert (bytes(cut.ids), cut.is_whole, cut.num_tokens) == (b"longer", False, 6)


def test_prompts_are_the_bases_and_everything_behind_is_the_adapters(tmp_path: Path) -> None:
    engine = ScriptedEngine([THINKS])
    crossed: list[tuple[int, bool]] = []
    cross = engine.cross
    engine.cross = lambda sequence, adapter: (  # type: ignore[method-assign]
        crossed.append((sequence.length, adapter is not None)),
        cross(sequence, adapter),
    )[1]
    rollouts(engine, tmp_path)([want(count=3)])
    assert crossed == [(4, True)]  # once a want, right behind the prompt's four tokens


def test_responses_come_in_the_order_of_the_wants_and_nothing_is_left_behind(tmp_path: Path) -> None:
    # Two wants of two fit beside each other; seeds pick the replies, the first of which is the longest.
    engine = ScriptedEngine(["aaaaaaaaaaaa", "b", "cc", "d", "e"])
    wants = [want(seed=seed) for seed in (0, 2, 4, 1)]
    found = rollouts(engine, tmp_path, max_running=4)(wants)
    said = [[bytes(one.ids[: one.num_tokens]).decode() for one in drawn] for drawn in found]
    assert said == [["aaaaaaaaaaaa", "b"], ["cc", "d"], ["e", "aaaaaaaaaaaa"], ["b", "cc"]]
    assert engine.live_sequences == 0
    assert engine.used_cells == 0


def test_no_more_responses_are_drawn_at_a_time_than_allowed(tmp_path: Path) -> None:
    engine = ScriptedEngine(["some words"])
    widths: list[int] = []
    step = engine.step

    def watched(feeds):  # type: ignore[no-untyped-def]
        feeds = list(feeds)
        widths.append(len(feeds))
        return step(feeds)

    engine.step = watched  # type: ignore[method-assign]
    rollouts(engine, tmp_path, max_running=4)([want(count=2) for _ in range(5)])
    assert max(widths) == 4


def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    engine = ScriptedEngine([THINKS], context_tokens=64)
    with pytest.raises(ContextOverflow):
        rollouts(engine, tmp_path)([want(cap=100)])
    assert engine.live_sequences == 0


def test_an_engine_that_fails_behind_a_prompt_leaves_nothing(tmp_path: Path) -> None:
    engine = ScriptedEngine([THINKS])
    made, encode, calls = rollouts(engine, tmp_path), engine.encode, iter(range(100))

    def failing(*given, **named):  # type: ignore[no-untyped-def]
        if next(calls) == 3:  # the second want's hint
            raise EngineError("no more")
        return encode(*given, **named)

    engine.encode = failing  # type: ignore[method-assign]
    with pytest.raises(EngineError):
        made([want(), want()])
    assert engine.live_sequences == 0
    assert all(sampler.closed for sampler in engine.samplers)
    made.reload_adapter(lambda path: path.write_bytes(b"GGUF2"), tmp_path / "a.gguf")


def test_a_reloaded_adapter_is_the_one_that_is_written(tmp_path: Path) -> None:
    engine = ScriptedEngine([THINKS])
    made = rollouts(engine, tmp_path)
    before = made._adapter
    made.reload_adapter(lambda path: path.write_bytes(b"GGUF2"), tmp_path / "a.gguf")
    assert made._adapter is not before
    assert made([want(count=1)])[0][0].is_whole


# ── in torch ─────────────────────────────────────────────────────────────────────────────────────

ENDS = frozenset({63})
WANTS = [
    Want(prompt=(1, 2, 3, 4, 5), forced=(*OPENING, 7), cap_tokens=12, count=3, seed=5),
    Want(prompt=(9, 8), forced=(*OPENING, 7, 11, 12), cap_tokens=20, count=2, seed=50),
]


@pytest.fixture(scope="module")
def policy() -> MaskedLora:
    return MaskedLora(lora_model(dropout=0.3), cached_bytes=10**8)


def test_log_probabilities_are_those_of_the_masked_model(policy: MaskedLora) -> None:
    # Independent of caches, padding and positions: the whole responses in one pass, one by one.
    policy.eval()
    found = TorchRollouts(policy, ENDS, temperature=0.8)(WANTS)
    for asked, drawn in zip(WANTS, found, strict=True):
        for one in drawn:
            ids = asked.forced + one.ids
            batch = ResponseBatch.of([(asked.prompt, ids, [True] * len(ids))])
            with torch.no_grad():
                expected, _ = policy.scores(batch, temperature=0.8)
            torch.testing.assert_close(
                torch.tensor(one.logprobs), expected[0, len(asked.forced) :], atol=2e-5, rtol=1e-4
            )


def test_every_response_ends_or_is_cut(policy: MaskedLora) -> None:
    wants = [Want(prompt=(1, 2), forced=OPENING, cap_tokens=60, count=24, seed=0)]
    (found,) = TorchRollouts(policy, ENDS, temperature=1.5)(wants)
    for one in found:
        assert all(token not in ENDS for token in one.ids[:-1])
        assert one.is_whole == (one.ids[-1] in ENDS)
        assert one.is_whole or len(one.ids) == 60
    assert {one.is_whole for one in found} == {True, False}


def test_the_same_seed_draws_the_same_in_any_company(policy: MaskedLora) -> None:
    policy.eval()
    together = TorchRollouts(policy, ENDS, temperature=0.8)(WANTS)
    alone = [TorchRollouts(policy, ENDS, temperature=0.8)([one])[0] for one in WANTS]
    assert [[one.ids for one in drawn] for drawn in together] == [
        [one.ids for one in drawn] for drawn in alone
    ]


def test_batches_of_fewer_rows_draw_the_same(policy: MaskedLora) -> None:
    policy.eval()
    wants = [*WANTS, Want(prompt=(4,), forced=OPENING, cap_tokens=9, count=2, seed=9)]
    whole = TorchRollouts(policy, ENDS, temperature=0.8)
    small = TorchRollouts(policy, ENDS, temperature=0.8, most_rows=4)
    assert [len(batch) for batch in small._batches(wants)] == [1, 2]
    assert [[one.ids for one in drawn] for drawn in small(wants)] == [
        [one.ids for one in drawn] for drawn in whole(wants)
    ]
    assert whole([]) == []


def test_draws_follow_the_models_chances(policy: MaskedLora) -> None:
    policy.eval()
    count = 3000
    asked = Want(prompt=(1, 2, 3), forced=OPENING, cap_tokens=1, count=count, seed=0)
    (found,) = TorchRollouts(policy, ENDS, temperature=0.8)([asked])
    drawn = torch.bincount(torch.tensor([one.ids[0] for one in found]), minlength=64) / count
    batch = ResponseBatch.of([(asked.prompt, (*OPENING, token), [True] * 3) for token in range(64)])
    with torch.no_grad():
        chances = policy.scores(batch, temperature=0.8)[0][:, -1].exp()
    assert chances.sum() == pytest.approx(1.0, abs=1e-4)
    # Six standard deviations of a share of 3,000 draws.
    assert (drawn - chances).abs().max() < 6 * 0.5 / count**0.5
    assert (drawn - chances).abs().sum() < 0.2


# ── vocabularies ─────────────────────────────────────────────────────────────────────────────────


def test_a_vocabulary_is_the_engines() -> None:
    vocabulary = Vocabulary.of(ScriptedEngine())
    assert vocabulary.ends == {END}
    assert vocabulary.text([*"5 × 3".encode(), END]) == "5 × 3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab</think>cd", len("ab</think>")),
        ("ab</think>cd</think>", len("ab</think>")),
        ("é</think>", len("é</think>".encode())),
        ("never closed", len("never closed")),
        ("", 0),
    ],
)
def test_thinking_reaches_up_to_its_closing(text: str, expected: int) -> None:
    vocabulary = Vocabulary.of(ScriptedEngine())
    assert vocabulary.thinking_tokens(text.encode()) == expected


def test_the_end_of_the_turn_is_not_counted() -> None:
    assert Drawn((1, 2, 3), (0.0,) * 3, is_whole=True).num_tokens == 2
    assert Drawn((1, 2, 3), (0.0,) * 3, is_whole=False).num_tokens == 3


# ── exact results ────────────────────────────────────────────────────────────────────────────────


def test_results_are_forced_on_the_engine_and_marked(tmp_path: Path) -> None:
    engine = ScriptedEngine(["3 * 12 = 4\n</think>\n\n3 * 12 = 4."])
    made = EngineRollouts(engine, temperature=0.8, calculator=True)
    made.reload_adapter(lambda path: path.write_bytes(b"GGUF"), tmp_path / "a.gguf")
    ((one,),) = made([want(count=1)])
    assert bytes(one.ids[: one.num_tokens]).decode() == "3 * 12 = 36\n</think>\n\n3 * 12 = 4."
    assert one.forced == (9, 10)
    assert [place for place, is_drawn in enumerate(one.is_drawn) if not is_drawn] == [9, 10]
    assert len(one.logprobs) == len(one.ids)
    assert [one.logprobs[place] for place in one.forced] == [0.0, 0.0]


def test_results_are_forced_in_torch_and_marked(policy: MaskedLora) -> None:
    # Every token writes "1 + 1 = 2" and so on but one, which begins a number: what is drawn does not matter.
    policy.eval()
    pieces = tuple({20: b"7", 21: b"8", 22: b"2", 23: b"0", 24: b" "}.get(i, b"11 + 9 = ") for i in range(64))
    vocabulary = Vocabulary(pieces, ENDS)
    wants = [Want(prompt=(1, 2), forced=OPENING, cap_tokens=40, count=24, seed=0)]
    (plain,) = TorchRollouts(policy, ENDS, temperature=1.5)(wants)
    (found,) = TorchRollouts(policy, ENDS, temperature=1.5, calculates=vocabulary)(wants)
    num_forced = 0
    for one, undisturbed in zip(found, plain, strict=True):
        num_forced += len(one.forced)
        assert len(one.logprobs) == len(one.ids) <= 40
        assert all(one.logprobs[place] == 0.0 for place in one.forced)
        said = "".join(chr(pieces[one.ids[place]][0]) for place in one.forced)
        assert set(said.replace(" ", "").split("20")) == {""}  # a blank where a digit would follow
        first = one.forced[0] if one.forced else len(one.ids)
        assert one.ids[:first] == undisturbed.ids[:first]
    assert num_forced > 0


def test_what_follows_on_a_forced_result_in_torch_was_drawn_behind_it(policy: MaskedLora) -> None:
    policy.eval()
    pieces = tuple({20: b"7", 22: b"2", 23: b"0", 24: b" "}.get(i, b"11 + 9 = ") for i in range(64))
    wants = [Want(prompt=(1, 2), forced=OPENING, cap_tokens=40, count=24, seed=0)]
    made = TorchRollouts(policy, ENDS, temperature=0.8, calculates=Vocabulary(pieces, ENDS))
    (found,) = made(wants)
    assert any(one.forced for one in found)
    for one in found:
        ids = OPENING + one.ids
        with torch.no_grad():
            expected, _ = policy.scores(ResponseBatch.of([((1, 2), ids, [True] * len(ids))]), temperature=0.8)
        drawn = torch.tensor(one.is_drawn)
        torch.testing.assert_close(
            torch.tensor(one.logprobs)[drawn], expected[0, len(OPENING) :][drawn], atol=2e-5, rtol=1e-4
        )
