"""A bundle as ONNX graphs for runtimes other than llama.cpp: for onnxruntime, and for NPUs.

::

    FOLDER/
      manifest.json       what is here, and how a prompt, chat and think use it
      model.onnx          onnxruntime: open shapes, weights in 4 and 8 bits       + model.weights
      prefill.onnx        NPU: fixed shapes, weights in float32                   + npu.weights
      decode.onnx              of the same values; their integers stand in        + npu.encodings
      tokenizer.json, tokenizer_config.json, genie_config.json, metadata.json     (`genie.py`)
      heads.safetensors   switcher and verifier, which read the outputs states_N

Each graph has the adapter behind a switch, so chat and think are one graph, on one set of keys and values.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import onnx

from edgereason.config import load_json
from edgereason.core.bundle import Bundle, file_sha256, temporary_folder_beside, write_atomically
from edgereason.core.chat import ANSWER_PREFIX, OPENING, hint_text
from edgereason.errors import BundleError, ConfigError
from edgereason.export.activations import MASKED, observe, watch_everything
from edgereason.export.decoder import Decoder
from edgereason.export.encodings import Range, write_encodings
from edgereason.export.genie import genie_files, tokenizer_files
from edgereason.export.graph import SWITCH, Form, build
from edgereason.export.weights import Matrix, StoredModel, TensorFile
from edgereason.heads.file import Heads, read_heads
from edgereason.quant.adapter_file import read_stored_adapter
from edgereason.quant.blocks import Quantized
from edgereason.quant.gguf_file import Dims, GgufModel

MANIFEST: Final = "manifest.json"
FORMAT: Final = "edgereason-export"
VERSION: Final = 1
HEADS_FILE: Final = "heads.safetensors"
EXPORTABLE: Final = ("qwen2", "qwen3", "llama")
"""Families whose layers the graph has."""


class Target(StrEnum):
    """What runs the graphs."""

    ONNXRUNTIME = "onnxruntime"
    NPU = "npu"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """What is made.

    Attributes:
        targets: each once.
        context: places for tokens of graphs with fixed shapes, and the limit of others.
        prefill_tokens: that the prefill graph takes at a time.
        prompts: ids of prompts that show which values activations take; none for tools that find them out.

    Raises:
        ConfigError: there is no target, or the numbers leave no place for a past.
    """

    targets: tuple[Target, ...] = tuple(Target)
    context: int = 2048
    prefill_tokens: int = 128
    prompts: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.targets:
            raise ConfigError("an export needs a target: onnxruntime or npu")
        if not 1 < self.prefill_tokens < self.context:
            raise ConfigError(
                f"the prefill graph takes {self.prefill_tokens} of {self.context} tokens: expected at least "
                "2, and fewer than the context has"
            )


def require_exportable(dims: Dims, name: str) -> None:
    """Refuses a base whose layers the graph does not have.

    Raises:
        BundleError: names the family, or what its rope does.
    """
    if dims.arch not in EXPORTABLE:
        raise BundleError(
            f"{name} is of the family {dims.arch!r}, whose layers the exported graph does not have; "
            f"expected one of {', '.join(EXPORTABLE)}"
        )
    if dims.rope_factors or dims.rope_scale != 1.0:
        raise BundleError(f"{name} scales its rope, which the exported graph does not")


def export(
    bundle: Bundle,
    base: Path,
    folder: Path,
    config: ExportConfig,
    notice: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Exports a bundle, whole or not at all.

    Args:
        bundle: its base's hash has been checked.
        base: the base's file.
        folder: that must not be there yet.
        config: what is made.
        notice: told in a line what is larger or slower than it could be.

    Returns:
        The manifest.

    Raises:
        BundleError: the bundle or its base can't be exported, or the folder can't be written.
    """
    if folder.exists():
        raise BundleError(f"{folder} is there already: give a new folder (-o)")
    model = GgufModel(base)
    require_exportable(model.dims, bundle.base.name)
    if config.context > model.dims.context_length:
        raise ConfigError(
            f"a context of {config.context} tokens is more than the {model.dims.context_length} that "
            f"{bundle.base.name} was trained for"
        )
    products, alpha = (
        read_stored_adapter(bundle.verified_file(bundle.adapter)) if bundle.adapter else ({}, 0.0)
    )
    stored = StoredModel(model, products, alpha, bundle.opening_ids)
    heads = read_heads(bundle.verified_file(bundle.heads)) if bundle.heads else None
    try:
        with temporary_folder_beside(folder) as partial:
            manifest = _write(partial, bundle, stored, heads, config)
    except OSError as error:
        raise BundleError(f"{folder} can't be written: {error.strerror or error}") from error
    floats = [name for name in model.names if len(model.shape(name)) > 1 and model.quantized(name) is None]
    if floats:
        notice(
            f"{len(floats)} matrices of {bundle.base.name} are neither Q4_0 nor Q8_0 and stand in float32: "
            "a base made by edgereason quantize is smaller"
        )
    return manifest


def _write(
    folder: Path, bundle: Bundle, stored: StoredModel, heads: Heads | None, config: ExportConfig
) -> dict[str, Any]:
    """Writes all files, the manifest last."""
    model = stored.model
    states = _state_layers(heads, model.dims.num_layers)
    layers = tuple(sorted(set(states.values())))
    targets = {str(target): _WRITERS[target](stored, config, layers, folder) for target in config.targets}
    texts = tokenizer_files(model)
    if Target.NPU in config.targets:
        texts |= genie_files(model, bundle.title, config.context, has_adapter=stored.has_adapter)
    for name, content in texts.items():
        write_atomically(folder / name, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    if bundle.heads:
        shutil.copyfile(bundle.verified_file(bundle.heads), folder / HEADS_FILE)
    manifest = _manifest(bundle, model, heads, states, targets, folder)
    write_atomically(folder / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=2) + "\n")
    return manifest


