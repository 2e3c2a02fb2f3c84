"""The signal at step 0 as a figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jaxinit.compare.report import style
from jaxinit.compare.train.signal import LayerSignal, Signals

WAYS = {"forward": "outputs of layers", "backward": "gradient by outputs of layers"}
"""What is measured, in words."""


def plot(
    signals: Signals,
    title: str = "",
    ways: Sequence[str] = tuple(WAYS),
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    medium: style.Medium = "file",
) -> np.ndarray:
    """The signals over the layers, a line for each scheme.

    A line has no mark where the signal is zero or not finite.

    Args:
        signals: by scheme, in the order that decides the colours.
        title: of the whole.
        ways: a panel each: "forward", "backward".
        ax: where to draw, axes for each way; by default in a figure of its own.
        medium: what that figure is for.

    Returns:
        (ways,) axes with logarithmic scales.

    Raises:
        ValueError: there are not as many axes as ways.
    """
    panels = style.given_or_new(ax, medium, len(ways), "signal: ways")
    look = style.styles(list(signals))
    for axes, way in zip(panels, ways, strict=True):
        for scheme, rows in signals.items():
            _line(axes, scheme, rows, way, look[scheme], medium)
        axes.set(xlabel="layer, in order of execution", ylabel="root mean square")
        axes.set_title(f"{way}: {WAYS[way]}", loc="left", fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        style.plain(axes)
    style.finish(panels, title, columns=3, whole=ax is None)
    return panels


def _line(
    axes: Axes,
    scheme: str,
    rows: Sequence[LayerSignal],
    way: str,
    look: style.Style,
    medium: style.Medium,
) -> None:
    values = np.array([getattr(row, way) for row in rows], float)
    shown = np.isfinite(values) & (values > 0)
    layers = np.arange(1, len(rows) + 1)
    axes.plot(
        layers,
        np.where(shown, values, np.nan),
        look.dash,
        color=look.color,
        marker=look.marker,
        ms=4,
        label=style.text(scheme, style.NAME),
    )
    if shown.any():
        axes.set_yscale("log")
    if medium == "page":
        for layer in layers[shown]:
            value = float(values[layer - 1])
            says = f"{scheme}, {rows[layer - 1].path}: {value:.3g}"
            style.hover(axes, layer, value, says)
