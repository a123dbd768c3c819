"""What a training or a quantization would take, before anything is loaded: memory, disk, tokens, time.

::

    recipe + shape of the base + what is assumed ─→ DryRun: parts, sums, and what does not fit

Sizes of weights, adapters, gradients and optimizer are exact. Activations are an upper estimate for passes
that are as long as the recipe lets them be. Time comes from a given pace, from the updates that the folder
already has, or from a given rate of arithmetic; without one of them it is unknown, and said to be.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final, Self

from edgereason.config import load_json, nearest
from edgereason.core.machine import memory_bytes
from edgereason.errors import ConfigError
from edgereason.quant.gguf_file import GgufModel
from edgereason.train.grpo.recipe import GrpoRecipe
from edgereason.train.lora.adapters import CONFIG, LINEARS, LoraSettings, settings_of
from edgereason.train.lora.loop import METRICS
from edgereason.train.lora.run import ADAPTER, SftRecipe
from edgereason.train.quant.run import PROGRESS, Recipe

_SPARE: Final = 0.92
"""Share of a device's or a machine's memory that can be planned with."""
_CONTEXT_BYTES: Final = 1_500_000_000
"""CUDA's own, with NCCL's buffers."""
_ID_BYTES: Final = 4
"""Of a token of a training's examples, in a file that all processes map."""
_TEXT_BYTES: Final = 4
"""Of a token as text."""
_Q8_0: Final = 34 / 32
_Q4_0: Final = 18 / 32
_CHUNK_TOKENS: Final = 256
_HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder's sizes."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ff_size: int
    vocab_size: int

    @classmethod
    def read(cls, path: Path) -> Self:
        """Of a GGUF, or of a `config.json` as the Hugging Face hub has it, or of a folder that holds one.

        Raises:
            ConfigError: the file is missing, or has other fields.
            ModelFileError: the GGUF can't be read.
        """
        file = path / "config.json" if path.is_dir() else path
        if file.suffix != ".json":
            dims = GgufModel(file).dims
            return cls(**{one.name: getattr(dims, one.name) for one in fields(cls)})
        try:
            found = load_json(file.read_text("utf-8"))
            heads, hidden = found["num_attention_heads"], found["hidden_size"]
            shape = {
                "num_layers": found["num_hidden_layers"],
                "hidden_size": hidden,
                "num_heads": heads,
                "num_kv_heads": found.get("num_key_value_heads") or heads,
                "head_dim": found.get("head_dim") or hidden // heads,
                "ff_size": found["intermediate_size"],
                "vocab_size": found["vocab_size"],
            }
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
            raise ConfigError(
                f"{file} has no shape of a decoder ({error!r}): give a GGUF, or config.json of a checkpoint"
            ) from error
        if not all(isinstance(value, int) and value > 0 for value in shape.values()):
            raise ConfigError(f"{file} has no shape of a decoder: sizes must be whole numbers above 0")
        return cls(**shape)

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Outputs and inputs of a layer's matrices, by the names that recipes use."""
        hidden, wide = self.hidden_size, self.num_heads * self.head_dim
        narrow = self.num_kv_heads * self.head_dim
        sizes = {
            "q_proj": (wide, hidden),
            "k_proj": (narrow, hidden),
            "v_proj": (narrow, hidden),
            "o_proj": (hidden, wide),
            "gate_proj": (self.ff_size, hidden),
            "up_proj": (self.ff_size, hidden),
            "down_proj": (hidden, self.ff_size),
        }
        return {name: sizes[name] for name in LINEARS}

    @property
    def layer_weights(self) -> int:
        """Of one layer's matrices."""
        return sum(rows * columns for rows, columns in self.linears.values())

    @property
    def weights(self) -> int:
        """All, the embedding and the head as the two matrices that they are in training."""
        return self.num_layers * self.layer_weights + 2 * self.vocab_size * self.hidden_size

    def adapter_weights(self, lora: LoraSettings) -> int:
        """Of a LoRA: r × (inputs + outputs) of every matrix that gets one."""
        return self.num_layers * sum(lora.rank * sum(self.linears[name]) for name in lora.targets)

    @property
    def kv_values(self) -> int:
        """Keys and values of a token."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What a dry run can't know, from `--assume NAME=VALUE`.

    Attributes:
        devices: processes, each with a device.
        device_gb: memory of a device; without it the run is on this machine's CPU.
        host_gb: memory of the machine; this one's.
        disk_gb: room on the disk; that of the output's.
        hours: longest time that still fits.
        rows: examples, or problems.
        prompt_tokens: of a row, on average.
        response_tokens: of a row, on average.
        tokens_per_s: response tokens that a device learns from in a second.
        rollout_tokens_per_s: tokens that a device draws in a second.
        rank: of the adapter that GRPO begins with, where it is not there yet.
        tflops: arithmetic that a device gets done, in 10¹² a second.
    """

    devices: int = 1
    device_gb: float | None = None
    host_gb: float | None = None
    disk_gb: float | None = None
    hours: float | None = None
    rows: int | None = None
    prompt_tokens: float = 200.0
    response_tokens: float | None = None
    tokens_per_s: float | None = None
    rollout_tokens_per_s: float | None = None
    rank: int | None = None
    tflops: float | None = None

    @classmethod
    def parse(cls, given: Sequence[str]) -> Self:
        """From "devices=8" and the like.

        Raises:
            ConfigError: a name is unknown, or a value is not a number above 0.
        """
        known = {one.name: one for one in fields(cls)}
        values: dict[str, float] = {}
        for one in given:
            name, _, text = one.partition("=")
            if name not in known:
                raise ConfigError(f"--assume {one}: there is no {name!r}: {nearest(name, known)}")
            try:
                value = float(text.replace("_", ""))
            except ValueError:
                value = 0.0
            if not 0 < value < float("inf"):
                raise ConfigError(f"--assume {name} takes a number above 0, as {name}=8, got {text!r}")
            values[name] = int(value) if name in ("devices", "rows", "rank") else value
        return cls(**values)  # type: ignore[arg-type]

    @property
    def on_cpu(self) -> bool:
        """Whether the run is on the CPU, whose memory then is the device's."""
        return self.device_gb is None

    def with_traces(self, files: Sequence[Path]) -> Self:
        """The same, rows and their tokens counted in files of traces where they are not given.

        Raises:
            ConfigError: a file can't be read.
        """
        if not files or (self.rows is not None and self.response_tokens is not None):
            return self
        lengths: list[int | None] = []
        for file in files:
            try:
                with file.open(encoding="utf-8") as lines:
                    lengths += [json.loads(line).get("num_tokens") for line in lines if line.strip()]
            except (OSError, ValueError, AttributeError) as error:
                raise ConfigError(f"{file} can't be read as traces: {error}") from error
        counted = [one for one in lengths if isinstance(one, int)]
        return replace(
            self,
            rows=self.rows or len(lengths) or None,
            response_tokens=self.response_tokens or (fmean(counted) if counted else None),
        )


