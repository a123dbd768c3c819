"""Tiny models with weights in 4 and 8 bits, adapters on all their linears, and what torch says of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import DynamicCache

from edgereason.core.bundle import file_sha256
from edgereason.quant.adapter_file import AdapterGrid, Product, read_adapter, write_adapter
from edgereason.quant.blocks import Grid, pack, quantize
from edgereason.quant.gguf_file import GgufModel, Slot, from_gguf_order, hf_names, write_model
from edgereason.train.quant.load import cache_argument, load_torch

EIGHT_BITS = ("token_embd.weight", "output.weight")
IDS = [int(n) for n in np.random.default_rng(5).integers(2, 38, 24)]


def quantized_file(source: Path, target: Path, *, per_row: bool = False) -> Path:
    """The model of `source` as edgereason stores bases: linears in Q4_0, embedding and head in Q8_0."""
    model = GgufModel(source)
    grids = {
        name: None if len(model.shape(name)) < 2 else Grid.Q8_0 if name in EIGHT_BITS else Grid.Q4_0
        for name in model.names
    }
    slots = [Slot(name, model.shape(name), grid) for name, grid in grids.items()]

    def stored(slot: Slot):
        values = model.weights(slot.name)
        if slot.grid is None:
            return values
        return pack(quantize(values, slot.grid, per_row=per_row and slot.grid is Grid.Q4_0), slot.grid)

    write_model(target, model, slots, map(stored, slots), {})
    return target


def write_full_adapter(
    path: Path, base: Path, *, rank: int = 32, grid: AdapterGrid = AdapterGrid.Q8_0
) -> Path:
    """A random adapter on every linear, large enough to change what is said."""
    model, random = GgufModel(base), np.random.default_rng(3)
    products = {}
    for name in model.names:
        if name.startswith("blk.") and len(model.shape(name)) == 2:
            outputs, inputs = model.shape(name)
            sizes = ((rank, inputs), (outputs, rank))
            products[name] = Product(*(random.standard_normal(size).astype(np.float32) / 8 for size in sizes))
    write_adapter(path, model, products, alpha=2.0 * rank, grid=grid, base_sha256=file_sha256(base))
    return path


class InTorch:
    """The simulation: transformers' model of a file, with its adapter merged into a second one."""

    def __init__(self, base: Path, adapter: Path | None, cache: Path) -> None:
        file, sha256 = GgufModel(base), file_sha256(base)
        self._plain = load_torch(file, sha256, cache)
        self._merged = load_torch(file, sha256, cache)
        if adapter is not None:
            names, weights = hf_names(file.dims), dict(self._merged.named_parameters())
            products, alpha = read_adapter(adapter)
            for name, (a, b) in products.items():
                added = from_gguf_order(file.dims, name, b).astype(np.float64) @ a * (alpha / len(a))
                weights[names[name]].data += torch.from_numpy(added.astype(np.float32))

    @torch.no_grad()
    def push(self, ids: list[int], cache: DynamicCache | None = None, *, adapter: bool = False):
        """Logits (tokens, …) and what each layer hands on, and the cache, which goes on changing."""
        model = self._merged if adapter else self._plain
        cache = DynamicCache() if cache is None else cache
        how = {cache_argument(model): cache}
        states: list = []
        hooks = [
            layer.register_forward_hook(lambda _, __, out: states.append(out[0].numpy()))
            for layer in model.model.layers
        ]
        found = model(torch.tensor([ids]), use_cache=True, **how)
        for hook in hooks:
            hook.remove()
        return found.logits[0].numpy(), states, cache

    def greedy(self, prompt: list[int], opening: list[int], count: int, *, adapter: bool) -> list[int]:
        """`count` tokens behind a prompt of the base and an opening."""
        logits, _, cache = self.push(prompt)
        if opening:
            logits, _, cache = self.push(opening, cache, adapter=adapter)
        found = []
        for _ in range(count):
            found.append(int(logits[-1].argmax()))
            logits, _, cache = self.push(found[-1:], cache, adapter=adapter)
        return found


def greedy(decoder, prompt: list[int], opening: list[int], count: int, *, adapter: bool) -> list[int]:
    """The same from an export."""
    step = decoder.push(prompt)
    if opening:
        step = decoder.push(opening, step.cache, adapter=adapter)
    found = []
    for _ in range(count):
        found.append(int(step.logits[-1].argmax()))
        step = decoder.push(found[-1:], step.cache, adapter=adapter)
    return found
