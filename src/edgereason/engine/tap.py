"""Hidden states out of a running graph, through ggml's evaluation callback.

llama.cpp's own outputs don't serve: `embeddings=True` flags every token as output and computes logits for
each (620 MB at 1,024 tokens of Qwen2), and Qwen2's graph wires none of the others. The scheduler, however,
offers every node by name to one callback, fixed when a context is created. It fires on each of the graph's
≈ 820 nodes in every decode; returning False at once costs nothing measurable (`bench engine`,
`step_ratio_n1`), so one context serves prefill and decoding, and prompt cells need never move.

* `l_out-k`, a layer's output, has a row for every token up to k = L−2: the last layer drops rows that are not
  outputs. The switcher's features come from here, and a verifier's means (Deviation: the paper takes the
  last layer).
* `result_norm`, the final norm's output, has a row for every *output* token: what the paper's verifier reads.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from edgereason.engine.base import States
from edgereason.engine.native import C, ggml
from edgereason.errors import EngineError


class StateTap:
    """Collects the rows of tensors by their names from the decodes made while it is open."""

    def __init__(self, hidden_size: int, num_layers: int) -> None:
        self._hidden_size = hidden_size
        self._num_layers = num_layers
        self.outputs_only = b"result_norm"
        self._rows: dict[bytes, list[States]] = {}
        self._error: Exception | None = None
        self.callback: Any = C.ggml_backend_sched_eval_callback(self._on_node)

    def _on_node(self, tensor: int, ask: bool, _user_data: object) -> bool:
        if not self._rows:
            return False
        name = ggml.ggml_get_name(tensor)
        if ask:
            return name in self._rows
        try:  # an exception can't travel through C: keep it for `take`
            rows = np.empty((ggml.ggml_nrows(tensor), self._hidden_size), np.float32)
            ggml.ggml_backend_tensor_get(tensor, rows.ctypes.data_as(ctypes.c_void_p), 0, rows.nbytes)
            self._rows[name].append(rows)
        except Exception as error:
            self._error = error
        return True

    def every_token(self, layer: int) -> bytes:
        """What a layer's output is called, which has a row for every token.

        Raises:
            EngineError: there is no such layer, from −2, the last but one, on down.
        """
        if not -self._num_layers <= layer <= -2:
            raise EngineError(
                f"states of all tokens are to be had from layers {-self._num_layers} to -2, counted from the "
                f"end, got {layer}: train the switcher on this base"
            )
        return f"l_out-{self._num_layers + layer}".encode()

    def open(self, *names: bytes) -> None:
        """Starts to collect."""
        self._rows, self._error = {name: [] for name in names}, None

    def take(self) -> list[States]:
        """Rows of each name, in order, (T, H) each; empty if the graph has no such node."""
        if self._error is not None:
            raise self._error
        nothing = np.empty((0, self._hidden_size), np.float32)
        return [np.concatenate(rows) if rows else nothing for rows in self._rows.values()]

    def close(self) -> None:
        """Stops collecting; decodes run at full speed again."""
        self._rows = {}
