"""Who is next: turns of clients, and requests that are overtaken while there is no room for them."""

from __future__ import annotations

from edgereason.reasoning.waiting import MOST_OVERTAKEN, Waiting


def waiting(*requests: str) -> Waiting[str]:
    """Requests such as "a1", the letter of which is the client."""
    line = Waiting[str]()
    for request in requests:
        line.add(request, request[0])
    return line


def begun(line: Waiting[str], *, blocked: str = "") -> list[str]:
    """All in the order in which they begin; there is never room for what is blocked."""
    order: list[str] = []
    while (request := line.begin_next(lambda one: one != blocked)) is not None:
        order.append(request)
    return order


def test_one_clients_requests_begin_in_the_order_in_which_they_came() -> None:
    assert begun(waiting("a1", "a2", "a3")) == ["a1", "a2", "a3"]


def test_clients_take_turns_however_many_each_has_waiting() -> None:
    assert begun(waiting("a1", "a2", "a3", "a4", "b1", "b2", "c1")) == [
        "a1",
        "b1",
        "c1",
        "a2",
        "b2",
        "a3",
        "a4",
    ]


def test_a_client_that_comes_later_is_next_but_for_who_waits_already() -> None:
    line = waiting("a1", "a2", "a3", "b1")
    assert line.begin_next(lambda _: True) == "a1"
    line.add("c1", "c")
    assert [*line] == ["b1", "a2", "c1", "a3"]


def test_what_does_not_fit_is_overtaken_four_times_and_then_everyone_waits() -> None:
    line = waiting("a1", *(f"b{n}" for n in range(9)))
    assert begun(line, blocked="a1") == ["b0", "b1", "b2", "b3"]
    assert MOST_OVERTAKEN == 4
    assert line.begin_next(lambda request: request != "a1") is None
    assert line.begin_next(lambda _: True) == "a1"
    assert begun(line) == ["b4", "b5", "b6", "b7", "b8"]


def test_looking_along_the_line_overtakes_nobody() -> None:
    line = waiting("a1", "b1", "c1")
    for _ in range(9):
        assert line.begin_next(lambda _: False) is None
    assert begun(line, blocked="a1") == ["b1", "c1"]


def test_one_that_leaves_is_not_in_the_line_any_more() -> None:
    line = waiting("a1", "a2", "b1")
    line.discard("a1")
    line.discard("a1")
    assert ([*line], len(line), "a1" in line) == (["a2", "b1"], 2, False)
    assert begun(line) == ["a2", "b1"]
    assert len(line) == 0
