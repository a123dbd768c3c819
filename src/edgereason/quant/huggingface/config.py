"""What `config.json` says of a decoder: its shapes, and the rest of what a GGUF's header needs.

Families differ by `ARCHITECTURES` here and by `quant/families.py`. What llama.cpp would compute otherwise
than transformers is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from edgereason.config import load_json, read_bounded
from edgereason.errors import ModelFileError
from edgereason.quant.families import FAMILIES
from edgereason.quant.gguf_file import ROPE_FACTORS, Dims

FILE: Final = "config.json"
_GEMMA3_27B_LAYERS: Final = 62
"""llama.cpp knows this size of Gemma 3 by its layers, and scales its products otherwise."""
_NOPE_EVERY: Final = 4
"""In SmolLM3, every so many layers one has no rope; llama.cpp has this number in its code."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A class of transformers.

    Attributes:
        arch: the GGUF's name of its family.
        activation: of its feed-forward.
        defaults: what the class supposes of settings that a file may leave out.
        is_part: whether the language model is a part of it: the rest, such as vision, is left out.
    """

    arch: str
    activation: str = "silu"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    is_part: bool = False


_GEMMA3: Final = {
    "hidden_activation": "gelu_pytorch_tanh",
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
_NO_WINDOW: Final = {"use_sliding_window": False}
_GELU: Final = "gelu_pytorch_tanh"
ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "Qwen2ForCausalLM": Architecture("qwen2", defaults=_NO_WINDOW),
    "Qwen3ForCausalLM": Architecture("qwen3", defaults={"head_dim": 128} | _NO_WINDOW),
    "LlamaForCausalLM": Architecture("llama"),
    "MistralForCausalLM": Architecture("llama", defaults={"sliding_window": 4096}),
    "SmolLM3ForCausalLM": Architecture("smollm3", defaults={"tie_word_embeddings": True} | _NO_WINDOW),
    "Gemma3ForCausalLM": Architecture("gemma3", _GELU, _GEMMA3),
    "Gemma3ForConditionalGeneration": Architecture("gemma3", _GELU, _GEMMA3, is_part=True),
    "Phi3ForCausalLM": Architecture("phi3"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a GGUF's header says of a decoder.

    Attributes:
        dims: its shapes.
        is_part: whether the language model is a part of the checkpoint.
        texts, numbers, counts: more metadata, by their keys without the family: texts, float32, uint32.
        tensors: that stand in the file beside the weights.
    """

    dims: Dims
    is_part: bool = False
    texts: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    tensors: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)


def read_header(folder: Path) -> Header:
    """Reads a checkpoint's `config.json`.

    Raises:
        ModelFileError: it can't be read, or describes what is not supported.
    """
    path = folder / FILE
    try:
        values = load_json(read_bounded(path))
        if not isinstance(values, dict):
            raise ValueError(f"it is a {type(values).__name__}, not an object")
        return _header(values, f"{folder.name}/{FILE}")
    except OSError as error:
        raise ModelFileError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ModelFileError(f"{path} can't be right ({error}): get it again") from error


def _header(values: dict[str, Any], where: str) -> Header:
    named = values.get("architectures") or ["none"]
    known = ARCHITECTURES.get(named[0])
    if known is None:
        raise ModelFileError(
            f"{where} is of the architecture {named[0]}; safetensors are read of {', '.join(ARCHITECTURES)}: "
            "convert others by llama.cpp's convert_hf_to_gguf.py, and give the GGUF"
        )
    quantized = values.get("quantization_config") or values.get("compression_config")
    config = _Config(
        {**known.defaults, **(values.get("text_config") or {} if known.is_part else values)}, where
    )
    if quantized is not None or config.values.get("quantization_config") is not None:
        method = (quantized or config.values["quantization_config"]).get(
            "quant_method", "a method of its own"
        )
        raise ModelFileError(
            f"{where}: the checkpoint is quantized ({method}): give the one in 16 or 32 bits, or a GGUF"
        )
    _require_computed(config, known)
    return _with_rope(config, known)


def _require_computed(config: _Config, known: Architecture) -> None:
    """Refuses what llama.cpp would compute otherwise.

    Raises:
        ModelFileError: names it.
    """
    activation = config.values.get("hidden_activation" if known.arch == "gemma3" else "hidden_act", "silu")
    if activation != known.activation:
        config.refuse(f"its feed-forward has the activation {activation!r}, expected {known.activation!r}")
    if config.values.get("attn_logit_softcapping"):
        config.refuse(
            "it caps its attention (attn_logit_softcapping), which llama.cpp does not for this family"
        )
    layers = config.count("num_hidden_layers")
    if known.arch == "smollm3":
        usual = [int((n + 1) % _NOPE_EVERY != 0) for n in range(layers)]
        if config.values.get("no_rope_layers", usual) != usual:
            config.refuse("other layers than every fourth are without rope (no_rope_layers)")
    if known.arch == "gemma3":
        every = FAMILIES["gemma3"].window_every
        usual_kinds = [
            "full_attention" if (n + 1) % every == 0 else "sliding_attention" for n in range(layers)
        ]
        pattern = config.values.get("sliding_window_pattern") or config.values.get("_sliding_window_pattern")
        if config.values.get("layer_types", usual_kinds) != usual_kinds or pattern not in (None, every):
            config.refuse(f"other layers than every {every}th see all tokens (layer_types)")
        heads = config.count("num_attention_heads")
        expected = (
            config.count("hidden_size") // heads if layers == _GEMMA3_27B_LAYERS else config.count("head_dim")
        )
        if config.values.get("query_pre_attn_scalar") != expected:
            config.refuse(
                f"query_pre_attn_scalar is {config.values.get('query_pre_attn_scalar')}, and llama.cpp "
                f"takes {expected}"
            )


