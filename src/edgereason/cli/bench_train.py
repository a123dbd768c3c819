"""`edgereason bench train`: what masking saves in a training step, and the engine in drawing responses.

Owns the measure's order and its record: training knows no clocks, and evaluations know no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edgereason.train.lora.cost import StepShape

FORMAT: Final = "edgereason-bench-train"


class Part(StrEnum):
    """What is measured."""

    STEP = "step"
    ROLLOUTS = "rollouts"


def train(
    model: Annotated[
        str | None, typer.Option(help="One of `edgereason models`, or a GGUF file. [the default]")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; a plain step takes minutes.")] = 3,
    prompt_tokens: Annotated[int, typer.Option(min=1)] = 1000,
    responses: Annotated[int, typer.Option(min=1, help="Over one prompt.")] = 8,
    response_tokens: Annotated[int, typer.Option(min=2)] = 100,
    dtype: Annotated[str, typer.Option(help="Of the training step: float32 or bfloat16.")] = "float32",
    only: Annotated[list[Part] | None, typer.Option(help="Leave the other out.")] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Folder of a training, or a bundle, whose adapter draws. [the bare base]"
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Responses that are drawn to each of 8 questions.")] = 8,
    cap_tokens: Annotated[int, typer.Option(min=17, help="Longest of them.")] = 320,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [all]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON record alone.")] = False,
) -> None:
    """Measure what masking saves in a training step, and what the engine saves in drawing responses.

    The one against full sequences, the other against transformers in float32.
    """
    from edgereason.bench.record import Recording, rounded
    from edgereason.bench.rollouts import measure_rollouts
    from edgereason.cli.pull import fetch
    from edgereason.cli.terminal.progress import progress_display
    from edgereason.core.bundle import file_sha256
    from edgereason.core.machine import usable_cores
    from edgereason.data.rows import import_optional
    from edgereason.errors import ConfigError
    from edgereason.hub.catalog import DEFAULT_MODEL
    from edgereason.hub.store import models_folder
    from edgereason.records.machine import read_bandwidth

    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"--dtype must be float32 or bfloat16, got {dtype}")
    for package in ("torch", "transformers", "safetensors", "peft"):
        import_optional(package, "training steps are measured", extra="train")
    import torch

    from edgereason.quant.gguf_file import GgufModel
    from edgereason.train.grpo.rollout_cost import RolloutShape
    from edgereason.train.lora.cost import StepShape
    from edgereason.train.quant.load import load_torch

    parts = list(only or Part)
    shape = StepShape(prompt_tokens=prompt_tokens, responses=responses, response_tokens=response_tokens)
    drawing = RolloutShape(samples=samples, cap_tokens=cap_tokens)
    path = fetch(model or DEFAULT_MODEL)
    sha256 = file_sha256(path)
    num_threads = threads or usable_cores()
    torch.set_num_threads(num_threads)

    def loaded() -> PreTrainedModel:
        return load_torch(GgufModel(path), sha256, models_folder().parent / "converted")

    recording, bandwidth = Recording(), read_bandwidth(num_threads)
    done, record = 0, dict[str, Any]()
    with progress_display() as show:

        def told() -> None:
            nonlocal done
            done += 1
            show(done, rounds * len(parts), "rounds")

        if Part.STEP in parts:
            record |= _measure_step(loaded(), shape, dtype, rounds, told)
        if Part.ROLLOUTS in parts:
            record |= measure_rollouts(path, loaded(), start, drawing, rounds, num_threads, told)
    figures = {name: value for name, value in record.items() if isinstance(value, float)}
    record |= recording.close(
        format=FORMAT,
        source=path,
        sha256=sha256,
        config=asdict(shape)
        | {"rounds": rounds, "dtype": dtype, "model": path.name, "only": [str(part) for part in only or ()]}
        | {"samples": samples, "cap_tokens": cap_tokens, "from": start and start.resolve().name},
        threads=num_threads,
        bandwidth=max(bandwidth, read_bandwidth(num_threads)),
        notes=[],
    )
    record = {key: rounded(value) for key, value in record.items()}
    if not as_json:
        for name, value in figures.items():
            typer.echo(f"{name}: {value:.2f}")
    typer.echo(json.dumps(record, ensure_ascii=False))


def _measure_step(
    base: PreTrainedModel, shape: StepShape, dtype: str, rounds: int, told: Callable[[], None]
) -> dict[str, Any]:
    import torch

    from edgereason.records.measure import interleave, timed
    from edgereason.train.lora.adapters import LoraSettings
    from edgereason.train.lora.cost import steps

    base.to(getattr(torch, dtype))
    ways = steps(base, shape, LoraSettings())
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        samples = interleave({name: timed(step) for name, step in ways.items()}, rounds, told)
    speeds = {f"{name}_tokens_per_s": shape.trained_tokens / samples.best(name) for name in ways}
    return {"masked_speedup": samples.ratio("plain", "masked"), **speeds, "steps": samples.summary()}
