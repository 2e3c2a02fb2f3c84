"""What mean-field theory says of an activation, as data and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import rich.box
import rich.table

from jaxinit import meanfield
from jaxinit.compare.report import terminal

_SHARES = (0.5, 0.75, 0.9, 1.0, 1.1, 1.5, 2.0)
"""Of the critical weight variance, that depth scales are told for."""


def show(content: dict[str, Any]) -> None:
    """Print what `content` returned."""
    gains = [
        f"{way} {content[way]:.4g}"
        for way in ("forward", "backward")
        if content[way] is not None
    ]
    if gains:
        name = content["activation"]
        print(f"{name}: the gain that keeps a signal is {' and '.join(gains)}.")
    print(content["says"])
    table = rich.table.Table(box=rich.box.SIMPLE)
    for head in _HEADS:
        table.add_column(head, justify="right")
    for row in content["points"]:
        table.add_row(*_cells(row))
    terminal.console().print(table)
    print(_LEGEND)


_HEADS = ("weight variance", "phase", "q*", "chi", "c*", "depth of q", "of c", "trains")
_LEGEND = (
    "q*, c*: where variance and correlation settle; unbounded: they do not. Depths in "
    "layers. A network trains to about six times the depth of c."
)


def content(
    activation: str, bias_variance: float, weight_variances: Sequence[float] = ()
) -> dict[str, Any]:
    """What is told, as plain data; a number that is not finite is None.

    Args:
        activation: its name.
        bias_variance: variance of the biases.
        weight_variances: fan-in times the variance of a weight; by default around the
            critical one.

    Returns:
        An object of gains, of the critical point, None where there is none, of a
        sentence on it, and of `points`, a fixed point for each weight variance.

    Raises:
        ValueError: the activation is unknown, or a variance is negative.

    Example:
        >>> found = content("tanh", 0.05, [1.5])
        >>> round(found["points"][0]["correlation_depth"], 1)
        15.8
    """
    critical = None
    try:
        critical = meanfield.edge_of_chaos(activation, bias_variance)
    except ValueError as error:
        if "no critical point" not in str(error) and "no finite slope" not in str(
            error
        ):
            raise
        says = str(error).partition(": ")[2]
        says = says[0].upper() + says[1:]
    else:
        says = (
            f"With bias variance {bias_variance:g} the edge of chaos is at weight "
            f"variance {critical.weight_variance:.6g} (gain "
            f"{math.sqrt(critical.weight_variance):.4g}), where q* is "
            f"{critical.variance:.4g}."
        )
        if critical.variance and critical.variance_depth == math.inf:
            says += " No variance is drawn to it there."
    around = 1.0 if critical is None else critical.weight_variance
    chosen = tuple(weight_variances) or tuple(share * around for share in _SHARES)
    return {
        "activation": activation,
        "forward": _gain(activation, "forward"),
        "backward": _gain(activation, "backward"),
        "bias_variance": bias_variance,
        "critical": None if critical is None else _finite(critical._asdict()),
        "says": says,
        "points": [
            _point(activation, weight, bias_variance, critical) for weight in chosen
        ],
    }


def _gain(activation: str, direction: Any) -> float | None:
    try:
        return meanfield.gain(activation, direction=direction)
    except ValueError as error:
        if "no gain keeps" not in str(error):
            raise
        return None


def _point(
    activation: str, weight: float, bias: float, critical: Any
) -> dict[str, Any]:
    """A row: the fixed point of one weight variance."""
    if critical is not None and weight == critical.weight_variance:
        return {"phase": "critical", **_finite(critical._asdict())}
    try:
        found = meanfield.fixed_point(
            activation, weight_variance=weight, bias_variance=bias
        )
    except ValueError as error:
        if "no single fixed point" not in str(error):
            raise
        return {"phase": "unbounded", "weight_variance": weight}
    phase = "ordered" if found.slope < 1 else "chaotic"
    return {"phase": phase, **_finite(found._asdict())}


def _finite(content: dict[str, float]) -> dict[str, float | None]:
    return {k: v if math.isfinite(v) else None for k, v in content.items()}


def _cells(row: dict[str, Any]) -> list[str]:
    told = ("variance", "slope", "correlation", "variance_depth", "correlation_depth")
    if "slope" not in row:
        return [f"{row['weight_variance']:.4g}", row["phase"], *[""] * 6]
    numbers = ["inf" if row[name] is None else f"{row[name]:.4g}" for name in told]
    depth = row["correlation_depth"]
    trains = "any depth" if depth is None else f"to {6 * depth:.0f}"
    return [f"{row['weight_variance']:.4g}", row["phase"], *numbers, trains]
