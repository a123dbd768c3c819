"""A model's file with its weights in float32, as they are stored."""

from __future__ import annotations

from pathlib import Path

from edgereason.quant.gguf_file import GgufModel, Slot, write_model


def float_file(path: Path, target: Path) -> Path:
    """Writes the model of `path` to `target`, its weights in float32."""
    model = GgufModel(path)
    slots = [Slot(name, model.shape(name), None) for name in model.names]
    write_model(target, model, slots, (model.weights(name) for name in model.names), {})
    return target
