"""Transforms that change every weight and no output, merged into a model's weights.

For a row vector x in the residual stream (HF layout, y = x Wᵀ + b; d = head_dim, a query head h reads the
KV head g = ⌊h/G⌋)::

    T_r  Q orthogonal       x → x Q           E → E Q;   q,k,v,gate,up,head: W → W Q;   o,down: W → Qᵀ W
                            inverse: Qᵀ       gains γ go into the linears behind them first: W → W diag(γ)
    T_k  s > 0, θ per pair  k → s R(θ) k      q → s⁻¹ R(θ) q, so that ⟨q, k⟩ stays; commutes with RoPE
    T_v  A invertible       v → A v           o's columns of a head: W → W A⁻¹
    T_u  u > 0              up → diag(u) up   down → down diag(1/u)

Biases of q, k and v go the way of their rows. Each is its own inverse's inverse: merging with the inverses
gives the model back. The merge is done in float64 with exact products (`dyadic.py`), so the float32 weights
that come out are the same on every machine.

Source: paper section 5 (FPTQuant°: the four mergeable transforms). Deviation: T_v's inverse is shipped
beside it instead of computed, since the last bits of LAPACK's differ between machines.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import numpy.typing as npt

from edgereason.errors import BundleError
from edgereason.quant.dyadic import FACTOR_BITS, Float64, exact_product, on_grid
from edgereason.quant.gguf_file import EMBEDDING, FINAL_NORM, HEAD, ROPE_FACTORS, GgufModel
from edgereason.quant.learned import Learned

Float32 = npt.NDArray[np.float32]

_IN_LAYER: Final = re.compile(r"(blk\.\d+)\.(\w+)\.(weight|bias)")
_NORM_BEFORE: Final = {
    "attn_q": "attn_norm",
    "attn_k": "attn_norm",
    "attn_v": "attn_norm",
    "ffn_gate": "ffn_norm",
    "ffn_up": "ffn_norm",
}
_INTO_RESIDUAL: Final = ("attn_output", "ffn_down")
_NORMS: Final = ("attn_norm", "ffn_norm")
_KNOWN: Final = frozenset(
    [(part, "weight") for part in (*_NORM_BEFORE, *_INTO_RESIDUAL, *_NORMS, "attn_q_norm", "attn_k_norm")]
    + [(part, "bias") for part in ("attn_q", "attn_k", "attn_v")]
)
_OF_HEADS: Final = ("attn_q", "attn_k", "attn_v")
_CHUNK: Final = 1 << 17
"""Weights merged at a time: the float64 arrays in between stay in the cache."""
LINEARS: Final = (*_NORM_BEFORE, *_INTO_RESIDUAL)


def output_names(model: GgufModel, *, tied: bool) -> tuple[str, ...]:
    """Tensors of the merged model: the teacher's, and the head as a matrix of its own unless it is tied."""
    if tied:
        return tuple(name for name in model.names if name != HEAD)
    return (*model.names, HEAD) if model.dims.tied else model.names


def source_of(model: GgufModel, name: str, *, tied: bool) -> str:
    """The teacher's tensor that one of the base comes from; of two that are one, the head is rounded less."""
    if name not in (EMBEDDING, HEAD) or (name == EMBEDDING and not tied):
        return name
    return EMBEDDING if model.dims.tied else HEAD


def is_linear(name: str) -> bool:
    """Whether a tensor is one of the seven matrices of a layer."""
    found = _IN_LAYER.fullmatch(name)
    return bool(found and found[2] in LINEARS and found[3] == "weight")


