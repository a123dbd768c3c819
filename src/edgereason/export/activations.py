"""Which values the activations of a graph take, on prompts that chat and think: ranges for an encodings file.

::

    prompt ─ base alone ─┬─ a few tokens of chat
                         └─ adapter on: opening ─ a few tokens of think      smallest and largest of each

Keys and values get 8 bits, symmetric; everything else 16, asymmetric, as in the paper. Ranges are those that
were seen, so prompts should be of the kind that the model is for.

Source: paper section 5 (W4A16KV8). Deviation: ranges are minima and maxima, nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgereason.data.questions import prompt_of
from edgereason.data.rows import read_file
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import ConfigError
from edgereason.export.decoder import Cache, Decoder, Float32
from edgereason.export.encodings import Range
from edgereason.export.graph import COS, MASK, SIN, SWITCH

MASKED: Final = -100.0
"""What a mask should add for graphs of 16 bits: enough, and little of their range."""
_TOKENS: Final = 24
"""Sampled on each route of each prompt."""
_PLAIN: Final = {"DequantizeLinear", "Cast", "Gather"}
"""Nodes that give weights."""


def prompt_ids(base: Path, rows: Path, limit: int) -> list[tuple[int, ...]]:
    """Ids of the first prompts of a file, as the base's template writes them.

    Args:
        base: whose template and vocabulary.
        rows: each with a prompt or a question.
        limit: as many at most.

    Raises:
        ConfigError: a row asks nothing; the message names file and line.
    """
    asked = [prompt_of(row) for row in read_file(rows).rows[:limit]]
    with LlamaEngine(base) as engine:
        template = engine.info.template
        return [template.encode(messages, engine.tokenize) for messages in asked]


class Ranges:
    """The smallest and largest of each value, over all that was seen."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[float, float]] = {}

    def take(self, values: Mapping[str, Float32]) -> None:
        """Looks at the values of one run."""
        for name, array in values.items():
            if array.size:
                low, high = self.seen.get(name, (np.inf, -np.inf))
                self.seen[name] = min(low, float(array.min())), max(high, float(array.max()))


def watch_everything(path: Path, target: Path) -> None:
    """Writes a QDQ graph again with every value as an output that is no weight.

    Args:
        path: of the graph; its tensors stay where they are.
        target: in the same folder.
    """
    made = onnx.load(path, load_external_data=False)
    known = {one.name for one in made.graph.output}
    for node in made.graph.node:
        name = node.output[0]
        if node.op_type not in _PLAIN and name not in known:
            made.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    embedded = helper.make_tensor_value_info("embedded", TensorProto.FLOAT, None)
    made.graph.output.append(embedded)
    target.write_bytes(made.SerializeToString())


def observe(
    folder: Path, about: Mapping[str, Any], prompts: Sequence[Sequence[int]], opening: Sequence[int]
) -> dict[str, Range]:
    """Ranges of the values of a graph with fixed shapes, by what one with open shapes gave.

    Args:
        folder: of the graph, all of whose values are outputs.
        about: what a host must know to run it.
        prompts: ids of each.
        opening: ids that think begins with.

    Raises:
        ConfigError: no prompt fits in the context.
    """
    room = int(about["context"]) - len(opening) - _TOKENS
    fitting = [prompt for prompt in prompts if len(prompt) <= room]
    if not fitting:
        raise ConfigError(f"none of {len(prompts)} prompts fits in {room} tokens: give a larger context")
    ranges = Ranges()
    decoder = Decoder(folder, about, is_exact=True, watch=ranges.take)
    for prompt in fitting:
        step = decoder.push(prompt)
        _say(decoder, int(step.logits[-1].argmax()), step.cache, adapter=False)
        opened = decoder.push(opening, step.cache, adapter=True)
        _say(decoder, int(opened.logits[-1].argmax()), opened.cache, adapter=True)
    found: dict[str, Range] = {}
    for name, (low, high) in ranges.seen.items():
        if name.startswith("past_"):
            layer, part = name.split("_")[2], "keys" if "_key_" in name else "values"
            kept = Range(low, high, bits=8, is_symmetric=True)
            found |= {name: kept, name.replace("_out", "_in"): kept, f"blk.{layer}.{part}": kept}
        elif name.endswith(".masked"):
            least = ranges.seen[name.replace(".masked", ".by_head")][0]
            found[name] = Range(max(low, least + MASKED), high)
        elif not name.endswith((".new_keys", ".new_values")) and name != "last_row":
            found[name] = Range(low, high)
    inputs = {MASK: Range(MASKED, 0.0), COS: Range(-1.0, 1.0), SIN: Range(-1.0, 1.0)}
    return found | inputs | {SWITCH: Range(0.0, 1.0)}


def _say(decoder: Decoder, token: int, cache: Cache, *, adapter: bool) -> None:
    """The likeliest tokens from this one on."""
    for _ in range(_TOKENS):
        step = decoder.push([token], cache, adapter=adapter)
        token, cache = int(step.logits[-1].argmax()), step.cache
