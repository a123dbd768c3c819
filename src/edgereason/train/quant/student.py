"""The model as it will be stored, differentiable: transforms merged, weights on grids, corrections added.

::

    teacher's weights ─ transforms ─→ merged ─ + B A ─ grid (scales by rule × row factors) ─→ ŵ
    norms' gains, q/k/v biases ─────→ merged ─ + correction ─────────────────────────────→ ĝ, b̂

transformers' own forward runs on these weights, layer by layer, each recomputed in the backward pass, so that
no more than a layer's are held. The KV cache can be simulated as Q8_0. What is learned beside the transforms
costs nothing at run time: a low-rank product moves weights before they are rounded and is gone with that,
factors by row vanish in the scales, gains and biases are in the file anyway.

Source: paper section 5. Deviation: low-rank products before rounding (LR-QAT, arXiv 2406.06385), gains and
biases (norm tweaking, arXiv 2309.02784) are trained too; scales follow a rule of the weights, and a factor
for each row is trained instead of each scale.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from edgereason.errors import ConfigError
from edgereason.quant.blocks import Grid
from edgereason.quant.dyadic import on_grid
from edgereason.quant.gguf_file import FINAL_NORM, HEAD, Dims, hf_names, to_gguf_order
from edgereason.quant.learned import StorageConfig
from edgereason.quant.merge import TIED_REFUSED
from edgereason.train.quant.fake_quant import (
    SimulatedKV,
    fake_quantize,
    scale_ratios,
    scales_of,
    shipped_fp16,
)
from edgereason.train.quant.load import cache_argument
from edgereason.train.quant.transforms import LayerTransforms, TransformConfig, Transforms

_LINEARS: Final = (
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionConfig:
    """What is learned beside the transforms.

    Attributes:
        rows: a factor for the scales of every output row.
        norms: the norms' gains.
        biases: the biases of queries, keys and values, where the family has them.
        rank: of a product that is added to each linear before it is rounded; 0 for none.
        head_rank: the same for the head.
    """

    rows: bool = True
    norms: bool = True
    biases: bool = True
    rank: int = 0
    head_rank: int = 0

    def __post_init__(self) -> None:
        if min(self.rank, self.head_rank) < 0:
            raise ConfigError(f"[corrections]: ranks must be 0 or more, got {self.rank} and {self.head_rank}")


class Corrected(nn.Module):
    """Parameters that correct named weights: logarithms of factors by row, sums, and low-rank products.

    Args:
        rows: matrices that get factors, with their numbers of rows.
        sums: gains and biases that get a sum, with their sizes.
        products: matrices that get a product, with their shapes.
        rank: of the products.
    """

    def __init__(
        self,
        rows: dict[str, int],
        sums: dict[str, int],
        products: dict[str, torch.Size] | None = None,
        rank: int = 0,
    ) -> None:
        super().__init__()
        shapes = products or {}
        self.log_rows = nn.ParameterDict({_key(name): torch.zeros(size) for name, size in rows.items()})
        self.added = nn.ParameterDict({_key(name): torch.zeros(size) for name, size in sums.items()})
        self.left = nn.ParameterDict({_key(n): torch.zeros(shape[0], rank) for n, shape in shapes.items()})
        self.right = nn.ParameterDict(
            {_key(n): torch.randn(rank, shape[1]) / shape[1] ** 0.5 for n, shape in shapes.items()}
        )

    def moved(self, name: str, weight: Tensor) -> Tensor:
        """A matrix with its product, if it has one."""
        if _key(name) not in self.left:
            return weight
        return weight + shipped_fp16(self.left[_key(name)]) @ shipped_fp16(self.right[_key(name)])

    def row_factors(self, name: str) -> Tensor | None:
        """(rows,) factors of a matrix's scales, if they are learned."""
        return shipped_fp16(self.log_rows[_key(name)].exp()) if _key(name) in self.log_rows else None

    def sum(self, name: str, values: Tensor) -> Tensor:
        """A gain or bias with its correction, if it has one."""
        return values + self.added[_key(name)] if _key(name) in self.added else values


class Ratios(nn.Module):
    """What the search for scales came to, by matrix: state that a checkpoint keeps, and nothing to train."""

    def __getitem__(self, name: str) -> Tensor:
        """(rows, blocks) of a matrix; `refresh` makes them."""
        return self.get_buffer(_key(name))

    def __setitem__(self, name: str, ratios: Tensor) -> None:
        self.register_buffer(_key(name), ratios)


