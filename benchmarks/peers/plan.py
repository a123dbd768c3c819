"""The cases: questions, lengths, worthwhile rounds, and the prompts that a model's template makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from benchmarks.peers.cases import Case, CaseSetting
from edgereason.bench.lab import EndlessEngine, Lab
from edgereason.core.types import Message
from edgereason.engine.handles import CELL_STEP, round_up

LONG_PROMPT_TOKENS: Final = 512
STORY: Final = "Write a long story about a lighthouse keeper who finds an old letter on the beach."
QUESTION: Final = (
    "A baker makes 48 rolls in the morning and half as many in the afternoon. "
    "How many rolls does the baker make altogether that day?"
)
REFERENCE: Final = "72"


class CasePrompt(StrEnum):
    """Which prompt a case has."""

    LONG = "long"
    STORY = "story"
    QUESTION = "question"


@dataclass(frozen=True, slots=True)
class Shape:
    """A case before it has a model's tokens.

    Attributes:
        max_rounds: where a single round takes so long that few must do.
        expected_s: rough seconds of ours (0.5B, Q4_0, 2 cores), for the time left.
        only_ours: no peer's API can do it.
    """

    name: str
    prompt: CasePrompt
    num_completions: int
    limit_tokens: int
    expected_s: float
    max_rounds: int | None = None
    votes: bool = False
    only_ours: bool = False


SHAPES: Final = (
    Shape("prefill", CasePrompt.LONG, 1, 1, 2.0),
    Shape("decode_n1", CasePrompt.STORY, 1, 128, 2.5),
    Shape("decode_n4", CasePrompt.STORY, 4, 64, 3.5, max_rounds=5),
    Shape("decode_n8", CasePrompt.STORY, 8, 64, 5.5, max_rounds=5),
    Shape("vote_n8", CasePrompt.QUESTION, 8, 160, 13.0, max_rounds=3, votes=True),
    Shape("vote_n8_early", CasePrompt.QUESTION, 8, 160, 8.0, max_rounds=3, votes=True, only_ours=True),
)


@dataclass(frozen=True, slots=True)
class PeerPlan:
    """What every contender gets: how to load, how to warm up, and the cases by name."""

    setting: CaseSetting
    warm_up: Case
    cases: Mapping[str, Case]


def make_plan(model: Path, threads: int, seed: int) -> PeerPlan:
    """Renders the prompts with the model's own template, and sizes the context for the largest case."""
    with EndlessEngine(model, threads=threads) as engine:
        template = engine.info.template

        def prompt_ids(question: str) -> tuple[int, ...]:
            return template.encode([Message("user", question)], engine.tokenize)

        lab = Lab(engine, model, threads, 1, seed)
        around = len(prompt_ids("x")) - 1
        filler = b"".join(map(engine.piece, lab.prompt(LONG_PROMPT_TOKENS - around))).decode()
        questions = {CasePrompt.LONG: filler, CasePrompt.STORY: STORY, CasePrompt.QUESTION: QUESTION}
        elicit = lab.seams.opening + lab.seams.lead_in
        cases = {}
        for shape in SHAPES:
            question = questions[shape.prompt]
            cases[shape.name] = Case(
                name=shape.name,
                question=question,
                prompt_ids=prompt_ids(question) + (elicit if shape.votes else ()),
                num_completions=shape.num_completions,
                limit_tokens=shape.limit_tokens,
                votes=shape.votes,
                stop_early=shape.only_ours,
                seed=seed,
            )
    streams = max(shape.num_completions for shape in SHAPES)
    most = max(len(case.prompt_ids) + case.num_completions * case.limit_tokens for case in cases.values())
    return PeerPlan(
        # A step more than is needed: servers keep some cells to themselves.
        CaseSetting(
            model=str(model), threads=threads, context_tokens=round_up(most) + CELL_STEP, streams=streams
        ),
        Case(
            name="warm_up",
            question=STORY,
            prompt_ids=cases["decode_n1"].prompt_ids,
            num_completions=streams,
            limit_tokens=2,
            seed=seed,
        ),
        cases,
    )
