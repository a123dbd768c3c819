"""Traces as ids in files that are mapped into memory, made once for a base, by several processes.

::

    traces.jsonl ─ chunks ─┬─ process ─┐
                           ├─ process ─┼─→ CACHE/tokens/KEY/traces.arrow   {id, prompt, body}
                           └─ process ─┘                    about.json     how many rows are left out, and why

The key is that of the traces and of the base. Hints are put in where an example is asked for, so that
trainings with other hints, and all processes of a training, share the file. A process holds the batches that
it has touched no longer than the system leaves them in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from edgereason.core.bundle import Base, temporary_beside, write_atomically
from edgereason.core.template import DATE_VARIABLE
from edgereason.data.rows import Chunk, RowError, import_optional, stream_files
from edgereason.errors import RequestError, TrainingError
from edgereason.hub.store import tokens_folder
from edgereason.records.context import RunContext
from edgereason.train.data.parallel import each_row
from edgereason.train.data.traces import Drop, Found, LeftOut, Sieve, find_trace
from edgereason.train.lora.examples import Encoder, Example, HintConfig, example

_VERSION: Final = 1
"""To be raised where the same traces would come to other ids, or fewer of them."""
_IDS: Final = "traces.arrow"
_ABOUT: Final = "about.json"
_BATCH_ROWS: Final = 1024

_Ids = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class TokenFile:
    """The traces of a file in ids.

    Attributes:
        name: of the file of traces.
        sha256: of the file of traces.
        path: of the ids.
        left_out: rows of the file that are no examples.
    """

    name: str
    sha256: str
    path: Path
    left_out: LeftOut

    def batches(self, *, mapped: bool) -> Iterator[Any]:
        """Arrow's batches {id, prompt, body}: mapped into memory, or read one by one."""
        arrow = import_optional("pyarrow", "traces in ids are read", extra="train")
        source = arrow.memory_map(str(self.path)) if mapped else arrow.OSFile(str(self.path))
        reader = arrow.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def tokenize(traces: Path, encoder: Encoder, base: Base, context: RunContext = RunContext()) -> TokenFile:
    """The traces of a file in ids, from the cache if they are there; else they are made, by one caller.

    Args:
        traces: JSONL of `edgereason train traces`.
        encoder: of the base.
        base: the file that the encoder is of.
        context: of the run.

    Raises:
        ConfigError: the file can't be read, or no row is a trace.
        Stopped: the context said so.
        TrainingError: the cache can't be written.
    """
    stream = stream_files(traces)
    assert stream.sha256 is not None
    # A template that writes the date writes that of the making, unless it is fixed.
    made_of = [_VERSION, stream.name, stream.sha256, base.sha256, os.environ.get(DATE_VARIABLE)]
    key = hashlib.sha256(json.dumps(made_of).encode("utf-8", "surrogatepass")).hexdigest()
    folder = tokens_folder() / key[:16]
    path = folder / _IDS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if (left_out := _made_before(folder)) is None:
                sieve = Sieve()
                with temporary_beside(path) as partial:
                    _write(partial, sieve.kept(each_row(_Tokenizing(encoder), stream, context)))
                    sieve.left_out.require_some_rows(stream.name)
                left_out = sieve.left_out
                write_atomically(folder / _ABOUT, json.dumps(_to_json(left_out)))
    except OSError as error:
        raise TrainingError(
            f"traces in ids can't be written to {folder} ({error.strerror or error}): make room, or set "
            "EDGEREASON_CACHE to a folder on another disk"
        ) from error
    return TokenFile(stream.name, stream.sha256, path, left_out)


@dataclass(frozen=True, slots=True)
class _Tokenizing:
    """What is done with each chunk, here or in another process."""

    encoder: Encoder

    def __call__(self, chunk: Chunk) -> list[Drop | RowError | Found[tuple[_Ids, _Ids]]]:
        found: list[Drop | RowError | Found[tuple[_Ids, _Ids]]] = []
        for row in chunk.rows():
            trace = find_trace(row)
            if not isinstance(trace, Found):
                found.append(trace)
                continue
            try:
                assert not isinstance(trace.value, Drop)
                prompt, body = (np.array(ids, np.uint32) for ids in self.encoder.ids(trace.value))
                found.append(Found(trace.hashed, trace.id, (prompt, body)))
            except RequestError:
                found.append(Found(trace.hashed, trace.id, Drop.ROLES))
        return found


def _write(path: Path, traces: Iterator[tuple[str, tuple[_Ids, _Ids]]]) -> None:
    arrow = import_optional("pyarrow", "traces in ids are written", extra="train")
    ids = arrow.list_(arrow.uint32())
    schema = arrow.schema({"id": arrow.string(), "prompt": ids, "body": ids})

    def column(parts: Sequence[_Ids]) -> Any:
        ends = np.cumsum([0, *map(len, parts)], dtype=np.int32)
        return arrow.ListArray.from_arrays(ends, np.concatenate(parts))

    with arrow.OSFile(str(path), "wb") as file, arrow.ipc.new_file(file, schema) as writer:
        while some := list(islice(traces, _BATCH_ROWS)):
            columns = [column([parts[of] for _, parts in some]) for of in (0, 1)]
            names = arrow.array([name for name, _ in some], arrow.string())
            writer.write_batch(arrow.record_batch([names, *columns], schema=schema))


def _made_before(folder: Path) -> LeftOut | None:
    with suppress(OSError, ValueError, TypeError):
        about = json.loads((folder / _ABOUT).read_text("utf-8"))
        if (folder / _IDS).is_file():
            return LeftOut(**(about | {"counts": Counter(about["counts"])}))
    return None


def _to_json(left_out: LeftOut) -> dict[str, Any]:
    return {
        "counts": left_out.counts,
        "num_rows": left_out.num_rows,
        "num_broken": left_out.num_broken,
        "first": left_out.first,
    }


class Tokens:
    """The examples of files of traces in ids, in their order.

    Args:
        files: of one base.
        encoder: of that base.
        hints: which of them get one.
    """

    def __init__(self, files: Sequence[TokenFile], encoder: Encoder, hints: HintConfig) -> None:
        self._files = files
        self._hints = hints
        self._forced = {bucket: encoder.forced(bucket) for bucket in (None, *hints.buckets)}
        self._end = encoder.end
        self._batches = [batch for file in files for batch in file.batches(mapped=True)]
        self._starts = np.cumsum([0, *map(len, self._batches)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, place: int) -> Example:
        if not 0 <= place < len(self):
            raise IndexError(place)
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        names, prompts, bodies = self._batches[number].columns
        row = place - int(self._starts[number])
        prompt, body = (ids[row].values.to_numpy().tolist() for ids in (prompts, bodies))
        return self._example(names[row].as_py(), tuple(prompt), tuple(body))

    def __iter__(self) -> Iterator[Example]:
        # Not by the mapping: every page of it would be counted as this process's memory.
        for file in self._files:
            for batch in file.batches(mapped=False):
                names, prompts, bodies = batch.columns
                for row in zip(names.to_pylist(), _lists(prompts), _lists(bodies), strict=True):
                    yield self._example(*row)

    def _example(self, name: str, prompt: tuple[int, ...], body: tuple[int, ...]) -> Example:
        bucket = self._hints.bucket(name, len(body))
        return example(name, prompt, self._forced[bucket], body + self._end, bucket)


def _lists(column: Any) -> Iterator[tuple[int, ...]]:
    values, ends = column.values.to_numpy().tolist(), column.offsets.to_numpy().tolist()
    return (tuple(values[start:end]) for start, end in pairwise(ends))
