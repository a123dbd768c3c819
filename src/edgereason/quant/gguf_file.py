"""GGUF models in and out: what one says of itself, its weights as float32, a new file written bit by bit.

One tensor at a time is held in memory.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, cast

import gguf
import numpy as np
import numpy.typing as npt

from edgereason.config import load_json, read_bounded
from edgereason.core.bundle import require_one_file, temporary_beside, write_atomically
from edgereason.errors import ModelFileError
from edgereason.quant.blocks import Grid, Quantized, unpack
from edgereason.quant.families import FAMILIES, FUSED, Family, family_of

EMBEDDING: Final = "token_embd.weight"
HEAD: Final = "output.weight"
FINAL_NORM: Final = "output_norm.weight"
ROPE_FACTORS: Final = "rope_freqs.weight"
"""Llama 3's: what the frequency of each of RoPE's pairs is divided by."""
CHECKPOINT_SHA256: Final = "edgereason.checkpoint.sha256"
"""Key of a file that was converted from a checkpoint, or made from such a file: the checkpoint's hash."""
CHECKPOINT: Final = "checkpoint"
"""What records and bundles call it."""
ORIGIN: Final = "checkpoint.json"
"""Beside such a file: name and revision of the checkpoint, which its bytes don't depend on."""
_TYPES: Final = {Grid.Q4_0: gguf.GGMLQuantizationType.Q4_0, Grid.Q8_0: gguf.GGMLQuantizationType.Q8_0}
_BLOCK_BYTES: Final = {Grid.Q4_0: 18, Grid.Q8_0: 34}
_MOSTLY_Q4_0: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Dims:
    """The shapes of a decoder.

    Attributes:
        interleaved: whether RoPE pairs rows 2i and 2i + 1 of a head (llama) or i and i + d/2 (qwen2).
        normalises_keys: whether queries and keys are normalised after their projection (qwen3).
        tied: whether the embedding is the head, too.
        rope_factors: what the frequencies of RoPE's pairs are divided by; none where they are as they are.
        rope_scale: what positions are divided by, in layers without a window.
        window: tokens that a layer with a window sees.
        window_every: every so many layers one has no window; 0 where none has one.
    """

    arch: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ff_size: int
    vocab_size: int
    context_length: int
    rope_base: float
    norm_eps: float
    interleaved: bool
    normalises_keys: bool
    tied: bool
    rope_factors: tuple[float, ...] = ()
    rope_scale: float = 1.0
    window: int = 0
    window_every: int = 0

    @property
    def family(self) -> Family:
        """How its tensors differ from a plain decoder's."""
        return FAMILIES[self.arch]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Files in Hugging Face's format that a GGUF was converted from.

    Attributes:
        sha256: over its files' names and hashes.
        name: of the repository or folder; None if it is not known.
        revision: commit of the repository; None for a folder of no repository.
    """

    sha256: str
    name: str | None = None
    revision: str | None = None

    def to_record(self) -> dict[str, str]:
        """What is known of it, in plain values."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def keys(self) -> dict[str, str]:
        """The same as metadata of files that were made on it."""
        return {f"edgereason.checkpoint.{key}": value for key, value in self.to_record().items()}

    def write(self, folder: Path) -> None:
        """Notes it beside a GGUF."""
        write_atomically(folder / ORIGIN, json.dumps(self.to_record(), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path, sha256: str) -> Self:
        """What stands beside a GGUF; the hash alone where nothing of this checkpoint does."""
        try:
            found = load_json(read_bounded(folder / ORIGIN))
            if found["sha256"] == sha256 and all(isinstance(value, str) for value in found.values()):
                return cls(sha256=sha256, name=found.get("name"), revision=found.get("revision"))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            pass
        return cls(sha256=sha256)


class Slot(NamedTuple):
    """A tensor of a file that is to be written: `grid` None means float32 as it is."""

    name: str
    shape: tuple[int, ...]
    grid: Grid | None


_Parts = tuple[int, list[Any], list[int], list[Any]]


class Reader(gguf.GGUFReader):  # type: ignore[misc]
    """gguf's reader, fast on vocabularies: gguf's makes an array of each item, which takes seconds."""

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> _Parts:
        data, start = memoryview(self.data), orig_offs + 12
        if raw_type != gguf.GGUFValueType.ARRAY:
            return cast(_Parts, super()._get_field_parts(orig_offs, raw_type))
        is_other_order = self.byte_order == "S"
        numbers = np.frombuffer(data[orig_offs:start], "=u4,=u8", 1)
        item_type, count = map(int, (numbers.byteswap() if is_other_order else numbers)[0])
        if count > len(data) - start:  # gguf's reader would count to it
            raise ValueError(f"a list of {count} entries is longer than the file")
        if is_other_order:
            return cast(_Parts, super()._get_field_parts(orig_offs, raw_type))
        types = [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType(item_type)]
        if count and types[1] in self.gguf_scalar_to_np:
            items = self._get(start, self.gguf_scalar_to_np[types[1]], count)
            return 12 + items.nbytes, [items], [0], types
        if not count or types[1] != gguf.GGUFValueType.STRING:
            return cast(_Parts, super()._get_field_parts(orig_offs, raw_type))
        texts: list[memoryview] = []
        for _ in range(count):
            (length,) = struct.unpack_from("=Q", data, start)
            texts.append(data[start + 8 : start + 8 + length])
            start += 8 + length
        return start - orig_offs, texts, list(range(count)), types


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Says what gguf's reader met in a damaged file: it believes every length and offset.

    Raises:
        ModelFileError: it met something.
    """
    try:
        yield
    except (OSError, ValueError, LookupError, ArithmeticError, TypeError, MemoryError, struct.error) as error:
        raise ModelFileError(f"{path} can't be read as GGUF: {error}") from error


def write_fields(writer: gguf.GGUFWriter, reader: Reader, *, leave_out: Iterable[str]) -> None:
    """Hands all metadata on, but what the writer writes by itself, and what is left out."""
    without = {"general.architecture", *leave_out}
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in without:
            continue
        kind = field.types[0]
        if field.name == "general.alignment":
            writer.add_custom_alignment(int(field.contents()))
            continue
        items = field.types[-1] if kind is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=items)


class GgufModel:
    """A model file, read.

    Raises:
        ModelFileError: it is not a GGUF, is one of several parts, or of a family that is not supported.
    """

    def __init__(self, path: Path) -> None:
        with reading(path):
            self._reader = Reader(path)
            parts = self._reader.fields.get("split.count")
            num_parts = 1 if parts is None else int(parts.contents())
        self.path = path
        require_one_file(path, num_parts)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}

    @property
    def names(self) -> tuple[str, ...]:
        """Tensors, in the order of the file."""
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, rows first."""
        return tuple(int(n) for n in reversed(self._tensors[name].shape))

    def weights(self, name: str, rows: slice = slice(None)) -> npt.NDArray[np.float32]:
        """A tensor dequantized, or some of its rows: (rows, columns) or (n,)."""
        tensor = self._tensors[name]
        stored = np.asarray(tensor.data[rows])
        # As one row: gguf works on 16 rows at a time, and calls would cost more than their arithmetic.
        values = gguf.quants.dequantize(stored.reshape(1, -1), tensor.tensor_type)
        shape = (len(stored), *self.shape(name)[1:])
        return np.ascontiguousarray(values, np.float32).reshape(shape)

    def quantized(self, name: str) -> Quantized | None:
        """A matrix as its codes and scales; None if it is not stored on one of our grids."""
        tensor = self._tensors[name]
        grid = next((grid for grid, kind in _TYPES.items() if kind == tensor.tensor_type), None)
        return (
            None if grid is None else unpack(np.asarray(tensor.data).reshape(self.shape(name)[0], -1), grid)
        )

    def value(self, key: str, default: Any = None) -> Any:
        """A metadata value of any kind, such as a list; `default` if it is not there."""
        field = self._reader.fields.get(key)
        return default if field is None else field.contents()

    def text(self, key: str, default: str = "") -> str:
        """A metadata text."""
        field = self._reader.fields.get(key)
        return default if field is None else str(field.contents())

    @property
    def checkpoint(self) -> Checkpoint | None:
        """What it was converted from, or made from a conversion of; None if it was neither."""
        sha256 = self.text(CHECKPOINT_SHA256)
        return Checkpoint.read(self.path.parent, sha256) if sha256 else None

    @cached_property
    def dims(self) -> Dims:
        """The decoder's shapes.

        Raises:
            ModelFileError: a family that is not supported, or metadata that are missing or can't be right.
        """
        try:
            return self._dims()
        except (ValueError, LookupError, ArithmeticError, TypeError) as error:
            raise ModelFileError(
                f"{self.path.name} has metadata that can't be right ({error}): get it again"
            ) from error

    def _dims(self) -> Dims:
        arch = self.text("general.architecture")
        family = family_of(arch, self.path.name)
        hidden, heads = self._number(arch, "embedding_length"), self._number(arch, "attention.head_count")
        head_dim = self._number(arch, "attention.key_length", hidden // heads)
        self._require_known(arch, head_dim)
        return Dims(
            arch=arch,
            num_layers=self._number(arch, "block_count"),
            hidden_size=hidden,
            num_heads=heads,
            num_kv_heads=self._number(arch, "attention.head_count_kv", heads),
            head_dim=head_dim,
            ff_size=self._number(arch, "feed_forward_length"),
            vocab_size=self.shape(EMBEDDING)[0],
            context_length=self._number(arch, "context_length"),
            rope_base=float(self._value(arch, "rope.freq_base", 10000.0)),
            norm_eps=float(self._value(arch, "attention.layer_norm_rms_epsilon")),
            interleaved=family.interleaved,
            normalises_keys="blk.0.attn_k_norm.weight" in self._tensors,
            tied=HEAD not in self._tensors,
            rope_factors=tuple(self.weights(ROPE_FACTORS).tolist()) if ROPE_FACTORS in self._tensors else (),
            rope_scale=self._rope_scale(arch),
            window=(
                window := self._number(arch, "attention.sliding_window", 0) if family.window_every else 0
            ),
            window_every=family.window_every if window else 0,
        )

    def _rope_scale(self, arch: str) -> float:
        is_scaled = self._value(arch, "rope.scaling.type", "linear") == "linear"  # llama.cpp's default
        return float(self._value(arch, "rope.scaling.factor", 1.0)) or 1.0 if is_scaled else 1.0

    def _require_known(self, arch: str, head_dim: int) -> None:
        """Refuses what the torch model of the family would compute otherwise.

        Raises:
            ModelFileError: names it.
        """
        for name in self.names:
            if "_exps" in name:
                raise ModelFileError(f"{self.path.name} has {name}: mixtures of experts are not supported")
            if name.startswith("rope_") and name != ROPE_FACTORS:
                raise ModelFileError(
                    f"{self.path.name} has {name}: its rope depends on how long the context is, which is not "
                    "supported in training; it can be asked"
                )
        scaling = self._value(arch, "rope.scaling.type", "linear")
        if scaling not in ("none", "linear"):
            raise ModelFileError(
                f"{self.path.name} scales its rope by {scaling!r}; expected none, linear or a tensor "
                f"{ROPE_FACTORS}: it can be asked, not trained against"
            )
        if (turned := self._number(arch, "rope.dimension_count", head_dim)) != head_dim:
            raise ModelFileError(
                f"{self.path.name} turns {turned} of the {head_dim} numbers of a head by rope, which is not "
                "supported"
            )
        for key in ("final_logit_softcapping", "attn_logit_softcapping"):
            if float(self._value(arch, key, 0.0)):
                raise ModelFileError(f"{self.path.name} caps its logits ({key}), which is not supported")
        pattern = self._value(arch, "attention.sliding_window_pattern", 0)
        if pattern and pattern != family_of(arch, self.path.name).window_every:
            raise ModelFileError(
                f"{self.path.name} has another order of layers with a window than {arch}'s, which is not "
                "supported"
            )

    def _number(self, arch: str, key: str, default: int | None = None) -> int:
        return int(self._value(arch, key, default))

    def _value(self, arch: str, key: str, default: Any = None) -> Any:
        field = self._reader.fields.get(f"{arch}.{key}")
        if field is None and default is None:
            raise ModelFileError(f"{self.path.name} lacks {arch}.{key} in its metadata")
        return default if field is None else field.contents()

    def copy_metadata(self, writer: gguf.GGUFWriter, instead: Mapping[str, str]) -> None:
        """Hands all metadata on, but what belongs to the file itself and what is given `instead`."""
        own = [f"general.{key}" for key in ("alignment", "file_type", "quantization_version")]
        write_fields(writer, self._reader, leave_out=(*own, *instead))
        for key, value in instead.items():
            writer.add_string(key, value)


def hf_names(dims: Dims) -> dict[str, str]:
    """Transformers' name of every tensor that a GGUF of this family may have, by the GGUF's name."""
    table = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, dims.arch.upper()), dims.num_layers)
    stems = ["model.embed_tokens", "lm_head", "model.norm"]
    parts = [f"self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")]
    parts += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]
    if dims.family.fused:
        own = [part for parts_of in FUSED.values() for part in parts_of]
        parts = [part for part in parts if part.rpartition(".")[2] not in own]
        parts += ["self_attn.qkv_proj", "mlp.gate_up_proj"]
    if dims.family.post_norms:
        parts += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    stems += [f"model.layers.{n}.{part}" for n in range(dims.num_layers) for part in parts]
    names: dict[str, str] = {}
    for stem in stems:
        if known := table.get_name(stem):
            names |= {f"{known}.{kind}": f"{stem}.{kind}" for kind in ("weight", "bias")}
    return names


