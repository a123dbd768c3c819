"""Who is next of those that wait: clients take turns, and what does not fit can't block the others for long.

::

    client a   a1 a2 a3
    client b   b1            the line: a1 b1 a2 a3; a has begun one, so then: b1 a2 a3

A request for which there is no room is overtaken by those behind it, up to four times. Then all wait for it,
so that it gets the room that they give back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Final, Generic, TypeVar

MOST_OVERTAKEN: Final = 4
"""Times that a request is overtaken before everyone waits for it."""

K = TypeVar("K", bound=Hashable)


class Waiting(Generic[K]):
    """Requests in the order in which they may begin."""

    def __init__(self) -> None:
        self._of: dict[Hashable, list[K]] = {}
        """By client, in the order of their turns."""
        self._overtaken: dict[K, int] = {}

    def __len__(self) -> int:
        return len(self._overtaken)

    def __contains__(self, request: object) -> bool:
        return request in self._overtaken

    def __iter__(self) -> Iterator[K]:
        """The line: the first of every client, then the second of each, …."""
        most = max(map(len, self._of.values()), default=0)
        line = [own[i] for i in range(most) for own in self._of.values() if i < len(own)]
        return iter(line)

    def add(self, request: K, client: Hashable) -> None:
        """Lets a request wait, behind its client's own."""
        self._of.setdefault(client, []).append(request)
        self._overtaken[request] = 0

    def discard(self, request: K) -> None:
        """Takes a request out, whether it has begun or not; none that is not there."""
        if self._overtaken.pop(request, None) is None:
            return
        client = next(client for client, own in self._of.items() if request in own)
        own = self._of[client]
        own.remove(request)
        if not own:
            del self._of[client]

    def begin_next(self, begins: Callable[[K], bool]) -> K | None:
        """Takes out the first that can begin.

        Args:
            begins: begins a request if there is room for it; asked along the line until one has begun.

        Returns:
            Which one; None if there is room for none that may go first.
        """
        overtaken: list[K] = []
        for request in self:
            if begins(request):
                for other in overtaken:
                    self._overtaken[other] += 1
                self._pass_turn(request)
                self.discard(request)
                return request
            if self._overtaken[request] >= MOST_OVERTAKEN:
                return None
            overtaken.append(request)
        return None

    def _pass_turn(self, request: K) -> None:
        client = next(client for client, own in self._of.items() if request in own)
        self._of[client] = self._of.pop(client)
