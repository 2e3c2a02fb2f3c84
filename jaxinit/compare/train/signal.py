"""The signal at step 0: how large each layer's output is, and the gradient there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax

from jaxinit._models import Params, State
from jaxinit.compare.task.task import Task
from jaxinit.diagnosis import Report
from jaxinit.diagnosis._prepare import NO_KERNEL, prepare
from jaxinit.diagnosis._signal import findings


class LayerSignal(NamedTuple):
    """The signal at one layer.

    Attributes:
        path: of the layer's kernel.
        forward: root mean square of what the kernel puts out, before a bias.
        backward: root mean square of the gradient of an example's loss by it.
        says: what stands out there at step 0, if it is what stands out most in this
            scheme; a sentence of the report's verdict.
    """

    path: str
    forward: float
    backward: float
    says: str = ""


Signals: TypeAlias = Mapping[str, Sequence[LayerSignal]]
"""By scheme the layers in order of execution, the same ones for all."""


def signal(task: Task, params: Params, state: State) -> list[LayerSignal]:
    """The signal of one initialization; see `signals`.

    Args:
        task: what is learned.
        params: parameters of its model.
        state: what else the model carries, as `task.model.init` gives it.

    Returns:
        A row for each layer, in order of execution.

    Example:
        >>> import jax
        >>> from jaxinit.compare import digits_mlp
        >>> task = digits_mlp(depth=1, width=16)
        >>> params, state = task.model.init(jax.random.key(0), task.x_train[:1])
        >>> [row.path for row in signal(task, params, state)]
        ['Dense_0/kernel', 'Dense_1/kernel']
    """
    return signals(task, {"": (params, state)})[""]


def signals(
    task: Task, initial: Mapping[str, tuple[Params, State]]
) -> dict[str, list[LayerSignal]]:
    """The signal of several initializations, forward and backward, by one program.

    For layer l with output z_l, a product with its kernel, of B training examples of
    losses L_1, ..., L_B: sqrt(mean(z_l^2)) and sqrt(mean((d(L_1 + ... + L_B)/dz_l)^2)),
    so that the latter does not depend on B. The model is as in training, with dropout
    and the batch's statistics, and computes in float32.

    A kernel that is used more than once counts where it is used first. Layers that a
    scan goes through have a row each, such as `path[3]`; a kernel that every iteration
    of a loop uses has one for all. Where no gradient comes back, as from within a
    function that brings its own derivative, `backward` is NaN. Of an objective the
    layers are those that it uses, and B times it is the sum of the losses; of a
    training of one's own, those of `apply`, without a gradient.

    Args:
        task: what is learned; the examples are the first `EXAMPLES` for training.
            There is no row where nothing is known of the layers.
        initial: by scheme the initial parameters and state.

    Returns:
        By scheme a row for each layer, in order of execution. What overflows is inf or
        NaN.
    """
    found = reports(task, initial)
    return {scheme: _rows(found[scheme]) if found else [] for scheme in initial}


def reports(
    task: Task, initial: Mapping[str, tuple[Params, State]]
) -> dict[str, Report]:
    """The reports of several initializations, by one program; args as of `signals`.

    Returns:
        By scheme its report; empty where nothing is known of the layers.
    """
    if not initial or task.seen is None:
        return {}
    key = jax.random.key(0)
    with jax.default_matmul_precision("highest"):
        try:
            ready = prepare("compare", task, next(iter(initial.values())), (), key=key)
        except ValueError as error:
            if NO_KERNEL not in str(error):
                raise
            return {}
    batch, _, key = ready.others
    return {
        scheme: ready.report(params, (batch, state, key))
        for scheme, (params, state) in initial.items()
    }


def explanation(rows: Sequence[LayerSignal]) -> str:
    """What stands out most in a scheme at step 0; empty where nothing does."""
    return next((row.says for row in rows if row.says), "")


def _rows(report: Report) -> list[LayerSignal]:
    """A row for each layer where it is used first, with what stands out most."""
    rows = [
        row
        for row, label in zip(report.rows, report.labels, strict=True)
        if not row.name.removeprefix(label.path).startswith(" (")
    ]
    worst = next(iter(findings(report.signal)), None)
    named = [row.name for row in rows]
    at = -1
    if worst is not None and rows:
        at = named.index(worst.path) if worst.path in named else 0
    return [
        LayerSignal(
            row.name,
            row.rms,
            row.gradient,
            worst.sentence if worst is not None and k == at else "",
        )
        for k, row in enumerate(rows)
    ]


def to_json(signals: Signals) -> dict[str, Any]:
    """The signals as what JSON can hold; a number that is not finite is None.

    Returns:
        `{"paths": [path, ...], "forward": {scheme: [number, ...]}, "backward": ...,
        "says": {scheme: {path: sentence}}}`.
    """
    rows = next(iter(signals.values()), ())

    def column(way: str) -> dict[str, list[float | None]]:
        values = {s: [getattr(r, way) for r in rows] for s, rows in signals.items()}
        return {
            scheme: [value if math.isfinite(value) else None for value in column]
            for scheme, column in values.items()
        }

    return {
        "paths": [row.path for row in rows],
        "forward": column("forward"),
        "backward": column("backward"),
        "says": {
            scheme: {row.path: row.says for row in rows if row.says}
            for scheme, rows in signals.items()
        },
    }


def from_json(content: Mapping[str, Any]) -> dict[str, list[LayerSignal]]:
    """The signals that `to_json` wrote; what was not finite is NaN.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is something else.
    """
    number = lambda value: math.nan if value is None else float(value)  # noqa: E731
    says = content.get("says", {})
    return {
        scheme: [
            LayerSignal(
                str(path),
                number(out),
                number(back),
                str(says.get(scheme, {}).get(path, "")),
            )
            for path, out, back in zip(
                content["paths"], forward, content["backward"][scheme], strict=True
            )
        ]
        for scheme, forward in content["forward"].items()
    }
