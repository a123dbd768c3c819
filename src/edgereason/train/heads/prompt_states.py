"""What the switcher learns from: prompts with a label each, and the features that the engine makes of them.

::

    {id, prompt, label, source} ─ rendered as a chat request is ─ prefilled once ─┬─ layer −13  average │ last
                                                                                  └─ layer −2   average │ last

`messages` may stand in place of a prompt. Features are what a `SwitcherReader` will see of the same prompt at
run time: same template, same engine, same weights. They depend on nothing else, so a prompt is read once,
whatever file it stands in and whatever its label; and of each layer all parts are kept, so that features can
be compared without reading again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgereason.core.types import Message
from edgereason.data.questions import label_of, prompt_of
from edgereason.data.rows import Row, read_file
from edgereason.engine.base import Engine
from edgereason.engine.base import Sequence as EngineSequence
from edgereason.errors import ConfigError
from edgereason.heads.base import Array
from edgereason.heads.features import FeaturePart, Features, PromptFeatures
from edgereason.records.context import RunContext
from edgereason.records.folder import source_entry
from edgereason.records.journal import JournalRow
from edgereason.train.data.traces import row_id
from edgereason.train.heads.cross_validation import Indices
from edgereason.train.heads.record import StateJournal


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt and whether it needs thinking; `place` is where it stands, for messages."""

    id: str
    messages: tuple[Message, ...]
    label: bool
    source: str
    place: str

    @property
    def sha256(self) -> str:
        """Hash of all that its features depend on, beside the model."""
        said = json.dumps([[message.role, message.content] for message in self.messages])
        return hashlib.sha256(said.encode()).hexdigest()

    @property
    def family(self) -> str:
        """The source without what was made of it: `s1k` of `s1k+text`."""
        return self.source.partition("+")[0]

    @property
    def question(self) -> str:
        """The last user message."""
        return self.messages[-1].content


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Prompts of one file; `entry` is what the record says of it."""

    entry: Mapping[str, Any]
    prompts: tuple[Prompt, ...]

    @property
    def name(self) -> str:
        """Of the file, for the record."""
        return str(self.entry["name"])


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow(JournalRow):
    """A prompt whose features are there."""

    sha256: str
    id: str
    source: str
    num_tokens: int

    @property
    def key(self) -> str:
        """What identifies the row in its run."""
        return self.sha256


def read_prompts(path: Path) -> Prompts:
    """The prompts of a file, each of them once.

    Raises:
        ConfigError: a row has no prompt or no label, or a prompt has two; the message names file and line.
    """
    rows = read_file(path)
    found: dict[str, Prompt] = {}
    for row in rows.rows:
        prompt = _prompt(row)
        before = found.setdefault(prompt.sha256, prompt)
        if before.label != prompt.label:
            row.fail(
                "label", f"is {int(prompt.label)}, and {int(before.label)} at {before.place}; expected one"
            )
    return Prompts(entry=source_entry(rows), prompts=tuple(found.values()))


def _prompt(row: Row) -> Prompt:
    return Prompt(
        id=row_id(row),
        messages=prompt_of(row),
        label=label_of(row),
        source=row.text("source") if row.has("source") else row.source,
        place=row.place,
    )


class _Begun(NamedTuple):
    """A sequence, and the ids that it holds."""

    sequence: EngineSequence
    ids: tuple[int, ...]


class PromptStates:
    """Prefills prompts and takes their features.

    Args:
        engine: nobody else may use it meanwhile.
        layers: whose states are taken.
    """

    def __init__(self, engine: Engine, layers: tuple[int, ...]) -> None:
        self.engine, self.layers = engine, layers
        self._template = engine.info.template

    @property
    def width(self) -> int:
        """Numbers that are kept of a prompt: of each layer, every part."""
        return len(self.layers) * len(FeaturePart) * self.engine.info.hidden_size

    def taken(self) -> tuple[Features, ...]:
        """What is kept, of each layer; all that a template begins every prompt with is left out."""
        same = len(self._shared())
        return tuple(
            Features(layer=layer, parts=tuple(FeaturePart), skipped_tokens=max(1, same))
            for layer in self.layers
        )

    def _shared(self) -> tuple[int, ...]:
        """What the template begins every prompt of one message with."""
        plain, other = (self._encode((Message("user", text),)) for text in ("a", "1"))
        same = next(n for n, (a, b) in enumerate(zip(plain, other, strict=False)) if a != b)
        return plain[:same]

    def columns(self, features: Features) -> Indices:
        """Where features stand in what is kept, (F,)."""
        size, first = self.engine.info.hidden_size, self.layers.index(features.layer) * len(FeaturePart)
        starts = [(first + list(FeaturePart).index(part)) * size for part in features.parts]
        return np.concatenate([np.arange(start, start + size) for start in starts])

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Ids of the prompt, as the pipeline encodes a request of these messages."""
        return self._encode(prompt.messages)

    def fits(self, prompt: Prompt) -> bool:
        """Whether the context can hold the prompt, and a token after it."""
        return len(self.encode(prompt)) < self.engine.context_tokens

    def collect(
        self,
        journal: StateJournal[PromptRow],
        prompts: Sequence[Prompt],
        context: RunContext,
    ) -> bool:
        """Adds the features of prompts that are not in the journal yet; False if stopped before the last.

        Args:
            prompts: all of them fit.
            context: asked between chunks of prompts whether to stop; what is written stays.
        """
        there = {row.key for row in journal.rows}
        missing = {prompt.sha256: prompt for prompt in prompts if prompt.sha256 not in there}
        total = len({prompt.sha256 for prompt in prompts})
        encoded = {key: self.encode(prompt) for key, prompt in missing.items()}
        taken = self.taken()
        context.progress("prompts", total - len(missing), total)
        if not missing:
            return True
        shared = self._shared()
        cells = len(shared) + max(map(len, encoded.values()))
        with self.engine.reserve(cells=cells, sequences=2), self._begun(shared) as begun:
            for done, (key, prompt) in enumerate(missing.items(), total - len(missing) + 1):
                features = self._features(encoded[key], taken, begun, context.should_stop)
                if features is None:
                    return False
                row = PromptRow(sha256=key, id=prompt.id, source=prompt.source, num_tokens=len(encoded[key]))
                journal.append([row], features[None])
                context.progress("prompts", done, total)
        return True

    def _encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return self._template.encode(messages, self.engine.tokenize)

    @contextmanager
    def _begun(self, shared: Sequence[int]) -> Iterator[_Begun]:
        """What all prompts begin with, encoded once for all of them; no features read it."""
        sequence = self.engine.new_sequence()
        try:
            if shared:
                self.engine.encode(sequence, shared)
            yield _Begun(sequence, tuple(shared))
        finally:
            self.engine.release(sequence)

    def _features(
        self,
        ids: Sequence[int],
        taken: Sequence[Features],
        begun: _Begun,
        should_stop: Callable[[], bool],
    ) -> Array | None:
        size, there = self.engine.info.hidden_size, len(begun.ids)
        is_begun = 0 < there < len(ids) and tuple(ids[:there]) == begun.ids
        if is_begun:  # what is left out is encoded already
            found = {one.layer: PromptFeatures(size, replace(one, skipped_tokens=0)) for one in taken}
            sequence, ids = self.engine.fork(begun.sequence), ids[there:]
        else:
            found = {one.layer: PromptFeatures(size, one) for one in taken}
            sequence = self.engine.new_sequence()
        try:
            is_whole = self.engine.encode(
                sequence,
                ids,
                on_states={layer: features.push for layer, features in found.items()},
                should_stop=should_stop,
            )
        finally:
            self.engine.release(sequence)
        if not is_whole or should_stop():
            return None
        return np.concatenate([features.value() for features in found.values()])


def layers_at(num_layers: int) -> tuple[int, ...]:
    """Layers at a half, 0.65 and 0.8 of the depth, and the last that has all rows; counted from the end."""
    depths = {min(round(share * num_layers) - 1, num_layers - 2) for share in (0.5, 0.65, 0.8, 1)}
    return tuple(sorted(depth - num_layers for depth in depths))


def require_both_labels(prompts: Sequence[Prompt], what: str) -> None:
    """Refuses prompts that are all easy, or all hard.

    Raises:
        ConfigError: they are.
    """
    num_true = sum(prompt.label for prompt in prompts)
    if num_true in (0, len(prompts)):
        raise ConfigError(
            f"{what}: {len(prompts)} prompts, {num_true} of them labelled 1; a switcher needs both labels: "
            "add prompts of the other"
        )