def from_gguf_order(dims: Dims, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rows of queries and keys with RoPE's pairs half a head apart, where the family's GGUF interleaves them.

    That is transformers' order.

    Args:
        dims: of the model.
        name: of the tensor.
        values: any array with the tensor's rows.
    """
    return _reordered(dims, name, values, to_halves=True)


def to_gguf_order(dims: Dims, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The inverse of `from_gguf_order`."""
    return _reordered(dims, name, values, to_halves=False)


def _reordered(dims: Dims, name: str, values: npt.NDArray[Any], *, to_halves: bool) -> npt.NDArray[Any]:
    if not dims.interleaved or not any(f".{part}." in name for part in ("attn_q", "attn_k")):
        return values
    pairs = (dims.head_dim // 2, 2) if to_halves else (2, dims.head_dim // 2)
    heads = values.reshape(-1, *pairs, *values.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2).reshape(values.shape))


def write_model(
    target: Path,
    like: GgufModel,
    slots: Iterable[Slot],
    tensors: Iterable[npt.NDArray[Any]],
    metadata: Mapping[str, str],
) -> None:
    """Writes a model, whole or not at all.

    Args:
        target: the file.
        like: gives family, vocabulary and all other metadata.
        slots: what will be written, in order.
        tensors: packed bytes (rows, bytes) or float32 values, one for each slot; taken one by one.
        metadata: texts to add or put in the place of `like`'s.
    """
    slots = list(slots)
    with temporary_beside(target) as partial:
        writer = gguf.GGUFWriter(partial, like.dims.arch)
        try:
            like.copy_metadata(writer, metadata)
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            writer.add_file_type(_MOSTLY_Q4_0)
            for slot in slots:
                _announce(writer, slot)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for slot, tensor in zip(slots, tensors, strict=True):
                assert tensor.shape == _stored_shape(slot), slot.name
                writer.write_tensor_data(tensor)
        finally:
            writer.close()


def _announce(writer: gguf.GGUFWriter, slot: Slot) -> None:
    shape = _stored_shape(slot)
    if slot.grid is None:
        writer.add_tensor_info(slot.name, shape, np.dtype(np.float32), 4 * int(np.prod(shape)))
    else:
        writer.add_tensor_info(
            slot.name, shape, np.dtype(np.uint8), int(np.prod(shape)), raw_dtype=_TYPES[slot.grid]
        )


def _stored_shape(slot: Slot) -> tuple[int, ...]:
    if slot.grid is None:
        return slot.shape
    rows, columns = slot.shape
    return rows, columns // 32 * _BLOCK_BYTES[slot.grid]
