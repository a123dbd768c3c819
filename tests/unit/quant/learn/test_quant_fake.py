"""The torch half of the grids: against the numpy half, and gradients by hand and by differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgereason.quant.blocks import Grid, Ranges, quantize
from edgereason.train.quant.fake_quant import fake_quantize, scale_ratios, scales_of

matrices = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.sampled_from([32, 64])),
    elements=st.floats(-1000, 1000, width=32)
    | st.floats(-(2.0**-13), 2.0**-13, width=32)
    | st.sampled_from([0.0, -0.0, 1.0]),
)


def normal(*shape: int, seed: int = 0):
    return (0.05 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("grid", Grid)
@settings(max_examples=60, deadline=None)
@given(weight=matrices, per_row=st.booleans(), ranges=st.sampled_from(Ranges))
def test_given_numpys_scales_the_values_are_numpys(grid, weight, per_row, ranges):
    quantized = quantize(weight, grid, ranges=ranges, per_row=per_row)
    scales = torch.from_numpy(quantized.scales.astype(np.float32))
    got = fake_quantize(torch.from_numpy(weight), grid, scales[:, :1] if per_row else scales)
    assert np.array_equal(got.numpy(), quantized.dequantized())


@pytest.mark.parametrize("grid", Grid)
@pytest.mark.parametrize("ranges", Ranges)
@pytest.mark.parametrize("per_row", [False, True])
def test_the_rule_finds_numpys_scales(grid, ranges, per_row):
    weight = normal(512, 640)
    factors = np.random.default_rng(1).uniform(0.8, 1.2, 512).astype(np.float32)
    expected = quantize(weight, grid, ranges=ranges, row_factors=factors, per_row=per_row).scales
    tensor = torch.from_numpy(weight)
    ratios = scale_ratios(tensor, grid, ranges, per_row=per_row)
    got = scales_of(tensor, ratios, torch.from_numpy(factors)).half().numpy()
    got, expected = (got, expected[:, :1]) if per_row else (got, expected)
    assert got.shape == expected.shape
    # Sums in another order decide between equals, and a quotient's last bit between fp16 neighbours.
    assert (got == expected).mean() >= 0.999


@pytest.mark.parametrize("grid", Grid)
def test_ratios_follow_weights_that_drift(grid):
    # Twice the weights: the same ratios, twice the scales, twice the values (powers of two are exact).
    weight = torch.from_numpy(normal(4, 64))
    ratios = scale_ratios(weight, grid, Ranges.L2)
    assert torch.equal(scale_ratios(2 * weight, grid, Ranges.L2), ratios)
    once, twice = (fake_quantize(w, grid, scales_of(w, ratios, None)) for w in (weight, 2 * weight))
    assert torch.equal(twice, 2 * once)


def test_a_block_of_zeros_has_zeros_and_gradients_that_are_numbers():
    weight = torch.zeros(1, 32, requires_grad=True)
    factors = torch.ones(1, requires_grad=True)
    got = fake_quantize(
        weight, Grid.Q4_0, scales_of(weight, scale_ratios(weight, Grid.Q4_0, Ranges.L2), factors)
    )
    got.sum().backward()
    assert not got.any()
    assert torch.isfinite(weight.grad).all()
    assert torch.isfinite(factors.grad).all()


def test_gradients_by_hand():
    # GIVEN d = 0.5, so in steps of d: 0.6 → 1, −2.6 → −3, 9 → 7 cut off, −9 → −8 cut off, 7.2 → 7 within
    weight, slope = torch.zeros(1, 32), torch.zeros(1, 32)
    weight[0, :5] = torch.tensor([0.3, -1.3, 4.5, -4.5, 3.6])
    slope[0, :5] = torch.tensor([1.0, 10.0, 100.0, 1000.0, 10000.0])
    weight.requires_grad_()
    scales = torch.full((1, 1), 0.5, requires_grad=True)
    # WHEN the loss is Σ slope · ŵ
    got = fake_quantize(weight, Grid.Q4_0, scales)
    (slope * got).sum().backward()
    # THEN
    assert got[0, :6].tolist() == [0.5, -1.5, 3.5, -4.0, 3.5, 0.0]
    assert weight.grad[0, :6].tolist() == [1.0, 10.0, 0.0, 0.0, 10000.0, 0.0]
    # (1 − 0.6) + 10 (−3 + 2.6) + 100 · 7 + 1000 · (−8) + 10000 (7 − 7.2) = 0.4 − 4 + 700 − 8000 − 2000
    assert scales.grad.item() == pytest.approx(-9303.6, rel=1e-5)


def test_eight_bits_are_cut_off_at_127_on_both_sides():
    weight = torch.tensor([[127.4, 128.0, -127.4, -128.0, *[0.0] * 28]], requires_grad=True)
    scales = torch.ones(1, 1, requires_grad=True)
    got = fake_quantize(weight, Grid.Q8_0, scales)
    got.sum().backward()
    assert got[0, :4].tolist() == [127, 127, -127, -127]
    assert weight.grad[0, :4].tolist() == [1, 0, 1, 0]
    assert scales.grad.item() == pytest.approx(-0.4 + 127 + 0.4 - 127, abs=1e-4)


@pytest.mark.parametrize("grid", Grid)
@pytest.mark.parametrize("per_row", [False, True])
def test_the_gradient_of_a_rows_factor_is_the_slope_of_its_straight_through_loss(grid, per_row):
    # With steps x = w/d and codes c, the gradient takes the roundings c − x (and those to fp16) for
    # constants: along d it is that of ŵ = w + d · (c − x)|₀, and of ŵ = d · c where x is cut off. d = s · f.
    rng = np.random.default_rng(3)
    weight = torch.from_numpy(normal(3, 64))
    slope = torch.from_numpy(rng.standard_normal((3, 64)))
    start = torch.tensor([0.55, 1.0, 1.3])  # the first cuts off a good many
    ratios = scale_ratios(weight, grid, Ranges.L2, per_row=per_row)
    factors = start.clone().requires_grad_()
    (slope * fake_quantize(weight, grid, scales_of(weight, ratios, factors))).sum().backward()

    low, high = {Grid.Q4_0: (-8, 7), Grid.Q8_0: (-127, 127)}[grid]
    rule = scales_of(weight, ratios, None).double()
    blocks, slopes = (part.double().reshape(*rule.shape, -1) for part in (weight, slope))
    d_start = (rule * start[:, None]).half().double()
    x = blocks / d_start[..., None]
    c = x.round().clamp(low, high)
    cut = (x < low - 0.5) | (x > high + 0.5)

    def loss(f):
        d = (d_start + rule * (f - start.double())[:, None])[..., None]
        return (slopes * torch.where(cut, d * c, blocks + d * (c - x))).sum((1, 2))

    step = 1e-4
    expected = (loss(start.double() + step) - loss(start.double() - step)) / (2 * step)
    assert cut[0].any()
    assert torch.allclose(factors.grad.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_scaling_a_row_has_the_gradient_of_the_row_itself(factor):
    # ŵ(u·w) = u·ŵ(w) when the scale follows: so d⟨g, ŵ⟩/d log u = ⟨g, ŵ⟩. Powers of two keep fp16 exact.
    torch.manual_seed(3)
    weight, gradient = torch.randn(2, 64), torch.randn(2, 64)
    ratios = scale_ratios(weight, Grid.Q4_0, Ranges.L2)
    log_u = torch.full((2, 1), math.log(factor), requires_grad=True)
    scaled = log_u.exp() * weight
    stored = fake_quantize(scaled, Grid.Q4_0, scales_of(scaled, ratios, None))
    (gradient * stored).sum().backward()
    expected = (gradient * stored.detach()).sum(1, keepdim=True)
    assert torch.allclose(log_u.grad, expected, rtol=1e-3, atol=1e-3)
