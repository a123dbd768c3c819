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
from typing import Final

import gguf
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.utils import logging

from edgereason.core.bundle import temporary_beside
from edgereason.errors import ModelFileError, TrainingError
from edgereason.quant.gguf_file import EMBEDDING, HEAD, Dims, GgufModel, from_gguf_order

_CONFIGS: Final[dict[str, type[PretrainedConfig]]] = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
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
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _config(model.dims).save_pretrained(folder)
            with temporary_beside(folder / _WEIGHTS) as partial:
                save_file(convert(model), partial, metadata={"format": "pt"})
        except SafetensorError as error:  # safetensors writes by itself
            raise TrainingError(
                f"{folder / _WEIGHTS} can't be written ({error}): make room, and give the same command again"
            ) from error
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
            tensors[hf_name] = torch.tensor(from_gguf_order(model.dims, name, model.weights(source)))
    return tensors


def hf_names(dims: Dims) -> dict[str, str]:
    """Transformers' name of every tensor that a GGUF of this family may have, by the GGUF's name."""
    table = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, dims.arch.upper()), dims.num_layers)
    stems = ["model.embed_tokens", "lm_head", "model.norm"]
    parts = [f"self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")]
    parts += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]
    stems += [f"model.layers.{n}.{part}" for n in range(dims.num_layers) for part in parts]
    names: dict[str, str] = {}
    for stem in stems:
        if known := table.get_name(stem):
            names |= {f"{known}.{kind}": f"{stem}.{kind}" for kind in ("weight", "bias")}
    return names


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
        rope_parameters={"rope_type": "default", "rope_theta": dims.rope_base},
        rms_norm_eps=dims.norm_eps,
        tie_word_embeddings=False,
        use_cache=False,
        architectures=[_ARCHITECTURES[dims.arch]],
    )


_ARCHITECTURES: Final = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
