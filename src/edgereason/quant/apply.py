"""From a teacher's file and what was learned for it to the base that ships: merge, put on the grid, pack.

    teacher.gguf (hash checked) + learned.gguf ─ tensor by tensor ─→ base.gguf

No torch, no BLAS-dependent rounding: the same two files give the same bytes on every machine, so the base
has one hash, wherever it was made. Code for code: nothing is quantized twice.

Knows the order of work; `merge.py` knows transforms, `blocks.py` grids.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgereason.core.bundle import file_sha256
from edgereason.core.machine import usable_cores
from edgereason.errors import BundleError, ModelFileError
from edgereason.quant.blocks import BLOCK, Grid, pack, quantize
from edgereason.quant.families import require_quantizable
from edgereason.quant.gguf_file import EMBEDDING, HEAD, Dims, GgufModel, Slot, write_model
from edgereason.quant.learned import Learned, StorageConfig
from edgereason.quant.merge import Merge, is_linear, output_names, source_of

Report = Callable[[int, int], None]


def _silent(done: int, total: int) -> None:
    pass


def apply(
    teacher: Path,
    learned: Learned,
    target: Path,
    *,
    teacher_sha256: str | None = None,
    progress: Report = _silent,
) -> None:
    """Makes the base.

    Args:
        teacher: the GGUF that `learned` was learned for.
        learned: transforms, factors, grids.
        target: the base; appears whole or not at all.
        teacher_sha256: the teacher's hash if it is known; it is computed if not.
        progress: told (weights done, weights in all) after every tensor.

    Raises:
        BundleError: another teacher than the one learned for, or transforms that don't fit it.
        ModelFileError: the teacher can't be read, or its shapes can't be cut into blocks.
    """
    got = teacher_sha256 or file_sha256(teacher)
    if got != learned.teacher_sha256:
        raise BundleError(
            f"{teacher.name} has SHA-256 {got}, and {learned.name} is made from {learned.teacher_sha256}: "
            "get that file"
        )
    model = GgufModel(teacher)
    require_blocks(model.dims)
    merge = Merge(model, learned)
    slots = [_slot(model, learned.storage, name) for name in output_names(model, tied=learned.storage.tied)]
    total = sum(int(np.prod(slot.shape)) for slot in slots)
    runs = {slot: merge.runs(slot.name) for slot in slots}

    def stored(slot: Slot, rows: slice) -> npt.NDArray[Any]:
        return _stored(slot, rows, merge.part(slot.name, rows), learned)

    def tensors() -> Iterator[npt.NDArray[Any]]:
        done = 0
        made = _in_order(stored, ((slot, rows) for slot in slots for rows in runs[slot]))
        for slot in slots:
            parts = []
            for rows in runs[slot]:
                parts.append(next(made))
                done += (rows.stop - rows.start) * int(np.prod(slot.shape[1:]))
                progress(done, total)
            yield np.concatenate(parts)

    about = {
        "general.name": learned.name,
        "edgereason.teacher.sha256": learned.teacher_sha256,
        "edgereason.teacher.name": teacher.name,
    }
    write_model(target, model, slots, tensors(), about)


def _in_order(
    make: Callable[[Slot, slice], npt.NDArray[Any]], pieces: Iterable[tuple[Slot, slice]]
) -> Iterator[npt.NDArray[Any]]:
    """What `make` gives for each piece, in their order; made on all cores, a few ahead of who takes it."""
    waiting: deque[Future[npt.NDArray[Any]]] = deque()
    with ThreadPoolExecutor(cores := usable_cores()) as pool:
        for piece in pieces:
            waiting.append(pool.submit(make, *piece))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _stored(slot: Slot, rows: slice, weight: npt.NDArray[np.float32], learned: Learned) -> npt.NDArray[Any]:
    """Merged rows of a tensor as the file holds them."""
    if slot.grid is None:
        return weight
    storage, factors = learned.storage, learned.get(f"{slot.name}.rows")
    quantized = quantize(
        weight,
        slot.grid,
        ranges=storage.ranges,
        row_factors=None if factors is None else factors[rows],
        per_row=storage.per_row and slot.grid is Grid.Q4_0,
    )
    return pack(quantized, slot.grid)


def require_blocks(dims: Dims) -> None:
    """Refuses a model of a family that can't be quantized, or with matrices that can't be cut into blocks.

    Raises:
        ModelFileError: names the reason, or the size.
    """
    require_quantizable(dims.arch)
    inputs = {
        "hidden size": dims.hidden_size,
        "width of the heads": dims.num_heads * dims.head_dim,
        "feed-forward size": dims.ff_size,
    }
    for what, size in inputs.items():
        if size % BLOCK:
            raise ModelFileError(
                f"its {what} is {size}, not a multiple of {BLOCK}: Q4_0 has blocks of {BLOCK} along the input"
            )


def _slot(model: GgufModel, storage: StorageConfig, name: str) -> Slot:
    shape = model.shape(source_of(model, name, tied=storage.tied))
    if name == EMBEDDING:
        return Slot(name, shape, storage.embedding)
    if name == HEAD:
        return Slot(name, shape, storage.head)
    return Slot(name, shape, storage.linears if is_linear(name) else None)
