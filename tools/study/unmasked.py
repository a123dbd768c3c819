r"""An adapter that is on everywhere, prompt included: the yardstick of the masked one.

::

    traces ─ `examples` ─→ ids, all of them response ─ edgereason train sft --examples ─→ adapter
    base + adapter ─ `merge` ─→ a bundle whose base has the adapter in its weights, in Q8_0

The runtime turns adapters on behind the prompt only, so an unmasked one is run as what it comes to: other
weights. The bundle's own adapter adds nothing; it stands for "trained", so that thinking gets the same seams
and hints as a masked one. Its chat mode shows what is lost where the adapter can't be turned off.

    python tools/study/unmasked.py examples sums/traces.jsonl \
        --recipe configs/sft-smollm2-135m.toml -o ids.jsonl
    edgereason train sft configs/sft-smollm2-135m.toml --examples ids.jsonl -o unmasked
    python tools/study/unmasked.py merge unmasked -o unmasked/merged
    edgereason eval gym:chain_sum --bundle unmasked/merged --mode think --budget 320 -o runs/unmasked
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.core.bundle import BASE_FILE, Bundle, Part, file_sha256
from edgereason.engine.llama import LlamaEngine
from edgereason.hub.pull import base_file, resolve
from edgereason.quant.adapter_file import AdapterGrid, Product, read_adapter, write_adapter
from edgereason.quant.blocks import BLOCK, Grid, pack, quantize
from edgereason.quant.gguf_file import GgufModel, Slot, write_model
from edgereason.reasoning.model import describe_base
from edgereason.train.data.traces import read_traces
from edgereason.train.lora.examples import Encoder, Example, ExamplesOrigin, write_examples
from edgereason.train.lora.run import SftRecipe


def examples(traces: Path, recipe: Path, output: Path) -> None:
    """Writes traces as ids in which everything is response, and the prompt's are not learned."""
    settings = SftRecipe.read(recipe)
    path = resolve(settings.base.name)
    with LlamaEngine(path) as engine:
        encoder, base = Encoder.of(engine), describe_base(engine, path)
        rows = [unmasked(encoder.encode(row, settings.hints)) for row in read_traces(traces).traces]
    write_examples(output, ExamplesOrigin.of(base, encoder.seams.opening, rows), rows)


def unmasked(example: Example) -> Example:
    """The same ids, none of them the base's own."""
    return replace(
        example,
        prompt=(),
        response=example.prompt + example.response,
        num_forced=len(example.prompt) + example.num_forced,
    )


def merge(run: Path, output: Path) -> None:
    """Makes the bundle of a run's merged weights."""
    learned = Bundle.read(run / "bundle")
    assert learned.adapter is not None
    model = GgufModel(base_file(learned, resolve))
    products, alpha = read_adapter(learned.verified_file(learned.adapter))
    output.mkdir(parents=True, exist_ok=True)
    base, adapter = output / BASE_FILE, output / learned.adapter.file
    write_merged(model, products, alpha, base)
    nothing = {name: Product(one.a, np.zeros_like(one.b)) for name, one in products.items()}
    base_sha256 = file_sha256(base)
    write_adapter(
        adapter,
        GgufModel(base),
        nothing,
        alpha=alpha,
        grid=AdapterGrid.F16,
        base_sha256=base_sha256,
        invocation=learned.opening_ids,
    )
    with LlamaEngine(base) as engine:
        about = describe_base(engine, base)
    part = Part(file=adapter.name, sha256=file_sha256(adapter))
    replace(learned, folder=output, base=about, adapter=part).write()


def write_merged(
    model: GgufModel,
    products: dict[str, Product],
    alpha: float,
    target: Path,
    matrices: Grid | None = Grid.Q8_0,
) -> None:
    """Writes a model with an adapter's sums in its weights; None keeps matrices in float32."""

    def grid(name: str) -> Grid | None:
        shape = model.shape(name)
        return matrices if len(shape) == 2 and shape[-1] % BLOCK == 0 else None

    def tensors() -> Iterator[npt.NDArray[Any]]:
        for slot in slots:
            weight = model.weights(slot.name)
            if slot.name in products:
                a, b = products[slot.name]
                weight = weight + np.float32(alpha / len(a)) * (b @ a)
            yield weight if slot.grid is None else pack(quantize(weight, slot.grid), slot.grid)

    slots = [Slot(name, model.shape(name), grid(name)) for name in model.names]
    write_model(target, model, slots, tensors(), {"general.name": f"{model.path.stem}, adapter merged"})


def main() -> None:
    """Runs a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("examples")
    one.add_argument("traces", type=Path)
    one.add_argument("--recipe", type=Path, required=True)
    one.add_argument("-o", "--output", type=Path, required=True)
    one = commands.add_parser("merge")
    one.add_argument("run", type=Path)
    one.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "examples":
        examples(arguments.traces, arguments.recipe, arguments.output)
    else:
        merge(arguments.run, arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    main()
