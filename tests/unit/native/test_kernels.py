"""The kernels that are compiled into llama.cpp, against numpy, with each instruction set that runs here."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

SOURCES = Path(__file__).parents[3] / "tools" / "native" / "kernels"
AVX2 = ("-mavx2", "-mfma", "-mf16c")
FLAGS = {
    "avx2": AVX2,
    "avx2-vnni": (*AVX2, "-mavx512vl", "-mavx512vnni"),
    "avx512-vnni": (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"),
}
NEEDED = {
    "avx2": {"avx2", "fma", "f16c"},
    "avx2-vnni": {"avx512vl", "avx512_vnni"},
    "avx512-vnni": {"avx512bw", "avx512_vnni"},
}
TYPES = {4: gguf.GGMLQuantizationType.Q4_0, 8: gguf.GGMLQuantizationType.Q8_0}
HIDDEN = np.float16(-np.inf)

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Library = ctypes.CDLL


def processor_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Library]:
    """The probe built with each instruction set that this processor has."""
    compiler = shutil.which("c++")
    if platform.machine() not in ("x86_64", "AMD64") or compiler is None:
        pytest.skip("the kernels are for x86, and need a C++ compiler")
    folder, flags = tmp_path_factory.mktemp("kernels"), processor_flags()
    found = {}
    for name in FLAGS:
        if not NEEDED[name] <= flags:
            continue
        file = folder / f"{name}.so"
        command = [
            compiler,
            "-std=c++17",
            "-O2",
            "-w",
            "-shared",
            "-fPIC",
            "-fno-gnu-unique",
            f"-I{SOURCES}",
            *FLAGS[name],
        ]
        subprocess.run([*command, str(Path(__file__).with_name("probe.cpp")), "-o", str(file)], check=True)
        library = ctypes.CDLL(str(file))
        library.path.restype = ctypes.c_char_p
        assert library.path().decode() == name
        found[name] = library
    if not found:
        pytest.skip("this processor has none of the instruction sets")
    return found


@pytest.fixture(params=list(FLAGS))
def library(request: pytest.FixtureRequest, built: dict[str, Library]) -> Iterator[Library]:
    if request.param not in built:
        pytest.skip(f"this processor lacks {request.param}")
    yield built[request.param]


def pointer(array: NDArray[np.generic]) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def weights(bits: int, outputs: int, inputs: int, seed: int = 0) -> NDArray[np.uint8]:
    """ggml's blocks with every byte value and scales of both signs, and zero."""
    rng = np.random.default_rng(seed)
    size = 18 if bits == 4 else 34
    blocks = rng.integers(0, 256, (outputs, inputs // 32, size), np.uint8)
    scales = (rng.standard_normal((outputs, inputs // 32)) * 0.01).astype(np.float16)
    scales[rng.random(scales.shape) < 0.05] = 0
    blocks[..., :2] = scales[..., None].view(np.uint8).reshape(*scales.shape, 2)
    return np.ascontiguousarray(blocks)


def linear(library: Library, bits: int, blocks: NDArray[np.uint8], x: Floats, tile: int = 8) -> Floats:
    outputs, n_blocks, _ = blocks.shape
    x, y = np.ascontiguousarray(x, np.float32), np.full((len(x), outputs), np.nan, np.float32)
    library.linear(
        bits, ctypes.c_int64(len(x)), ctypes.c_int64(outputs), n_blocks,
        pointer(blocks), pointer(x), pointer(y), ctypes.c_int64(tile),
    )  # fmt: skip
    return y


def quantized(x: Floats) -> tuple[NDArray[np.int8], Floats]:
    """ggml's Q8_0 on x86: the values are rounded to even, before their scale is rounded to half precision."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    largest = np.abs(blocks).max(axis=-1)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    return np.rint(blocks * inverse[..., None]).astype(np.int8), (largest / np.float32(127)).astype(
        np.float16
    ).astype(np.float32)


def expected(
    bits: int, blocks: NDArray[np.uint8], x: Floats
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The product of gguf-py's dequantized weights in float64, and the sum of the magnitudes."""
    matrix = gguf.dequantize(blocks.reshape(len(blocks), -1), TYPES[bits]).astype(np.float64)
    values, scales = quantized(x)
    rows = (values.astype(np.float64) * scales[..., None]).reshape(x.shape)
    return rows @ matrix.T, np.abs(rows) @ np.abs(matrix).T


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("outputs", "inputs"), [(16, 32), (16, 64), (48, 96), (128, 896), (896, 128), (32, 4864)]
)
def test_product_equals_that_of_the_dequantized_matrices(
    library: Library, bits: int, outputs: int, inputs: int
) -> None:
    blocks = weights(bits, outputs, inputs)
    for rows in (1, 2, 3, 4, 5, 6, 7, 8, 9, 17):
        x = np.random.default_rng(rows).standard_normal((rows, inputs)).astype(np.float32)
        y, (wanted, magnitude) = linear(library, bits, blocks, x), expected(bits, blocks, x)
        assert (np.abs(y - wanted) <= 2e-6 * magnitude + 1e-30).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_largest_magnitudes_do_not_overflow(library: Library, bits: int) -> None:
    # Sixteen outputs, each with one value in all places: the extremes, zero and their neighbours.
    stored = np.arange(16) if bits == 4 else np.array([-128, -127, -126, -1, 0, 1, 126, 127] * 2)
    meant = stored - 8 if bits == 4 else stored
    blocks = np.zeros((16, 3, 18 if bits == 4 else 34), np.uint8)
    blocks[..., :2] = np.float16([1.0]).view(np.uint8)
    blocks[..., 2:] = (stored * 17 if bits == 4 else stored.astype(np.int8).view(np.uint8))[:, None, None]
    for sign in (1, -1):
        x = np.full((5, 96), sign * 127.0, np.float32)
        y = linear(library, bits, blocks, x)
        assert (y == sign * meant * 127.0 * 96).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_scales_and_zero_rows_give_zero(library: Library, bits: int) -> None:
    blocks = weights(bits, 16, 64)
    x = np.zeros((3, 64), np.float32)
    x[1] = 5.0
    y = linear(library, bits, blocks, x)
    assert (y[0] == 0).all() and (y[2] == 0).all() and (y[1] != 0).any()
    blocks[..., :2] = 0
    assert (linear(library, bits, blocks, x) == 0).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_does_not_depend_on_the_rows_beside_it(library: Library, bits: int) -> None:
    blocks = weights(bits, 64, 896)
    x = np.random.default_rng(3).standard_normal((13, 896)).astype(np.float32)
    alone = np.concatenate([linear(library, bits, blocks, row[None]) for row in x])
    for tile in range(1, 9):
        assert (linear(library, bits, blocks, x, tile) == alone).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_all_instruction_sets_give_the_same_bits(built: dict[str, Library], bits: int) -> None:
    blocks = weights(bits, 64, 4864)
    x = np.random.default_rng(4).standard_normal((7, 4864)).astype(np.float32) * 30
    results = {name: linear(library, bits, blocks, x).tobytes() for name, library in built.items()}
    assert len(set(results.values())) == 1, list(results)


def test_activations_are_quantized_as_ggml_does(library: Library) -> None:
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((1, 320)) * 10.0 ** rng.integers(-6, 4, (1, 320))).astype(np.float32)
    x[0, :32] = 0
    x[0, 32:64] = np.linspace(-127, 127, 32)  # ties and both ends
    values, scales = np.zeros(320, np.int8), np.zeros(10, np.float32)
    library.quantize_row(10, pointer(np.ascontiguousarray(x)), pointer(values), pointer(scales))
    wanted_values, wanted_scales = quantized(x[0])
    assert (values == wanted_values.reshape(-1)).all() and (scales == wanted_scales).all()


def attend(
    library: Library,
    queries: Floats,
    keys: Halves,
    values: Halves,
    mask: Halves,
    scale: float = 0.125,
) -> Floats:
    heads, dim = queries.shape
    out = np.full((heads, dim), np.nan, np.float32)
    library.attention(
        dim, heads, ctypes.c_int64(len(keys)), pointer(queries), pointer(keys), pointer(values),
        pointer(mask), ctypes.c_float(scale), pointer(out),
    )  # fmt: skip
    return out


def case(cells: int, heads: int, dim: int, seed: int = 0) -> tuple[Floats, Halves, Halves]:
    rng = np.random.default_rng(seed)
    keys, values = rng.standard_normal((2, cells, dim)).astype(np.float16)
    return (
        rng.standard_normal((heads, dim)).astype(np.float32) * 3,
        np.ascontiguousarray(keys),
        np.ascontiguousarray(values),
    )


def softmax_average(
    queries: Floats,
    keys: Halves,
    values: Halves,
    mask: Halves,
    scale: float = 0.125,
) -> NDArray[np.float64]:
    seen = mask != HIDDEN
    scores = scale * queries.astype(np.float64) @ keys[seen].astype(np.float64).T + mask[seen].astype(
        np.float64
    )
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True)) @ values[seen].astype(np.float64)


@pytest.mark.parametrize("dim", [64, 96, 128, 256])
@pytest.mark.parametrize("cells", [1, 7, 8, 15, 16, 17, 33, 256, 777])
def test_attention_equals_the_softmax_average(library: Library, dim: int, cells: int) -> None:
    for heads in (1, 3, 7, 8):
        queries, keys, values = case(cells, heads, dim)
        mask = np.zeros(cells, np.float16)
        mask[1::3] = HIDDEN
        mask[2::5] = -1.5
        wanted = softmax_average(queries, keys, values, mask)
        assert np.abs(attend(library, queries, keys, values, mask) - wanted).max() < 3e-6


def test_hidden_cells_do_not_count_whatever_is_in_them(library: Library) -> None:
    queries, keys, values = case(40, 7, 64)
    mask = np.zeros(40, np.float16)
    mask[::2] = HIDDEN
    before = attend(library, queries, keys, values, mask)
    keys[::2], values[::2] = np.nan, np.inf
    assert (attend(library, queries, keys, values, mask) == before).all()


def test_a_row_attends_the_same_where_other_streams_lie_between_its_cells(library: Library) -> None:
    queries, keys, values = case(50, 7, 64)
    alone = attend(library, queries, keys, values, np.zeros(50, np.float16))
    spread_keys, spread_values = np.ones((2, 200, 64), np.float16)
    mask = np.full(200, HIDDEN)
    mask[3::4], spread_keys[3::4], spread_values[3::4] = 0, keys, values
    assert (attend(library, queries, spread_keys, spread_values, mask) == alone).all()


def test_a_row_that_sees_nothing_is_zero(library: Library) -> None:
    queries, keys, values = case(32, 4, 128)
    assert (attend(library, queries, keys, values, np.full(32, HIDDEN)) == 0).all()


def test_extreme_scores_neither_overflow_nor_vanish(library: Library) -> None:
    queries, keys, values = case(64, 2, 64)
    queries *= 1000
    mask = np.zeros(64, np.float16)
    wanted = softmax_average(queries, keys, values, mask)
    got = attend(library, queries, keys, values, mask)
    assert (
        np.isfinite(got).all() and np.abs(got - wanted).max() < 1e-3
    )  # scores of some 4,000 have ulps of 2e-4


def test_equal_scores_average_the_values(library: Library) -> None:
    _, keys, values = case(48, 1, 64)
    got = attend(library, np.zeros((3, 64), np.float32), keys, values, np.zeros(48, np.float16))
    assert np.abs(got - values.astype(np.float64).mean(axis=0)).max() < 1e-6
