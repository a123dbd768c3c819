"""Tries mutated files in processes of their own, and prints each that ends badly: seed, kind, how.

python ends.py FOLDER FIRST COUNT
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from mutations import ending, mutate, spots
from tiny_bundle import write_base, write_tiny_adapter

from edgereason.core.types import Sampling
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import EdgeReasonError
from edgereason.hub import trial


def use(base: Path, adapter: Path | None = None) -> None:
    """Loads and runs a model on more than a trial does; a typed error is a good ending."""
    try:
        with LlamaEngine(base, threads=1) as engine:
            loaded = engine.load_adapter(adapter) if adapter else None
            with engine.reserve(cells=80, sequences=3):
                sequence = engine.new_sequence()
                engine.encode(sequence, [1, 2, 3] * 7, on_states={-2: lambda states: None})
                fork = engine.fork(sequence)
                engine.cross(fork, loaded)
                engine.encode(fork, list(b"<think>\n"))
                sampler = engine.sampler(Sampling(temperature=0.9), 1)
                for _ in range(12):
                    token = engine.sample(fork, sampler).token
                    engine.piece(token)
                    engine.encode(fork, [token])
    except EdgeReasonError:
        pass


def tried(base: Path) -> str:
    """How a trial of the file ends: "well", by a signal's name, or with an error."""

    def carry_out() -> None:
        if trial.main(str(base)):
            raise SystemExit(1)

    return ending(carry_out)


def main(folder: Path, first: int, count: int) -> None:
    base = write_base(folder / "base.gguf")
    adapter = write_tiny_adapter(folder / "adapter.gguf", base)
    changed = folder / "changed.gguf"
    places, adapter_places = spots(base), spots(adapter)
    trials: Counter[str] = Counter()
    for seed in range(first, first + count):
        changed.write_bytes(mutate(base.read_bytes(), seed, places))
        trials[outcome := tried(changed)] += 1
        if outcome == "well" and (how := ending(lambda: use(changed))) != "well":
            sys.stdout.write(f"model {seed} {how}\n")
        changed.write_bytes(mutate(adapter.read_bytes(), seed, adapter_places))
        if (how := ending(lambda: use(base, changed))) != "well":
            sys.stdout.write(f"adapter {seed} {how}\n")
    counts = " ".join(f"{how}:{count}" for how, count in sorted(trials.items()))
    sys.stdout.write(f"trials {counts}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
