"""Scales, codes and bytes of blocks: against gguf-py, by hand, and against a search in float64."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgereason.errors import ConfigError
from edgereason.quant import blocks
from edgereason.quant.blocks import TARGETS, Grid, Ranges, pack, quantize

TYPES = {Grid.Q4_0: gguf.GGMLQuantizationType.Q4_0, Grid.Q8_0: gguf.GGMLQuantizationType.Q8_0}
LIMIT = 300_000.0  # a seventh of it, times the 1.32 by which a fit can exceed that, fits in fp16

matrices = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.sampled_from([32, 64, 96])),
    elements=st.floats(-LIMIT, LIMIT, width=32)
    | st.floats(-(2.0**-13), 2.0**-13, width=32)  # scales below fp16's normal numbers
    | st.sampled_from([0.0, -0.0, 1.0, -1.0]),
)


def normal(*shape: int, seed: int = 0, spread: float = 0.05):
    return (spread * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def errors_of(weight, quantized):
    """Squared error of each block, in float64."""
    error = weight.astype(np.float64) - quantized.dequantized()
    return (error.reshape(len(weight), -1, 32) ** 2).sum(-1)


@pytest.mark.parametrize("grid", Grid)
@pytest.mark.parametrize("ranges", Ranges)
@pytest.mark.parametrize("per_row", [False, True])
@settings(max_examples=40, deadline=None)
@given(weight=matrices)
def test_the_bytes_stand_for_what_dequantized_says(grid, ranges, per_row, weight):
    quantized = quantize(weight, grid, ranges=ranges, per_row=per_row)
    got = gguf.quants.dequantize(pack(quantized, grid), TYPES[grid])
    assert got.tobytes() == quantized.dequantized().tobytes()
    assert np.isfinite(got).all()


@pytest.mark.parametrize("grid", Grid)
def test_every_code_survives_its_byte(grid):
    low, high = {Grid.Q4_0: (-8, 7), Grid.Q8_0: (-127, 127)}[grid]
    codes = np.resize(np.arange(low, high + 1, dtype=np.int8), (4, 64))
    scales = np.array([[1.0, -0.5]] * 4, np.float16)
    got = gguf.quants.dequantize(pack(blocks.Quantized(codes, scales), grid), TYPES[grid])
    assert np.array_equal(got, codes * np.repeat([[1.0, -0.5]] * 4, 32, axis=1))


def test_a_block_by_hand():
    # GIVEN the extreme −4 at 3: d = −4 / −8 = 0.5, in fp16 0x3800
    weight = np.zeros((1, 32), np.float32)
    weight[0, [0, 3, 5, 6, 16, 31]] = [0.3, -4.0, 0.25, 0.75, 3.9, -1.1]
    # WHEN in steps of d: 0.6 → 1, −8, 0.5 → 0 and 1.5 → 2 (the even ones), 7.8 → 8 → 7, −2.2 → −2
    quantized = quantize(weight, Grid.Q4_0, ranges=Ranges.MIN_MAX)
    assert quantized.codes[0, [0, 3, 5, 6, 16, 31]].tolist() == [1, -8, 0, 2, 7, -2]
    # THEN byte j holds code + 8 of weight j (low) and of weight j + 16 (high)
    expected = bytes([0x00, 0x38, 0xF9, 0x88, 0x88, 0x80, 0x88, 0x88, 0x8A, *[0x88] * 8, 0x68])
    assert pack(quantized, Grid.Q4_0).tobytes() == expected


def test_a_block_of_eight_bits_by_hand():
    # d = 254 / 127 = 2, in fp16 0x4000; 3 → 1.5 → 2, −254 → −127
    weight = np.zeros((1, 32), np.float32)
    weight[0, :3] = [3.0, -254.0, 7.2]
    packed = pack(quantize(weight, Grid.Q8_0), Grid.Q8_0).tobytes()
    assert packed == bytes([0x00, 0x40, 2, 256 - 127, 4, *[0] * 29])


@pytest.mark.parametrize("grid", Grid)
@pytest.mark.parametrize("sign", [1, -1])
def test_min_max_is_llama_cpps_own_rule(grid, sign):
    # GIVEN blocks whose extreme over −8 (or 127) is an fp16 number, so that rounding it first changes
    # nothing, and no weight near the middle of two codes, where the two would round apart
    rng = np.random.default_rng(5)
    high = {Grid.Q4_0: 8, Grid.Q8_0: 127}[grid]
    scales = rng.uniform(0.001, 0.1, (64, 3, 1)).astype(np.float16).astype(np.float32)
    steps = rng.integers(-high + 1, high, (64, 3, 32)) + rng.uniform(-0.45, 0.45, (64, 3, 32))
    steps[..., 11] = sign * high
    weight = (steps.astype(np.float32) * scales).reshape(64, 96)
    # THEN
    ours = pack(quantize(weight, grid, ranges=Ranges.MIN_MAX), grid)
    assert np.array_equal(ours, gguf.quants.quantize(weight, TYPES[grid]))


def test_eight_bits_have_one_rule():
    weight = normal(8, 64)
    minimal, least = (quantize(weight, Grid.Q8_0, ranges=ranges) for ranges in Ranges)
    assert np.array_equal(minimal.codes, least.codes)
    assert np.array_equal(minimal.scales, least.scales)


def test_codes_are_computed_with_the_scale_as_it_is_stored():
    # 0.8003 / 8 = 0.1000375 is stored as 0.10003662109375: 6.5 of these are 0.650238, of the others 0.650244
    weight = np.zeros((1, 32), np.float32)
    weight[0, :2] = [-0.8003, 0.65024]
    quantized = quantize(weight, Grid.Q4_0, ranges=Ranges.MIN_MAX)
    assert float(quantized.scales[0, 0]) == 0.10003662109375
    assert quantized.codes[0, :2].tolist() == [-8, 7]


@settings(max_examples=60, deadline=None)
@given(weight=matrices)
def test_l2_is_never_worse_than_min_max_in_any_block(weight):
    least = errors_of(weight, quantize(weight, Grid.Q4_0, ranges=Ranges.L2))
    other = errors_of(weight, quantize(weight, Grid.Q4_0, ranges=Ranges.MIN_MAX))
    assert np.all(least <= other * (1 + 1e-5))  # float32 sums 32 squares: a few ulps of 6e-8


def test_l2_finds_the_best_of_its_candidates():
    # The rule again, block by block, in float64.
    weight = normal(16, 64, seed=2)
    found = errors_of(weight, quantize(weight, Grid.Q4_0))
    for row, column in np.ndindex(16, 2):
        block = weight[row, 32 * column : 32 * column + 32].astype(np.float64)
        extreme = block[np.argmax(np.abs(block))]

        def error_of(scale, block=block):
            d = float(np.float16(scale))
            codes = np.clip(np.rint(block / d), -8, 7)
            return ((block - d * codes) ** 2).sum(), codes

        candidates = [extreme / float(target) for target in TARGETS]
        best = min(candidates, key=lambda scale: error_of(scale)[0])
        codes = error_of(best)[1]
        fitted = (block * codes).sum() / (codes**2).sum()
        assert found[row, column] == pytest.approx(min(error_of(best)[0], error_of(fitted)[0]), rel=1e-4)


def test_l2_lets_the_extreme_be_seven_where_that_is_exact():
    # ±7u: min-max would give 7u the code −8, and −7u, which needs 8, is cut off at 7.
    weight = np.resize(np.float32([0.4375, -0.4375]), (1, 32))
    assert np.array_equal(quantize(weight, Grid.Q4_0).dequantized(), weight)
    assert errors_of(weight, quantize(weight, Grid.Q4_0, ranges=Ranges.MIN_MAX)) > 0


def test_l2_fits_the_scale_to_the_codes_in_the_end():
    # −8 and 31 × 1.2: of the targets −7 is best (d = 8/7 gives codes −7 and 1, error 31 · 0.057² = 0.10).
    # For these codes the best d is (8 · 7 + 31 · 1.2) / (7² + 31) = 1.165, error 0.155² + 31 · 0.035² = 0.06.
    weight = np.full((1, 32), 1.2, np.float32)
    weight[0, 9] = -8.0
    quantized = quantize(weight, Grid.Q4_0)
    assert np.abs(quantized.scales).tolist() == [[np.float16(1.165)]]
    assert set(quantized.dequantized().ravel().tolist()) == {
        np.float16(1.165),
        -7 * np.float32(np.float16(1.165)),
    }


@pytest.mark.parametrize("grid", Grid)
def test_a_rows_factor_multiplies_its_scales_before_codes_are_computed(grid):
    weight = normal(3, 64)
    factors = np.array([1.0, 0.5, 1.25], np.float32)
    plain = quantize(weight, grid, ranges=Ranges.MIN_MAX)
    scaled = quantize(weight, grid, ranges=Ranges.MIN_MAX, row_factors=factors)
    high = {Grid.Q4_0: -8, Grid.Q8_0: 127}[grid]
    groups = weight.reshape(3, 2, 32)
    extremes = np.take_along_axis(groups, np.abs(groups).argmax(-1)[..., None], -1)[..., 0]
    extremes = extremes if grid is Grid.Q4_0 else np.abs(extremes)
    assert np.array_equal(scaled.scales, (extremes / np.float32(high) * factors[:, None]).astype(np.float16))
    assert np.array_equal(scaled.codes[0], plain.codes[0])
    low, high = {Grid.Q4_0: (-8, 7), Grid.Q8_0: (-127, 127)}[grid]
    expected = np.clip(np.rint(groups / scaled.scales.astype(np.float64)[..., None]), low, high)
    assert np.array_equal(scaled.codes, expected.reshape(3, 64))


def test_factors_in_half_precision_are_what_they_say():
    weight, factors = normal(4, 32), np.array([0.5, 1.0, 1.5, 2.0])
    half, single = (quantize(weight, Grid.Q4_0, row_factors=factors.astype(kind)) for kind in ("f2", "f4"))
    assert np.array_equal(half.codes, single.codes)
    assert np.array_equal(half.scales, single.scales)


@pytest.mark.parametrize("ranges", Ranges)
def test_one_scale_for_a_row_is_the_rule_with_the_row_as_its_block(ranges):
    weight = normal(5, 96)
    whole = quantize(weight, Grid.Q4_0, ranges=ranges, per_row=True)
    assert np.array_equal(whole.scales, whole.scales[:, :1].repeat(3, axis=1))
    rows = np.arange(5)
    extremes = weight[rows, np.abs(weight).argmax(axis=1)]
    if ranges is Ranges.MIN_MAX:
        assert np.array_equal(whole.scales[:, 0], (extremes / np.float32(-8)).astype(np.float16))
    else:
        other = quantize(weight, Grid.Q4_0, ranges=Ranges.MIN_MAX, per_row=True)
        assert np.all(errors_of(weight, whole).sum(1) <= errors_of(weight, other).sum(1) * (1 + 1e-5))
        assert errors_of(weight, whole).sum() < 0.95 * errors_of(weight, other).sum()


@pytest.mark.parametrize("per_row", [False, True])
def test_where_the_work_is_cut_changes_nothing(monkeypatch, per_row):
    weight, factors = normal(37, 64, seed=4), normal(37, seed=5, spread=0.1) + np.float32(1)
    whole = quantize(weight, Grid.Q4_0, row_factors=factors, per_row=per_row)
    for chunk in (1, 64, 640):  # below a row; a row; ten rows, which leaves 7
        monkeypatch.setattr(blocks, "_CHUNK", chunk)
        cut = quantize(weight, Grid.Q4_0, row_factors=factors, per_row=per_row)
        assert np.array_equal(cut.codes, whole.codes)
        assert np.array_equal(cut.scales, whole.scales)


@pytest.mark.parametrize("grid", Grid)
def test_a_block_of_zeros_stays_zeros(grid):
    assert not quantize(np.zeros((2, 64), np.float32), grid).dequantized().any()


@pytest.mark.parametrize("grid", Grid)
def test_columns_that_do_not_fill_blocks_are_refused_with_both_numbers(grid):
    with pytest.raises(ConfigError, match=rf"(?=.*{grid})(?=.*\b32\b)(?=.*\b48\b)"):
        quantize(np.zeros((2, 48), np.float32), grid)