Parts = dict[str, float]


@dataclass(slots=True, kw_only=True)
class DryRun:
    """What a command would take.

    Attributes:
        what: is run.
        device: bytes of a device, by what they are for.
        host: bytes of the machine's memory, for all processes.
        disk: bytes on disk.
        amounts: what there is to do, for people.
        seconds: of all; None if nobody knows.
        pace: where the seconds are from.
        problems: what does not fit.
        notes: what a reader should know.
    """

    what: str
    device: Parts
    host: Parts
    disk: Parts
    amounts: dict[str, float]
    seconds: float | None
    pace: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether nothing is known to stand in the way."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "what": self.what,
            "device_bytes": {name: round(value) for name, value in self.device.items()},
            "host_bytes": {name: round(value) for name, value in self.host.items()},
            "disk_bytes": {name: round(value) for name, value in self.disk.items()},
            "amounts": self.amounts,
            "seconds": self.seconds,
            "pace": self.pace,
            "problems": self.problems,
            "notes": self.notes,
            "fits": self.fits,
        }

    def lines(self) -> list[str]:
        """For people; the last one says whether it fits."""
        found = [f"dry run of {self.what}"]
        for name, parts in (("a device", self.device), ("the machine", self.host), ("disk", self.disk)):
            if parts:
                said = " + ".join(f"{part} {_size(value)}" for part, value in parts.items() if value)
                found.append(f"{name}: {_size(sum(parts.values()))} = {said}")
        found += [f"{name}: {value:,.0f}" for name, value in self.amounts.items()]
        time = "unknown" if self.seconds is None else f"{self.seconds / _HOUR_S:,.1f} h"
        found.append(f"time: {time} ({self.pace})")
        found += [f"note: {note}" for note in self.notes]
        return [*found, "fits" if self.fits else f"does not fit: {'; '.join(self.problems)}"]


