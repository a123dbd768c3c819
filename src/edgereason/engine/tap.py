"""Hidden states out of a running graph, through ggml's evaluation callback.

llama.cpp's own outputs don't serve: `embeddings=True` flags every token as output and computes logits for
each (620 MB at 1,024 tokens of Qwen2), and Qwen2's graph wires none of the others. The scheduler, however,
offers every node by name to one callback, fixed when a context is created. It fires on each of the graph's
≈ 820 nodes in every decode; returning False at once costs nothing measurable (`bench engine`,
`step_ratio_n1`), so one context serves prefill and decoding, and prompt cells need never move.

* `l_out-(L-2)`, the penultimate layer's output, has a row for every token: the last layer drops rows that
  are not outputs. The switcher's features come from here (Deviation: the paper takes the last layer).
* `result_norm`, the final norm's output, has a row for every *output* token: the verifier's features.

Knows tensor names and bytes; does not know heads or sequences.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from edgereason.engine.base import States
from edgereason.engine.native import C, ggml


class StateTap:
    """Collects one named tensor's rows from the decodes made while it is open."""

    def __init__(self, hidden_size: int, num_layers: int) -> None:
        self._hidden_size = hidden_size
        self.every_token = f"l_out-{num_layers - 2}".encode()
        self.outputs_only = b"result_norm"
        self._wanted: bytes | None = None
        self._rows: list[States] = []
        self._error: Exception | None = None
        self.callback: Any = C.ggml_backend_sched_eval_callback(self._on_node)

    def _on_node(self, tensor: int, ask: bool, _user_data: object) -> bool:
        if self._wanted is None:
            return False
        if ask:
            return bool(ggml.ggml_get_name(tensor) == self._wanted)
        try:  # an exception can't travel through C: keep it for `take`
            rows = np.empty((ggml.ggml_nrows(tensor), self._hidden_size), np.float32)
            ggml.ggml_backend_tensor_get(tensor, rows.ctypes.data_as(ctypes.c_void_p), 0, rows.nbytes)
            self._rows.append(rows)
        except Exception as error:
            self._error = error
        return True

    def open(self, name: bytes) -> None:
        """Starts to collect `name`."""
        self._wanted, self._rows, self._error = name, [], None

    def take(self) -> States:
        """Rows collected since the last take, (T, H); empty if the graph has no such node."""
        if self._error is not None:
            raise self._error
        rows, self._rows = self._rows, []
        return np.concatenate(rows) if rows else np.empty((0, self._hidden_size), np.float32)

    def close(self) -> None:
        """Stops collecting; decodes run at full speed again."""
        self._wanted, self._rows = None, []
