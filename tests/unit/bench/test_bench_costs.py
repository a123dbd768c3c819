"""What an answer costs: from measured lines, by hand; and what `ask` takes, for real."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from edgereason.bench.costs import Costs, StepCost, ask
from edgereason.errors import EngineError

COSTS = Costs(
    chat_s=0.5,
    think_s=2.0,
    encode_s=0.1,
    token_s=0.01,
    chat=StepCost(num_streams=1, base_s=8.0, cell_s=0.0),
    think=(
        StepCost(num_streams=1, base_s=10.0, cell_s=0.0),
        StepCost(num_streams=4, base_s=16.0, cell_s=0.0),
        StepCost(num_streams=8, base_s=32.0, cell_s=0.0),
    ),
    shares_attention=False,
    peak_bytes=500,
    rounds=2,
)


def with_cells(cell_s: float, *, shares_attention: bool) -> Costs:
    """Steps that take a second and `cell_s` for each cell, however many streams there are."""
    think = tuple(StepCost(num_streams=n, base_s=1.0, cell_s=cell_s) for n in (1, 4, 8))
    return replace(COSTS, think=think, shares_attention=shares_attention)


@pytest.mark.parametrize(
    ("num_streams", "seconds"), [(1, 10), (2, 12), (3, 14), (4, 16), (6, 24), (8, 32), (16, 64)]
)
def test_between_measured_numbers_of_streams_a_step_is_on_a_line_and_beyond_them_in_proportion(
    num_streams, seconds
):
    assert COSTS.step_s(num_streams, 128) == pytest.approx(seconds)


def test_streams_without_adapter_cost_what_they_add_with_it():
    # One costs 8; three more add 16 - 10.
    assert COSTS.step_s(1, 128, thinks=False) == pytest.approx(8)
    assert COSTS.step_s(4, 128, thinks=False) == pytest.approx(14)


def test_an_answer_is_what_comes_beside_it_its_prompt_and_its_steps():
    # 0.5 + (0.1 + 20 · 0.01) + 4 steps of 8: the first of five tokens takes none.
    assert COSTS.answer_s(20, [5], thinks=False) == pytest.approx(32.8)


def test_a_stream_that_ends_makes_the_steps_of_the_others_cheaper():
    # Step 1: all four, 16; steps 2 and 3: three, 14 each; step 4: one, 10.
    assert COSTS.answer_s(20, [2, 4, 4, 5]) == pytest.approx(2.0 + 0.3 + 16 + 14 + 14 + 10)


def test_a_single_token_takes_no_step():
    assert COSTS.answer_s(20, [1, 1]) == pytest.approx(2.3)


def test_attention_reads_a_streams_own_cells_or_those_of_all():
    # Streams of three tokens behind a prompt of 10: two steps, at 11 and 12 cells, or at 12 and 14.
    own, shared = with_cells(0.5, shares_attention=False), with_cells(0.5, shares_attention=True)
    assert own.answer_s(10, [3, 3]) == pytest.approx(2.0 + 0.2 + 2 + 0.5 * (11 + 12))
    assert shared.answer_s(10, [3, 3]) == pytest.approx(2.0 + 0.2 + 2 + 0.5 * (12 + 14))
    # A stream that has ended keeps its cells: 10 + 1 + 1, then 10 + 1 + 2.
    assert shared.answer_s(10, [1, 3]) == pytest.approx(2.0 + 0.2 + 2 + 0.5 * (12 + 13))


def test_a_deeper_step_reads_more_cells():
    own, shared = with_cells(0.5, shares_attention=False), with_cells(0.5, shares_attention=True)
    assert own.step_s(4, 138) == pytest.approx(1 + 0.5 * 138)
    assert shared.step_s(4, 138) == pytest.approx(1 + 0.5 * (128 + 40))


def test_another_model_costs_in_proportion_to_its_bytes_but_for_what_comes_beside():
    other = COSTS.scaled(from_bytes=400, to_bytes=100)
    assert other.answer_s(20, [5], thinks=False) == pytest.approx(0.5 + (0.3 + 32) / 4)
    assert other.peak_bytes == 200  # 100 beside the weights
    assert replace(COSTS, peak_bytes=None).scaled(400, 100).peak_bytes is None


def test_a_trial_that_fails_says_why(tmp_path):
    with pytest.raises(EngineError, match=r"trial of `edgereason ask` failed: .*neither a file nor"):
        ask(("--model", str(tmp_path / "none.gguf")), ())


@pytest.mark.model
def test_a_trial_tells_what_the_command_did(smollm2):
    asked = ask(
        ("--model", str(smollm2)), ("--mode", "think", "--budget", "48", "--streams", "2"), "Is 7 odd?"
    )
    assert 20 < asked.prompt_tokens < 60
    assert len(asked.lengths) == 2
    assert all(0 < length <= 48 for length in asked.lengths)
    assert asked.wall_s > 0
    assert asked.peak_bytes is None or asked.peak_bytes > smollm2.stat().st_size / 2
    assert math.isfinite(COSTS.answer_s(asked.prompt_tokens, asked.lengths))
