"""LoRA adapters: made, saved for PEFT, exported for llama.cpp.

::

    FOLDER/
      adapter_config.json          PEFT's, with the invocation ids: an activated LoRA to whoever loads it
      adapter_model.safetensors    PEFT's; its metadata names the base by SHA-256, and its checkpoint

In training the adapter is a plain LoRA: PEFT would look for the invocation in every forward pass, and switch
the adapter off where it finds none. So the key is written when saving and taken away when loading.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from transformers import PreTrainedModel

from edgereason.config import load_json
from edgereason.core.bundle import file_sha256, temporary_beside, write_atomically
from edgereason.errors import BundleError, ConfigError
from edgereason.quant.adapter_file import AdapterGrid, Product, base_of, read_adapter, write_adapter
from edgereason.quant.blocks import BLOCK
from edgereason.quant.families import FUSED
from edgereason.quant.gguf_file import Checkpoint, GgufModel, from_gguf_order, hf_names, to_gguf_order

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"
_BASE: Final = "edgereason.base.sha256"
INVOCATION: Final = "alora_invocation_tokens"

Linear = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LINEARS: Final[tuple[Linear, ...]] = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """The adapter's shape.

    Attributes:
        rank: r; a multiple of 32 can be shipped as Q8_0.
        alpha: the product is scaled by alpha / r; 2 r by default, as in the paper.
        dropout: on the adapter's input, in training.
        targets: linears that get one.
    """

    rank: int = 32
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[Linear, ...] = LINEARS

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1 or not self.targets:
            raise ConfigError("[lora] needs a rank of 1 or more, a dropout from 0 to below 1, and targets")

    @property
    def scale_alpha(self) -> float:
        """Alpha, the default filled in."""
        return 2.0 * self.rank if self.alpha is None else self.alpha


def new_adapter(base: PreTrainedModel, settings: LoraSettings, seed: int) -> PeftModel:
    """`base` with a fresh adapter: A random, B zero, so that at first nothing changes.

    Raises:
        ConfigError: targets are a part of a matrix of the base.
    """
    torch.manual_seed(seed)
    return get_peft_model(
        base,
        LoraConfig(
            r=settings.rank,
            lora_alpha=settings.scale_alpha,
            lora_dropout=settings.dropout,
            target_modules=_modules(base, settings.targets),
            task_type="CAUSAL_LM",
        ),
    )


def _modules(base: PreTrainedModel, targets: Sequence[str]) -> list[str]:
    """The base's linears that are meant: some families have several in one matrix."""
    own = {name.rpartition(".")[2] for name, _ in base.named_modules()}
    modules = list(targets)
    for fused, parts in FUSED.items():
        meant = [part for part in parts if part in modules]
        if fused not in own or not meant:
            continue
        if len(meant) < len(parts):
            raise ConfigError(
                f"[lora] targets has {', '.join(meant)}, and this base has {', '.join(parts)} in one matrix: "
                "name all of them or none"
            )
        modules = [name for name in modules if name not in parts] + [fused]
    return modules


def _targets(modules: Collection[str]) -> tuple[Linear, ...]:
    """The targets that a base's linears stand for."""
    meant = {part for name in modules for part in FUSED.get(name, (name,))}
    return tuple(name for name in LINEARS if name in meant)


