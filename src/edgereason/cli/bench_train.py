"""`edgereason bench train`: what masking saves in a training step.

Owns the measure's order and its record: training knows no clocks, and evaluations know no torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any, Final

import typer

FORMAT: Final = "edgereason-bench-train"


def train(
    model: Annotated[
        str | None, typer.Option(help="One of `edgereason models`, or a GGUF file. [the default]")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; a plain step takes minutes.")] = 3,
    prompt_tokens: Annotated[int, typer.Option(min=1)] = 1000,
    responses: Annotated[int, typer.Option(min=1, help="Over one prompt.")] = 8,
    response_tokens: Annotated[int, typer.Option(min=2)] = 100,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. [all]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON record alone.")] = False,
) -> None:
    """Measure a training step with the adapter off on the prompt against the plain full-sequence one."""
    from edgereason.cli.eval_progress import progress_display
    from edgereason.cli.pull import fetch
    from edgereason.core.bundle import file_sha256
    from edgereason.engine.params import usable_cores
    from edgereason.errors import ConfigError
    from edgereason.evals.bench.record import Recording, rounded
    from edgereason.evals.machine import read_bandwidth
    from edgereason.evals.measure import interleave, timed
    from edgereason.hub.catalog import DEFAULT_MODEL
    from edgereason.hub.rows import import_optional
    from edgereason.hub.store import models_folder

    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"--dtype must be float32 or bfloat16, got {dtype}")
    for package in ("torch", "transformers", "safetensors", "peft"):
        import_optional(package, "training steps are measured", extra="train")
    import torch

    from edgereason.quant.gguf_file import GgufModel
    from edgereason.quant.learn.load import load_torch
    from edgereason.train.adapters import LoraSettings
    from edgereason.train.cost import StepShape, steps

    shape = StepShape(prompt_tokens=prompt_tokens, responses=responses, response_tokens=response_tokens)
    path = fetch(model or DEFAULT_MODEL)
    sha256 = file_sha256(path)
    num_threads = threads or usable_cores()
    torch.set_num_threads(num_threads)
    loaded = load_torch(GgufModel(path), sha256, models_folder().parent / "converted")
    loaded.to(getattr(torch, dtype))
    ways = steps(loaded, shape, LoraSettings())
    recording, bandwidth = Recording(), read_bandwidth(num_threads)
    done = 0
    with progress_display() as show, torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):

        def told() -> None:
            nonlocal done
            done += 1
            show(done, rounds, "rounds")

        samples = interleave({name: timed(step) for name, step in ways.items()}, rounds, told)
    speeds = {f"{name}_tokens_per_s": shape.trained_tokens / samples.best(name) for name in ways}
    figures: dict[str, Any] = {"masked_speedup": samples.ratio("plain", "masked")} | speeds
    record = figures | {"steps": samples.summary()}
    record |= recording.close(
        format=FORMAT,
        source=path,
        sha256=sha256,
        config=asdict(shape) | {"rounds": rounds, "dtype": dtype, "model": path.name},
        threads=num_threads,
        bandwidth=max(bandwidth, read_bandwidth(num_threads)),
        notes=[],
    )
    record = {key: rounded(value) for key, value in record.items()}
    if not as_json:
        for name, value in figures.items():
            typer.echo(f"{name}: {value:.2f}")
    typer.echo(json.dumps(record, ensure_ascii=False))
