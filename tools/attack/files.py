"""Damages files of every kind and lets the commands that read them run: typed errors in one line, or results.

Each case is a process of its own, by fork. A file whose hash is checked gets the right hash again, so that
what lies behind the check is met.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mutations import mutate, mutate_heads, mutate_template, mutate_text, spots
from tiny_bundle import SHAPE, TEMPLATE
from tiny_gguf import learned_for, random_transforms

from edgereason.core.chat import ChatTemplate
from edgereason.core.printable import on_one_line
from edgereason.core.types import Message
from edgereason.errors import EdgeReasonError
from edgereason.quant.apply import apply
from edgereason.quant.learned import Learned
from edgereason.reasoning.prompt_cache import MAGIC
from edgereason.train.data.traces import read_traces
from tools.attack.processes import Ending, run_forked
from tools.attack.scene import Scene, command
from tools.attack.tally import Tally
from tools.attack.verdict import faults, word

Damage = Callable[[bytes, int], bytes]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file.

    Attributes:
        path: of a sound one.
        damage: makes another of its bytes.
        reads: what reads the file, in turns. It runs in the case's folder and takes the file's new path.
        share: of all cases.
        whole: makes a sound file of its bytes, where they are several in one.
    """

    path: Path
    damage: Damage
    reads: Sequence[Callable[[Path], object]]
    share: int = 1
    whole: Damage = lambda data, seed: data


def attack(tally: Tally, folder: Path, seed: int) -> None:
    """Damages every kind as often as its share of `tally.planned` says."""
    kinds = all_kinds(Scene.make(folder / "scene"), folder)
    shares = sum(kind.share for kind in kinds.values())
    left = tally.planned
    for name, kind in kinds.items():
        quota = round(left * kind.share / shares)
        left, shares = left - quota, shares - kind.share
        sound = kind.path.read_bytes()
        for turn in range(len(kind.reads)):
            if (ended := read_sound(kind, sound, turn, folder / "case")).code != 0:
                tally.violated(name, f"a sound file does not end well: {ended.err.strip()[-300:]}")
        for number in range(quota):
            case = f"{name} {seed * 1_000_000 + number}"
            ended = damaged(kind, sound, seed * 1_000_000 + number, folder / "case")
            for fault in faults(ended):
                tally.violated(case, fault)
            tally.count(name, word(ended), case, ended)


def read_sound(kind: Kind, sound: bytes, turn: int, place: Path) -> Ending:
    """How a process ends that reads the file as it was."""
    return damaged(replace(kind, damage=kind.whole), sound, turn, place)


def damaged(kind: Kind, sound: bytes, seed: int, place: Path) -> Ending:
    """How a process ends that reads a damaged file."""
    work = place / "work"
    work.mkdir(parents=True)
    path = work / kind.path.name
    path.write_bytes(kind.damage(sound, seed))
    try:
        return run_forked(lambda: kind.reads[seed % len(kind.reads)](path), work)
    finally:
        shutil.rmtree(place)


