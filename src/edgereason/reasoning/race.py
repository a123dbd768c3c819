"""N streams over one prompt, from their first tokens to the vote.

Watches its streams between steps: passes on what they say, turns each that ended into a candidate, scores
it if there is a verifier, and cancels the rest as soon as the vote is certain.

Streams may begin in stages. The next one begins as soon as those that run could not settle the vote even if
they all agreed, so nobody waits for a stage that can't decide anything::

    5,8 of 8 streams   A A A A A           settled by the first five: three never begin
                       A A B │ A A A       the second answer begins the other three, beside those that run

The answer that wins is the one that all at once would have given: the same seeds draw, and the vote counts a
stream that waits as one that runs. A request in seconds begins all at once: later ones would have less time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from edgereason.core.answers import read_trace
from edgereason.core.chat import split_chat, split_thinking
from edgereason.core.types import Candidate, Request, Response, Route, Stop, Timing, Trace, Usage, Vote
from edgereason.heads.base import Verifier
from edgereason.reasoning.batch import Batch, Stream
from edgereason.reasoning.control import ANSWER_TOKENS, ChatControl, Phase
from edgereason.reasoning.events import STEP, Ended, Event, Notice, Step, Tallied, Text
from edgereason.reasoning.pace import Deadline
from edgereason.reasoning.runs import Caller
from edgereason.reasoning.vote import Ballot, decided, needed, tally, winner

_SHORT_ANSWER_TOKENS: Final = ANSWER_TOKENS // 2
"""Tokens that a stream must have time to say for it to be worth closing: a number, and a word beside it."""


class Race:
    """The streams of one request.

    Args:
        request: what is asked.
        vote: how it is settled.
        verifier: scores what ended, if there is one.
        batch: where the streams run; those that wait for their stage begin there.
        deadline: of the streams, if they have one; told how many of them still run.
        clock: seconds, for what verifying takes.
    """

    def __init__(
        self,
        request: Request,
        vote: Vote,
        verifier: Verifier | None,
        batch: Batch,
        deadline: Deadline | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._request = request
        self._vote = vote
        self._verifier = verifier
        self._batch = batch
        self._engine = batch.engine
        self._deadline = deadline
        self._stages = request.stage if request.stop_early and deadline is None else ()
        self._clock = clock
        self._verify_s = 0.0
        self._num_late = 0
        self._is_uncompared = self._is_ended_early = False
        self._streams: list[Stream] = []
        self._ballots: dict[int, Ballot] = {}
        self._candidates: dict[int, Candidate] = {}

    def add(self, stream: Stream) -> None:
        """Enters a stream, which begins in its stage unless it has begun."""
        self._streams.append(stream)

    def run(self, caller: Caller) -> Iterator[Event | Step]:
        """Watches until every stream has ended."""
        self._begin_stages()
        while True:
            for stream in self._streams:
                for phase, text in stream.take_news():
                    yield Text(stream.index, phase, text, stream.num_tokens)
            yield from self._collect()
            running = [stream for stream in self._streams if stream.is_running]
            if not running:
                yield from map(Notice, self.notices)
                return
            if caller.wants_answer:
                self._hurry(running)
            if caller.should_stop() or self._is_certain(len(running)):
                given_up = running
            else:
                given_up = self._without_time(running)
                self._num_late += len(given_up)
            for stream in given_up:
                stream.cancel()
            if len(given_up) < len(running):
                self._begin_stages()
                if self._deadline is not None:
                    self._deadline.num_streams = len(running) - len(given_up)
                if any(_runs(stream) for stream in self._streams):  # or all ended with their first token
                    yield STEP

    def _hurry(self, running: list[Stream]) -> None:
        """Has the thinking of all that run ended at their next token."""
        for stream in running:
            if not stream.control.is_hurried and stream.control.phase is Phase.THINKING:
                stream.control.is_hurried = self._is_ended_early = True

    def _begin_stages(self) -> None:
        """Begins stages until the streams that have begun could settle the vote by themselves."""
        waiting = [stream for stream in self._streams if not stream.has_begun]
        while waiting:
            num_begun = len(self._streams) - len(waiting)
            num_open = len(self._streams) - len(self._ballots)
            if needed(self._ordered_ballots(), num_open, self._vote) <= num_begun - len(self._ballots):
                return
            end = next((number for number in self._stages if number > num_begun), len(self._streams))
            for stream in waiting[: end - num_begun]:
                self._batch.begin(stream)
            waiting = waiting[end - num_begun :]

    def _without_time(self, running: list[Stream]) -> list[Stream]:
        """Streams that are given up because they can't be closed and answer before the deadline.

        As many are kept as can. Beside an answer, or a stream that is giving one, that may be none; else the
        most advanced one is kept, however late it gets. Once the time is over, one at the most is kept.
        """
        deadline = self._deadline
        if deadline is None:
            return []
        deadline.num_streams = len(running)
        has_answer = any(ballot.answer is not None for ballot in self._ballots.values())
        if deadline.is_over:
            ranked, most = running, 0
        else:
            ranked = [stream for stream in running if stream.is_open]
            forced_tokens = max((stream.control.closing_tokens for stream in ranked), default=0)
            most = deadline.most_closings(len(ranked), forced_tokens, _SHORT_ANSWER_TOKENS)
            has_answer = has_answer or len(ranked) < len(running)
        ranked = sorted(ranked, key=lambda stream: (-stream.control.answer_tokens, -stream.num_tokens))
        return ranked[max(most, int(not has_answer)) :]

    @property
    def notices(self) -> tuple[str, ...]:
        """What the caller should know of how it went."""
        notices = []
        if self._num_late:
            notices.append(
                f"there was not enough time for all {len(self._streams)} streams to answer, so "
                f"{self._num_late} of them ended without an answer"
            )
        if self._is_ended_early:
            notices.append("the thinking was ended on request, before the model had finished it")
        if self._is_uncompared:
            notices.append(
                "there was no time to compare formulas that are written differently, so each counted as an "
                "answer of its own"
            )
        cut = [
            (trace, s.control)
            for s in self._streams
            if isinstance(s.control, ChatControl)
            and (trace := self._candidates[s.index].trace).thinking is not None
            and trace.stop in (Stop.LENGTH, Stop.BUDGET)
        ]
        if any(not trace.text.strip() for trace, _ in cut):
            notices.append(
                "the limit ended the model's own thinking before it could answer: raise it, or ask the model "
                "not to think (enable_thinking)"
            )
        elif any(control.was_closed for _, control in cut):
            notices.append(
                "the limit closed the model's own thinking so that it could answer: a higher one lets it "
                "think longer"
            )
        return tuple(notices)

    def _may_compare(self, seconds: float) -> bool:
        if self._deadline is None or self._deadline.has_time_for(seconds):
            return True
        self._is_uncompared = True
        return False

    def _collect(self) -> Iterator[Event]:
        """Candidates of the streams that ended since the last look."""
        ended = [s for s in self._streams if not s.is_running and s.index not in self._candidates]
        finished = [s for s in ended if s.control.stop is not Stop.CANCELLED]
        scores = self._score(finished)
        for stream in ended:
            trace = _trace(stream)
            answer = None
            if stream in finished:
                # A chat answer is what is said: a draft that was cut in thought is not one.
                is_chat = isinstance(stream.control, ChatControl)
                answer = read_trace(trace.text, None if is_chat else trace.thinking, self._request.question)
            score = scores.get(stream.index)
            candidate = Candidate(trace=trace, answer=answer.text if answer else None, score=score)
            self._candidates[stream.index] = candidate
            if stream in finished:
                self._ballots[stream.index] = Ballot(answer, score)
            self._engine.release(stream.sequence)
            yield Ended(candidate)
        if finished and len(self._streams) > 1:
            standing = tuple(
                (c.answer.text, c.strength)
                for c in tally(self._ordered_ballots(), self._vote, self._may_compare)
            )
            yield Tallied(standing, sum(_runs(stream) for stream in self._streams))

    def _score(self, streams: list[Stream]) -> dict[int, float]:
        """Verifier scores, all in one batch: a verification prompt goes onto each trace's own cells."""
        if self._verifier is None or not streams:
            return {}
        start_s, prompt_ids, features = self._clock(), self._verifier.prompt_ids, []
        if self._verifier.layers:
            features.append(np.stack([stream.means.value() for stream in streams if stream.means]))
        if prompt_ids:
            features.append(self._engine.states([(s.sequence, (*s.unencoded, *prompt_ids)) for s in streams]))
        scores = self._verifier.score(np.concatenate(features, axis=1))
        self._verify_s += self._clock() - start_s
        return {s.index: float(score) for s, score in zip(streams, scores, strict=True)}

    def _is_certain(self, num_running: int) -> bool:
        return self._request.stop_early and decided(self._ordered_ballots(), num_running, self._vote)

    def _ordered_ballots(self) -> list[Ballot]:
        return [self._ballots[index] for index in sorted(self._ballots)]

    def num_cells(self, shared_cells: int) -> int:
        """KV cells that the request filled: the shared ones once, and every stream's own."""
        return shared_cells + sum(stream.sequence.length - shared_cells for stream in self._streams)

    def response(
        self,
        *,
        route: Route,
        p_think: float | None,
        prompt_tokens: int,
        cached_tokens: int,
        kv_bytes: int,
        ttft_s: float,
        decode_s: float,
        total_s: float,
    ) -> Response:
        """The vote's outcome; what there is, if the caller stopped the race before anybody finished."""
        candidates = tuple(self._candidates[index] for index in sorted(self._candidates))
        indices = sorted(self._ballots)
        won = winner(self._ordered_ballots(), self._vote, self._request.seed, self._may_compare)
        chosen = candidates[indices[won]] if won is not None else self._first(candidates)
        num_given_up = len(candidates) - len(self._ballots)
        cancelled = num_given_up > 0 and not (self._num_late or self._is_certain(num_given_up))
        all_tokens = sum(candidate.trace.num_tokens for candidate in candidates)
        trace = chosen.trace if chosen else None
        thought = trace.thinking if trace else None
        return Response(
            route=route,
            p_think=p_think,
            answer=(chosen.answer or "") if chosen else "",
            text=trace.text if trace else "",
            thinking=(trace.thinking or "" if trace else "") if route is Route.THINK else thought,
            stop=trace.stop if trace and not cancelled else Stop.CANCELLED,
            seed=self._request.seed,
            usage=Usage(
                prompt_tokens=prompt_tokens,
                thinking_tokens=trace.thinking_tokens if trace else 0,
                answer_tokens=trace.answer_tokens if trace else 0,
                all_streams_tokens=all_tokens,
                cached_tokens=cached_tokens,
            ),
            timing=Timing(
                ttft_s=ttft_s,
                total_s=total_s,
                tokens_per_s=all_tokens / decode_s if decode_s > 0 else 0.0,
                budget_s=self._request.budget.limit_s if self._request.budget else None,
                verify_s=self._verify_s,
            ),
            kv_bytes=kv_bytes,
            candidates=candidates,
            winner=indices[won] if won is not None else None,
            ended=trace is not None and trace.ended and not cancelled,
        )

    def _first(self, candidates: tuple[Candidate, ...]) -> Candidate | None:
        """Whom to show when nobody has an answer: the first that finished, else the first."""
        finished = [candidate for candidate in candidates if candidate.trace.stop is not Stop.CANCELLED]
        return next(iter(finished or candidates), None)