def _with_rope(config: _Config, known: Architecture) -> Header:
    family = FAMILIES[known.arch]
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    head_dim = config.count("head_dim", hidden // heads)
    rope, window_rope = config.rope()
    kind = str(rope.get("rope_type") or rope.get("type") or "default")
    texts: dict[str, str] = {}
    numbers: dict[str, float] = {}
    counts = {"rope.dimension_count": int(head_dim * config.part_turned(rope))}
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    scale, context = 1.0, config.count("max_position_embeddings")
    if kind == "linear":
        scale = float(rope["factor"])
        texts["rope.scaling.type"], numbers["rope.scaling.factor"] = kind, scale
    elif kind == "llama3":
        tensors[ROPE_FACTORS] = _llama3_factors(rope, config.rope_base(rope), head_dim)
    elif kind in ("longrope", "su") and known.arch == "phi3":
        original = int(
            config.values.get("original_max_position_embeddings") or rope["original_max_position_embeddings"]
        )
        longer = context / original
        counts["rope.scaling.original_context_length"] = original
        numbers["rope.scaling.attn_factor"] = (
            math.sqrt(1 + math.log(longer) / math.log(original)) if longer > 1 else 1.0
        )
        for length in ("long", "short"):
            tensors[f"rope_factors_{length}.weight"] = np.array(rope[f"{length}_factor"], np.float32)
    elif kind != "default":
        config.refuse(
            f"its rope is scaled by {kind!r}, which is not supported: without that setting it has its "
            "original context"
        )
    if counts["rope.dimension_count"] != head_dim and known.arch != "phi3":
        config.refuse("its rope turns a part of each head (partial_rotary_factor)")
    window = config.window()
    if family.window_every:
        counts["attention.sliding_window"] = window
        if window_rope.get("rope_theta", family.window_rope_base) != family.window_rope_base:
            config.refuse(f"rope_theta of layers with a window is not {family.window_rope_base:g}")
    elif window:  # llama.cpp sees all tokens in this family's layers: within the window that is the same
        context = min(context, window)
    if cap := config.values.get("final_logit_softcapping"):
        numbers["final_logit_softcapping"] = float(cap)
    dims = Dims(
        arch=known.arch,
        num_layers=config.count("num_hidden_layers"),
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=config.count("num_key_value_heads", heads),
        head_dim=head_dim,
        ff_size=config.count("intermediate_size"),
        vocab_size=config.count("vocab_size"),
        context_length=context,
        rope_base=config.rope_base(rope),
        norm_eps=float(config.need("rms_norm_eps")),
        interleaved=family.interleaved,
        normalises_keys=known.arch in ("qwen3", "gemma3"),
        tied=bool(config.values.get("tie_word_embeddings", False)),
        rope_factors=tuple(tensors[ROPE_FACTORS].tolist()) if ROPE_FACTORS in tensors else (),
        rope_scale=scale,
        window=window if family.window_every else 0,
        window_every=family.window_every if window else 0,
    )
    return Header(
        dims=dims, is_part=known.is_part, texts=texts, numbers=numbers, counts=counts, tensors=tensors
    )


class _Config:
    """Settings with their defaults; `where` begins every message."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def refuse(self, why: str) -> NoReturn:
        raise ModelFileError(f"{self.where}: {why}")

    def need(self, key: str, default: Any = None) -> Any:
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise ModelFileError(f"{self.where} lacks {key}")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        value = self.need(key, default)
        if not isinstance(value, int) or not 0 < value < 1 << 31:
            raise ModelFileError(f"{self.where}: {key} must be a whole number above 0, got {value!r}")
        return value

    def rope(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings of the rope in layers without a window, and in those with one."""
        said = self.values.get("rope_parameters") or {}
        if "full_attention" in said:
            return said["full_attention"], said.get("sliding_attention") or {}
        window = {"rope_theta": base} if (base := self.values.get("rope_local_base_freq")) else {}
        return {**(self.values.get("rope_scaling") or {}), **said}, window

    def rope_base(self, rope: Mapping[str, Any]) -> float:
        return float(rope.get("rope_theta") or self.values.get("rope_theta") or 10_000.0)

    def part_turned(self, rope: Mapping[str, Any]) -> float:
        return float(rope.get("partial_rotary_factor") or self.values.get("partial_rotary_factor") or 1.0)

    def window(self) -> int:
        """Tokens that a layer with a window sees; 0 if no layer has one."""
        is_off = self.values.get("use_sliding_window") is False
        return 0 if is_off else int(self.values.get("sliding_window") or 0)


def _llama3_factors(rope: Mapping[str, Any], base: float, head_dim: int) -> npt.NDArray[np.float32]:
    """What the frequency of each pair is divided by.

    Source: transformers' `modeling_rope_utils._compute_llama3_parameters`.
    """
    factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = float(rope["original_max_position_embeddings"])
    wavelengths = 2 * math.pi * base ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