def all_kinds(scene: Scene, folder: Path) -> dict[str, Kind]:
    """Every kind of file that the product reads."""
    from edgereason.train.grpo.recipe import GrpoRecipe  # these import torch
    from edgereason.train.lora.run import SftRecipe
    from edgereason.train.quant.run import Recipe

    base, adapter = scene["base.gguf"], scene["adapter.gguf"]
    learned = learned_for(base, random_transforms(SHAPE, 1))
    learned.write(folder / "tiny.learned.gguf")
    packed = folder / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(scene["questions.jsonl"].read_bytes()))
    talk = _saved(scene, folder)
    at_base, at_adapter, at_learned = spots(base), spots(adapter), spots(folder / "tiny.learned.gguf")
    think = scene["run-think"]
    hi = "ask Hi --threads 1 --seed 1"

    def line(text: str) -> Callable[[Path], object]:
        """A command line, in which `{path}` is the damaged file and `{folder}` is its folder."""
        return lambda path: scene.command(text, path=path, folder=path.parent)

    def run(text: str) -> Callable[[Path], object]:
        """The same, where the folder is that of a run."""
        return lambda path: scene.command(text, folder=_complete(path, think))

    def bundle(text: str) -> Callable[[Path], object]:
        """The same, where the folder is that of a bundle."""
        return lambda path: scene.command(text, folder=_complete(path, scene["bundle"]))

    return {
        "model": Kind(
            base,
            partial(_mutated, places=at_base),
            [
                line(f"{hi} --model {{path}} --mode think --budget 64"),
                line(f"{hi} --model {{path}} --mode chat --max-tokens 8"),
                line("eval ppl @text.txt --model {path} --window 64 --limit-tokens 128 --threads 1"),
            ],
            share=2,
        ),
        "adapter": Kind(
            adapter, partial(_mutated, places=at_adapter), [partial(_use_adapter, scene)], share=2
        ),
        "heads": Kind(scene["heads.safetensors"], mutate_heads, [partial(_use_heads, scene)], share=2),
        "manifest": Kind(
            scene["bundle"] / "bundle.json",
            mutate_text,
            [
                bundle("bundle show {folder}"),
                bundle("bundle verify {folder}"),
                bundle(f"{hi} --bundle {{folder}} --budget 64"),
                bundle("bundle build --from {folder} -o out"),
            ],
            share=2,
        ),
        "session": Kind(talk, _rehashed, [partial(_use_talk, base)], share=2),
        "record": Kind(
            think / "summary.json",
            mutate_text,
            [
                run("report {folder} -o report"),
                run("eval compare @run-chat {folder}"),
                run("bundle build --base @base.gguf --record {folder} -o out"),
            ],
        ),
        "record of a training": Kind(
            scene["sft"] / "record.json",
            mutate_text,
            [
                line("bundle build --base @base.gguf --adapter @learned.gguf --record {path} -o out"),
            ],
        ),
        "rows of a run": Kind(
            think / "samples.jsonl",
            mutate_text,
            [
                run("eval compare @run-chat {folder}"),
                run("eval sweep {folder} --json"),
                run("report {folder} -o report"),
            ],
        ),
        "settings of a run": Kind(
            think / "run.toml",
            mutate_text,
            [
                run("eval compare @run-chat {folder}"),
                line(
                    "eval gsm8k --config {path} --model @base.gguf --data @questions.jsonl --limit 1 -o out"
                ),
            ],
        ),
        "questions": Kind(scene["questions.jsonl"], mutate_text, _questions(line)),
        "packed questions": Kind(packed, partial(_mutated, places=range(80)), _questions(line)),
        "traces": Kind(
            scene["traces.jsonl"],
            mutate_text,
            [
                line("train traces --from {path} --format plain --model @base.gguf -o out"),
                _reading(read_traces),
            ],
        ),
        "recipe of sft": Kind(scene["sft.toml"], _lines, [_reading(SftRecipe.read)]),
        "recipe of grpo": Kind(scene["grpo.toml"], _lines, [_reading(GrpoRecipe.read)]),
        "recipe of quantize": Kind(scene["quantize.toml"], _lines, [_reading(Recipe.read)]),
        "run file": Kind(
            scene["eval.toml"],
            _lines,
            [line("eval gsm8k --config {path} --model @base.gguf --data @questions.jsonl --limit 1 -o out")],
        ),
        "learned": Kind(
            folder / "tiny.learned.gguf",
            partial(_mutated, places=at_learned),
            [_reading(lambda path: apply(base, Learned.read(path), path.with_name("made.gguf")))],
        ),
        "chat template": Kind(
            _templates(folder), _template, [_reading(_render)], share=2, whole=_whole_template
        ),
    }


def _mutated(data: bytes, seed: int, *, places: Sequence[int]) -> bytes:
    return mutate(data, seed, places)


