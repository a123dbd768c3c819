"""Asks a real model many times, one by one and at the same time: nothing grows, is empty or over its budget.

A part of the concurrent requests is cancelled: before it begins, between two events, or by a deadline of its
task.
"""

from __future__ import annotations

import asyncio
import gc
import random
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import edgereason
from edgereason.core.answers import grade
from edgereason.core.types import Response, Stop
from edgereason.errors import RequestError
from edgereason.reasoning.async_model import AsyncModel
from edgereason.reasoning.model import Model
from tools.attack.processes import crowding
from tools.attack.tally import Tally

MODEL: Final = "smollm2-135m"
CONTEXT_TOKENS: Final = 2048
"""Fixed, since a context that grows to what a request needs takes memory that is not lost."""
GROWTH_BYTES: Final = 24_000_000
"""More resident memory than after the warm-up is a violation. One leaked sampler has 0.6 MB."""
LATE_S: Final = 1.0
"""How much longer than its seconds a request may take, on a machine that is not crowded."""
_WARM_UP: Final = 0.2
_QUESTIONS: Final = (
    "Tom has {} apples and buys 5 more. How many apples does Tom have?",
    "What is the capital of country number {}?",
    "Say hello {} times.",
    "A train goes {} km in an hour. How far does it go in three hours? " * 3,
)


def attack(tally: Tally, folder: Path, seed: int) -> None:
    """Three fifths of `tally.planned` are asked one by one, the others at the same time."""
    one_by_one = round(tally.planned * 0.6)
    grade(r"\frac{2}{4} + x", r"\frac{1}{2} + x")  # imports SymPy, which takes 40 MB once
    with edgereason.load(MODEL, context_tokens=CONTEXT_TOKENS) as model:
        _ask(model, tally, one_by_one, random.Random(f"asks {seed}"))
    asyncio.run(_ask_together(tally, tally.planned - one_by_one, random.Random(f"together {seed}")))


def _options(rng: random.Random) -> dict[str, Any]:
    """What a request may ask for."""
    found: dict[str, Any] = {"seed": rng.randrange(1000), "temperature": rng.choice((0.0, 0.7, 1.5))}
    kind = rng.randrange(12)
    if kind < 4:
        return found | {"mode": "chat", "max_tokens": rng.choice((1, 5, 16))}
    if kind == 4:
        return found | {"mode": "think", "budget": f"{rng.choice((1, 2))}s"}
    if kind == 5:
        return found | {"mode": "auto", "budget": rng.choice((32, 48)), "max_tokens": 40}
    streams = rng.choice((1, 1, 2, 4))
    return found | {"mode": "think", "budget": rng.choice((32, 33, 40)), "streams": streams}


def _question(rng: random.Random) -> str:
    return rng.choice(_QUESTIONS).replace("{}", str(rng.randrange(2, 99)))


def faults(response: Response, options: dict[str, Any], seconds: float) -> list[str]:
    """What is wrong with an answer: empty, or over what it may spend."""
    found = []
    said_nothing = response.stop is Stop.NATURAL and response.usage.answer_tokens == 0
    if not response.answer and not said_nothing:
        found.append(f"an empty answer, stop {response.stop.value}")
    budget = options.get("budget")
    if isinstance(budget, str):
        limit_s = float(budget.removesuffix("s"))
        if seconds > limit_s + LATE_S * crowding():
            found.append(f"{seconds:.2f} s of {limit_s:g}")
    limits = [one for one in (budget, options.get("max_tokens")) if isinstance(one, int)]
    limit = (
        options["max_tokens"]
        if response.route == "chat" and "max_tokens" in options
        else min(limits, default=0)
    )
    for candidate in response.candidates:
        if limits and candidate.trace.num_tokens > limit:
            found.append(f"{candidate.trace.num_tokens} tokens of {limit}")
    return found