def save_adapter(
    model: PeftModel,
    folder: Path,
    *,
    base_name: str,
    base_sha256: str,
    opening: Sequence[int],
    weights: dict[str, Any] | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Saves the adapter so that PEFT loads it as an activated LoRA.

    Args:
        model: with the adapter.
        folder: made if it is not there.
        base_name: goes into PEFT's configuration.
        base_sha256: of the GGUF that the base comes from.
        opening: ids that turn the adapter on.
        weights: the model's state dict, where it is gathered from several processes.
        checkpoint: that the base was converted from, if it was.
    """
    tensors = get_peft_model_state_dict(model, state_dict=weights)
    about = {"base_model_name_or_path": base_name, INVOCATION: list(opening)}
    _write(folder, tensors, model.peft_config["default"].to_dict() | about, base_sha256, checkpoint)


def import_adapter(
    source: Path, base: GgufModel, folder: Path, *, base_name: str, base_sha256: str, opening: Sequence[int]
) -> None:
    """Saves the adapter of a bundle as `save_adapter` would: what ships, as it is, to be trained further.

    Args:
        source: a GGUF file.
        base: what it belongs to.
        folder: made if it is not there; base_name, base_sha256, opening: as for `save_adapter`.

    Raises:
        BundleError: it can't be read, or belongs to another base.
    """
    made_for = base_of(source)
    if made_for not in (None, base_sha256):
        raise _for_another(source.name, made_for, base_sha256)
    products, alpha = read_adapter(source)
    names, tensors = hf_names(base.dims), {}
    for name, product in products.items():
        if name not in names:
            raise BundleError(f"the adapter has {name}, which {base.path.name} has no place for")
        stem = f"base_model.model.{names[name].removesuffix('.weight')}"
        b = from_gguf_order(base.dims, name, product.b)
        for side, matrix in (("A", product.a), ("B", b)):
            tensors[f"{stem}.lora_{side}.weight"] = torch.from_numpy(np.ascontiguousarray(matrix, np.float32))
    targets = [one for one in (*LINEARS, *FUSED) if any(f".{one}." in name for name in tensors)]
    ranks = {len(product.a) for product in products.values()}
    config = LoraConfig(r=min(ranks), lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM")
    about = {"base_model_name_or_path": base_name, INVOCATION: list(opening)}
    _write(folder, tensors, config.to_dict() | about, base_sha256, base.checkpoint)


def load_adapter(model: PeftModel, folder: Path, *, base_sha256: str) -> None:
    """Puts saved weights into a model's adapter of the same shape.

    Raises:
        BundleError: they can't be read, are for another base, or of another shape.
    """
    tensors = _weights(folder, base_sha256)
    expected = get_peft_model_state_dict(model)
    differ = [
        name
        for name in {*tensors, *expected}
        if name not in tensors or name not in expected or tensors[name].shape != expected[name].shape
    ]
    if differ:
        raise BundleError(
            f"the adapter in {folder.name} has another shape than the recipe's ({min(differ)} and "
            f"{len(differ) - 1} more differ): give the recipe that it was trained with"
        )
    set_peft_model_state_dict(model, tensors)


def export_adapter(
    folder: Path, base: GgufModel, target: Path, *, base_sha256: str, grid: AdapterGrid
) -> None:
    """Writes a saved adapter as llama.cpp and our engine read it.

    Raises:
        BundleError: it can't be read, or belongs to another base.
        ConfigError: its rank can't be stored so.
    """
    tensors = _weights(folder, base_sha256)
    config = load_json((folder / CONFIG).read_text("utf-8"))
    products = {}
    for name, hf_name in hf_names(base.dims).items():
        stem = f"base_model.model.{hf_name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" not in tensors:
            continue
        a, b = (tensors.pop(f"{stem}.lora_{side}.weight").numpy() for side in "AB")
        products[name] = Product(a, to_gguf_order(base.dims, name, b))
    if tensors:
        raise BundleError(f"the adapter has {min(tensors)}, which {base.path.name} has no place for")
    write_adapter(
        target,
        base,
        products,
        alpha=float(config["lora_alpha"]),
        grid=grid,
        base_sha256=base_sha256,
        invocation=config[INVOCATION] or (),
    )


def settings_of(folder: Path) -> LoraSettings:
    """The shape of a saved adapter.

    Raises:
        BundleError: there is none.
    """
    try:
        config = load_json((folder / CONFIG).read_text("utf-8"))
        targets = _targets(config["target_modules"])
        return LoraSettings(
            rank=int(config["r"]),
            alpha=float(config["lora_alpha"]),
            dropout=float(config["lora_dropout"]),
            targets=targets,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{folder} holds no adapter of `edgereason train sft`: {error}") from error


def adapter_sha256(folder: Path) -> str:
    """Hash of a saved adapter's weights."""
    return file_sha256(folder / WEIGHTS)


def grid_for(rank: int) -> AdapterGrid:
    """How an adapter of this rank ships: in blocks where they divide it, else in half precision."""
    return AdapterGrid.F16 if rank % BLOCK else AdapterGrid.Q8_0


def _write(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    config: dict[str, Any],
    base_sha256: str,
    checkpoint: Checkpoint | None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    about = {"format": "pt", _BASE: base_sha256} | (checkpoint.keys() if checkpoint else {})
    with temporary_beside(folder / WEIGHTS) as partial:
        partial.write_bytes(_in_order(save(tensors, about)))
    plain = {name: sorted(v) if isinstance(v, set) else v for name, v in config.items()}
    plain["inference_mode"] = True
    write_atomically(folder / CONFIG, json.dumps(plain, indent=2, sort_keys=True, default=str) + "\n")


def _in_order(data: bytes) -> bytes:
    """A safetensors file with its header sorted: the library shuffles the metadata, and so the hash."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors lie on eights
    return len(header).to_bytes(8, "little") + header + data[end:]


def _for_another(what: str, made_for: str | None, base_sha256: str) -> BundleError:
    return BundleError(
        f"the adapter in {what} was made for the base {made_for}, this one is {base_sha256}: "
        "give the base that it was trained on"
    )


def _weights(folder: Path, base_sha256: str) -> dict[str, torch.Tensor]:
    path = folder / WEIGHTS
    try:
        with safe_open(path, "pt") as file:
            made_for = (file.metadata() or {}).get(_BASE)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path} can't be read: {error}") from error
    if made_for != base_sha256:
        raise _for_another(folder.name, made_for, base_sha256)
    return tensors
