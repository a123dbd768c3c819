"""The simulated cache, against a Q8_0 cache with rotation written in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_gguf import QWEN2, random_weights, write_gguf
from tiny_torch import distance, load, make_student, random_ids, student_logits

from edgereason.train.quant.fake_quant import simulate_q8_0

WIDE = replace(QWEN2, head_dim=64, heads=2, kv=1, layers=1)


def walsh_hadamard(values):
    """The transform along the last axis by halving, orthonormal."""
    n = values.shape[-1]
    if n == 1:
        return values
    left, right = values[..., : n // 2], values[..., n // 2 :]
    both = [walsh_hadamard(left + right), walsh_hadamard(left - right)]
    return np.concatenate(both, axis=-1) / np.sqrt(2)


def turned(values):
    """Runs of 64 channels turned, where they fit; float64."""
    channels = values.shape[-1]
    if channels % 64:
        return values.astype(np.float64)
    return walsh_hadamard(values.reshape(*values.shape[:-1], -1, 64).astype(np.float64)).reshape(values.shape)


def steps(values):
    """d of every block of 32, in front of its channels."""
    blocks = values.reshape(*values.shape[:-1], -1, 32)
    return (np.abs(blocks).max(-1, keepdims=True) / 127).astype(np.float16).astype(np.float64)


def reference(values):
    turn = turned(values)
    d = steps(turn)
    blocks = turn.reshape(*turn.shape[:-1], -1, 32)
    stored = np.rint(blocks / np.where(d == 0, np.inf, d)).clip(-127, 127) * d
    return turned(stored.reshape(values.shape))  # Walsh-Hadamard is its own inverse


def states(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


@pytest.mark.parametrize("channels", [32, 64, 96, 128])
def test_it_is_llama_cpps_cache(channels):
    values = states(2, 3, 5, channels)
    expected = reference(values.numpy())
    got = simulate_q8_0(values).double().numpy()
    # Float32 may put a weight that lies on the middle of two codes on the other side: none does here.
    assert np.abs(got - expected).max() < 2e-6 * np.abs(expected).max()
    assert np.abs(got - values.numpy()).max() > 1e-4  # and it does round


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([32, 64, 128]), st.floats(0.01, 100))
def test_no_value_moves_by_more_than_half_a_step_where_it_is_stored(seed, channels, spread):
    values = spread * states(3, channels, seed=seed)
    error = turned((simulate_q8_0(values) - values).numpy()).reshape(3, -1, 32)
    d = steps(turned(values.numpy()))
    assert np.all(np.abs(error) <= d * (0.5 + 127 * 2.0**-11 + 1e-3))  # fp16 may cut d by 2⁻¹¹ of 127 codes


def test_products_of_queries_and_keys_are_kept_within_the_steps():
    # An error is uniform in ± d/2, so ⟨q, k̂ − k⟩ has σ = d/√12 · |q|; six of these cover 10⁴ draws.
    queries, keys = states(100, 64, seed=1), states(100, 64, seed=2)
    off = (queries @ (simulate_q8_0(keys) - keys).T).numpy()
    d = steps(turned(keys.numpy())).max()
    bound = 6 * d / np.sqrt(12) * np.linalg.norm(queries.numpy(), axis=1).max()
    assert 0 < np.abs(off).max() < bound
    assert np.abs(off).max() < 0.02 * (queries @ keys.T).abs().max()


def test_one_outlier_does_not_cost_the_other_channels_their_bits():
    # Without turning, d = 100/127 would round the other 63 channels, all below 0.3, to zero.
    values = 0.1 * states(1, 64)
    values[0, 5] = 100.0
    error = (simulate_q8_0(values) - values).abs()
    # Turned, the outlier is ± 12.5 in every channel: d ≈ 0.1, so the error's σ is 0.1/√12 = 0.03.
    assert error[0, np.arange(64) != 5].mean() < 0.05


def test_channels_that_fill_no_block_are_left_alone():
    values = states(2, 48)
    assert torch.equal(simulate_q8_0(values), values)


def test_gradients_pass_straight_through():
    values = states(2, 64).requires_grad_()
    wanted = states(2, 64, seed=1)
    (simulate_q8_0(values) * wanted).sum().backward()
    # Turning, rounding and turning back is x ↦ x to the gradient, but for what the scales of blocks may add:
    # up to Σ g (c − x) / 127 at one of 32 channels, about √32 · 0.29 / 127 = 0.013.
    assert torch.allclose(values.grad, wanted, atol=0.1)


def test_zeros_stay_zeros():
    assert not simulate_q8_0(torch.zeros(2, 3, 64)).any()


def test_attention_reads_keys_behind_rope_and_values_as_they_are_cached(tmp_path, monkeypatch):
    # GIVEN one layer with heads of 64
    teacher = load(write_gguf(tmp_path / "wide.gguf", WIDE, random_weights(WIDE, 1)), tmp_path)
    seen = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, value, *args, **kwargs):
        seen.append((query, key, value))
        return attention(query, key, value, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    # WHEN
    ids = random_ids(2, 12)
    plain, rounded = (student_logits(make_student(teacher, kv8=kv8), ids) for kv8 in (False, True))
    # THEN
    (query, key, value), (query_8, key_8, value_8) = seen
    assert torch.equal(query, query_8)
    for states_, states_8 in ((key, key_8), (value, value_8)):
        expected = reference(states_.numpy())
        assert np.abs(states_8.numpy() - expected).max() < 1e-5 * np.abs(expected).max()
    assert 0 < distance(rounded, plain) < 0.05
