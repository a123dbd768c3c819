"""Trains on a borrowed machine that has a GPU, torch and transformers, and no network.

::

    here    pack   base.gguf ─ split ─→ parts/base.gguf.000 …   examples.jsonl (ids), recipe.toml, wheels
    there   run    parts, as they arrive ─ join, check SHA-256 ─→ adapter, metrics, record

What travels is limited, so the base goes in parts of which several trips may be made: `join` may be called
after each, and says what is still missing. Nothing is tokenized there: examples are ids. The record comes
back beside the adapter, and `edgereason train export` makes a bundle of it here.

    python tools/gpu/train.py pack --recipe configs/sft-qwen2.5-coder-0.5b.toml --traces traces.jsonl -o gpu
    python tools/gpu/train.py run --from gpu -o out
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

PART_BYTES = 60 * 2**20
PACKAGES = ("gguf", "tomli-w", "accelerate", "peft")
"""What the other machine may lack; all are pure Python."""


def pack(recipe: Path, traces: list[Path], folder: Path) -> None:
    """Everything that the other machine needs, in files small enough to travel."""
    from edgereason.core.bundle import file_sha256
    from edgereason.engine.llama import LlamaEngine
    from edgereason.hub.pull import resolve
    from edgereason.train.examples import Encoder, write_examples
    from edgereason.train.sft import SftRecipe
    from edgereason.train.traces import read_traces

    plan = SftRecipe.read(recipe)
    base = resolve(plan.base.name)
    folder.mkdir(parents=True, exist_ok=True)
    with LlamaEngine(base) as engine:
        encoder = Encoder.of(engine)
        examples = [encoder.encode(row, plan.hints) for file in traces for row in read_traces(file)]
    write_examples(folder / "examples.jsonl", examples)
    shutil.copy(recipe, folder / "recipe.toml")
    names = split(base, folder / "parts")
    wheels = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(folder / "wheels")]
    subprocess.run([*wheels, *PACKAGES], check=True)
    about = {"base": base.name, "sha256": file_sha256(base), "parts": names}
    about["opening"] = list(encoder.seams.opening)
    (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n")
    print(f"{len(examples)} examples, {len(names)} parts in {folder}")


def split(path: Path, folder: Path) -> list[str]:
    """Cuts a file; returns the parts' names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            names.append(f"{path.name}.{len(names):03}")
            (folder / names[-1]).write_bytes(part)
    return names


def join(folder: Path) -> Path:
    """The base, of its parts.

    Raises:
        SystemExit: some are missing, or they don't give the right bytes.
    """
    about = json.loads((folder / "about.json").read_text())
    missing = [name for name in about["parts"] if not (folder / "parts" / name).is_file()]
    if missing:
        raise SystemExit(f"{len(missing)} of {len(about['parts'])} parts are missing: {', '.join(missing)}")
    target = folder / about["base"]
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for name in about["parts"]:
            content = (folder / "parts" / name).read_bytes()
            digest.update(content)
            file.write(content)
    if digest.hexdigest() != about["sha256"]:
        raise SystemExit(f"the parts give SHA-256 {digest.hexdigest()} instead of {about['sha256']}")
    return target


def run(folder: Path, output: Path, limit_s: float) -> None:
    """Trains, and leaves a light checkpoint where time runs out."""
    find = ["--no-index", "--find-links", str(folder / "wheels")]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", *find, *PACKAGES], check=True)
    sys.path.insert(0, str(Path(__file__).parents[2] / "src"))
    import torch

    from edgereason.quant.gguf_file import GgufModel
    from edgereason.quant.learn.load import load_torch
    from edgereason.train.examples import read_examples
    from edgereason.train.sft import SftRecipe, sft

    start = time.monotonic()
    about = json.loads((folder / "about.json").read_text())
    base = load_torch(GgufModel(join(folder)), about["sha256"], folder / "converted")
    base.to("cuda" if torch.cuda.is_available() else "cpu")
    resume = folder / "light"
    record = sft(
        SftRecipe.read(folder / "recipe.toml"),
        base,
        about["sha256"],
        read_examples(folder / "examples.jsonl"),
        about["opening"],
        output,
        resume=resume if resume.is_dir() else None,
        report=lambda step: print(f"{step.step} of {step.steps}, loss {step.loss:.4f}", flush=True),
        should_stop=lambda: time.monotonic() - start > limit_s,
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    if record is not None:
        record |= {"device": device, "wall_s": round(time.monotonic() - start, 1)}
        (output / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)  # they hold the optimizer, and are too large to travel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("--recipe", type=Path, required=True)
    packing.add_argument("--traces", type=Path, action="append", required=True)
    packing.add_argument("-o", "--output", type=Path, required=True)
    running = commands.add_parser("run")
    running.add_argument("--from", dest="folder", type=Path, required=True)
    running.add_argument("-o", "--output", type=Path, required=True)
    running.add_argument("--limit-s", type=float, default=500.0)
    given = parser.parse_args()
    if given.command == "pack":
        pack(given.recipe, given.traces, given.output)
    else:
        run(given.folder, given.output, given.limit_s)


if __name__ == "__main__":
    main()