def dry_sft(recipe: SftRecipe, shape: Shape, assumed: Assumed, folder: Path) -> DryRun:
    """What `train sft` would take.

    Raises:
        ConfigError: the rows of an update can't be shared out to so many devices.
    """
    config, lora = recipe.training, recipe.lora
    passes = config.accumulated(assumed.devices)
    value_bytes = 2 if config.dtype == "bfloat16" else 4
    learned = shape.adapter_weights(lora)
    device = _trained(shape, learned, value_bytes, assumed)
    device |= _pass(
        shape,
        rows=config.micro_rows,
        tokens=config.max_tokens,
        value_bytes=value_bytes,
        checkpointed=config.checkpoint_activations,
        lora=lora,
        on_cpu=assumed.on_cpu,
    )
    device["prompts kept"] = float(config.cached_prompt_bytes)
    amounts: dict[str, float] = {"adapter parameters": learned, "passes of a device for an update": passes}
    seconds, pace = None, "rows and response_tokens are not given (--assume)"
    rows, said = assumed.rows, assumed.response_tokens
    num_tokens = 0.0
    if rows is not None and said is not None:
        updates = config.epochs * -(-rows // config.batch_rows)
        tokens = config.epochs * rows * said
        amounts |= {"updates": updates, "response tokens": tokens}
        flops = tokens * _token_flops(shape, learned, said, assumed, recomputed=config.checkpoint_activations)
        flops += config.epochs * rows * assumed.prompt_tokens * 2 * shape.num_layers * shape.layer_weights
        seconds, pace = _learning_s(updates, tokens, flops, assumed, folder / METRICS)
        num_tokens = rows * (assumed.prompt_tokens + said)
    plan = DryRun(
        what=f"SFT, {assumed.devices} × {'CPU' if assumed.on_cpu else f'{assumed.device_gb:g} GB'}",
        device=device,
        host=_host(shape, value_bytes, assumed),
        disk=_disk(shape, learned) | {"traces": num_tokens * _TEXT_BYTES, "examples": num_tokens * _ID_BYTES},
        amounts=amounts,
        seconds=seconds,
        pace=pace,
    )
    return _judged(plan, assumed, folder)


def dry_grpo(recipe: GrpoRecipe, start: Path, shape: Shape, assumed: Assumed, folder: Path) -> DryRun:
    """What `train grpo` would take; `start` is the training whose adapter learns, and may be missing yet.

    Raises:
        ConfigError: the responses of an update can't be shared out to so many devices, or nobody says how
            large the adapter is.
    """
    if (start / ADAPTER / CONFIG).is_file():
        lora = settings_of(start / ADAPTER)
    elif assumed.rank is not None:
        lora = LoraSettings(rank=assumed.rank)
    else:
        raise ConfigError(f"{start} holds no adapter yet: say its rank (--assume rank=128)")
    config = recipe.training
    config.accumulated(assumed.devices)
    value_bytes = 2 if config.dtype == "bfloat16" else 4
    learned = shape.adapter_weights(lora)
    cap = recipe.reward.cap_tokens(recipe.budgets.buckets[-1])
    device = _trained(shape, learned, value_bytes, assumed) | {"reference adapter": 4.0 * learned}
    learning = _pass(
        shape,
        rows=config.micro_rows,
        tokens=cap,
        value_bytes=value_bytes,
        checkpointed=config.checkpoint_activations,
        lora=lora,
        on_cpu=assumed.on_cpu,
    )
    drawn = config.draws or config.samples
    device["prompts kept"] = float(config.cached_prompt_bytes)
    if config.rollouts == "torch":
        rows = min(config.parallel, config.prompts * drawn // assumed.devices)
        cells = rows * (cap + assumed.prompt_tokens) * shape.kv_values * value_bytes
        # A layer's keys and values are copied when a token is put behind them.
        rollout = cells * (1 + 1 / shape.num_layers) + rows * shape.vocab_size * 4 * 3
        # Drawing and learning take turns.
        device |= learning if sum(learning.values()) >= rollout else {"keys and values of rollouts": rollout}
    else:
        device |= learning
    said = min(assumed.response_tokens or cap, cap)
    responses = config.steps * config.prompts * drawn
    amounts: dict[str, float] = {
        "adapter parameters": learned,
        "updates": config.steps,
        "responses": responses,
        "response tokens": responses * said,
    }
    tokens = config.steps * config.prompts * config.samples * said
    flops = tokens * _token_flops(shape, learned, said, assumed, recomputed=config.checkpoint_activations)
    flops += tokens * 2 * shape.num_layers * shape.layer_weights  # the reference's pass
    seconds, pace = _learning_s(config.steps, tokens, flops, assumed, folder / METRICS)
    if not pace.startswith("measured"):
        if assumed.rollout_tokens_per_s is None:
            seconds, pace = None, "rollout_tokens_per_s is not given (--assume)"
        elif seconds is not None:
            drawing_s = responses * said / (assumed.rollout_tokens_per_s * assumed.devices)
            amounts |= {"hours of learning": seconds / _HOUR_S, "hours of drawing": drawing_s / _HOUR_S}
            seconds += drawing_s
            pace += f", rollouts at {assumed.rollout_tokens_per_s:,.0f} tok/s a device"
    plan = DryRun(
        what=f"GRPO, {assumed.devices} × {'CPU' if assumed.on_cpu else f'{assumed.device_gb:g} GB'}",
        device=device,
        host=_host(shape, value_bytes, assumed),
        disk=_disk(shape, learned),
        amounts=amounts,
        seconds=seconds,
        pace=pace,
    )
    if assumed.response_tokens is None:
        plan.notes.append(f"responses are taken to be as long as the largest budget allows, {cap} tokens")
    return _judged(plan, assumed, folder)


def dry_quantize(recipe: Recipe, shape: Shape, assumed: Assumed, folder: Path) -> DryRun:
    """What `quantize` would take: its learning runs on one machine's CPU."""
    config = recipe.end_to_end
    here = replace(assumed, device_gb=None, devices=1)
    tokens = config.windows * config.window_tokens
    hidden = shape.hidden_size
    learned = hidden * hidden + shape.num_layers * 8 * hidden
    if recipe.corrections.rank:
        learned += shape.adapter_weights(LoraSettings(rank=recipe.corrections.rank))
    if recipe.corrections.head_rank:
        learned += recipe.corrections.head_rank * (hidden + shape.vocab_size)
    device: Parts = {"teacher, float32": 4.0 * shape.weights}
    if recipe.learns:
        device |= {
            # Of the student's matrices one layer is merged at a time, with gradients; so is its head.
            "a layer and the head, merged": 4.0 * (6 * shape.layer_weights + 4 * shape.vocab_size * hidden),
            "what is learned, with its optimizer": 16.0 * learned,
            "activations": 4.0 * tokens * (shape.num_layers * hidden + 12 * hidden + 6 * shape.ff_size),
            "logits": 4.0 * 8 * _CHUNK_TOKENS * shape.vocab_size,
        }
    # Teacher once; student forwards, once more layer by layer, and backwards to activations and weights.
    flops = config.num_tokens * 2 * (shape.weights - shape.vocab_size * hidden) * 5
    amounts: dict[str, float] = {"steps": config.steps, "tokens": config.num_tokens}
    seconds, pace = _learning_s(config.steps, config.num_tokens, flops, here, folder / PROGRESS)
    plan = DryRun(
        what="quantizing, on the CPU of one machine",
        device=device,
        host={},
        disk={
            "conversion to float32": 4.0 * shape.weights,
            "base": shape.weights * _Q4_0 + shape.vocab_size * hidden * (_Q8_0 - _Q4_0),
            "what is learned, and its checkpoint": 16.0 * learned,
        },
        amounts=amounts,
        seconds=seconds,
        pace=pace,
    )
    if assumed.device_gb is not None:
        plan.notes.append("this version quantizes on the CPU: a device's memory is not used")
    return _judged(plan, here, folder)


# ── parts ──────────────────────────────────────────────────────────────────────────────────────────


def _trained(shape: Shape, learned: int, value_bytes: int, assumed: Assumed) -> Parts:
    """Of weights that stand still and weights that learn, under data parallelism."""
    parts = {
        "base": float(shape.weights * value_bytes),
        "adapter": 4.0 * learned,
        "gradients": 4.0 * learned,
        "optimizer": 8.0 * learned,
        "exchange of gradients": 4.0 * learned if assumed.devices > 1 else 0.0,
    }
    return parts if assumed.on_cpu else parts | {"CUDA": float(_CONTEXT_BYTES)}


def _pass(
    shape: Shape,
    *,
    rows: int,
    tokens: int,
    value_bytes: int,
    checkpointed: bool,
    lora: LoraSettings,
    on_cpu: bool,
) -> Parts:
    """Of a forward and backward pass over rows that are as long as they may be."""
    hidden, ff = shape.hidden_size, shape.ff_size
    attended = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    # Norms' inputs in float32; queries, keys and values twice (RoPE); outputs; four of the feed-forward.
    values = 4 * hidden * 2 + value_bytes * (4 * hidden + 2 * attended + 2 * hidden + 4 * ff)
    # An adapter's input in its own float32, and once more behind dropout.
    inputs = sum(shape.linears[name][1] for name in lora.targets)
    values += 4 * inputs * ((value_bytes == 2) + (lora.dropout > 0)) + 4 * lora.rank * len(lora.targets)
    of_layer = rows * tokens * values
    kept = shape.num_layers * rows * tokens * hidden * value_bytes
    activations = kept + of_layer if checkpointed else shape.num_layers * of_layer
    parts = {
        "activations": float(activations + 3 * rows * tokens * hidden * value_bytes),
        "logits": 4.0 * 3 * _CHUNK_TOKENS * shape.vocab_size,
    }
    # Off the CPU every row has a mask of its own, which attention turns into numbers.
    return parts if on_cpu else parts | {"masks": float(rows * tokens * tokens * (1 + value_bytes))}


def _host(shape: Shape, value_bytes: int, assumed: Assumed) -> Parts:
    """Of the machine: all map one conversion, and each process holds the base until it is on its device."""
    if assumed.on_cpu:
        return {}
    return {
        "conversion to float32": 4.0 * shape.weights,
        "the base of each process, while it loads": float(assumed.devices * shape.weights * value_bytes),
    }


def _disk(shape: Shape, learned: int) -> Parts:
    return {
        "conversion to float32": 4.0 * shape.weights,
        "checkpoints": 2 * 12.0 * learned + 2.0 * learned,
        "adapter and bundle": 4.0 * learned + _Q8_0 * learned,
    }


def _token_flops(shape: Shape, learned: int, said: float, assumed: Assumed, *, recomputed: bool) -> float:
    """Arithmetic of a response token: forwards, backwards to activations, and forwards again if recomputed.

    The base's weights get no gradient, the adapter's do. On a device attention goes over the whole square.
    """
    passes = 2 + recomputed
    base = 2 * shape.num_layers * shape.layer_weights * passes
    adapter = 2 * learned * (passes + 1)
    seen = assumed.prompt_tokens + (said / 2 if assumed.on_cpu else said)
    attention = 4 * shape.num_layers * shape.num_heads * shape.head_dim * seen * (passes + 1)
    return base + adapter + attention + 4 * shape.vocab_size * shape.hidden_size


def _learning_s(
    updates: float, tokens: float, flops: float, assumed: Assumed, metrics: Path
) -> tuple[float | None, str]:
    """Seconds of all updates, and where they are from."""
    if assumed.tokens_per_s is not None:
        return tokens / (
            assumed.tokens_per_s * assumed.devices
        ), f"{assumed.tokens_per_s:,.0f} tok/s a device"
    if found := _measured_s(metrics):
        return updates * median(found), f"measured in {len(found)} updates of {metrics.parent.name}"
    if assumed.tflops is not None:
        seconds = flops / (assumed.tflops * 1e12 * assumed.devices)
        return seconds, f"{flops:.3g} operations at {assumed.tflops:g} TFLOPS a device"
    return None, "no pace: give tokens_per_s or tflops (--assume), or let the command make some updates first"


def _measured_s(metrics: Path) -> list[float]:
    """Seconds of the updates that a folder has."""
    try:
        lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
        return [float(line["seconds"]) for line in lines if "seconds" in line]
    except (OSError, ValueError, TypeError):
        return []


def _judged(plan: DryRun, assumed: Assumed, folder: Path) -> DryRun:
    """The plan, with what does not fit."""
    gb = 1e9
    there = next(one for one in (folder, *folder.resolve().parents) if one.exists())
    free_disk = assumed.disk_gb * gb if assumed.disk_gb else shutil.disk_usage(there).free
    host = assumed.host_gb * gb if assumed.host_gb else float(memory_bytes() or 0)
    needs: Mapping[str, tuple[Parts, float]] = {
        "a device": (
            plan.device,
            host / assumed.devices if assumed.on_cpu else (assumed.device_gb or 0) * gb,
        ),
        "the machine": (plan.host, host),
    }
    for name, (parts, room) in needs.items():
        needed = sum(parts.values())
        if parts and room and needed > room * _SPARE:
            most = max(parts, key=parts.__getitem__)
            for_most = f"{_size(parts[most])} of it for {most}"
            plan.problems.append(f"{name} needs {_size(needed)}, {for_most}, and has {_size(room)}")
    if (needed := sum(plan.disk.values())) > free_disk:
        plan.problems.append(f"disk needs {_size(needed)} and has {_size(free_disk)}")
    if assumed.hours is not None and plan.seconds is not None and plan.seconds > assumed.hours * _HOUR_S:
        plan.problems.append(f"it takes {plan.seconds / _HOUR_S:,.0f} h, and {assumed.hours:g} h are given")
    return plan


def _size(value: float) -> str:
    return f"{value / 1e9:,.1f} GB" if value >= 1e8 else f"{value / 1e6:,.1f} MB"
