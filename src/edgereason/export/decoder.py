"""An exported folder in onnxruntime: prompt, then chat or think, on one set of keys and values.

::

    decoder.push(prompt) → step        step.logits of the last token, step.cache of all tokens so far
    decoder.push(ids, step.cache, adapter=True)     any number of times from the same cache

A cache is never changed, so chat and think may both go on from one prompt. It is what a graph with open
shapes hands on; for graphs of fixed shapes it is cut to the places that they have, and padded on the left.

This is how an export is checked, and a model for other hosts. `edgereason.engine` is what answers questions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from edgereason.errors import BundleError, ContextOverflow
from edgereason.export.graph import COS, IDS, LOGITS, MASK, SIN, SWITCH

Float32 = npt.NDArray[np.float32]
HIDDEN: Final = np.float32(-1e4)
"""Added to the scores of what a token may not look at; e to its power is 0."""
_EXACT, _FAST = "1", "4"
"""onnxruntime's words for products with 4-bit weights in float32, and in 8 bits on the fly."""


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys (KV heads, 1, head_dim, tokens) and values (KV heads, 1, tokens, head_dim) of each layer."""

    tensors: Mapping[str, Any]
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Step:
    """What a run of the graph gave.

    Attributes:
        logits: (rows, vocabulary), the last of them behind the last token.
        states: by output, (tokens, hidden), of the tokens that were pushed.
        cache: of all tokens so far.
    """

    logits: Float32
    states: Mapping[str, Float32]
    cache: Cache


class Decoder:
    """Runs one target of an export.

    Args:
        folder: of the target, with its graphs.
        about: what the export's manifest says of the target.
        threads: CPU threads; None for all.
        is_exact: products in float32, not with activations in 8 bits.
        watch: is shown all outputs of every run of a graph with open shapes, by name.

    Raises:
        BundleError: onnxruntime can't load a graph.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        *,
        threads: int | None = None,
        is_exact: bool = False,
        watch: Callable[[Mapping[str, Float32]], None] | None = None,
    ) -> None:
        self._about = about
        self._watch = watch
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.log_severity_level = 3
        level = _EXACT if is_exact else _FAST
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", level)
        try:
            self._sessions = {
                graph["tokens"]: onnxruntime.InferenceSession(str(folder / graph["file"]), options)
                for graph in about["graphs"]
            }
        except Exception as error:  # pybind's own, without a common base
            raise BundleError(f"onnxruntime can't load the export in {folder}: {error}") from error
        session = next(iter(self._sessions.values()))
        self._has_adapter = any(one.name == SWITCH for one in session.get_inputs())
        pasts = [one for one in session.get_inputs() if one.name.startswith("past_")]
        self._empty = {
            one.name.removesuffix("_in"): np.zeros(
                [0 if n == _token_axis(one.name) else int(size) for n, size in enumerate(one.shape)],
                np.float32,
            )
            for one in pasts
        }

    def push(self, ids: Sequence[int], cache: Cache | None = None, *, adapter: bool = False) -> Step:
        """Runs tokens behind a cache.

        Args:
            ids: at least one.
            cache: None for the beginning of a text.
            adapter: whether the adapter is on.

        Raises:
            ContextOverflow: there are more tokens than the graphs have places for.
        """
        context = int(self._about["context"])
        if (needed := len(ids) + (cache.num_tokens if cache else 0)) > context:
            raise ContextOverflow(needed, context, "the text", "export with a larger context")
        if None in self._sessions:
            return self._open(ids, cache, adapter)
        widths, steps = sorted(width for width in self._sessions if width), []
        while ids:  # a wide graph has fewer places for the past
            done = cache.num_tokens if cache else 0
            fitting = [width for width in widths if done + width <= context]
            width = fitting[-1] if len(ids) > 1 else fitting[0]
            steps.append(self._fixed(ids[:width], cache, adapter, width))
            cache, ids = steps[-1].cache, ids[width:]
        states = {name: np.concatenate([step.states[name] for step in steps]) for name in steps[-1].states}
        return Step(np.concatenate([step.logits for step in steps]), states, steps[-1].cache)

    def _open(self, ids: Sequence[int], cache: Cache | None, adapter: bool) -> Step:
        """A run of the graph whose shapes are open; its keys and values never leave onnxruntime."""
        done = cache.num_tokens if cache else 0
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        tensors = cache.tensors if cache else {name: value(empty) for name, empty in self._empty.items()}
        mask = _mask(len(ids), done, len(ids), done)
        feed = {name: value(array) for name, array in self._feed(ids, done, mask, adapter).items()}
        feed |= {f"{name}_in": tensor for name, tensor in tensors.items()}
        session = self._sessions[None]
        names = [one.name for one in session.get_outputs()]
        found = dict(zip(names, session.run_with_ort_values(names, feed), strict=True))
        if self._watch is not None:
            self._watch({name: one.numpy() for name, one in found.items()})
        return Step(
            found[LOGITS].numpy()[0],
            {name: one.numpy()[0] for name, one in found.items() if name.startswith("states_")},
            Cache({name: found[f"{name}_out"] for name in self._empty}, done + len(ids)),
        )

    def _fixed(self, ids: Sequence[int], cache: Cache | None, adapter: bool, width: int) -> Step:
        """A run of a graph with `width` tokens: real ones stand last, what is before them is masked."""
        done = cache.num_tokens if cache else 0
        places = int(self._about["context"]) - width
        before: Mapping[str, Float32] = cache.tensors if cache else self._empty
        padded = [0] * (width - len(ids)) + list(ids)
        feed = self._feed(padded, done - (width - len(ids)), _mask(width, places, len(ids), done), adapter)
        for name, array in before.items():
            axis = _token_axis(name)
            room = list(array.shape)
            room[axis] = places - done
            feed[f"{name}_in"] = np.concatenate([np.zeros(room, np.float32), array], axis=axis)
        session = self._sessions[width]
        names = [one.name for one in session.get_outputs()]
        found = dict(zip(names, session.run(names, feed), strict=True))
        tensors = {
            name: _joined(array, found[f"{name}_out"], _token_axis(name), len(ids))
            for name, array in before.items()
        }
        return Step(
            found[LOGITS][0, -len(ids) :],
            {name: one[0, -len(ids) :] for name, one in found.items() if name.startswith("states_")},
            Cache(tensors, done + len(ids)),
        )

    def _feed(self, ids: Sequence[int], start: int, mask: Float32, adapter: bool) -> dict[str, Any]:
        half = int(self._about["head_dim"]) // 2
        speeds = float(self._about["rope_base"]) ** (-np.arange(half) / half)
        angles = np.maximum(np.arange(start, start + len(ids)), 0)[:, None] * speeds
        feed: dict[str, Any] = {
            IDS: np.array([ids], np.int32),
            MASK: mask,
            COS: np.cos(angles).astype(np.float32)[None, None],
            SIN: np.sin(angles).astype(np.float32)[None, None],
        }
        if self._has_adapter:
            feed[SWITCH] = np.array([float(adapter)], np.float32)
        return feed


def _token_axis(name: str) -> int:
    return 3 if "_key_" in name else 2


def _joined(past: Float32, new: Float32, axis: int, count: int) -> Float32:
    """The past and the last `count` of what is new."""
    real = new.take(range(new.shape[axis] - count, new.shape[axis]), axis=axis)
    return np.concatenate([past, real], axis=axis)


def _mask(width: int, places: int, num_new: int, num_past: int) -> Float32:
    """(1, 1, width, places + width): a token looks at the past, at those before it, and at itself.

    Real tokens stand last among `width`, past ones last among `places`.
    """
    mask = np.full((width, places + width), HIDDEN, np.float32)
    mask[:, places - num_past : places] = 0
    mask[:, places:] = np.triu(np.full((width, width), HIDDEN, np.float32), 1)
    mask[:, places : places + width - num_new] = HIDDEN
    return mask[None, None]
