"""`edgereason doctor`: what this machine has, what an answer costs on it, and which model suits it.

::

    machine ─ processor, cores, memory, disk, kernels, extras
    costs ─── of the model that is asked for, if it is here
              else of another one that is here, or of a small random one that is made for it:
              in proportion to the bytes of weights
    files ─── each model of the catalogue: does it fit, how fast would it be
    advice ── the package's bundle, or else the largest model that fits and is fast enough;
              as many streams as cost little

Nothing is fetched, and nothing is kept.
"""

from __future__ import annotations

import math
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from edgereason.bench.costs import SHALLOW_TOKENS, STREAMS, Costs, measure
from edgereason.bench.small_model import write_small_model
from edgereason.core.bundle import Bundle
from edgereason.core.machine import (
    available_bytes,
    memory_bytes,
    processor_flags,
    require_threads,
    usable_cores,
)
from edgereason.engine.base import KvType
from edgereason.errors import BundleError
from edgereason.hub.catalog import CATALOG, DEFAULT_MODEL, CatalogModel, bundle_folder, find
from edgereason.hub.pull import find_base, resolve
from edgereason.hub.store import file_errors, is_here, megabytes, model_path, models_folder
from edgereason.records.machine import cpu_name, features, kernels_note
from edgereason.records.measure import CpuWatch

LIMIT_S: Final = 10.0
ANSWER_TOKENS: Final = 256
"""Tokens of the answer that examples are of; its prompt has `costs.SHALLOW_TOKENS`."""
LEAST_TOKENS_PER_S: Final = 10.0
"""One stream should be faster: people read about half as fast, and wait while a model thinks."""
MOST_STREAMS_RATIO: Final = 2.0
"""More streams are cheap while their step takes at most so many times as long as one stream's."""
SMALL_MODEL: Final = "a small random model"
_BUSY_SHARE: Final = 0.1

INSTRUCTIONS: Final = {
    "avx": "AVX",
    "avx2": "AVX2",
    "fma": "FMA",
    "f16c": "F16C",
    "avx_vnni": "AVX_VNNI",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "amx_int8": "AMX_INT8",
    "asimd": "NEON",
    "asimdhp": "FP16_VA",
    "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8",
    "sve": "SVE",
    "sme": "SME",
}
"""Instructions that make llama.cpp faster: Linux's word → what llama.cpp calls a build with them."""

