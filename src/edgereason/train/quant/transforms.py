"""The four transforms as torch modules: parameters, and what they do to a layer's weights, differentiably.

    rotation   Q = start · Cayley(S)      skew S from zeros; the start a Hadamard matrix over √n, or identity
    keys       θ, log s from zeros        values   A from identity       up   log u from zeros

The equations are `quant/merge.py`'s, here in float32 and transformers' order of rows, for training;
`factors` gives them as they are shipped, on their grids, for the exact merge.

Source: paper section 5; parameters and starts after FPTQuant's public code (AIMET), but for logarithms.
Deviation: log s and log u, so that neither can reach zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from edgereason.errors import ConfigError
from edgereason.quant.dyadic import on_grid
from edgereason.quant.gguf_file import Dims
from edgereason.quant.merge import KEYS_REFUSED
from edgereason.train.quant.fake_quant import hadamard, shipped_fp16

Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformConfig:
    """Which transforms to use.

    Attributes:
        residual: T_r, the rotation of the residual stream.
        keys: T_k, scaled rotations of RoPE's pairs.
        values: T_v, a matrix for each KV head.
        up: T_u, factors of the feed-forward's channels.
        start: of the rotation, "hadamard" or "identity".
    """

    residual: bool = True
    keys: bool = True
    values: bool = True
    up: bool = True
    start: str = "hadamard"

    def __post_init__(self) -> None:
        if self.start not in ("hadamard", "identity"):
            raise ConfigError(f"transforms: start must be 'hadamard' or 'identity', got {self.start!r}")


class LayerTransforms(nn.Module):
    """T_k, T_v and T_u of one layer; those that are not used are absent."""

    def __init__(self, dims: Dims, config: TransformConfig) -> None:
        super().__init__()
        kv, d = dims.num_kv_heads, dims.head_dim
        self._group = dims.num_heads // kv
        self.angle = _zeros(kv, d // 2) if config.keys else None
        self.log_scale = _zeros(kv, d // 2) if config.keys else None
        self.mix = nn.Parameter(torch.eye(d).repeat(kv, 1, 1)) if config.values else None
        self.log_up = _zeros(dims.ff_size) if config.up else None

    def merged(self, weights: Mapping[str, Tensor], q: Tensor | None) -> Weights:
        """A layer's weights with the transforms merged in.

        Args:
            weights: of the decoder layer, by its own names.
            q: (hidden, hidden) rotation of the residual stream, or None.
        """
        out = dict(weights)
        if q is not None:
            for norm, parts in _BEHIND.items():
                for part in parts:
                    out[f"{part}.weight"] = (weights[f"{part}.weight"] * weights[norm]) @ q
                out[norm] = torch.ones_like(weights[norm])
        self._turn(out)
        self._mix(out)
        if self.log_up is not None:
            up = shipped_fp16(self.log_up.exp())
            out["mlp.up_proj.weight"] = out["mlp.up_proj.weight"] * up[:, None]
            out["mlp.down_proj.weight"] = out["mlp.down_proj.weight"] / up
        if q is not None:
            for part in ("self_attn.o_proj", "mlp.down_proj"):
                out[f"{part}.weight"] = q.T @ out[f"{part}.weight"]
        return out

    def _turn(self, out: Weights) -> None:
        if self.angle is None or self.log_scale is None:
            return
        scale = self.log_scale.exp()
        for part, size, repeats in (
            ("self_attn.k_proj", scale, 1),
            ("self_attn.q_proj", 1 / scale, self._group),
        ):
            cos = (size * self.angle.cos()).repeat_interleave(repeats, 0)[..., None]
            sin = (size * self.angle.sin()).repeat_interleave(repeats, 0)[..., None]
            for kind in ("weight", "bias"):
                if (rows := out.get(f"{part}.{kind}")) is not None:
                    first, second = rows.reshape(len(cos), 2, cos.shape[1], -1).unbind(1)
                    turned = torch.stack([cos * first - sin * second, cos * second + sin * first], 1)
                    out[f"{part}.{kind}"] = turned.reshape(rows.shape)

    def _mix(self, out: Weights) -> None:
        if self.mix is None:
            return
        mix = shipped_fp16(self.mix)
        kv, d, _ = mix.shape
        for kind in ("weight", "bias"):
            if (rows := out.get(f"self_attn.v_proj.{kind}")) is not None:
                out[f"self_attn.v_proj.{kind}"] = (mix @ rows.reshape(kv, d, -1)).reshape(rows.shape)
        inverse = torch.linalg.inv(mix).repeat_interleave(self._group, 0)
        o = out["self_attn.o_proj.weight"]
        heads = o.reshape(len(o), -1, d).swapaxes(0, 1)
        out["self_attn.o_proj.weight"] = (heads @ inverse).swapaxes(0, 1).reshape(o.shape)

    def factors(self) -> dict[str, np.ndarray[Any, Any]]:
        """What is shipped of this layer, by the names of `Learned` without "blk.N."."""
        shipped: dict[str, np.ndarray[Any, Any]] = {}
        if self.angle is not None and self.log_scale is not None:
            scale, angle = self.log_scale.detach().double().exp(), self.angle.detach().double()
            shipped["keys.cos"] = (scale * angle.cos()).float().numpy()
            shipped["keys.sin"] = (scale * angle.sin()).float().numpy()
        if self.mix is not None:
            mix = on_grid(self.mix.detach().half().double().numpy())
            shipped["values"] = mix.astype(np.float16)
            shipped["values_inverse"] = on_grid(np.linalg.inv(mix)).astype(np.float32)
        if self.log_up is not None:
            shipped["up"] = self.log_up.detach().exp().half().numpy()
        return shipped


class Rotation(nn.Module):
    """T_r: an orthogonal matrix, by the Cayley map from a fixed start."""

    def __init__(self, size: int, start: str) -> None:
        super().__init__()
        begin = torch.eye(size)
        if start == "hadamard":
            begin = torch.from_numpy(hadamard(size) / np.sqrt(size)).float()
        self.weight = nn.Parameter(begin)
        parametrizations.orthogonal(self, "weight", orthogonal_map="cayley", use_trivialization=True)

    def factor(self) -> np.ndarray[Any, Any]:
        """Q as it is shipped, on its grid."""
        return on_grid(self.weight.detach().numpy()).astype(np.float32)


class Transforms(nn.Module):
    """All transforms of a model.

    Raises:
        ConfigError: T_k on a family that normalises its keys, or no start for a rotation of this size.
    """

    def __init__(self, dims: Dims, config: TransformConfig) -> None:
        super().__init__()
        if config.keys and dims.normalises_keys:
            raise ConfigError(KEYS_REFUSED.format(dims.arch))
        self.rotation = Rotation(dims.hidden_size, config.start) if config.residual else None
        self.layers = nn.ModuleList(LayerTransforms(dims, config) for _ in range(dims.num_layers))

    def q(self) -> Tensor | None:
        """The rotation, computed from its parameters; once a step is enough."""
        return None if self.rotation is None else self.rotation.weight

    def each(self) -> Iterator[LayerTransforms]:
        """The layers' own."""
        for layer in self.layers:
            assert isinstance(layer, LayerTransforms)
            yield layer

    def factors(self) -> dict[str, np.ndarray[Any, Any]]:
        """What is shipped, by the names of `Learned`."""
        shipped = {} if self.rotation is None else {"rotation": self.rotation.factor()}
        for n, layer in enumerate(self.each()):
            shipped |= {f"blk.{n}.{name}": values for name, values in layer.factors().items()}
        return shipped


_BEHIND = {
    "input_layernorm.weight": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm.weight": ("mlp.gate_proj", "mlp.up_proj"),
}


def _zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape))
