"""What a harder try gets: always more than the last one had, up to the most that there is."""

from __future__ import annotations

from typing import Any

import pytest

from edgereason.core.types import MAX_SECONDS, MAX_STREAMS, Route, effort_tokens
from edgereason.reasoning.events import Routed
from edgereason.reasoning.harder import harder
from edgereason.reasoning.request import make_request


def next_try(options: Any, route: Route = Route.THINK, buckets: tuple[int, ...] = ()) -> Any:
    asked = make_request("2+2?", **options)
    budget = asked.think_budget(buckets)
    limit_tokens = (budget.limit_tokens if budget else None) or 1024
    return harder(asked, Routed(route, None, 10, asked.streams, limit_tokens), buckets)


@pytest.mark.parametrize(
    ("last", "route", "expected"),
    [
        ({"effort": "none"}, Route.CHAT, {"mode": "think", "effort": "medium"}),
        ({"effort": "high"}, Route.CHAT, {"mode": "think"}),  # as much as it might have thought
        ({"budget": "5s"}, Route.THINK, {"mode": "think", "budget": "10s"}),
        ({"budget": 300}, Route.THINK, {"mode": "think", "budget": None, "effort": "medium"}),  # 512
        ({"effort": "medium"}, Route.THINK, {"mode": "think", "budget": None, "effort": "high"}),
        ({"effort": "max"}, Route.THINK, {"mode": "think", "streams": 2}),
        ({"effort": "max", "streams": 48}, Route.THINK, {"mode": "think", "streams": MAX_STREAMS}),
        ({"effort": "max", "streams": MAX_STREAMS}, Route.THINK, None),
        ({"budget": f"{MAX_SECONDS:g}s"}, Route.THINK, None),
    ],
)
def test_a_harder_try_has_the_next_more(last: Any, route: Route, expected: Any) -> None:
    assert next_try(last, route) == expected


def test_tries_end_after_every_effort_and_every_doubling_of_streams() -> None:
    options: dict[str, Any] = {"effort": "minimal"}
    tries = 0
    while (raised := next_try(options)) is not None:
        before = options
        options = {name: value for name, value in (options | raised).items() if value is not None}
        was, now = (make_request("2+2?", **one) for one in (before, options))
        assert (effort_tokens(now.effort) or 0, now.streams) > (effort_tokens(was.effort) or 0, was.streams)
        tries += 1
    assert tries == 5 + 6  # minimal to max, 1 to 64
