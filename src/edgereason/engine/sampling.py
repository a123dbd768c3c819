"""Samplers: native chains of filters, and draws from a whole softmax.

`top_k` comes first in a chain because every filter after it then sees dozens of entries, not the vocabulary.
With no filter at all a chain takes an exponential per entry, one by one, for every stream and step of a
rollout; numpy takes them together, in a fraction of the time.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.core.types import Sampling
from edgereason.engine.native import C


class NativeSampler:
    """Owns one `llama_sampler` chain, and stands in `registry` until it is closed."""

    def __init__(self, sampling: Sampling, seed: int, registry: set[NativeSampler]) -> None:
        self._registry = registry
        registry.add(self)
        greedy = sampling.temperature == 0.0
        self._temperature = 1.0 if greedy else sampling.temperature
        self.chain: Any = C.llama_sampler_chain_init(C.llama_sampler_chain_params(no_perf=True))
        for link in self._links(sampling, seed, greedy=greedy):
            C.llama_sampler_chain_add(self.chain, link)

    @property
    def temperature(self) -> float:
        return self._temperature

    @staticmethod
    def _links(sampling: Sampling, seed: int, *, greedy: bool) -> list[Any]:
        if greedy:
            return [C.llama_sampler_init_greedy()]
        links = [C.llama_sampler_init_top_k(sampling.top_k)] if sampling.top_k else []
        links.append(C.llama_sampler_init_temp(sampling.temperature))
        if sampling.top_p < 1.0:
            links.append(C.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0.0:
            links.append(C.llama_sampler_init_min_p(sampling.min_p, 1))
        return [*links, C.llama_sampler_init_dist(seed)]

    def draw(self, context: Any, row: int, logits: npt.NDArray[np.float32]) -> int:
        """A token after batch row `row` of the latest decode, whose logits these are, (V,)."""
        return int(C.llama_sampler_sample(self.chain, context, row))

    def close(self) -> None:
        """Frees the chain with all its links; a second call does nothing."""
        if self.chain is not None:
            C.llama_sampler_free(self.chain)
            self.chain = None
            self._registry.discard(self)


class SoftmaxSampler:
    """Draws from the whole vocabulary; owns nothing native."""

    def __init__(self, temperature: float, seed: int) -> None:
        self._temperature = temperature
        self._random = np.random.default_rng(seed)

    @property
    def temperature(self) -> float:
        return self._temperature

    def draw(self, context: Any, row: int, logits: npt.NDArray[np.float32]) -> int:
        """A token after batch row `row` of the latest decode, whose logits these are, (V,)."""
        mass = np.exp((logits - logits.max()) / np.float32(self._temperature)).cumsum(dtype=np.float64)
        return int(np.searchsorted(mass, self._random.random() * mass[-1], side="right"))

    def close(self) -> None:
        """Nothing to free."""


def logits_row(context: Any, row: int, vocab_size: int) -> npt.NDArray[np.float32]:
    """The logits after batch row `row` of the latest decode, a view of (V,) float32: copy to keep."""
    pointer = C.llama_get_logits_ith(context, row)
    return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (vocab_size,))


def log_probability(logits: npt.NDArray[np.float32], token: int, temperature: float) -> float:
    """Log-probability of `token` under softmax(logits / temperature) over the whole vocabulary."""
    scaled = logits / np.float32(temperature)
    top = float(scaled.max())
    return float(scaled[token]) - top - float(np.log(np.exp(scaled - top).sum(dtype=np.float64)))
