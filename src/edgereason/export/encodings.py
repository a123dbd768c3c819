"""The encodings file of a float graph: which integers its tensors become, in AIMET's format 1.0.0.

::

    {"version": "1.0.0", "param_encodings": [{"name": …, "dtype": "INT", "bw": 4, "is_sym": …,
     "enc_type": "PER_BLOCK", "block_size": 32, "scale": […], "offset": […]}, …],
     "activation_encodings": […], "excluded_layers": [], "quantizer_args": {…}}

    value = scale · (code + offset)     code from 0 to 2^bw − 1

Scales stand output by output, and within an output block by block. The format's scales are above 0, and a
block of Q4_0 may have a negative one: its codes −8 … 7 then stand for −7 … 8 times the scale's size, which is
the offset −7 where others have −8. Such a matrix is not symmetric in the format's sense, and stays exact.

Source: AIMET's Encoding Format Specification, section "Version 1.0.0", and its reader (`aimet_onnx`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edgereason.config import load_json
from edgereason.core.bundle import temporary_beside
from edgereason.errors import BundleError
from edgereason.export.weights import Float32, is_4_bit, is_by_row
from edgereason.quant.blocks import BLOCK, Quantized

VERSION: Final = "1.0.0"
_FIELDS: Final = {"name", "dtype", "enc_type", "bw", "is_sym", "scale", "offset"}
_KINDS: Final = {
    "PER_TENSOR": _FIELDS,
    "PER_CHANNEL": _FIELDS,
    "PER_BLOCK": _FIELDS | {"block_size"},
    "LPBQ": _FIELDS | {"block_size", "compressed_bw", "per_block_int_scale"},
}
_TOP: Final = {"version", "param_encodings", "activation_encodings", "excluded_layers", "quantizer_args"}


class Range(NamedTuple):
    """What values an activation took.

    Attributes:
        low: the smallest.
        high: the largest.
        bits: that it is to have.
        is_symmetric: whether 0 is in the middle.
    """

    low: float
    high: float
    bits: int = 16
    is_symmetric: bool = False


def write_encodings(path: Path, matrices: Mapping[str, Quantized], activations: Mapping[str, Range]) -> None:
    """Writes the file, whole or not at all; large ones are never whole in memory.

    Args:
        path: of the file.
        matrices: by the names of a float graph's tensors.
        activations: by the names of its values; none for tools that find them by themselves.
    """
    bits = sorted({range_.bits for range_ in activations.values()} or {16})
    arguments = {
        "activation_bitwidth": bits[-1],
        "dtype": "int",
        "is_symmetric": True,
        "param_bitwidth": 4,
        "per_channel_quantization": True,
        "quant_scheme": "min_max",
    }
    with temporary_beside(path) as partial, partial.open("w", encoding="ascii") as file:
        file.write(f'{{"version": "{VERSION}",\n "param_encodings": [')
        _write_list(file.write, (_of_matrix(name, matrix) for name, matrix in matrices.items()))
        file.write('],\n "activation_encodings": [')
        _write_list(file.write, (_of_range(name, range_) for name, range_ in activations.items()))
        file.write(f'],\n "excluded_layers": [],\n "quantizer_args": {json.dumps(arguments)}}}\n')


def _write_list(write: Any, entries: Iterable[str]) -> None:
    for n, entry in enumerate(entries):
        write(("," if n else "") + "\n  " + entry)


def _of_matrix(name: str, matrix: Quantized) -> str:
    bits = 4 if is_4_bit(matrix) else 8
    by_row = is_by_row(matrix)
    scales = (matrix.scales[:, 0] if by_row else matrix.scales.reshape(-1)).astype(np.float32)
    lowest = -(1 << (bits - 1))
    is_symmetric = bits == 8 or not (scales < 0).any()
    offsets = np.where(scales < 0, lowest + 1, lowest)
    if bits == 8 and (scales < 0).any():
        raise BundleError(f"{name} has 8-bit blocks with negative scales, which no encoding says")
    entry = {"name": name, "dtype": "INT", "enc_type": "PER_CHANNEL" if by_row else "PER_BLOCK", "bw": bits}
    entry |= {"is_sym": is_symmetric} | ({} if by_row else {"block_size": BLOCK})
    numbers = {"scale": map(str, _positive(scales)), "offset": map(str, offsets.tolist())}
    lists = "".join(f', "{key}": [{", ".join(values)}]' for key, values in numbers.items())
    return json.dumps(entry)[:-1] + lists + "}"


def _positive(scales: Float32) -> Iterator[str]:
    """Sizes of scales in the fewest digits that give them back; 0 becomes a number that may divide."""
    sizes = np.maximum(np.abs(scales), np.finfo(np.float16).smallest_subnormal.astype(np.float32))
    values, where = np.unique(sizes, return_inverse=True)
    texts = [str(value) for value in values]
    return (texts[n] for n in where.tolist())


def _of_range(name: str, range_: Range) -> str:
    """Ranges hold 0, and the offset is the code of 0, negated."""
    levels = (1 << range_.bits) - 1
    if range_.is_symmetric:
        scale = max(-range_.low, range_.high, 1e-6) / (levels // 2)
        offset = -(1 << (range_.bits - 1))
    else:
        low, high = min(range_.low, 0.0), max(range_.high, 0.0)
        scale = max(high - low, 1e-6) / levels
        offset = round(low / scale)
    entry = {"name": name, "dtype": "INT", "enc_type": "PER_TENSOR", "bw": range_.bits}
    return json.dumps(entry | {"is_sym": range_.is_symmetric, "scale": [scale], "offset": [offset]})


def read_encodings(path: Path) -> dict[str, dict[str, Any]]:
    """Reads an encodings file, and checks it against the format.

    Returns:
        Encodings of parameters and activations by name; scales and offsets as arrays.

    Raises:
        BundleError: it is not of this format, naming the first thing that is not.
    """
    try:
        whole = load_json(path.read_text("ascii"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path.name} can't be read as JSON: {error}") from error
    if not isinstance(whole, dict) or whole.get("version") != VERSION or set(whole) != _TOP:
        raise BundleError(f"{path.name} is not an encodings file of version {VERSION}")
    found: dict[str, dict[str, Any]] = {}
    for entry in (*whole["param_encodings"], *whole["activation_encodings"]):
        name = str(entry.get("name"))
        if name in found:
            raise BundleError(f"{path.name} has two encodings of {name}")
        found[name] = _checked(path.name, entry)
    return found


def _checked(file: str, entry: dict[str, Any]) -> dict[str, Any]:
    name, kind = entry.get("name"), entry.get("enc_type")
    if set(entry) != _KINDS.get(str(kind), set()):
        raise BundleError(f"{file}: {name} has fields {sorted(entry)}, which no {kind} encoding has")
    scale = np.array(entry["scale"], np.float32).astype(np.float64)  # the format's scales are float32
    offset = np.array(entry["offset"], np.int64)
    bits = entry["bw"]
    lowest = -(1 << (bits - 1))
    if entry["dtype"] != "INT" or not 4 <= bits <= 32 or not isinstance(entry["is_sym"], bool):
        raise BundleError(f"{file}: {name} is of {bits} bits of {entry['dtype']}, expected INT of 4 to 32")
    if (
        scale.ndim != 1
        or scale.shape != offset.shape
        or not (scale > 0).all()
        or not np.isfinite(scale).all()
    ):
        raise BundleError(f"{file}: {name} has scales that are not above 0, or not as many as offsets")
    if (entry["is_sym"] and (offset != lowest).any()) or ((offset > 0) | (offset < 2 * lowest)).any():
        raise BundleError(f"{file}: {name} has offsets that don't fit {bits} bits")
    return entry | {"scale": scale, "offset": offset}


def quantize_by(encoding: Mapping[str, Any], values: Float32) -> npt.NDArray[np.float64]:
    """What a tool makes of a parameter by its encoding: rounded to the grid, and back.

    Args:
        encoding: of `read_encodings`.
        values: (outputs, inputs).
    """
    scale, offset = encoding["scale"], encoding["offset"]
    places = (-1, len(scale) // len(values), 1) if len(scale) > 1 else (1, 1, 1)
    blocks = values.astype(np.float64).reshape(len(values), max(1, places[1]), -1)
    scale, offset = scale.reshape(places), offset.reshape(places)
    codes = np.clip(np.rint(blocks / scale) - offset, 0, (1 << encoding["bw"]) - 1)
    grid: npt.NDArray[np.float64] = ((codes + offset) * scale).reshape(values.shape)
    return grid
