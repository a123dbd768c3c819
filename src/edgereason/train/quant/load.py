"""A GGUF model as a torch model: dequantized to float32, embedding and head apart, converted once and cached.

::

    model.gguf ─ dequantize, rename, put RoPE's pairs back ─→ <cache>/<sha256, 16 digits>/
                                                                config.json, model.safetensors
               ─ mapped into memory ─→ Qwen2ForCausalLM and the like, frozen

The embedding and the head are two matrices even where the file has one for both: quantizing treats them
differently. llama's GGUF interleaves the rows of queries and keys, which is undone here, so that weights are
in transformers' order from now on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.utils import logging

from edgereason.core.bundle import temporary_beside
from edgereason.errors import ModelFileError, TrainingError
from edgereason.quant.gguf_file import EMBEDDING, HEAD, Dims, GgufModel, from_gguf_order, hf_names

_CONFIGS: Final[dict[str, type[PretrainedConfig]]] = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "smollm3": SmolLM3Config,
    "gemma3": Gemma3TextConfig,
    "phi3": Phi3Config,
}
_WEIGHTS: Final = "model.safetensors"


def load_torch(model: GgufModel, sha256: str, cache: Path) -> PreTrainedModel:
    """The model in torch: float32, frozen, in evaluation mode.

    Args:
        model: the file.
        sha256: of the file; names the conversion in the cache.
        cache: folder of conversions; made if it is not there.

    Raises:
        TrainingError: the conversion can't be written.
        ModelFileError: it has weights that transformers' model of its family has no place for.
    """
    folder = cache / sha256[:16]
    if not (folder / _WEIGHTS).is_file():
        _convert_once(model, folder)
    with _no_progress_bar():
        loaded, about = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="sdpa",
            local_files_only=True,
            output_loading_info=True,
        )
    if odd := sorted({*about["missing_keys"], *about["unexpected_keys"]}):
        raise ModelFileError(
            f"{model.path.name} and transformers' {type(loaded).__name__} differ in {odd[0]}: "
            "such a model can't be trained against"
        )
    return loaded.eval().requires_grad_(False)


def _convert_once(model: GgufModel, folder: Path) -> None:
    """Writes the conversion. Of several processes the first does, and the others wait for it."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if (folder / _WEIGHTS).is_file():
            return
        try:
            _config(model.dims).save_pretrained(folder)
            with temporary_beside(folder / _WEIGHTS) as partial:
                save_file(convert(model), partial, metadata={"format": "pt"})
        except SafetensorError as error:  # safetensors writes by itself
            raise TrainingError(
                f"{folder / _WEIGHTS} can't be written ({error}): make room, and give the same command again"
            ) from error


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Without transformers' own bar: runs show their progress themselves."""
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def cache_argument(module: nn.Module) -> str:
    """What a model or layer of transformers calls the keys and values that its forward is given.

    `cache` from transformers 5.24 on; before, `past_key_values`.
    """
    return "cache" if "cache" in signature(module.forward).parameters else "past_key_values"


def convert(model: GgufModel) -> dict[str, torch.Tensor]:
    """All weights by transformers' names."""
    names = hf_names(model.dims)
    tensors = {}
    for name, hf_name in names.items():
        source = EMBEDDING if name == HEAD and model.dims.tied else name
        if source in model.names:  # families differ in biases and norms
            values = from_gguf_order(model.dims, name, model.weights(source))
            offset = 1.0 if model.dims.family.offset_norms and "norm" in name else 0.0
            tensors[hf_name] = torch.tensor(values - np.float32(offset) if offset else values)
    return tensors


def _config(dims: Dims) -> PretrainedConfig:
    return _CONFIGS[dims.arch](
        vocab_size=dims.vocab_size,
        hidden_size=dims.hidden_size,
        intermediate_size=dims.ff_size,
        num_hidden_layers=dims.num_layers,
        num_attention_heads=dims.num_heads,
        num_key_value_heads=dims.num_kv_heads,
        head_dim=dims.head_dim,
        max_position_embeddings=dims.context_length,
        rms_norm_eps=dims.norm_eps,
        tie_word_embeddings=False,
        use_cache=False,
        pad_token_id=None,
        architectures=[_ARCHITECTURES[dims.arch]],
        **(_gemma3(dims) if dims.arch == "gemma3" else {"rope_parameters": _rope(dims)}),
    )


def _rope(dims: Dims) -> dict[str, Any]:
    """What transformers calls the rope of layers without a window."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": dims.rope_base}
    if dims.rope_factors:  # the one type that takes a factor for each pair; long and short are the same
        factors = list(dims.rope_factors)
        rope |= {"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "factor": 1.0}
        rope |= {"attention_factor": 1.0, "original_max_position_embeddings": dims.context_length}
    elif dims.rope_scale != 1.0:
        rope |= {"rope_type": "linear", "factor": dims.rope_scale}
    return rope


_GEMMA3_27B_LAYERS: Final = 62


def _gemma3(dims: Dims) -> dict[str, Any]:
    """Windows in most layers, each kind with a rope of its own, and a scale of the products by model size."""
    every, layers = dims.window_every or 1, range(1, dims.num_layers + 1)
    is_27b = dims.num_layers == _GEMMA3_27B_LAYERS
    window_rope = {"rope_type": "default", "rope_theta": dims.family.window_rope_base}
    return {
        "layer_types": ["sliding_attention" if n % every else "full_attention" for n in layers],
        "sliding_window": dims.window or None,
        "query_pre_attn_scalar": dims.hidden_size // dims.num_heads if is_27b else dims.head_dim,
        "rope_parameters": {"full_attention": _rope(dims), "sliding_attention": window_rope},
    }


_ARCHITECTURES: Final = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
}