class Merge:
    """A teacher's weights with transforms merged into them.

    Args:
        teacher: the model.
        learned: transforms, and what is added to weights; `rows` are not read here.

    Raises:
        BundleError: a transform doesn't fit the model's shapes or family.
    """

    def __init__(self, teacher: GgufModel, learned: Learned) -> None:
        self._teacher = teacher
        self._learned = learned
        check_fit(teacher, learned)
        self._rotation = self._factor("rotation")

    def tensor(self, name: str) -> Float32:
        """A tensor of the merged model, by the name that it has in the base."""
        return np.concatenate([self.part(name, rows) for rows in self.runs(name)])

    def runs(self, name: str) -> list[slice]:
        """Rows of a tensor that can be merged apart from the others, in order; few enough for a cache."""
        shape = self._teacher.shape(self._source(name))
        num_rows = shape[0]
        is_whole = len(shape) == 1 or self._mixes_rows(name)
        step = num_rows if is_whole else max(1, _CHUNK // max(1, shape[1]))
        return [slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]

    def part(self, name: str, rows: slice) -> Float32:
        """Some rows of a merged tensor: one of its `runs`. Several threads may ask at a time."""
        told = self._learned.get(name)
        if told is not None:
            return told[rows].astype(np.float32)
        merged = self._merged(name, rows)
        left, right = self._factor(f"{name}.left"), self._factor(f"{name}.right")
        if left is not None and right is not None:
            factor = left[rows]
            merged = merged + exact_product(factor, right, factor=factor)
        return merged.astype(np.float32)

    def _mixes_rows(self, name: str) -> bool:
        """Whether a row of a merged matrix comes of several rows of the teacher's."""
        found = _IN_LAYER.fullmatch(name)
        if not found:
            return False
        return found[2] in _OF_HEADS or (found[2] in _INTO_RESIDUAL and self._rotation is not None)

    def _merged(self, name: str, rows: slice) -> Float64:
        if name == EMBEDDING:
            return self._rotated(self._read(self._source(name), rows))
        if name == HEAD:
            return self._rotated(self._folded(self._read(self._source(name), rows), FINAL_NORM))
        if name == FINAL_NORM:
            return self._gain(name)
        if name == ROPE_FACTORS:  # transforms of keys commute with RoPE at any frequency
            return self._read(name)
        found = _IN_LAYER.fullmatch(name)
        if not found or (found[2], found[3]) not in _KNOWN:
            raise BundleError(f"{self._teacher.path.name} has a tensor {name!r}, which no merge is known for")
        layer, part, kind = found.groups()
        if part in _NORMS:
            return self._gain(name)
        values = self._read(name, rows)
        if kind == "weight" and part in _NORM_BEFORE:
            values = self._rotated(self._folded(values, f"{layer}.{_NORM_BEFORE[part]}.weight"))
        return self._through_heads(layer, part, values, rows)

    def _through_heads(self, layer: str, part: str, values: Float64, rows: slice) -> Float64:
        """What T_k, T_v and T_u do to a tensor of a layer, and the way back into the residual stream."""
        match part:
            case "attn_k":
                return self._turned(layer, values, invert=False)
            case "attn_q":
                return self._turned(layer, values, invert=True)
            case "attn_v":
                return self._mixed(layer, values)
            case "ffn_up":
                up = self._factor(f"{layer}.up")
                return values if up is None else values * up[rows, None]
            case "attn_output":
                return self._back(self._unmixed(layer, values))
            case "ffn_down":
                up = self._factor(f"{layer}.up")
                return self._back(values if up is None else values / up)
            case _:  # the gate; gains of queries and keys, where there are any
                return values

    def _source(self, name: str) -> str:
        return source_of(self._teacher, name, tied=self._learned.storage.tied)

    def _read(self, name: str, rows: slice = slice(None)) -> Float64:
        return self._teacher.weights(name, rows).astype(np.float64)

    def _factor(self, name: str) -> Float64 | None:
        values = self._learned.get(name)
        return None if values is None else values.astype(np.float64)

    def _gain(self, name: str) -> Float64:
        """A norm's gain: ones once it has been folded into the linears behind it."""
        return self._read(name) if self._rotation is None else np.ones(self._teacher.shape(name))

    def _folded(self, weight: Float64, norm: str) -> Float64:
        return weight if self._rotation is None else weight * self._read(norm)

    def _rotated(self, weight: Float64) -> Float64:
        q = self._rotation
        return weight if q is None else exact_product(weight, q, factor=q)

    def _back(self, weight: Float64) -> Float64:
        if self._rotation is None:
            return weight
        q_t = np.ascontiguousarray(self._rotation.T)
        return exact_product(q_t, weight, factor=q_t)

    def _turned(self, layer: str, rows: Float64, *, invert: bool) -> Float64:
        cos, sin = self._factor(f"{layer}.keys.cos"), self._factor(f"{layer}.keys.sin")
        if cos is None or sin is None:
            return rows
        dims = self._teacher.dims
        if invert:  # the inverse transpose of s R(θ) is R(θ) / s
            squared = cos * cos + sin * sin
            group = dims.num_heads // dims.num_kv_heads
            cos, sin = np.repeat(cos / squared, group, axis=0), np.repeat(sin / squared, group, axis=0)
        heads = rows.reshape(len(cos), dims.head_dim, -1)
        first, second = _pair(heads, interleaved=dims.interleaved)
        c, s = cos[:, :, None], sin[:, :, None]
        turned = np.empty_like(heads)
        to_first, to_second = _pair(turned, interleaved=dims.interleaved)
        to_first[:] = c * first - s * second
        to_second[:] = c * second + s * first
        return turned.reshape(rows.shape)

    def _mixed(self, layer: str, rows: Float64) -> Float64:
        mix = self._factor(f"{layer}.values")
        if mix is None:
            return rows
        heads = rows.reshape(len(mix), mix.shape[-1], -1)
        return exact_product(mix, heads, factor=mix).reshape(rows.shape)

    def _unmixed(self, layer: str, weight: Float64) -> Float64:
        inverse = self._factor(f"{layer}.values_inverse")
        if inverse is None:
            return weight
        dims = self._teacher.dims
        per_query = np.repeat(inverse, dims.num_heads // dims.num_kv_heads, axis=0)
        columns = weight.reshape(len(weight), dims.num_heads, dims.head_dim).swapaxes(0, 1)
        mixed = exact_product(np.ascontiguousarray(columns), per_query, factor=per_query)
        return mixed.swapaxes(0, 1).reshape(weight.shape)


def _pair(heads: Float64, *, interleaved: bool) -> tuple[Float64, Float64]:
    """Views of the two rows of every pair that RoPE turns: (heads, d/2, columns) each."""
    if interleaved:
        return heads[:, 0::2], heads[:, 1::2]
    half = heads.shape[1] // 2
    return heads[:, :half], heads[:, half:]


def check_fit(model: GgufModel, learned: Learned) -> None:
    """Refuses what was learned for another model, and what can't be merged into this one.

    Raises:
        BundleError: with the tensor, or the reason.
    """
    if learned.storage.tied:
        _require_tied(model, learned)
    shapes = _shapes(model, tied=learned.storage.tied)
    for name, values in learned.tensors.items():
        if name not in shapes:
            raise BundleError(f"{learned.name} has a tensor {name!r}, which means nothing to this model")
        expected = shapes[name]
        if len(expected) != values.ndim or any(
            n != m and m is not None for n, m in zip(values.shape, expected, strict=True)
        ):
            raise BundleError(f"{name} has the shape {values.shape}, the model needs {expected}")
        if model.dims.normalises_keys and ".keys." in name:
            raise BundleError(KEYS_REFUSED.format(model.dims.arch))
        if name.endswith(_FACTORS) and not np.array_equal(on_grid(values), values):
            raise BundleError(
                f"{name} does not stand on a grid of {FACTOR_BITS} bits, so its products can't be exact"
            )
        for one, other in (*_PAIRS, *(pair[::-1] for pair in _PAIRS)):
            if name.endswith(one) and name.removesuffix(one) + other not in learned.tensors:
                raise BundleError(f"{learned.name} has {name!r} without its {other.lstrip('._')!r}")
        if name.endswith(".left"):
            right = learned.tensors[name.removesuffix(".left") + ".right"]
            if values.shape[1] != right.shape[0]:
                raise BundleError(
                    f"{name} and its right differ in rank: {values.shape[1]} and {right.shape[0]}"
                )


_FACTORS: Final = ("rotation", ".values", ".values_inverse", ".left")
_PAIRS: Final = ((".keys.cos", ".keys.sin"), (".values", ".values_inverse"), (".left", ".right"))

TIED_REFUSED: Final = (
    "a rotation of the residual stream (T_r) moves the last gain into the head, which then differs from the "
    "embedding: leave the rotation out, or don't tie them"
)
_SAMPLED_ROWS: Final = 1024
_ROUNDED_APART: Final = 0.1
"""Root mean square, relative: 4 bits come to about 0.08."""
KEYS_REFUSED: Final = (
    "{} normalises queries and keys behind their projections: a transform of keys (T_k) can't be merged "
    "through that norm; leave it out of the recipe"
)


def _require_tied(model: GgufModel, learned: Learned) -> None:
    if learned.get("rotation") is not None:
        raise BundleError(TIED_REFUSED)
    if model.dims.tied:
        return
    rows = slice(0, _SAMPLED_ROWS)
    head = model.weights(HEAD, rows)
    apart = np.linalg.norm(model.weights(EMBEDDING, rows) - head) / np.linalg.norm(head)
    if apart > _ROUNDED_APART:
        raise BundleError(
            f"{model.path.name} has a head of its own (it is {apart:.0%} from the embedding, and more than "
            f"{_ROUNDED_APART:.0%} is no rounding): it can't be tied"
        )


def _shapes(model: GgufModel, *, tied: bool) -> dict[str, tuple[int | None, ...]]:
    """The shape of everything that can be learned for a model, None for a rank."""
    dims = model.dims
    kv, d = dims.num_kv_heads, dims.head_dim
    shapes: dict[str, tuple[int | None, ...]] = {"rotation": (dims.hidden_size,) * 2}
    for n in range(dims.num_layers):
        shapes |= {
            f"blk.{n}.keys.cos": (kv, d // 2),
            f"blk.{n}.keys.sin": (kv, d // 2),
            f"blk.{n}.values": (kv, d, d),
            f"blk.{n}.values_inverse": (kv, d, d),
            f"blk.{n}.up": (dims.ff_size,),
        }
    for name in output_names(model, tied=tied):
        shape = model.shape(source_of(model, name, tied=tied))
        if len(shape) == 1:
            shapes[name] = shape
        else:
            rows, columns = shape
            shapes |= {
                f"{name}.rows": (rows,),
                f"{name}.left": (rows, None),
                f"{name}.right": (None, columns),
            }
    return shapes
