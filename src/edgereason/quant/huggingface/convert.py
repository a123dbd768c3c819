"""A Hugging Face checkpoint as a GGUF: weights bit by bit, one tensor in memory at a time, no torch.

::

    config.json ─ Header ─┐
    tokenizer.json ───────┼→ metadata ┐
    *.safetensors ─ rename, RoPE's pairs beside each other, norms' offsets ─→ tensors ─→ NAME.gguf

The bytes depend on the checkpoint's files alone, not on their folder's name or origin: whoever converts the
same files has the same base, and adapters that fit it.

llama.cpp's own converter reads ten times as many architectures, but no package brings it. It is a script of
the source tree that needs torch, transformers and the `gguf` beside it, and `ask` has none of these. So the
families that can be trained here are converted by their table. Tests compare what llama.cpp computes with
transformers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import gguf
import numpy as np
import numpy.typing as npt

from edgereason.core.bundle import temporary_beside
from edgereason.errors import ModelFileError
from edgereason.quant.gguf_file import CHECKPOINT_SHA256, EMBEDDING, HEAD, Dims, hf_names, to_gguf_order
from edgereason.quant.huggingface.config import FILE as CONFIG
from edgereason.quant.huggingface.config import Header, read_header
from edgereason.quant.huggingface.tokenizer import FILES as TOKENIZER_FILES
from edgereason.quant.huggingface.tokenizer import Vocabulary, read_vocabulary
from edgereason.quant.huggingface.weights import Weights, weight_files

VERSION: Final = 1
"""Of what conversion writes: raised where the same files give other bytes."""
_TYPES: Final = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "BF16": gguf.GGMLQuantizationType.BF16,
}
_FILE_TYPES: Final = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "BF16": gguf.LlamaFileType.MOSTLY_BF16,
}
_BYTES: Final = {"F32": 4, "F16": 2, "BF16": 2}
_UNUSED: Final = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")
"""Ends of names of buffers that older checkpoints hold."""
_PARTS: Final = ("model.language_model.", "language_model.model.", "language_model.")
"""Beginnings of a language model's names where it is a part of the checkpoint, and lm_head's."""

Progress = Callable[[int, int], None]


class Tensor(NamedTuple):
    """One to be written: `source` in the checkpoint, stored as `kind`."""

    name: str
    source: str
    kind: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return _BYTES[self.kind] * int(np.prod(self.shape, dtype=np.int64))


def source_files(folder: Path) -> tuple[Path, ...]:
    """The files of a checkpoint that a conversion reads; their bytes decide about its bytes.

    Raises:
        ModelFileError: weights are missing, or pickled.
    """
    beside = [folder / name for name in (CONFIG, *TOKENIZER_FILES) if (folder / name).is_file()]
    return (*beside, *weight_files(folder))


def checkpoint_sha256(files: Mapping[str, str]) -> str:
    """The hash of a checkpoint.

    Args:
        files: hash of each of its `source_files`, by name.
    """
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(files.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


class Conversion:
    """A checkpoint, read as far as is needed to know what will be written.

    Args:
        folder: with its files.

    Raises:
        ModelFileError: a file is missing or damaged, or the model is not supported; the message says why.
    """

    def __init__(self, folder: Path) -> None:
        self.header: Header = read_header(folder)
        self._weights = Weights(weight_files(folder))
        self._tensors = list(self._tensors_of(folder, self.header.dims))
        rows = next(one for one in self._tensors if one.name == EMBEDDING).shape[0]
        self.vocabulary: Vocabulary = read_vocabulary(folder, rows)

    @property
    def num_bytes(self) -> int:
        """Of all tensors."""
        return sum(one.num_bytes for one in self._tensors)

    def write(self, target: Path, sha256: str, progress: Progress = lambda done, total: None) -> None:
        """Writes the GGUF, whole or not at all.

        Args:
            target: the file.
            sha256: of the checkpoint, for its metadata.
            progress: told the bytes that are written, and all of them.
        """
        dims, done = self.header.dims, 0
        with temporary_beside(target) as partial:
            writer = gguf.GGUFWriter(partial, dims.arch)
            try:
                self._add_metadata(writer, sha256)
                for name, values in self.header.tensors.items():
                    writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
                for one in self._tensors:
                    kind = _TYPES[one.kind]
                    writer.add_tensor_info(one.name, one.shape, np.dtype(np.float16), one.num_bytes, kind)
                writer.write_header_to_file()
                writer.write_kv_data_to_file()
                writer.write_ti_data_to_file()
                for values in self.header.tensors.values():
                    writer.write_tensor_data(values)
                for one in self._tensors:
                    writer.write_tensor_data(self._values(one))
                    done += one.num_bytes
                    progress(done, self.num_bytes)
            finally:
                writer.close()

    def _add_metadata(self, writer: gguf.GGUFWriter, sha256: str) -> None:
        header, dims = self.header, self.header.dims
        writer.add_type(gguf.GGUFType.MODEL)
        if self.vocabulary.model_name is not None:
            writer.add_name(self.vocabulary.model_name)
        writer.add_string(CHECKPOINT_SHA256, sha256)
        writer.add_context_length(dims.context_length)
        writer.add_embedding_length(dims.hidden_size)
        writer.add_block_count(dims.num_layers)
        writer.add_feed_forward_length(dims.ff_size)
        writer.add_head_count(dims.num_heads)
        writer.add_head_count_kv(dims.num_kv_heads)
        writer.add_key_length(dims.head_dim)
        writer.add_value_length(dims.head_dim)
        writer.add_rope_freq_base(dims.rope_base)
        writer.add_layer_norm_rms_eps(dims.norm_eps)
        writer.add_vocab_size(len(self.vocabulary.tokens))
        for key, text in header.texts.items():
            writer.add_string(f"{dims.arch}.{key}", text)
        for key, number in header.numbers.items():
            writer.add_float32(f"{dims.arch}.{key}", number)
        for key, count in header.counts.items():
            writer.add_uint32(f"{dims.arch}.{key}", count)
        kinds = [one.kind for one in self._tensors if len(one.shape) > 1]
        writer.add_file_type(_FILE_TYPES[max(set(kinds), key=kinds.count)])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        self.vocabulary.write(writer)

    def _tensors_of(self, folder: Path, dims: Dims) -> Iterator[Tensor]:
        """What will be written, in order.

        Raises:
            ModelFileError: a tensor is missing, of a wrong shape, or would be left over.
        """
        stored = {self._plain(name): name for name in self._weights if not name.endswith(_UNUSED)}
        stored.pop("", None)
        shapes = _shapes(dims)
        for name, hf_name in hf_names(dims).items():
            source = stored.pop(hf_name, None)
            if name == HEAD and dims.tied:
                continue
            stem, _, end = name.rpartition(".")
            expected = shapes.get(stem if not stem.startswith("blk.") else stem.split(".", 2)[2])
            if source is None:
                if end == "weight" and expected is not None:
                    raise ModelFileError(f"{folder} lacks the tensor {hf_name}: get the whole checkpoint")
                continue
            kind, shape = self._weights.about(source)
            if expected is None or shape != (expected if end == "weight" else expected[:1]):
                fits = "no such tensor" if expected is None else f"the shape {expected}"
                raise ModelFileError(f"{folder} has {source} of the shape {shape}, {CONFIG} says {fits}")
            yield Tensor(name, source, kind if len(shape) > 1 else "F32", shape)
        if stored:
            raise ModelFileError(
                f"{folder} has the tensor {min(stored.values())}, which {dims.arch} has no place for: it "
                "is not the "
                "architecture that config.json says"
            )

    def _plain(self, name: str) -> str:
        """A tensor's name in a checkpoint of the language model alone; "" for one of another part."""
        if not self.header.is_part:
            return name
        for prefix in _PARTS:
            if name.startswith(prefix):
                rest = name.removeprefix(prefix)
                return rest if rest.startswith("lm_head.") else f"model.{rest}"
        return name if name.startswith("lm_head.") else ""

    def _values(self, one: Tensor) -> npt.NDArray[Any]:
        """A tensor as it is written: matrices as they are stored, all else in float32."""
        dims, (kind, values) = self.header.dims, self._weights.take(one.source)
        if len(one.shape) == 1:
            wide = _widened(kind, values)
            offset = 1.0 if dims.family.offset_norms and "norm" in one.name else 0.0
            values = wide + np.float32(offset) if offset else wide
        return np.ascontiguousarray(to_gguf_order(dims, one.name, values))


