"""What a request would take on each route that it may go: opening, limit, streams, cells.

::

    request ─┬─ chat    limit = max_tokens, or what the context leaves      cells = prompt + N · limit
             └─ think   limit = budget                  cells = prompt + opening + N · (limit + verification)

    seconds ─→ limit = the most tokens that there can be time for; how many there are, a deadline tells later

Settled before the first token is encoded, so that what can't be served is refused before any work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from edgereason.core.chat import Seams
from edgereason.core.types import (
    DEFAULT_CHAT_TOKENS,
    EFFORT_TOKENS,
    Budget,
    Effort,
    Mode,
    Request,
    Route,
    Stop,
)
from edgereason.engine.base import Adapter, Engine
from edgereason.errors import ContextOverflow, QueueFull, RequestError
from edgereason.heads.base import Verifier
from edgereason.reasoning.control import ANSWER_TOKENS, ThinkControl, bucket_for, least_tokens
from edgereason.reasoning.pace import Pace

MAX_TIMED_TOKENS: Final = EFFORT_TOKENS[Effort.MAX] or 0
"""Most tokens of a stream whose budget is in seconds, however fast the machine."""


LEAST_CHAT_TOKENS: Final = 64
"""Room without which a chat is refused rather than cut, unless it asks for less."""


class Room(NamedTuple):
    """What a request asks of the context; see `Engine.reserve`."""

    cells: int
    sequences: int
    longest: int


NO_ROOM: Final = Room(0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a request would take on one route.

    Attributes:
        opening: what every stream starts behind; a hint is among it, unless seconds are to tell which. In
            chat, what the template of a natively reasoning model writes of thinking.
        limit_tokens: most tokens of a stream.
        cut: what it is called when a stream reaches them.
        cells: that prompt, opening and streams fill; `longest` of them on one sequence.
    """

    route: Route
    opening: tuple[int, ...]
    limit_tokens: int
    cut: Stop
    num_streams: int
    cells: int
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Makes plans for one engine; its fields are the pipeline's parts that a plan depends on."""

    engine: Engine
    seams: Seams
    adapter: Adapter | None
    buckets: tuple[int, ...]
    can_choose: bool
    """Whether a switcher decides `auto`."""
    verifier: Verifier | None
    pace: Pace

    def plans(
        self,
        request: Request,
        prompt_tokens: int,
        *,
        unencoded_tokens: int = 0,
        waited_s: float = 0.0,
        chat_opening: tuple[int, ...] = (),
    ) -> list[Plan]:
        """The routes that the request may take: one, or both, chat first, if the switcher is to choose.

        Args:
            request: what is asked.
            prompt_tokens: of its prompt.
            unencoded_tokens: of these, those that take time.
            waited_s: seconds of its budget that are over already.
            chat_opening: what a chat answer starts behind.

        Raises:
            RequestError: a limit is too small, or it does not fit (`ContextOverflow`), or it waited for so
                long that there is no time left (`QueueFull`).
        """
        self.require_time(request, unencoded_tokens, waited_s)
        context_tokens = self.engine.context_tokens
        if prompt_tokens >= context_tokens:
            raise ContextOverflow(prompt_tokens + 1, context_tokens, "the prompt")
        thinks = request.mode is not Mode.CHAT and request.think_budget(self.buckets) is not None
        thinks = thinks and self.why_auto_chats(request) is None
        chats = not thinks or (request.mode is Mode.AUTO and self.can_choose)
        plans = []
        if chats:
            num_streams = 1 if thinks else request.streams  # a switcher's chat is the cheap way out
            plans.append(self._chat(request, num_streams, prompt_tokens, chat_opening))
        if thinks:
            plans.append(self._think(request, prompt_tokens, context_tokens - prompt_tokens))
        return plans

    def why_auto_chats(self, request: Request) -> str | None:
        """Why `auto` chats without asking a switcher, for the caller; None where it need not."""
        least = least_tokens(self.seams)
        if request.mode is not Mode.AUTO or request.think_budget(self.buckets) is None:
            return None
        budget_tokens = request.budget.limit_tokens if request.budget else None
        for limit_tokens, limit in (
            (budget_tokens, f"a budget of {budget_tokens} tokens"),
            (request.max_tokens, f"max_tokens {request.max_tokens}"),
        ):
            if limit_tokens is not None and limit_tokens < least:
                return f"{limit} leaves no room to think, which takes {least} at the least, so auto chats"
        return None

    def _chat(self, request: Request, num_streams: int, prompt_tokens: int, opening: tuple[int, ...]) -> Plan:
        wanted_tokens = request.max_tokens or DEFAULT_CHAT_TOKENS
        held_tokens = prompt_tokens + len(opening)
        room_tokens = self.engine.context_tokens - held_tokens
        if room_tokens < min(wanted_tokens, LEAST_CHAT_TOKENS):
            needed = held_tokens + min(wanted_tokens, LEAST_CHAT_TOKENS)
            raise ContextOverflow(
                needed, held_tokens + room_tokens, f"a prompt of {prompt_tokens} with its answer"
            )
        limit_tokens = min(wanted_tokens, room_tokens)
        cut = Stop.LENGTH
        if request.budget is not None:
            budget_tokens = self._most_tokens(request.budget, num_streams)
            if request.budget.limit_s is not None:  # what the context holds is enough
                budget_tokens = min(budget_tokens, room_tokens // num_streams)
            if budget_tokens <= limit_tokens:
                limit_tokens, cut = budget_tokens, Stop.BUDGET
        return Plan(
            route=Route.CHAT,
            opening=opening,
            limit_tokens=limit_tokens,
            cut=cut,
            num_streams=num_streams,
            cells=held_tokens + num_streams * limit_tokens,
            longest=held_tokens + limit_tokens,
        )

    def _think(self, request: Request, prompt_tokens: int, room_tokens: int) -> Plan:
        budget = request.think_budget(self.buckets)
        assert budget is not None
        is_timed = budget.limit_s is not None
        limit_tokens, cut = self._most_tokens(budget, request.streams), Stop.BUDGET
        if request.budget is None:  # nobody asked for so little
            limit_tokens = max(limit_tokens, least_tokens(self.seams))
        if request.max_tokens is not None and request.max_tokens < limit_tokens:
            limit_tokens, cut = request.max_tokens, Stop.LENGTH
        try:
            ThinkControl(self.seams, limit_tokens, cut)  # refuses a limit that is too small, before any work
        except RequestError as error:
            raise RequestError(f"{'the budget' if cut is Stop.BUDGET else 'max_tokens'}: {error}") from error
        opening = self.seams.opening + self.preamble(limit_tokens)
        verifying_tokens = len(self.verifier.prompt_ids) if self.verifier else 0
        if is_timed:  # seconds are asked for, not tokens: what the context holds is enough
            fits = (room_tokens - len(opening)) // request.streams - verifying_tokens
            limit_tokens = max(min(limit_tokens, fits), least_tokens(self.seams))
        each_tokens = limit_tokens + verifying_tokens
        if len(opening) + each_tokens > room_tokens:
            needed = prompt_tokens + len(opening) + each_tokens
            raise ContextOverflow(
                needed, prompt_tokens + room_tokens, f"a prompt of {prompt_tokens} with its stream"
            )
        return Plan(
            route=Route.THINK,
            opening=self.seams.opening if is_timed else opening,
            limit_tokens=limit_tokens,
            cut=cut,
            num_streams=request.streams,
            cells=prompt_tokens + len(opening) + request.streams * each_tokens,
            longest=prompt_tokens + len(opening) + each_tokens,
        )

    def _most_tokens(self, budget: Budget, num_streams: int) -> int:
        """Most tokens of a stream: the budget's, and no more than there can be time for."""
        limit_tokens = MAX_TIMED_TOKENS if budget.limit_tokens is None else budget.limit_tokens
        if budget.limit_s is None:
            return limit_tokens
        steps = self.pace.most_steps(num_streams, budget.limit_s)
        return min(limit_tokens, max(steps, least_tokens(self.seams)))

    def require_time(self, request: Request, unencoded_tokens: int, waited_s: float = 0.0) -> None:
        """Refuses seconds in which nobody could answer.

        Raises:
            RequestError: there never was time enough.
            QueueFull: there is none any more.
        """
        if request.budget is None or request.budget.limit_s is None:
            return
        # One stream is enough for an answer: the others are given up where there is no time for them.
        least_s = self.pace.least_s(1, unencoded_tokens, ANSWER_TOKENS)
        limit_s = request.budget.limit_s
        if least_s > limit_s:
            raise RequestError(
                f"a budget of {limit_s:g} s is too short: on this machine the prompt's "
                f"{unencoded_tokens} tokens and the shortest answer take about {least_s:.1f} s"
            )
        if waited_s + least_s > limit_s:
            raise QueueFull(
                f"a budget of {limit_s:g} s is too short now: {waited_s:.1f} s of it are over, and an answer "
                f"takes about {least_s:.1f} s more: try again, or give more seconds",
                retry_after_s=max(1.0, waited_s),
            )

    def preamble(self, limit_tokens: int) -> tuple[int, ...]:
        """What follows the opening: an adapter's hint, or what elicits thinking without an adapter."""
        if self.adapter is None:
            return self.seams.lead_in
        bucket = bucket_for(limit_tokens, self.buckets)
        return () if bucket is None else self.seams.hint(bucket)


def room_of(plans: Sequence[Plan]) -> Room:
    """Cells of the dearest plan; sequences for the prompt, the opening and every stream."""
    return Room(
        cells=max(plan.cells for plan in plans),
        sequences=max(plan.num_streams for plan in plans) + 2,
        longest=max(plan.longest for plan in plans),
    )