class StudentLayer(nn.Module):
    """A decoder layer whose weights are computed: stands in for transformers' own."""

    def __init__(
        self,
        inner: nn.Module,
        transforms: LayerTransforms,
        storage: StorageConfig,
        config: CorrectionConfig,
        *,
        kv8: bool,
    ) -> None:
        super().__init__()
        self._inner = [inner]  # in a list: its weights are the teacher's, and no part of this module's state
        self._transforms = [transforms]
        self._storage = storage
        self._kv8 = kv8
        self.ratios = Ratios()
        self.q: Tensor | None = None
        weights = self.teacher_weights()
        kinds = ["norm"] * config.norms + [".bias"] * config.biases
        sums = [name for name in weights if any(kind in name for kind in kinds)]
        self.corrected = Corrected(
            {f"{part}.weight": len(weights[f"{part}.weight"]) for part in _LINEARS} if config.rows else {},
            {name: len(weights[name]) for name in sums},
            {f"{part}.weight": weights[f"{part}.weight"].shape for part in _LINEARS} if config.rank else {},
            config.rank,
        )

    def teacher_weights(self) -> dict[str, Tensor]:
        """The teacher's, by the layer's own names."""
        return {name: parameter.detach() for name, parameter in self._inner[0].named_parameters()}

    def merged(self) -> dict[str, Tensor]:
        """With the transforms in them, not yet on grids."""
        return self._transforms[0].merged(self.teacher_weights(), self.q)

    @torch.no_grad()
    def refresh(self) -> None:
        """Searches the scales anew, for the weights as they are now."""
        weights, storage = self.merged(), self._storage
        for part in _LINEARS:
            name = f"{part}.weight"
            self.ratios[name] = _search(self.corrected.moved(name, weights[name]), storage.linears, storage)

    def stored(self) -> dict[str, Tensor]:
        """As they will be stored, in float32 whatever the products of the forward pass are in."""
        with _exact_products():
            return self._stored()

    def _stored(self) -> dict[str, Tensor]:
        weights = self.merged()
        for part in _LINEARS:
            name = f"{part}.weight"
            moved = self.corrected.moved(name, weights[name])
            scales = scales_of(moved, self.ratios[name], self.corrected.row_factors(name))
            weights[name] = fake_quantize(moved, self._storage.linears, scales)
        return {name: self.corrected.sum(name, values) for name, values in weights.items()}

    def forward(self, hidden_states: Tensor, **how: Any) -> Tensor:
        """Transformers' forward of the layer, on the stored weights."""
        if self._kv8:
            how |= {cache_argument(self._inner[0]): SimulatedKV()}

        def run(hidden: Tensor) -> Tensor:
            out: Tensor = functional_call(self._inner[0], self.stored(), (hidden,), how)
            return out

        if not torch.is_grad_enabled():
            return run(hidden_states)
        out: Tensor = checkpoint(run, hidden_states, use_reentrant=False)
        return out


