"""A GGUF of unknown origin, loaded once in a process of its own before this one loads it.

::

    FILE ─ of the catalogue? ─ tried before? ─ child: load, tokenize, encode, draw ─ ended well ─→ remembered
                                                └ error, signal or too long ─→ ModelFileError

llama.cpp checks much of a file, but not all: a damaged or hostile one can end the process that reads it. A
trial shows it where nothing is lost. What only later requests would meet, it doesn't show.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final

from edgereason.core.types import Sampling
from edgereason.errors import EdgeReasonError, ModelFileError, PullError
from edgereason.hub.catalog import CATALOG
from edgereason.hub.fingerprint import kept_sha256, try_once
from edgereason.hub.store import is_here, model_path

_REFUSED: Final = 3
_CPU_S, _WALL_S = 15, 900
_BYTES_PER_S: Final = 50_000_000
"""What the slowest device should read."""
_TEXT: Final = "Hello! 17 × 23 = ?\n<|im_start|>"
_COMMAND: Final = "import sys; from edgereason.hub.trial import main; sys.exit(main(sys.argv[1]))"


def require_loadable(path: Path) -> None:
    """Refuses a model that would end the process, by loading it once in another one.

    A file of the catalogue is not tried, nor one that was tried with this version of the engine and has the
    same path, size and time of change since.

    Raises:
        ModelFileError: it can't be loaded, ends the process that loads it, or takes too long.
    """
    try:
        if not _is_catalogued(path):
            try_once(path, f"llama-cpp-python {version('llama-cpp-python')}", lambda: _try(path))
    except OSError as error:
        raise ModelFileError(f"the model file {path} can't be read: {error.strerror}") from error


def _is_catalogued(path: Path) -> bool:
    """Whether the file is known by its hash: pulled here, or hashed before."""
    pulled = (model for model in CATALOG if model.file_name == path.name and is_here(model))
    with suppress(PullError):  # no home directory, or no cache that can be read
        if any(model_path(model).resolve() == path.resolve() for model in pulled):
            return True
    return kept_sha256(path) in {model.sha256 for model in CATALOG}


def _try(path: Path) -> None:
    if not sys.executable:  # an embedded Python has no second one to start
        return
    limit_s = path.stat().st_size // _BYTES_PER_S
    try:
        done = subprocess.run(
            [sys.executable, "-c", _COMMAND, str(path.absolute())],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_WALL_S + limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _deadly(path, "does not end") from error
    except OSError as error:
        raise ModelFileError(f"{path} can't be tried: {sys.executable}: {error.strerror}") from error
    if done.returncode == _REFUSED:
        raise ModelFileError(done.stdout.decode("utf-8", "replace").strip())
    if done.returncode:
        raise _deadly(path, f"ends with {_ending(done.returncode)}")


def _deadly(path: Path, how: str) -> ModelFileError:
    return ModelFileError(
        f"{path} is damaged, or made to do harm: a process that loads it {how}; get it again from its source"
    )


def _ending(code: int) -> str:
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"status {code}"


def main(path: str) -> int:
    """Loads a model and draws one token, within the limits of a trial; for the child process.

    Returns:
        Its exit code; what is wrong stands in stdout.
    """
    _limit(_CPU_S + Path(path).stat().st_size // _BYTES_PER_S)
    from edgereason.engine.llama import LlamaEngine  # behind the limits: its import runs native code

    try:
        with LlamaEngine(Path(path), threads=1) as engine:
            ids = engine.tokenize(_TEXT, special=True)[: engine.context_tokens - 1] or [0]
            engine.vocab_sha256()
            with engine.reserve(cells=len(ids) + 1, sequences=1):
                sequence = engine.new_sequence()
                engine.encode(sequence, ids)
                drawn = engine.sample(sequence, engine.sampler(Sampling(), 1))
                engine.piece(drawn.token)
    except EdgeReasonError as error:
        sys.stdout.buffer.write(str(error).encode("utf-8", "replace"))
        return _REFUSED
    return 0


def _limit(cpu_s: int) -> None:
    """No core file, and an end to endless loops, where the system can do so."""
    try:
        import resource  # not on Windows
    except ImportError:
        return
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