def open_export(
    folder: Path, target: Target, *, threads: int | None = None, is_exact: bool = False
) -> tuple[Decoder, dict[str, Any]]:
    """An export in onnxruntime, and its manifest.

    Args:
        folder: of the export.
        target: whose graphs are run.
        threads: CPU threads; None for all.
        is_exact: products in float32, not with activations in 8 bits.

    Raises:
        BundleError: it is not an export, or does not have this target.
    """
    path = folder / MANIFEST
    try:
        manifest = load_json(path.read_text("utf-8"))
        if (manifest["format"], manifest["version"]) != (FORMAT, VERSION):
            raise ValueError(f"its format is {manifest['format']!r}, version {manifest['version']}")
        about = manifest["targets"][str(target)]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BundleError(f"{path} is not the manifest of an export for {target}: {error}") from error
    return Decoder(folder, about, threads=threads, is_exact=is_exact), manifest


def _state_layers(heads: Heads | None, num_layers: int) -> dict[str, int]:
    """The layer whose output the switcher reads, and those that the verifier reads, from the first on."""
    found: dict[str, int] = {}
    if heads and heads.switcher:
        found["switcher"] = num_layers + heads.switcher.layer
    if heads and heads.verifier:
        found |= {f"verifier.{n}": num_layers + layer for n, layer in enumerate(heads.verifier.layers)}
    return found


def _for_onnxruntime(
    model: StoredModel, config: ExportConfig, states: tuple[int, ...], folder: Path
) -> dict[str, Any]:
    with TensorFile(folder / "model.weights") as file:
        graph, _ = build(model, Form(is_quantized=True, state_layers=states), file)
    _save(graph, folder / "model.onnx")
    return _about(model, config.context, {"model.onnx": None})


def _for_npu(
    model: StoredModel, config: ExportConfig, states: tuple[int, ...], folder: Path
) -> dict[str, Any]:
    graphs: dict[str, int | None] = {"prefill.onnx": config.prefill_tokens, "decode.onnx": 1}
    matrices: dict[str, Matrix] = {}
    with TensorFile(folder / "npu.weights") as file:
        for name, tokens in graphs.items():
            form = Form(is_quantized=False, tokens=tokens, context=config.context, state_layers=states)
            graph, matrices = build(model, form, file)
            _save(graph, folder / name)
    quantized = {name: matrix for name, matrix in matrices.items() if isinstance(matrix, Quantized)}
    activations = _activations(model, config, states, folder) if config.prompts else {}
    values = {node.output[0] for node in graph.graph.node} | {one.name for one in graph.graph.input}
    known = {name: range_ for name, range_ in activations.items() if name in values}
    write_encodings(folder / "npu.encodings", quantized, known)
    return _about(model, config.context, graphs) | {"encodings": "npu.encodings", "mask": MASKED}


def _activations(
    model: StoredModel, config: ExportConfig, states: tuple[int, ...], folder: Path
) -> dict[str, Range]:
    """Ranges of all values, from a graph for onnxruntime that is made for this alone."""
    scratch = folder / "activations"
    scratch.mkdir()
    try:
        about = _for_onnxruntime(model, config, states, scratch)
        watch_everything(scratch / "model.onnx", scratch / "watched.onnx")
        about["graphs"][0]["file"] = "watched.onnx"
        return observe(scratch, about, config.prompts, model.opening)
    finally:
        shutil.rmtree(scratch)


_WRITERS: Final = {Target.ONNXRUNTIME: _for_onnxruntime, Target.NPU: _for_npu}


def _save(graph: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(graph.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)


def _about(model: StoredModel, context: int, graphs: Mapping[str, int | None]) -> dict[str, Any]:
    """What a host must know to run the graphs."""
    return {
        "context": context,
        "head_dim": model.dims.head_dim,
        "rope_base": model.dims.rope_base,
        "graphs": [{"file": name, "tokens": tokens} for name, tokens in graphs.items()],
    }


def _manifest(
    bundle: Bundle,
    model: GgufModel,
    heads: Heads | None,
    states: Mapping[str, int],
    targets: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    described: dict[str, Any] = {}
    if heads and heads.switcher:
        described["switcher"] = {
            "output": f"states_{states['switcher']}",
            "features": heads.switcher.features.to_json(),
            "threshold": heads.switcher.threshold,
        }
    if heads and heads.verifier:
        described["verifier"] = {
            "outputs": [f"states_{layer}" for name, layer in states.items() if name.startswith("verifier.")],
            "features": heads.verifier.features.to_json(),
        }
    switch = {"input": SWITCH, "prompt": 0, "chat": 0, "think": 1} if bundle.adapter else None
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": bundle.title,
        "base": asdict(bundle.base),
        "adapter_sha256": bundle.adapter_sha256,
        "eos_id": int(model.value("tokenizer.ggml.eos_token_id", -1)),
        "chat_template": "tokenizer_config.json",
        "switch": switch,
        "think": {
            "opening": OPENING,
            "opening_ids": list(bundle.opening_ids),
            "hints": {str(bucket): hint_text(bucket) for bucket in bundle.buckets},
            "closing": bundle.closing,
            "answer_prefix": ANSWER_PREFIX,
        },
        "heads": described,
        "targets": dict(targets),
        "files": {
            path.name: {"size_bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in sorted(folder.iterdir())
        },
    }