class Student(nn.Module):
    """A teacher's quantized self.

    Args:
        teacher: frozen; its weights are shared, not copied.
        dims: its shapes.
        storage: grids and rules.
        transforms: which to use.
        corrections: what else is learned.
        kv8: whether keys and values are simulated as Q8_0.

    Raises:
        ConfigError: head and embedding are to stay tied, and can't.
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        dims: Dims,
        storage: StorageConfig,
        transforms: TransformConfig,
        corrections: CorrectionConfig,
        *,
        kv8: bool = False,
    ) -> None:
        super().__init__()
        if storage.tied:
            _require_tied(transforms, corrections)
        self._dims = dims
        self._storage = storage
        self._head: Tensor = teacher.get_output_embeddings().weight.detach()
        self._embedding = self._head if storage.tied else teacher.get_input_embeddings().weight.detach()
        self._gain: Tensor = teacher.model.norm.weight.detach()
        self._eps = dims.norm_eps
        self.ratios = Ratios()
        self.transforms = Transforms(dims, transforms)
        self.layers = nn.ModuleList(
            StudentLayer(layer, part, storage, corrections, kv8=kv8)
            for layer, part in zip(teacher.model.layers, self.transforms.each(), strict=True)
        )
        self.corrected = Corrected(
            {"lm_head.weight": dims.vocab_size} if corrections.rows and not storage.tied else {},
            {"model.norm.weight": dims.hidden_size} if corrections.norms else {},
            {"lm_head.weight": self._head.shape} if corrections.head_rank else {},
            corrections.head_rank,
        )
        # transformers' loop over layers, its masks and positions, with layers of ours.
        self._decoder = [copy.copy(teacher.model)]
        self._decoder[0]._modules = teacher.model._modules | {
            "layers": self.layers,
            "norm": nn.Identity(),
        }

    def hidden(self, ids: Tensor) -> Tensor:
        """(batch, tokens, hidden): final hidden states, normalised, for ids (batch, tokens)."""
        with _exact_products():
            q = self.transforms.q()
            embedded = self._embedded(ids, q)
        for layer in self._each():
            layer.q = q
        hidden: Tensor = self._decoder[0](inputs_embeds=embedded, use_cache=False).last_hidden_state
        gain = self._gain if q is None else torch.ones_like(self._gain)
        gain = self.corrected.sum("model.norm.weight", gain)
        normalised: Tensor = functional.rms_norm(hidden.float(), (self._dims.hidden_size,), gain, self._eps)
        return normalised

    def _embedded(self, ids: Tensor, q: Tensor | None) -> Tensor:
        storage = self._storage
        rows = functional.embedding(ids, self._embedding).reshape(-1, self._dims.hidden_size)
        rows = rows if q is None else rows @ q
        scales = scales_of(rows, _search(rows, storage.embedding, storage), None)
        return fake_quantize(rows, storage.embedding, scales).reshape(*ids.shape, -1)

    def head(self) -> Tensor:
        """(vocabulary, hidden): the head as it will be stored, in float32 like the layers' weights."""
        with _exact_products():
            moved, factors = self._moved_head(), self.corrected.row_factors("lm_head.weight")
            scales = scales_of(moved, self.ratios["lm_head.weight"], factors)
            return fake_quantize(moved, self._storage.head, scales)

    def _moved_head(self) -> Tensor:
        q = self.transforms.q()
        merged = self._head if q is None else (self._head * self._gain) @ q
        return self.corrected.moved("lm_head.weight", merged)

    @torch.no_grad()
    def refresh(self) -> None:
        """Searches all scales anew; dear, and due whenever the transforms have moved."""
        q = self.transforms.q()
        for layer in self._each():
            layer.q = q
            layer.refresh()
        self.ratios["lm_head.weight"] = _search(self._moved_head(), self._storage.head, self._storage)

    def unevenness(
        self, measure: Callable[[Tensor], Tensor], num_layers: int, num_rows: int, random: torch.Generator
    ) -> Tensor:
        """A sample of the sum of `measure` over the merged matrices.

        Args:
            num_layers: so many, drawn.
            num_rows: of embedding and head, drawn.
            random: draws them.
        """
        q = self.transforms.q()
        drawn = torch.randperm(len(self.layers), generator=random)[:num_layers].tolist()
        total = torch.zeros(())
        for n, layer in enumerate(self._each()):
            if n in drawn:
                layer.q = q
                weights = layer.merged()
                total = total + torch.stack([measure(weights[f"{part}.weight"]) for part in _LINEARS]).sum()
        total = total * len(self.layers) / len(drawn)
        if q is not None:
            rows = torch.randint(self._dims.vocab_size, (num_rows,), generator=random)
            total = total + measure(self._embedding[rows] @ q) + measure((self._head[rows] * self._gain) @ q)
        return total

    def _each(self) -> Iterator[StudentLayer]:
        for layer in self.layers:
            assert isinstance(layer, StudentLayer)
            yield layer

    @torch.no_grad()
    def learned(self) -> dict[str, np.ndarray[Any, Any]]:
        """Everything that was learned, as `Learned` names and ships it."""
        names = {hf: name for name, hf in hf_names(self._dims).items()}
        shipped = self.transforms.factors()
        q = self.transforms.q()
        for n, layer in enumerate(self._each()):
            layer.q = q
            merged = layer.merged() if layer.corrected.added else {}
            for name in _LINEARS:
                rows = layer.corrected.row_factors(f"{name}.weight")
                gguf_name = names[f"model.layers.{n}.{name}.weight"]
                if rows is not None:
                    shipped[f"{gguf_name}.rows"] = to_gguf_order(self._dims, gguf_name, rows.half().numpy())
                if (key := _key(f"{name}.weight")) in layer.corrected.left:
                    left, right = layer.corrected.left[key], layer.corrected.right[key]
                    shipped[f"{gguf_name}.left"] = to_gguf_order(self._dims, gguf_name, _half_on_grid(left))
                    shipped[f"{gguf_name}.right"] = _half_on_grid(right)
            for name in merged:
                if _key(name) in layer.corrected.added:
                    gguf_name = names[f"model.layers.{n}.{name}"]
                    values = layer.corrected.sum(name, merged[name]).float().numpy()
                    shipped[gguf_name] = to_gguf_order(self._dims, gguf_name, values)
        rows = self.corrected.row_factors("lm_head.weight")
        if rows is not None:
            shipped[f"{HEAD}.rows"] = rows.half().numpy()
        if (key := _key("lm_head.weight")) in self.corrected.left:
            shipped[f"{HEAD}.left"] = _half_on_grid(self.corrected.left[key])
            shipped[f"{HEAD}.right"] = _half_on_grid(self.corrected.right[key])
        if self.corrected.added:
            gain = self._gain if q is None else torch.ones_like(self._gain)
            shipped[FINAL_NORM] = self.corrected.sum("model.norm.weight", gain).numpy()
        return shipped


def _require_tied(transforms: TransformConfig, corrections: CorrectionConfig) -> None:
    if transforms.residual:
        raise ConfigError(f"[storage] tied: {TIED_REFUSED}")
    if corrections.head_rank:
        raise ConfigError("[storage] tied: a head_rank would move the embedding, too, set it to 0")


def _exact_products() -> AbstractContextManager[Any]:
    """Products in float32, even where the forward pass around them has bfloat16's."""
    return torch.autocast("cpu", enabled=False)


def _search(weight: Tensor, grid: Grid, storage: StorageConfig) -> Tensor:
    per_row = storage.per_row and grid is Grid.Q4_0
    return scale_ratios(weight, grid, storage.ranges, per_row=per_row)


def _half_on_grid(values: Tensor) -> np.ndarray[Any, Any]:
    return on_grid(values.half().double().numpy()).astype(np.float16)


def _key(name: str) -> str:
    return name.replace(".", "/")  # dots mean submodules to torch
