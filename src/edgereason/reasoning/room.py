"""Room for many requests at once: a context as large as they need, and as a machine bears.

Knows requests and this machine's memory; does not know what the requests are for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from edgereason.core.types import Request
from edgereason.errors import ContextOverflow
from edgereason.reasoning.model import Model

_MEMORY_SHARE: Final = 0.4
"""Most of this machine's memory that the context takes; fewer requests run at a time then."""


def make_room(model: Model, requests: Sequence[Request], most: int) -> None:
    """Makes the context as large as the `most` dearest requests need, within this machine's memory.

    Args:
        model: that will answer.
        requests: one at least.
        most: requests that run at a time.

    Raises:
        ContextOverflow: not even one of them fits.
    """
    rooms = sorted((model.pipeline.room(request) for request in requests), reverse=True)
    chosen = rooms[:most]
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    bearable = int(_MEMORY_SHARE * memory_bytes) // model.info.kv_bytes_per_cell
    cells = max(rooms[0][0], min(sum(cells for cells, _ in chosen), bearable))
    sequences = sum(sequences for _, sequences in chosen)
    try:
        model.engine.reserve(cells=cells, sequences=sequences).close()
    except ContextOverflow:  # a context of fixed size: what fits runs, unless not even one would
        model.engine.reserve(cells=rooms[0][0], sequences=rooms[0][1]).close()
