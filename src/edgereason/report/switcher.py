"""Accuracy and length over the switcher's threshold, as a sweep drew them: the Pareto curve of routing.

::

    accuracy │     ╭── the switcher        against the share routed to think,
             │  ╭──╯ ╱                     and against mean tokens
             │╭─╯ ╱   at random
             └──────────

Knows the sweep's shape; does not know switchers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from edgereason.report import style
from edgereason.report.records import Record, Records
from edgereason.report.style import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Threshold:
    """What routing came to at every threshold, in order of the share routed to think.

    `random_tokens` and `random_accuracy` are what routing as many at random would have come to.
    """

    share_think: tuple[float, ...]
    mean_tokens: tuple[float, ...]
    accuracy: tuple[float, ...]
    ci95: tuple[tuple[float, float], ...]
    random_tokens: tuple[float, ...]
    random_accuracy: tuple[float, ...]


def threshold_curve(sweep: Record) -> Threshold | None:
    """The switcher's curve; None if the sweep has none."""
    # The higher the threshold, the fewer think: from chat to think is against the record's order.
    points = sweep.values.section("threshold").rows("points")[::-1]
    if not points:
        return None

    def column(key: str) -> tuple[float, ...]:
        return tuple(point.need(key, point.number) for point in points)

    return Threshold(
        share_think=column("share_think"),
        mean_tokens=column("mean_tokens"),
        accuracy=column("accuracy"),
        ci95=tuple(point.need("ci95", point.pair) for point in points),
        random_tokens=column("random_tokens"),
        random_accuracy=column("random_accuracy"),
    )


def threshold_blocks(records: Records) -> list[str | Plot]:
    """A figure for every sweep over thresholds."""
    blocks: list[str | Plot] = []
    for sweep in records.sweeps:
        series = threshold_curve(sweep)
        if series is None:
            continue
        curve = sweep.values.section("threshold")
        area, interval = curve.number("area"), curve.pair("area_ci95")
        advantage = ""
        if area is not None and interval is not None:
            advantage = (
                f" Between curve and line lie {100 * area:.1f} points of accuracy on average "
                f"(95 % interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f})."
            )
        blocks.append(
            Plot(
                name=f"switcher-{style.slug(sweep.source.name)}",
                alt="Accuracy against the share routed to think and against tokens, over the threshold",
                caption="The switcher's threshold, from all chat to all think: accuracy against the share of "
                "questions routed to think, and against mean tokens. The band is the 95 % interval, "
                "a bootstrap over questions; the dashed line is routing as many at random." + advantage,
                sources=(sweep.source,),
                draw=partial(draw_threshold, series),
            )
        )
    return blocks


def draw_threshold(series: Threshold, figure: Figure) -> None:
    """Accuracy against share routed at the left, against tokens at the right."""
    low, high = zip(*series.ci95, strict=True)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, x, random_x in (
        (left, series.share_think, series.share_think),
        (right, series.mean_tokens, series.random_tokens),
    ):
        ends = [(random_x[end], series.random_accuracy[end]) for end in (0, -1)]
        axes.plot(*zip(*ends, strict=True), color="#606060", linestyle="--", linewidth=1.2)
        axes.plot(x, series.accuracy, **style.look(0))
        axes.fill_between(x, low, high, color=style.COLOURS[0], alpha=0.15, linewidth=0)
        for end, name in zip(ends, ("chat", "think"), strict=True):
            axes.plot(*end, "o", color="#404040")
            up, side = (8, "bottom") if name == "think" else (-8, "top")
            axes.annotate(name, end, (0, up), textcoords="offset points", fontsize=9, ha="center", va=side)
        style.percent_axis(axes.yaxis)
        axes.margins(x=0.08)
    left.set(title="accuracy", xlabel="questions routed to think")
    style.percent_axis(left.xaxis)
    right.set(title="accuracy", xlabel="mean tokens of a response")
