"""llama.cpp's Q8_0 KV cache, simulated: what attention reads when keys and values are stored in 8 bits.

Per token and KV head, blocks of 32 channels with d = fp16(|x|max / 127). With heads of a multiple of 64,
llama.cpp first turns keys (behind RoPE), queries and values by a Walsh-Hadamard matrix over √64, in runs of
64 channels, and turns attention's output back. A rotation of both sides leaves ⟨q, k⟩ alone, so turning,
rounding and turning back *keys and values* is the same.

Source: llama.cpp's quantized KV with attention rotation (read in its source, see the quantization notes).
Deviation: the paper's static per-tensor INT8 is for other runtimes.

Knows keys and values; does not know models.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from edgereason.quant.blocks import BLOCK, Grid, Ranges
from edgereason.train.quant.fake_quant import fake_quantize, scale_ratios, scales_of
from edgereason.train.quant.hadamard import hadamard

_RUN: Final = 64


def simulate_q8_0(values: Tensor) -> Tensor:
    """`values` (…, channels) as a Q8_0 cache gives them back, differentiable."""
    channels = values.shape[-1]
    if channels % BLOCK:
        return values  # llama.cpp refuses such a cache
    turn = None
    rows = values.float().reshape(-1, channels)
    if channels % _RUN == 0:
        turn = torch.from_numpy(hadamard(_RUN) / _RUN**0.5).float().to(values.device)
        rows = (rows.reshape(-1, _RUN) @ turn).reshape(-1, channels)
    ratios = scale_ratios(rows, Grid.Q8_0, Ranges.MIN_MAX)
    rows = fake_quantize(rows, Grid.Q8_0, scales_of(rows, ratios, None))
    if turn is not None:
        rows = (rows.reshape(-1, _RUN) @ turn.T).reshape(-1, channels)
    return rows.reshape(values.shape).to(values.dtype)


class SimulatedKV(Cache):  # type: ignore[misc]
    """A cache that keeps nothing: it rounds the keys and values of one forward pass over whole texts."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (batch, KV heads, tokens, head_dim) as attention will read them."""
        return simulate_q8_0(key_states), simulate_q8_0(value_states)
