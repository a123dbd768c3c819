"""Names written into a figure beside what they name, so that no legend has to be looked up.

::

    ──────╮  majority        lines: right of the axes, at the height of their ends, pushed apart
    ────╮ ╰─ weighted        points: beside them, where they cover nothing

Where a label goes is pure arithmetic; writing it there is matplotlib's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgereason.report.style import look, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABEL_POINTS: Final = 9.0
_MOST_LINES_AWAY: Final = 6
"""Farthest that a point's label goes, in lines of text."""
_LEADER: Final[Any] = {"arrowstyle": "-", "color": "#909090", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3}


@dataclass(frozen=True, slots=True)
class End:
    """Where a line ends, what it is called and how it is drawn."""

    y: float
    name: str
    look: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Spot:
    """A point, how far its whiskers reach, and its name."""

    x: float
    y: float
    low: float
    high: float
    name: str


def label_ends(axes: Axes, ends: Sequence[End], *, num_lines: int = 1) -> None:
    """Writes each line's name right of the axes, near the height of its end, with a piece of the line.

    Args:
        axes: with its limits final.
        ends: one for every line.
        num_lines: of the longest name.
    """
    dpi = _lay_out(axes)
    heights = [axes.transAxes.inverted().transform(axes.transData.transform((1.0, end.y)))[1] for end in ends]
    gap = _LABEL_POINTS * 1.45 * num_lines / 72 * dpi / axes.bbox.height
    inch = dpi / axes.bbox.width
    for end, height in zip(ends, spread(heights, gap, top=1.0 + gap / 2), strict=True):
        piece = (1 + 0.06 * inch, 1 + 0.26 * inch)
        axes.plot(piece, (height, height), transform=axes.transAxes, clip_on=False, **end.look)
        left = 1 + 0.33 * inch
        axes.text(left, height, end.name, transform=axes.transAxes, va="center", fontsize=_LABEL_POINTS)


def label_lines(axes: Axes, ends: Sequence[tuple[float, str]]) -> None:
    """As `label_ends`, for lines drawn by `style.line` in this order: the height of each end, and a name."""
    label_ends(axes, [End(y, name, look(index)) for index, (y, name) in enumerate(ends)])


def label_points(axes: Axes, spots: Sequence[Spot]) -> None:
    """Writes a name beside each point, where it covers neither another name nor a point or its whiskers.

    Args:
        axes: with its limits final.
        spots: in the axes' own units.
    """
    texts = [
        axes.text(spot.x, spot.y, short(spot.name), va="center", fontsize=_LABEL_POINTS) for spot in spots
    ]
    dpi = _lay_out(axes)
    gap = 0.8 * _LABEL_POINTS / 72 * dpi
    pixels = axes.transData.transform
    points = [tuple(map(float, pixels((spot.x, spot.y)))) for spot in spots]
    bars = [(float(pixels((s.x, s.low))[1]), float(pixels((s.x, s.high))[1])) for s in spots]
    taken = [
        (x - gap / 2, min(low, y - gap / 2), x + gap / 2, max(high, y + gap / 2))
        for (x, y), (low, high) in zip(points, bars, strict=True)
    ]
    extents = [text.get_window_extent() for text in texts]
    sizes = [(float(extent.width), float(extent.height)) for extent in extents]
    places = place_labels(points, sizes, taken, (axes.bbox.x0, axes.bbox.x1), gap)
    to_data = axes.transData.inverted().transform
    for text, spot, (x, y), (left, middle), (width, height) in zip(
        texts, spots, points, places, sizes, strict=True
    ):
        text.set_position(tuple(to_data((left, middle))))
        if abs(middle - y) > 2 * height:  # so far away that a thin line has to lead back
            near = to_data((left if left > x else left + width, middle))
            axes.annotate("", (spot.x, spot.y), tuple(near), arrowprops=_LEADER)


def _lay_out(axes: Axes) -> float:
    """Gives the axes their size and place; their pixels to the inch."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    return float(figure.dpi)


def place_labels(
    points: Sequence[tuple[float, ...]],
    sizes: Sequence[tuple[float, float]],
    taken: Sequence[tuple[float, ...]],
    inside: tuple[float, float],
    gap: float,
) -> list[tuple[float, float]]:
    """Where to write a label beside each point: the first of some places where it covers nothing.

    Args:
        points: (x, y) in any unit of length, y upwards.
        sizes: width and height of the labels.
        taken: boxes (left, bottom, right, top) that no label should cover.
        inside: x that labels keep between, where they can.
        gap: between a point and its label.

    Returns:
        (left, middle) of every label; one that covers no other label where there is nothing better, and right
        of its point where there is not even that.
    """
    labels: list[tuple[float, ...]] = []
    places = []
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        away = [gap + height / 2 + 1.15 * height * number for number in range(_MOST_LINES_AWAY)]
        candidates = [
            (left, y + up - height / 2, left + width, y + up + height / 2)
            for up in (0.0, *(sign * distance for distance in away for sign in (1, -1)))
            for left in (x + gap, x - gap - width)
            if inside[0] <= left and left + width <= inside[1]
        ]
        free = [box for box in candidates if not any(_overlap(box, other) for other in labels)]
        best = [box for box in free if not any(_overlap(box, other) for other in taken)] or free
        box = best[0] if best else (x + gap, y - height / 2, x + gap + width, y + height / 2)
        labels.append(box)
        places.append((box[0], (box[1] + box[3]) / 2))
    return places


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def spread(positions: Sequence[float], gap: float, *, top: float = math.inf) -> list[float]:
    """Moves positions apart until neighbours are `gap` apart, each group about its own middle.

    Order is kept, ties in the order given. What would lie above `top` − gap/2 is moved down, and what is
    then too near below it.
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    groups: list[tuple[list[int], float]] = []  # members, middle
    for index in order:
        members, middle = [index], positions[index]
        while groups:
            before, before_middle = groups[-1]
            if before_middle + gap * len(before) / 2 <= middle - gap * len(members) / 2:
                break
            groups.pop()
            together = len(before) + len(members)
            middle = (before_middle * len(before) + middle * len(members)) / together
            members = before + members
        groups.append((members, middle))
    moved = [0.0] * len(positions)
    for members, middle in groups:
        for place, index in enumerate(members):
            moved[index] = middle + gap * (place - (len(members) - 1) / 2)
    limit = top - gap / 2
    for index in reversed(order):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - gap
    return moved
