"""How every figure looks, and how it becomes a file.

::

    Plot(name, draw(figure), caption, sources) ─ save ─→ <name>.svg, its record in the corner

Figures are SVG: GitHub shows it on Markdown pages, it is sharp at any width and small, and its bytes do not
depend on how a machine rasterises fonts. Letters are drawn as outlines, so nothing depends on a reader's
fonts either. The palette is Okabe and Ito's, told apart by all kinds of colour vision; its yellow is left
out, which white swallows.

Only this module changes matplotlib's settings.
"""

from __future__ import annotations

import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgereason.errors import ConfigError
from edgereason.report.records import RecordSource

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN: Final = 8.6
"""825 pixels at SVG's 96 to the inch: about what a README gives a picture."""

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#404040")
"""Source: Okabe and Ito, "Color Universal Design", 2008; black as dark grey, no yellow."""

_DASHES: Final = ("-", (0, (5, 2)), (0, (1.2, 1.6)))
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
GREY: Final = "#606060"
_CORNER_POINTS: Final = 7.0
_CORNER_CHARS: Final = 150

_SETTINGS: Final[Any] = {
    "svg.hashsalt": "edgereason",  # names inside the file, the same at every run
    "svg.fonttype": "path",
    "text.parse_math": False,  # labels are people's: a dollar is a dollar
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": "#202020",
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "#202020",
    "ytick.labelcolor": "#202020",
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "errorbar.capsize": 2.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A figure to be drawn.

    Attributes:
        name: of the file, without its ending.
        alt: what it shows, for those who don't see it.
        caption: says how to read it; intervals by name.
        sources: the records that it was drawn from.
        draw: draws into an empty figure.
        height_in: inches, the corner's line not counted.
    """

    name: str
    alt: str
    caption: str
    sources: tuple[RecordSource, ...]
    draw: Callable[[Figure], None]
    height_in: float = 3.4


Block = str | Plot
"""A table or a sentence as Markdown, or a figure."""


def save(plot: Plot, folder: Path) -> Path:
    """Draws a plot into `folder`.

    Raises:
        ConfigError: matplotlib is missing.
    """
    with _styled() as make_figure:
        lines = textwrap.wrap(f"drawn from {', '.join(map(str, plot.sources))}", _CORNER_CHARS)
        corner_in = (1.35 * len(lines) + 0.6) * _CORNER_POINTS / 72
        height_in = plot.height_in + corner_in
        figure = make_figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        bottom = corner_in / height_in
        figure.get_layout_engine().set(rect=(0.0, bottom, 1.0, 1.0 - bottom), w_pad=0.06, h_pad=0.06)
        plot.draw(figure)
        figure.text(
            1 - 0.06 / WIDTH_IN,
            0.03 / height_in,
            "\n".join(lines),
            ha="right",
            va="bottom",
            fontsize=_CORNER_POINTS,
            color=GREY,
            linespacing=1.25,
        )
        path = folder / f"{plot.name}.svg"
        figure.savefig(path, metadata={"Date": None, "Creator": None})
    return path


def look(index: int) -> dict[str, Any]:
    """Colour and dashes of the series at `index`; dashes tell apart what shares a colour."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": _DASHES[index // len(COLOURS) % len(_DASHES)],
    }


def marker(index: int) -> str:
    """The marker of the series at `index`, where points count."""
    return _MARKERS[index % len(_MARKERS)]


def line(
    axes: Axes,
    index: int,
    x: Sequence[float],
    y: Sequence[float],
    ends: Sequence[tuple[float, float] | None],
) -> None:
    """Draws the series at `index` with a marker at every point and whiskers to the ends of its interval."""
    axes.errorbar(x, y, yerr=whiskers(y, ends), marker=marker(index), elinewidth=1.2, **look(index))


def whiskers(y: Sequence[float], ends: Sequence[tuple[float, float] | None]) -> list[list[float]]:
    """How far intervals reach below and above their values; 0 where there is none, and never less."""
    known = [one or (value, value) for one, value in zip(ends, y, strict=True)]
    return [
        [max(0.0, value - low) for (low, _), value in zip(known, y, strict=True)],
        [max(0.0, high - value) for (_, high), value in zip(known, y, strict=True)],
    ]


def slug(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower().replace(".json", "")).strip("-.") or "record"


def short(label: str, num_chars: int = 34) -> str:
    """A label that leaves room for its figure."""
    return label if len(label) <= num_chars else label[: num_chars - 1].rstrip() + "…"


def percent_axis(axis: Any, decimals: int = 0) -> None:
    """Shows shares as per cent."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=decimals, symbol=" %"))


def ratio_axis(axis: Any) -> None:
    """Ticks at powers of two, as so many times: ¼× is 0.25×."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(base=2, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}×" if value >= 1 else f"1/{1 / value:g}×")
    )


def seconds_axis(axis: Any) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten, written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5), numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def number_ticks(axis: Any, values: Sequence[float]) -> None:
    """Ticks at `values`, ascending, written out; of those that lie within a fourth of another, the least."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    shown: list[float] = []
    for value in values:
        if not shown or value > 1.25 * shown[-1]:
            shown.append(value)
    axis.set_major_locator(FixedLocator(shown))
    axis.set_major_formatter(FixedFormatter([f"{value:,g}" for value in shown]))
    axis.set_minor_locator(NullLocator())


@contextmanager
def _styled() -> Iterator[Any]:
    """Matplotlib's `Figure`, under our settings and nobody else's."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("figures need matplotlib: pip install 'edgereason[eval]'") from error
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a label in a script that the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield Figure