def _widened(kind: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """In float32, exactly."""
    if kind == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _shapes(dims: Dims) -> dict[str, tuple[int, ...]]:
    """Of weights, by the last part of their stem in the GGUF; what a family has not is left out."""
    hidden, ff = dims.hidden_size, dims.ff_size
    queries, keys = dims.num_heads * dims.head_dim, dims.num_kv_heads * dims.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (dims.vocab_size, hidden),
        "output": (dims.vocab_size, hidden),
        "output_norm": (hidden,),
        "attn_norm": (hidden,),
        "attn_output": (hidden, queries),
        "ffn_norm": (hidden,),
        "ffn_down": (hidden, ff),
    }
    if dims.family.fused:
        return shapes | {"attn_qkv": (queries + 2 * keys, hidden), "ffn_up": (2 * ff, hidden)}
    shapes |= {"attn_q": (queries, hidden), "attn_k": (keys, hidden), "attn_v": (keys, hidden)}
    shapes |= {"ffn_gate": (ff, hidden), "ffn_up": (ff, hidden)}
    if dims.normalises_keys:
        shapes |= {"attn_q_norm": (dims.head_dim,), "attn_k_norm": (dims.head_dim,)}
    if dims.family.post_norms:
        shapes |= {"post_attention_norm": (hidden,), "post_ffw_norm": (hidden,)}
    return shapes