EXTRAS: Final = {"quant": "torch", "train": "trl", "export": "onnxruntime", "eval": "matplotlib"}
"""Extra of this package → a package that it brings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What this machine has.

    Attributes:
        instructions: of the processor, those that llama.cpp has faster code for, in Linux's words; empty on
            other systems.
        not_built_in: of these, what the installed llama.cpp was built without.
        cores: that this process may use.
        memory_bytes: that this process may use in all; None where the system doesn't tell.
        available_bytes: that it may still take.
        disk_free_bytes: where models are kept.
        kernels: which of edgereason's run, or why none do.
        extras: version of what each extra of the package brings; None for one that is not installed.
    """

    processor: str
    system: str
    instructions: tuple[str, ...]
    not_built_in: tuple[str, ...]
    cores: int
    memory_bytes: int | None
    available_bytes: int | None
    disk_free_bytes: int
    kernels: str
    extras: dict[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFit:
    """How a model of the catalogue fits this machine.

    Attributes:
        is_base: whether the bundle of this package stands on it.
        peak_bytes: memory that an answer in four streams takes; None if no model could be measured.
        disk_bytes: that fetching it takes; 0 if it is here.
        tokens_per_s: of one stream, with the adapter that was measured; None if no model could be measured.
        answer_s: of one stream of `ANSWER_TOKENS` tokens, start of the command included.
        obstacle: why it doesn't suit; None if it does.
    """

    name: str
    size_bytes: int
    is_here: bool
    is_base: bool
    peak_bytes: int | None
    disk_bytes: int
    tokens_per_s: float | None
    answer_s: float | None
    obstacle: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """What `examine` found.

    Attributes:
        model: what costs are of: a bundle's or a model's name.
        measured: the file that was measured; None if nothing was.
        costs: of `model`; None if no model is here, or nothing was to be measured.
        obstacle: why `model` doesn't suit this machine; None if it does, or without costs.
        streams: as many as cost little, of those measured; None without costs.
        files: of the catalogue.
        suggested: name of the model of the catalogue that suits; None if none does, or without costs.
        notes: what else a reader of the figures must know.
    """

    machine: Machine
    model: str
    measured: str | None
    costs: Costs | None
    obstacle: str | None
    streams: int | None
    files: tuple[FileFit, ...]
    suggested: str | None
    notes: tuple[str, ...]


def examine(
    *,
    bundle: Path | None = None,
    model: str | None = None,
    threads: int | None = None,
    kv: KvType = "f16",
    measures: bool = True,
    limit_s: float = LIMIT_S,
    tell: Callable[[str], None] = lambda _what: None,
) -> Checkup:
    """Looks at this machine, and measures what answers cost on it.

    Args:
        bundle: folder of a bundle; by default the one that comes with the package.
        model: instead of it a bare model, a name of the catalogue or a GGUF file.
        threads: CPU threads; by default as many as this process may use.
        kv: type of the KV cache.
        measures: whether anything is measured.
        limit_s: about how long that may take.
        tell: told in a few words what is measured.

    Raises:
        BundleError, ModelFileError, EngineError: the model can't be read or run.
        PullError: no model has that name, or the cache can't be read.
    """
    require_threads(threads)
    subject, machine = _subject(bundle, model), look()
    found, costs, notes = None, None, []
    if measures:
        watch = CpuWatch()
        with _measurable(subject) as found:
            costs = measure(
                found.path,
                found.bundle,
                found.options,
                threads=threads or machine.cores,
                kv=kv,
                limit_s=limit_s,
                tell=tell,
            )
        if found.name != subject.name:
            costs = costs.scaled(found.size_bytes, subject.size_bytes)
            notes.append(
                f"{subject.name} is not here: its costs are those of {found.name} without an adapter, in "
                "proportion to the bytes of the weights"
            )
        notes += _disturbance(watch.shares())
    if machine.not_built_in:
        notes.append(
            f"llama.cpp was built without {', '.join(machine.not_built_in)}, which this processor has: "
            "build llama-cpp-python on this machine"
        )
    files = tuple(_fit(one, machine, costs, subject.size_bytes) for one in CATALOG)
    return Checkup(
        machine=machine,
        model=subject.name,
        measured=found.name if found else None,
        costs=costs,
        obstacle=_obstacle(machine, costs, 0) if costs else None,
        streams=cheap_streams(costs) if costs else None,
        files=files,
        suggested=suggest(files) if costs else None,
        notes=tuple(notes),
    )


def look() -> Machine:
    """What this machine has; measures nothing.

    Raises:
        PullError: the folder of models can't be read.
    """
    flags, built = processor_flags(), set(features())
    instructions = tuple(flag for flag in INSTRUCTIONS if flag in flags)
    return Machine(
        processor=cpu_name(),
        system=f"{platform.system()} {platform.machine()}",
        instructions=instructions,
        not_built_in=tuple(flag for flag in instructions if INSTRUCTIONS[flag] not in built),
        cores=usable_cores(),
        memory_bytes=memory_bytes(),
        available_bytes=available_bytes(),
        disk_free_bytes=_disk_free_bytes(models_folder()),
        kernels=kernels_note(),
        extras={extra: _version(package) for extra, package in EXTRAS.items()},
    )


def cheap_streams(costs: Costs) -> int:
    """The most streams whose step takes at most `MOST_STREAMS_RATIO` times as long as one stream's."""
    one_s = costs.step_s(1, SHALLOW_TOKENS)
    return max(n for n in STREAMS if costs.step_s(n, SHALLOW_TOKENS) <= MOST_STREAMS_RATIO * one_s)


def suggest(files: Sequence[FileFit]) -> str | None:
    """The base of the package's bundle, if nothing stands in its way; else the largest file that suits."""
    suiting = [file for file in files if file.obstacle is None]
    best = max(suiting, key=lambda file: (file.is_base, file.size_bytes), default=None)
    return best.name if best else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """What could be measured: a bundle, or a bare model.

    Attributes:
        path: of the model's file, which need not be there.
        options: that name it to `edgereason ask`.
    """

    name: str
    size_bytes: int
    path: Path
    bundle: Bundle | None
    options: tuple[str, ...]


def _subject(folder: Path | None, model: str | None) -> _Subject:
    """What the caller named, by default the bundle of this package; fetches nothing."""
    if model is not None:
        named = next((one for one in CATALOG if one.name == model), None)
        return _bare(named) if named else _file(resolve(model))
    bundle = Bundle.read(bundle_folder(folder))
    found = find_base(bundle)
    options, name = ("--bundle", str(bundle.folder)), bundle.folder.resolve().name
    known = _file(found.path) if found.path else _bare(found.model) if found.model else None
    if known is None:
        raise BundleError(
            f"the base {bundle.base.name} of {bundle.title} is neither here nor in the catalogue: say once "
            f"where it is: edgereason bundle verify {bundle.folder} --base FILE"
        )
    return replace(known, name=name, bundle=bundle, options=options)


def _bare(model: CatalogModel) -> _Subject:
    return _Subject(
        name=model.name,
        size_bytes=model.size_bytes,
        path=model_path(model),
        bundle=None,
        options=("--model", model.name),
    )


def _file(path: Path) -> _Subject:
    return _Subject(
        name=path.name,
        size_bytes=path.stat().st_size,
        path=path,
        bundle=None,
        options=("--model", str(path)),
    )


@contextmanager
def _measurable(subject: _Subject) -> Iterator[_Subject]:
    """What is measured: the subject, else the model that is here and nearest in size, else a random one."""
    here = [_bare(model) for model in CATALOG if is_here(model)]
    if subject.path.is_file():
        yield subject
    elif here:
        yield min(here, key=lambda one: abs(math.log(one.size_bytes / subject.size_bytes)))
    else:
        with TemporaryDirectory() as folder:
            path = Path(folder) / SMALL_MODEL
            with file_errors(path):
                write_small_model(path)
            yield _file(path)


def _fit(model: CatalogModel, machine: Machine, costs: Costs | None, costs_bytes: int) -> FileFit:
    """How a model fits; `costs` are of a model of `costs_bytes`."""
    disk_bytes = 0 if is_here(model) else model.size_bytes
    if disk_bytes and model.made is not None and not is_here(teacher := find(model.made.teacher)):
        disk_bytes += teacher.size_bytes
    scaled = costs.scaled(costs_bytes, model.size_bytes) if costs else None
    return FileFit(
        name=model.name,
        size_bytes=model.size_bytes,
        is_here=is_here(model),
        is_base=model.name == DEFAULT_MODEL,
        peak_bytes=scaled.peak_bytes if scaled else None,
        disk_bytes=disk_bytes,
        tokens_per_s=1 / scaled.step_s(1, SHALLOW_TOKENS) if scaled else None,
        answer_s=scaled.answer_s(SHALLOW_TOKENS, [ANSWER_TOKENS]) if scaled else None,
        obstacle=_obstacle(machine, scaled, disk_bytes),
    )


def _obstacle(machine: Machine, costs: Costs | None, disk_bytes: int) -> str | None:
    """Why a model doesn't suit: memory, disk, then speed."""
    peak_bytes = costs.peak_bytes if costs else None
    there = machine.available_bytes
    if peak_bytes is not None and there is not None and peak_bytes > there:
        return f"takes {megabytes(peak_bytes)} of memory, {megabytes(there)} are available"
    if disk_bytes > machine.disk_free_bytes:
        return f"takes {megabytes(disk_bytes)} on disk, {megabytes(machine.disk_free_bytes)} are free"
    if costs is not None and (rate := 1 / costs.step_s(1, SHALLOW_TOKENS)) < LEAST_TOKENS_PER_S:
        return f"makes {rate:.1f} tokens a second, fewer than {LEAST_TOKENS_PER_S:g}"
    return None


def _disturbance(shares: Mapping[str, float | None]) -> list[str]:
    """Notes about who else had the processor while costs were measured."""
    notes = []
    for key, who in (("others_share", "other processes"), ("steal_share", "the hypervisor")):
        share = shares[key]
        if share is not None and share > _BUSY_SHARE:
            notes.append(f"{who} had {share:.0%} of the processor: costs are of a machine as busy as that")
    return notes


def _disk_free_bytes(folder: Path) -> int:
    """Free bytes where a folder is, or would be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with file_errors(folder):
        return shutil.disk_usage(folder).free


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
