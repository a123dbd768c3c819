"""Pages of a model file that llama.cpp has mapped, given back once it has copied what they hold.

::

    file ─ mapped, all of it resident ─┬─ weights used as they lie in the file ───→ pages come back when read
                                       └─ weights copied in another order (ours,  ─→ pages are not read again
                                          llama.cpp's repacked ones, a GPU's)

llama.cpp keeps the mapping for as long as the model, so the process would hold both copies. Giving pages back
while it loads also keeps the peak down. They stay in the system's page cache, where they can be dropped.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any, Final

from edgereason.engine.native import C

_STEP_BYTES: Final = 32 * 2**20
"""So much may be read from the file between two times that its pages are given back."""
_MADV_DONTNEED: Final = 4


class MappedPages:
    """Listens to llama.cpp's progress while it loads `path`; keep it until the model is there.

    Attributes:
        callback: for `llama_model_params.progress_callback`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._step = _STEP_BYTES / max(path.stat().st_size, 1)
        self._next = 0.0
        self.callback: Any = C.llama_progress_callback(self._on_progress)

    def _on_progress(self, share: float, _user_data: object) -> bool:
        if share >= self._next or share == 1.0:  # the last time, what isn't needed is unmapped already
            self._next = share + self._step
            give_back(self._path)
        return True  # goes on loading


def give_back(path: Path) -> int:
    """Gives all resident pages of a mapped file back; who reads them again gets them from the file.

    Only shared mappings that nobody may write to are touched, so that no byte changes for anyone.

    Returns:
        Bytes of the mappings; 0 where the system does not list them (other than Linux).
    """
    wanted, num_bytes = os.fsencode(path.resolve()), 0
    try:
        lines = Path("/proc/self/maps").read_bytes().splitlines()
    except OSError:
        return 0
    libc = ctypes.CDLL(None)
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == wanted and fields[1] in (b"r--s", b"r-xs"):
            first, last = (int(end, 16) for end in fields[0].split(b"-"))
            if libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_DONTNEED) == 0:
                num_bytes += last - first
    return num_bytes
