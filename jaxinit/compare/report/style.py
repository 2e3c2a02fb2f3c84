"""How figures look: a scheme's colour, text as it stands, legends, marks to hover."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from jaxinit import _checks

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""

MARKERS = "osD^vPX"
FRAME = COLORS[1]
DASHES = ("-", "--", "-.", ":")
NAME = 42
"""Letters of a scheme's name that a legend has room for."""
HOVER = "hover:"
"""How the gid of a mark begins whose rest is its text, for `svg`."""


Medium: TypeAlias = Literal["file", "page", "screen"]
"""What a figure is for: a page has marks that carry values as texts, and a figure for
the screen is pyplot's, so that `pyplot.show()` and notebooks show it."""


class Style(NamedTuple):
    """How a scheme is drawn: seven differ in colour, more in marker and dashes."""

    color: str
    marker: str
    dash: str


WIDTH, HEIGHT = 6.2, 4.2
"""Inches of a figure with one panel."""

FEW = 8
"""Schemes whose legend a figure has room for."""

ROW = 0.19
"""Inches of a row of a legend."""


def styles(schemes: Sequence[str]) -> dict[str, Style]:
    """Scheme to style."""
    return {
        scheme: Style(COLORS[i % 7], MARKERS[i // 7 % 7], DASHES[i // 7 % 4])
        for i, scheme in enumerate(schemes)
    }


def panels(medium: Medium, width: float, height: float, columns: int = 1) -> np.ndarray:
    """Empty axes side by side in a new figure.

    Args:
        medium: what the figure is for.
        width: in inches.
        height: in inches.
        columns: how many axes.

    Returns:
        (columns,) axes.
    """
    make = Figure
    if medium == "screen":
        from matplotlib import pyplot

        make = pyplot.figure
    figure = make(figsize=(width, height), layout="constrained")
    return figure.subplots(1, columns, squeeze=False)[0]


def given_or_new(ax: Any, medium: Medium, count: int, what: str) -> np.ndarray:
    """The axes that a caller gives for several panels, or those of a new figure.

    Args:
        ax: one axes or several; None for a new figure.
        medium: what a new figure is for.
        count: of panels.
        what: the figure and its panels, as in "curves: columns".

    Returns:
        (count,) axes.

    Raises:
        ValueError: there are not as many axes as panels.
    """
    if ax is None:
        return panels(medium, max(5 * count, WIDTH), HEIGHT, count)
    found = np.ravel(np.asarray(ax, dtype=object))
    if len(found) != count:
        owner, _, names = what.partition(": ")
        raise ValueError(
            f"{owner}: {len(found)} axes for {count} {names}; give one for each."
        )
    return found


def figure_of(axes: Axes) -> Figure:
    """The figure of axes that are a figure's own."""
    assert isinstance(axes.figure, Figure)
    return axes.figure


def laid_out(figure: Figure) -> Figure:
    """The figure with its layout done, for which it is else drawn twice."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)
    return figure


def png(axes: Axes) -> bytes:
    """The figure of axes that are a figure's own, as a picture."""
    file = io.BytesIO()
    laid_out(figure_of(axes)).savefig(file, format="png", dpi=150)
    return file.getvalue()


def finish(axes: Iterable[Axes], title: str, columns: int, whole: bool) -> None:
    """Give axes their grid and legend, and a figure of their own its title.

    Args:
        axes: side by side; the legend has the labels of the first.
        title: of the whole.
        columns: of the legend, at most; fewer where the labels are long.
        whole: whether the figure has nothing but these axes: the legend is then below
            them, and else in the first.
    """
    axes = list(axes)
    for each in axes:
        each.grid(alpha=0.25, lw=0.6)
        each.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    if not whole:
        beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)}
        many = beside if len(labels) > FEW else {}
        axes[0].legend(frameon=False, fontsize=8, **many)
        return
    figure = figure_of(axes[0])
    letters = 14 * figure.get_figwidth()  # that fit side by side, roughly
    longest = max((len(label) for label in labels), default=0)
    columns = max(1, min(columns, int(letters / (longest + 6))))
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9,
    )
    # The plots keep their height, however many schemes there are.
    rows = math.ceil(len(labels) / columns)
    more = max(0, rows - math.ceil(FEW / columns)) * ROW
    figure.set_figheight(figure.get_figheight() + more)
    lines = textwrap.wrap(title, int(10 * figure.get_figwidth()))
    figure.suptitle("\n".join(map(text, lines)), fontsize=11)


class PlainFormatter(LogFormatter):
    """Logarithmic ticks as plain numbers: 0.3, not 3 x 10^-1."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of a tick at `x`, empty where the axis has none."""
        return f"{x:g}" if super().__call__(x, pos) else ""


def plain(axes: Axes) -> None:
    """Write the ticks of a logarithmic vertical axis as plain numbers."""
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_formatter(PlainFormatter())
        axes.yaxis.set_minor_formatter(PlainFormatter(minor_thresholds=(1.2, 0.5)))


def hover(axes: Axes, x: float, y: float, says: str) -> None:
    """Put an invisible mark on a point, which `svg` makes say something."""
    if math.isfinite(y):
        says = HOVER + _checks.visible(says)
        axes.plot([x], [y], "o", ms=9, alpha=0, gid=says, zorder=9)


def text(text: str, most: int = 100) -> str:
    """A text as it stands: no formula between dollars, no name that legends hide.

    Every text that holds a name goes through here. What is longer than `most` letters
    loses some in the middle.
    """
    text = _checks.visible(text)
    if len(text) > most:
        tail = most // 3
        text = f"{text[: most - tail - 3]}...{text[-tail:]}"
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
