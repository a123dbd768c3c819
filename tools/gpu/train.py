r"""Trains on a borrowed machine that has a GPU, torch and transformers, and no network.

::

    here    pack   base.gguf ─ split ─→ parts/base.gguf.000 …   examples.jsonl (ids), recipe.toml, wheels
    there   run    parts, as they arrive ─ join, check SHA-256 ─→ adapter, metrics, record

What travels is limited, so the base goes in parts of which several trips may be made: `join` may be called
after each, and says what is still missing. Nothing is tokenized there: examples and problems are ids, and
pieces of text go along for what is drawn there. The record comes back beside the adapter, and
`edgereason train export` makes a bundle of it here.

    python tools/gpu/train.py pack --recipe configs/sft-qwen2.5-coder-0.5b.toml --traces traces.jsonl -o gpu
    python tools/gpu/train.py run --from gpu -o out

A recipe of GRPO takes questions and the adapter to begin with instead of traces, and draws in torch:

    python tools/gpu/train.py pack --recipe configs/grpo-qwen2.5-coder-0.5b.toml --adapter runs/sft \
        --questions gsm8k_train.jsonl --against gsm8k_test.jsonl -o gpu
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PART_BYTES = 60 * 2**20
Record = dict[str, Any] | None
PACKAGES = ("gguf", "tomli-w", "accelerate", "peft")
"""What the other machine may lack; all are pure Python."""

GRPO_PACKAGES = (
    *("trl", "datasets", "pyarrow", "dill", "multiprocess", "xxhash", "pandas", "httpx", "httpcore", "h11"),
    *("anyio", "sniffio", "math-verify", "latex2sympy2-extended", "antlr4-python3-runtime", "jinja2"),
)
"""And for GRPO: not all are pure, so that its Python and processor must be like those here."""


def pack_grpo(
    recipe: Path, questions: list[str], against: list[Path], adapter: Path, limit: int | None, folder: Path
) -> None:
    """The same for GRPO: problems in ids, and the adapter to begin with."""
    from edgereason.core.bundle import file_sha256
    from edgereason.engine.llama import LlamaEngine
    from edgereason.hub.pull import resolve
    from edgereason.train.grpo.material import QuestionSources, material_of, write_material
    from edgereason.train.grpo.recipe import GrpoRecipe

    plan = GrpoRecipe.read(recipe)
    base = resolve(plan.base.name)
    sources = QuestionSources(sources=questions, against=against, limit=limit)
    chosen, _ = sources.usable(plan.training.seed)
    folder.mkdir(parents=True, exist_ok=True)
    with LlamaEngine(base) as engine:
        material = material_of(engine, chosen, plan.budgets.buckets)
    write_material(folder / "material.json", material)
    shutil.copy(recipe, folder / "recipe.toml")
    shutil.copytree(adapter / "adapter", folder / "adapter", dirs_exist_ok=True)
    about = {"base": base.name, "sha256": file_sha256(base), "parts": split(base, folder / "parts")}
    download((*PACKAGES, *GRPO_PACKAGES), folder / "wheels")
    (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n")
    print(f"{len(material.problems)} problems, {len(about['parts'])} parts in {folder}")


def pack(recipe: Path, traces: list[Path], folder: Path) -> None:
    """Everything that the other machine needs, in files small enough to travel."""
    from edgereason.engine.llama import LlamaEngine
    from edgereason.hub.pull import resolve
    from edgereason.reasoning.model import describe_base
    from edgereason.train.data.traces import read_traces
    from edgereason.train.lora.examples import Encoder, ExamplesOrigin, write_examples
    from edgereason.train.lora.run import SftRecipe

    plan = SftRecipe.read(recipe)
    base = resolve(plan.base.name)
    folder.mkdir(parents=True, exist_ok=True)
    with LlamaEngine(base) as engine:
        encoder, about_base = Encoder.of(engine), describe_base(engine, base)
        examples = [encoder.encode(row, plan.hints) for file in traces for row in read_traces(file).traces]
    origin = ExamplesOrigin.of(about_base, encoder.seams.opening, examples)
    write_examples(folder / "examples.jsonl", origin, examples)
    shutil.copy(recipe, folder / "recipe.toml")
    names = split(base, folder / "parts")
    download(PACKAGES, folder / "wheels")
    about: dict[str, Any] = {"base": base.name, "sha256": about_base.sha256, "parts": names}
    about["opening"] = list(encoder.seams.opening)
    (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n")
    print(f"{len(examples)} examples, {len(names)} parts in {folder}")


def download(packages: tuple[str, ...], folder: Path) -> None:
    """Wheels, without what they depend on."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(folder)]
    subprocess.run([*command, *packages], check=True)


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
    is_grpo = (folder / "material.json").is_file()
    packages = (*PACKAGES, *GRPO_PACKAGES) if is_grpo else PACKAGES
    find = ["--no-index", "--find-links", str(folder / "wheels")]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", *find, *packages], check=True)
    sys.path.insert(0, str(Path(__file__).parents[2] / "src"))
    import torch

    start = time.monotonic()
    light = folder / "light"
    record = (run_grpo if is_grpo else run_sft)(
        folder, output, light if light.is_dir() else None, lambda: time.monotonic() - start > limit_s
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    if record is not None:
        record |= {"device": device, "wall_s": round(time.monotonic() - start, 1)}
        (output / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)  # they hold the optimizer, and are too large to travel


def run_sft(folder: Path, output: Path, resume: Path | None, is_over: Callable[[], bool]) -> Record:
    """SFT on the examples that came along."""
    from edgereason.records.context import RunContext
    from edgereason.train.lora.examples import read_examples
    from edgereason.train.lora.run import SftRecipe, TorchBase, sft

    about = json.loads((folder / "about.json").read_text())
    return sft(
        SftRecipe.read(folder / "recipe.toml"),
        TorchBase(load_base(folder, about), about["sha256"], about["opening"]),
        read_examples(folder / "examples.jsonl").examples,
        output,
        RunContext(should_stop=is_over, progress=_say),
        resume=resume,
    )


def run_grpo(folder: Path, output: Path, resume: Path | None, is_over: Callable[[], bool]) -> Record:
    """GRPO on the problems that came along, drawn in torch."""
    from edgereason.records.context import RunContext
    from edgereason.train.grpo.material import read_material, torch_rollouts
    from edgereason.train.grpo.recipe import GrpoRecipe, grpo
    from edgereason.train.lora.run import TorchBase

    about = json.loads((folder / "about.json").read_text())
    recipe, material = GrpoRecipe.read(folder / "recipe.toml"), read_material(folder / "material.json")
    return grpo(
        recipe,
        TorchBase(load_base(folder, about), about["sha256"], material.opening),
        folder / "adapter",
        material,
        torch_rollouts(material.vocabulary, recipe.training),
        output,
        RunContext(should_stop=is_over, progress=_say),
        resume=resume,
    )


def _say(stage: str, done: float, total: float, note: str = "", details: Sequence[str] = ()) -> None:
    print(f"{done:g} of {total:g} {stage}", *filter(None, [note]), *details, sep=", ", flush=True)


def load_base(folder: Path, about: dict[str, Any]) -> Any:
    """The base in torch, where there is a GPU on it."""
    import torch

    from edgereason.quant.gguf_file import GgufModel
    from edgereason.train.quant.load import load_torch

    base = load_torch(GgufModel(join(folder)), about["sha256"], folder / "converted")
    return base.to("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("--recipe", type=Path, required=True)
    packing.add_argument("--traces", type=Path, action="append", default=[])
    packing.add_argument("--questions", action="append", default=[])
    packing.add_argument("--against", type=Path, action="append", default=[])
    packing.add_argument("--adapter", type=Path)
    packing.add_argument("--limit", type=int)
    packing.add_argument("-o", "--output", type=Path, required=True)
    running = commands.add_parser("run")
    running.add_argument("--from", dest="folder", type=Path, required=True)
    running.add_argument("-o", "--output", type=Path, required=True)
    running.add_argument("--limit-s", type=float, default=500.0)
    given = parser.parse_args()
    if given.command == "pack" and given.questions:
        if given.adapter is None:
            parser.error("--questions need the --adapter to begin with")
        pack_grpo(given.recipe, given.questions, given.against, given.adapter, given.limit, given.output)
    elif given.command == "pack":
        pack(given.recipe, given.traces, given.output)
    else:
        run(given.folder, given.output, given.limit_s)


if __name__ == "__main__":
    main()
