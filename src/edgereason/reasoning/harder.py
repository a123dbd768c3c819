"""What thinking harder raises: the next try gets more than the last one had.

::

    chat ─→ think ─→ twice the seconds, or the next effort up to the highest ─→ twice the streams ─→ nothing
"""

from __future__ import annotations

from typing import Any

from edgereason.core.types import (
    MAX_SECONDS,
    MAX_STREAMS,
    Effort,
    Mode,
    Request,
    Route,
    effort_tokens,
)
from edgereason.reasoning.events import Routed


def harder(request: Request, routed: Routed, buckets: tuple[int, ...] = ()) -> dict[str, Any] | None:
    """Options (`AskOptions`) of a harder try at the same question, to be put over those of the last.

    Args:
        request: the last try.
        routed: the route that it took, and its limit.
        buckets: budgets that the adapter's hints were trained with, in tokens.

    Returns:
        Plain values; None if the last try had the most that there is.
    """
    thinks: dict[str, Any] = {"mode": str(Mode.THINK)}
    budget = request.think_budget(buckets)
    if routed.route is Route.CHAT:
        return thinks if budget is not None else {**thinks, "effort": str(Effort.MEDIUM)}
    if budget is not None and budget.limit_s is not None:
        seconds = min(2 * budget.limit_s, MAX_SECONDS)
        return {**thinks, "budget": f"{seconds:g}s"} if seconds > budget.limit_s else None
    above = [effort for effort in Effort if (effort_tokens(effort, buckets) or 0) > routed.limit_tokens]
    if above:
        return {**thinks, "budget": None, "effort": str(above[0])}
    streams = min(2 * request.streams, MAX_STREAMS)
    return {**thinks, "streams": streams} if streams > request.streams else None