def why_no_stages(request: Request, vote: Vote, num_streams: int) -> str | None:
    """Why stages that were asked for have no effect, for the caller; None where they have one."""
    if not request.stage or not request.stop_early or num_streams == 1:
        return None
    if request.budget is not None and request.budget.limit_s is not None:
        return f"a budget in seconds leaves later stages less time: all {num_streams} streams begin at once"
    least = needed((), num_streams, vote)
    if any(least <= number < num_streams for number in request.stage):
        return None
    return (
        f"a {vote} vote of {num_streams} streams is open until {least} have ended, and no stage but the last "
        "has as many: all begin at once"
    )


def _runs(stream: Stream) -> bool:
    return stream.is_running and stream.has_begun


def _trace(stream: Stream) -> Trace:
    control = stream.control
    if isinstance(control, ChatControl):
        thinking, answer = split_chat(stream.text, is_open=control.is_open, closing_tag=control.closing_tag)
    else:
        thinking, answer = split_thinking(stream.text, control.closing_tag)
    return Trace(
        index=stream.index,
        seed=stream.seed,
        thinking=thinking,
        text=answer or "",
        thinking_tokens=control.thinking_tokens,
        answer_tokens=control.answer_tokens,
        stop=control.stop,
        token_ids=tuple(stream.token_ids),
        forced=tuple(stream.forced),
        logprobs=tuple(stream.logprobs) if stream.want_logprobs else None,
        ended=stream.end is not None or control.stop is Stop.STOP_STRING,
    )
