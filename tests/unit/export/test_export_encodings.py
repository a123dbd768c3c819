"""Encodings files: the format, what a tool makes of float weights by them, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgereason.errors import BundleError
from edgereason.export.encodings import Range, quantize_by, read_encodings, write_encodings
from edgereason.quant.blocks import Grid, Quantized, quantize


def matrix_of(grid: Grid, *, per_row: bool = False, seed: int = 0) -> Quantized:
    weights = np.random.default_rng(seed).standard_normal((6, 64)).astype(np.float32) / 8
    return quantize(weights, grid, per_row=per_row)


def by_hand(sign: float) -> Quantized:
    """One block with every code, and one of zeros without a scale."""
    codes = np.zeros((1, 64), np.int8)
    codes[0, :32] = np.arange(32) % 16 - 8
    return Quantized(codes, np.array([[sign * 0.25, 0.0]], np.float16))


@pytest.mark.parametrize("grid", Grid)
@pytest.mark.parametrize("per_row", [False, True])
def test_weights_that_are_quantized_by_their_encoding_stay_what_they_are(grid, per_row, tmp_path):
    matrix = matrix_of(grid, per_row=per_row)
    write_encodings(tmp_path / "e.encodings", {"w": matrix}, {})
    found = read_encodings(tmp_path / "e.encodings")["w"]
    assert found["enc_type"] == ("PER_CHANNEL" if per_row else "PER_BLOCK")
    assert np.array_equal(quantize_by(found, matrix.dequantized()), matrix.dequantized())


def test_a_block_by_hand(tmp_path):
    # q of 0 … 15 with offset −8 is −8 … 7
    write_encodings(tmp_path / "e.encodings", {"w": by_hand(1.0)}, {})
    (entry,) = json.loads((tmp_path / "e.encodings").read_text())["param_encodings"]
    smallest = pytest.approx(2.0**-24)
    assert entry == {
        "name": "w",
        "dtype": "INT",
        "enc_type": "PER_BLOCK",
        "bw": 4,
        "is_sym": True,
        "block_size": 32,
        "scale": [0.25, smallest],
        "offset": [-8, -8],
    }


def test_a_negative_scale_is_an_offset_of_seven(tmp_path):
    # −0.25 · (−8 … 7) = 0.25 · (8 … −7): codes 15 … 0 with offset −7
    matrix = by_hand(-1.0)
    write_encodings(tmp_path / "e.encodings", {"w": matrix}, {})
    found = read_encodings(tmp_path / "e.encodings")["w"]
    assert (found["is_sym"], found["offset"].tolist()) == (False, [-7, -8])
    assert found["scale"][0] == 0.25
    assert np.array_equal(quantize_by(found, matrix.dequantized()), matrix.dequantized())


def test_activations_hold_their_range_and_zero(tmp_path):
    ranges = {"x": Range(-1.0, 3.0), "kv": Range(-2.0, 1.0, bits=8, is_symmetric=True), "up": Range(1.0, 2.0)}
    write_encodings(tmp_path / "e.encodings", {}, ranges)
    found = read_encodings(tmp_path / "e.encodings")
    # 65,535 steps over −1 … 3, and 0 is a code: a quarter of them, rounded
    assert found["x"]["scale"] == pytest.approx(4 / 65535)
    assert found["x"]["offset"].tolist() == [-16384]
    # 2 is 127 steps
    assert found["kv"]["scale"] == pytest.approx(2 / 127)
    assert (found["kv"]["offset"].tolist(), found["kv"]["is_sym"]) == ([-128], True)
    assert found["up"]["offset"].tolist() == [0]


def test_scales_stand_output_by_output(tmp_path):
    matrix = matrix_of(Grid.Q4_0)
    write_encodings(tmp_path / "e.encodings", {"w": matrix}, {})
    found = read_encodings(tmp_path / "e.encodings")["w"]["scale"]
    assert np.array_equal(found.reshape(6, 2), np.abs(matrix.scales.astype(np.float32)))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"scale": [0.25, 0.0]}, "scales that are not above 0"),
        ({"scale": [0.25]}, "not as many as offsets"),
        ({"offset": [-7, -8]}, "offsets that don't fit"),
        ({"bw": 33}, "33 bits"),
        ({"enc_type": "PER_CHANNEL"}, "which no PER_CHANNEL encoding has"),
        ({"enc_type": "VECTOR"}, "which no VECTOR encoding has"),
    ],
)
def test_what_is_not_of_the_format_is_refused(change, complaint, tmp_path):
    path = tmp_path / "e.encodings"
    write_encodings(path, {"w": by_hand(1.0)}, {})
    whole = json.loads(path.read_text())
    whole["param_encodings"][0] |= change
    path.write_text(json.dumps(whole))
    with pytest.raises(BundleError, match=complaint):
        read_encodings(path)


def test_another_version_is_refused(tmp_path):
    path = tmp_path / "e.encodings"
    write_encodings(path, {}, {})
    path.write_text(path.read_text().replace("1.0.0", "0.6.1"))
    with pytest.raises(BundleError, match=r"not an encodings file of version 1\.0\.0"):
        read_encodings(path)
