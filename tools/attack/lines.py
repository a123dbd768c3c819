"""Runs command lines that nobody means: one line and an exit code, or a result; nothing hangs or grows."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mutations import mutate_arguments

from tools.attack.processes import Ending, run_forked
from tools.attack.scene import Scene, command
from tools.attack.tally import Tally
from tools.attack.verdict import faults, word

WORK: Final = ("--repeats", "--rounds", "--draws", "--samples", "--streams", "--parallel")
"""Options that say how much is to be done."""
_STDIN: Final = (b"", b"2+2?\n", b"\xff\xfe\x00", b"/save /\n/load /\n/drop 9\n/nothing\n", b"x" * 100_000)


def attack(tally: Tally, folder: Path, seed: int) -> None:
    """Runs `tally.planned` command lines."""
    place = folder / "case"
    # Every case gets a copy at the place where the scene was made: what is known of its model stays true.
    whole = Scene.make(place / "scene").moved(folder / "scene")
    scene = Scene(place / "scene")
    sound = sound_lines(scene)
    others = scene.words("@base.gguf @questions.jsonl @sft.toml @bundle @run-chat @adapter.gguf")
    for line in sound if tally.planned > len(sound) else []:
        if (
            line[0] != "pull" and (ended := run(line, whole, place, b"2+2?\n")).code != 0
        ):  # there is no network
            tally.violated(shown(line, place), f"does not work at all: {ended.err.strip()[-300:]}")
    for number in range(tally.planned):
        at = seed * 1_000_000 + number
        line = sound[number % len(sound)]
        given = mutate_arguments(line, at, others=others, calm=WORK)
        ended = run(given, whole, place, random.Random(at).choice(_STDIN))
        case = f"line {at}: {shown(given, place)}"
        for fault in faults(ended):
            tally.violated(case, fault)
        tally.count(_command(line), word(ended), case, ended)


def shown(arguments: Sequence[str], folder: Path) -> str:
    """A command line for people, long words cut and local paths left out."""
    words = (one if len(one) < 300 else f"{one[:60]}…" for one in arguments)
    return repr(" ".join(("edgereason", *words)).replace(str(folder), "FOLDER"))


def run(arguments: Sequence[str], whole: Scene, place: Path, stdin: bytes) -> Ending:
    """How a command line ends, on a copy of a scene."""
    shutil.rmtree(place, ignore_errors=True)
    whole.copied(place / "scene")
    try:
        return run_forked(lambda: command(*arguments), place / "work", stdin=stdin, limit_s=60)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _command(line: Sequence[str]) -> str:
    """The command and its subcommand."""
    return " ".join(line[: 2 if line[0] in ("bundle", "eval", "train") else 1])


def sound_lines(scene: Scene) -> list[list[str]]:
    """Command lines that do what they say on a scene, a few of every command."""
    model, base = "--model @base.gguf --threads 1", "--base @base.gguf --threads 1"
    ours = "--bundle @bundle --threads 1"
    lines = f"""
        ask 2+2? {model} --mode think --budget 64 --streams 2 --json
        ask 2+2? {ours} --budget 1s --vote weighted
        ask - {model} --mode chat --max-tokens 8 --system 'Be brief.'
        ask --file @question.txt {model} --effort none --max-tokens 8 --context 1024
        chat {model} --mode chat --max-tokens 8 --seed 3 --temperature 0.5
        models --json
        doctor --facts-only --model @base.gguf --threads 1 --json
        pull smollm2-135m --no-mirror
        report @run-chat @run-think -o report
        bundle show @bundle --json
        bundle verify @bundle --base @base.gguf
        bundle build --from @bundle --record @run-think --name b -o out
        bundle build --base @base.gguf --adapter @adapter.gguf --heads @heads.safetensors --bucket 64 -o out
        bundle calibrate @bundle --target-think-rate 0.3 --prompts @prompts.jsonl --threads 1 --json
        eval gsm8k --data @questions.jsonl {model} --mode think --budget 64 --limit 2 --repeats 2 -o out
        eval gsm8k --config @eval.toml --data @questions.jsonl {model} --limit 1 --top-p 0.9 -o out
        eval mmlu --score loglik --data @choices.jsonl {model} --shots 1 --kv f16 -o out
        eval sweep @run-think -o sweep.json --draws 5 --seed 1
        eval sweep @run-think --budgets 48,64 --data @questions.jsonl --model @base.gguf
        eval compare @run-chat @run-think --seed 1 --json
        eval ppl @text.txt {model} --window 64 --stride 32 --limit-tokens 128 --kv f16
        train traces --questions @sums.jsonl {model} --samples 1 --keep 1 --limit 2 --max-tokens 16 -o out
        train traces --from @traces.jsonl --format plain --model @base.gguf --against @questions.jsonl -o out
        train answers --questions @questions.jsonl {model} --limit 2 --max-tokens 8 --parallel 2 -o out
        train sft @sft.toml --traces @traces.jsonl {base} -o out
        train grpo @grpo.toml --from @sft --questions @sums.jsonl {base} -o out
        train shortest @grpo.toml --from @sft --questions @sums.jsonl --limit 2 {base} -o out
        train export @sft --base @base.gguf
        train heads switcher --prompts @prompts.jsonl {model} --layer -2 --parts average --int8 -o out
        train heads verifier --questions @sums.jsonl --bundle @trained --samples 4 --budget 64 -o out
        quantize @base.gguf --recipe @quantize.toml --text @text.txt --threads 1 -o out
    """
    return [scene.words(line) for line in lines.strip().splitlines()]