def _lines(data: bytes, seed: int) -> bytes:
    """A TOML file with one line damaged, so that not only the parser is met."""
    lines = data.splitlines(keepends=True)
    at = seed % len(lines)
    if b"=" not in lines[at]:
        return mutate_text(data, seed)
    key, _, value = lines[at].partition(b"=")
    lines[at] = key + b"=" + mutate_text(value, seed) + b"\n"
    return b"".join(lines)


def _reading(read: Callable[[Path], object]) -> Callable[[Path], object]:
    """A reader of the library, with the endings of a command."""

    def act(path: Path) -> None:
        try:
            read(path)
        except EdgeReasonError as error:
            sys.stderr.write(f"edgereason: {on_one_line(str(error))}\n")
            raise SystemExit(1) from None

    return act


def _use_adapter(scene: Scene, path: Path) -> None:
    scene.command("bundle build --base @base.gguf --adapter {path} --include-base -o out", path=path)
    scene.command("ask Hi --bundle out --mode think --budget 64 --threads 1")


def _use_heads(scene: Scene, path: Path) -> None:
    parts = "--base @base.gguf --adapter @adapter.gguf --heads {path} --include-base"
    scene.command(f"bundle build {parts} -o out", path=path)
    scene.command("ask Hi --bundle out --streams 2 --budget 64 --threads 1")


def _use_talk(base: Path, path: Path) -> None:
    sys.stdin = open(path.with_name("said"), "w+")  # noqa: SIM115, PTH123 (read until the process ends)
    sys.stdin.write(f"/load {path.name}\nSure?\n")
    sys.stdin.seek(0)
    command("chat", "--model", base, "--mode", "chat", "--max-tokens", "8", "--threads", "1")


def _saved(scene: Scene, folder: Path) -> Path:
    """A saved conversation."""
    work = folder / "talk" / "work"
    line = "chat --model @base.gguf --mode chat --max-tokens 8 --threads 1"
    ended = run_forked(lambda: scene.command(line), work, stdin=b"Hi?\n/save talk.kv\n")
    assert ended.code == 0, ended.err
    return work / "talk.kv"


def _rehashed(data: bytes, seed: int) -> bytes:
    content = data[len(MAGIC) + 32 :]
    changed = mutate(content, seed, range(0, min(len(content), 4000), 7))
    return MAGIC + hashlib.sha256(changed).digest() + changed


def _complete(changed: Path, sound: Path) -> Path:
    """The folder of a changed file, with the other files of a sound folder."""
    for path in sound.iterdir():
        if path.name != changed.name:
            shutil.copyfile(path, changed.parent / path.name)
    return changed.parent


def _questions(line: Callable[[str], Callable[[Path], object]]) -> list[Callable[[Path], object]]:
    short = "{path} --model @base.gguf --limit 1 --threads 1 --max-tokens 4 -o out"
    return [
        line(f"eval gsm8k --mode chat --data {short}"),
        line(f"train answers --questions {short}"),
        line(f"train traces --samples 1 --questions {short}"),
    ]


def _templates(folder: Path) -> Path:
    """Sound templates, of which each case takes one."""
    import trl  # imports torch, which tests of this module do without

    paths = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
    sources = [TEMPLATE, *(path.read_text("utf-8") for path in paths)]
    (folder / "templates.json").write_text(json.dumps([one for one in sources if len(one) < 20_000]))
    return folder / "templates.json"


def _template(data: bytes, seed: int) -> bytes:
    return mutate_template(_whole_template(data, seed).decode(), seed).encode("utf-8", "surrogatepass")


def _whole_template(data: bytes, seed: int) -> bytes:
    sources: list[str] = json.loads(data)
    return sources[seed % len(sources)].encode()


def _render(path: Path) -> None:
    template = ChatTemplate(path.read_bytes().decode("utf-8", "surrogatepass"), "<s>", "</s>")
    asked = [Message("system", "Be brief."), Message("user", "How many?")]
    ids = template.encode(asked, lambda text, special=False: list(text.encode("utf-8", "replace")))
    assert bytes(ids).find(b"How many?") >= 0, "a prompt without its question"
    template.next_turn("And?", lambda text, special=False: list(text.encode("utf-8", "replace")))
