"""How much memory a model file takes: a process of its own loads it, runs N streams, and says its peak.

Run as a module, it is that process. Knows one file and one figure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from edgereason.errors import EngineError

_STEPS: Final = 8
_PROMPT_TOKENS: Final = 512


def peak_rss_of(path: Path, *, num_streams: int, threads: int) -> dict[str, Any]:
    """`peak_rss_bytes` and `load_s` of a fresh process that runs the file; mapped weights count once read.

    The peak is None where the system does not tell it.

    Raises:
        EngineError: the process failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(path), str(num_streams), str(threads)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise EngineError(f"{path.name} could not be run by itself: {done.stderr.strip().splitlines()[-1]}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _main(path: Path, num_streams: int, threads: int) -> None:
    from edgereason.bench.lab import EndlessEngine, Lab
    from edgereason.records.folder import peak_rss_bytes

    start = time.perf_counter()
    with EndlessEngine(path, threads=threads) as engine:
        load_s = time.perf_counter() - start
        lab = Lab(engine, path, threads, rounds=1, seed=0)
        cells = _PROMPT_TOKENS + len(lab.opening) + num_streams * (_STEPS + 2)
        with engine.reserve(cells=cells, sequences=num_streams + 2), lab.sequence() as prefix:
            engine.encode(prefix, lab.prompt(_PROMPT_TOKENS))
            with lab.streams(prefix, num_streams) as (batch, _):
                for _step in range(_STEPS):
                    batch.step()
        sys.stdout.write(json.dumps({"peak_rss_bytes": peak_rss_bytes(), "load_s": load_s}))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