def _ask(model: Model, tally: Tally, count: int, rng: random.Random) -> None:
    """One request after the other."""
    warm_bytes = handles = 0
    resident: list[float] = []
    # The largest come first: the context grows to them, and stays.
    for largest in ({"budget": 48, "streams": 4}, {"budget": "2s"}):
        with suppress(RequestError):  # fewer seconds than this machine needs
            model.ask(_QUESTIONS[-1], mode="think", **largest)
    for number in range(count):
        if number % max(1, count // 10) == 0:
            resident.append(round(resident_bytes() / 1e6, 1))
        options, question = _options(rng), _question(rng)
        if number == max(1, int(count * _WARM_UP)):
            gc.collect()
            warm_bytes, handles = resident_bytes(), model.engine.num_handles
        try:
            response = model.ask(question, **options)
        except (
            RequestError
        ) as error:  # a slow machine does not read the prompt in the seconds that were given
            if not isinstance(options.get("budget"), str):
                tally.violated(f"ask {number}", f"{options} refused: {error}")
            tally.count("asks", "refused", question)
            continue
        case = f"ask {number}: {question[:30]!r} {options}"
        for fault in faults(response, options, response.timing.total_s):
            tally.violated(case, fault)
        tally.count("asks", response.stop.value, case)
    tally.figures["asks_resident_mb"] = resident
    _check_growth(tally, "asks", warm_bytes)
    if handles and model.engine.num_handles != handles:
        tally.violated(
            "asks", f"{model.engine.num_handles - handles} native handles more than after the warm-up"
        )
    if model.engine.used_cells:
        tally.violated("asks", f"{model.engine.used_cells} cells are still in use")


async def _ask_together(tally: Tally, count: int, rng: random.Random) -> None:
    """All requests at once, in two waves: the first warms up."""
    # What is kept of prompts is full after the warm-up, and grows no more.
    async with await AsyncModel.load(MODEL, context_tokens=CONTEXT_TOKENS, cache_mib=4) as model:
        waves = (max(1, int(count * _WARM_UP)), count - max(1, int(count * _WARM_UP)))
        warm_bytes = 0
        for size in waves:
            await asyncio.gather(
                *(_one(model, tally, number, random.Random(rng.random())) for number in range(size))
            )
            gc.collect()
            warm_bytes = warm_bytes or resident_bytes()
        _check_growth(tally, "concurrent", warm_bytes)
        last = await model.ask("Are you there?", mode="think", budget=32)
        if not last.answer:
            tally.violated("concurrent", "no answer behind all of them")


async def _one(model: AsyncModel, tally: Tally, number: int, rng: random.Random) -> None:
    """A request, or one that is cancelled on its way."""
    options, question = _options(rng), _question(rng)
    if isinstance(options.get("budget"), str):  # seconds count from acceptance, and hundreds wait
        options["budget"] = 40
    case = f"concurrent {number}: {question[:30]!r} {options}"
    way = rng.randrange(6)
    try:
        if way == 0:
            task = asyncio.create_task(model.ask(question, **options))
            await asyncio.sleep(rng.random() * 3)
            task.cancel()
            await task
        elif way == 1:
            async with model.stream(question, **options) as events:
                for _ in range(rng.randrange(1, 12)):
                    await anext(events)
            tally.count("concurrent", "left", case)
            return
        elif way == 2:
            await asyncio.wait_for(model.ask(question, **options), rng.random() * 5)
        response = await model.ask(question, **options)
    except asyncio.CancelledError:
        tally.count("concurrent", "cancelled", case)
    except TimeoutError:
        tally.count("concurrent", "timed out", case)
    except StopAsyncIteration:
        tally.count("concurrent", "left", case)
    except Exception as error:
        tally.violated(case, f"{type(error).__name__}: {error}")
        tally.count("concurrent", "error", case)
    else:
        for fault in faults(response, options, 0.0):
            tally.violated(case, fault)
        tally.count("concurrent", response.stop.value, case)


def _check_growth(tally: Tally, what: str, warm_bytes: int) -> None:
    """Notes how much memory came since the warm-up, which must be little."""
    gc.collect()
    grown = resident_bytes() - warm_bytes
    tally.figures[f"{what}_growth_bytes"] = grown
    tally.figures["most_growth_bytes"] = GROWTH_BYTES
    if grown > GROWTH_BYTES:
        tally.violated(what, f"{grown / 1e6:.1f} MB more than after the warm-up")


def resident_bytes() -> int:
    """Memory that is resident now."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmRSS:\s*(\d+) kB", status, re.MULTILINE)
    assert found
    return int(found[1]) * 1024
