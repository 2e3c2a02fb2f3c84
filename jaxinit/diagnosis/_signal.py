"""What a report shows to be wrong with the signal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jaxinit import meanfield
from jaxinit.diagnosis._finding import Finding
from jaxinit.diagnosis._numbers import Growth, PointRow, Row, kind_of

FAR = 1e3
"""Over all layers: a signal that changes by this factor is lost to training."""

UNUSUAL = 30.0
"""Over all layers: what good schemes do not do."""

ENOUGH = 16
"""Examples, below which a ReLU that none of them reaches is no dead one."""

_NAMED = {
    "relu": ("he_normal()", "gain sqrt 2 for relu"),
    "linear": ("lecun_normal()", "gain 1"),
    "selu": ("lecun_normal()", "gain 1 for selu"),
}


class Signal(NamedTuple):
    """What is judged; the fields are those of a `Report`."""

    rows: tuple[Row, ...]
    point_rows: tuple[PointRow, ...]
    forward: Growth
    backward: Growth
    stream: Growth
    loss: float
    ignorance: float | None
    examples: int


Check = Callable[[Signal], Iterator[Finding]]


def findings(signal: Signal) -> list[Finding]:
    """What is wrong with the signal, serious things first."""
    found = [finding for check in CHECKS for finding in check(signal)]
    return sorted(found, key=lambda finding: not finding.serious)


def _not_finite(signal: Signal) -> Iterator[Finding]:
    for row in signal.rows:
        if not row.rms < math.inf and not math.isnan(row.kernel_std):
            ran = any(other.rms < math.inf for other in signal.rows)
            if math.isnan(row.rms) and row.reason == "" and math.isnan(row.gradient):
                continue  # a branch that was not taken
            sentence = f"The output of {row.name} is not finite."
            rest = "Everything before it is." if ran else "So are the inputs, maybe."
            yield Finding(
                "not finite",
                True,
                row.name,
                row.rms,
                f"{sentence} {rest}",
                _remedy(signal),
            )
            return


def _growing(signal: Signal) -> Iterator[Finding]:
    outputs = [(row.name, row.rms) for row in signal.rows]
    gradients = [(row.name, row.gradient) for row in signal.rows[::-1]]
    for growth, rule, what, pairs, way in (
        (signal.forward, "outputs", "outputs of layers", outputs, "on"),
        (signal.backward, "gradients", "gradients", gradients, "back to the first"),
    ):
        change = _change(growth)
        if change is None:
            continue
        verb = "grow" if growth.factor > 1 else "shrink"
        start = _start(pairs)
        yield Finding(
            f"{'exploding' if growth.factor > 1 else 'vanishing'} {rule}",
            change > FAR,
            start,
            growth.factor,
            f"The {what} {verb} by {growth.factor:.3g} a layer from {start} {way}, "
            f"{growth.total:.2g} over {growth.layers}.",
            _remedy(signal),
        )


def _start(pairs: Sequence[tuple[str, float]]) -> str:
    """The last layer up to which sizes are within a factor of two of the first's."""
    kinds = [kind_of(name) for name, _ in pairs]
    kind = Counter(kinds).most_common(1)[0][0]
    own = [pair for pair, k in zip(pairs, kinds, strict=True) if k == kind]
    first = next((size for _, size in own if 0 < size < math.inf), math.nan)
    near = [name for name, size in own if 0.5 * first <= size <= 2 * first]
    return near[-1] if near else own[0][0]


def _stream(signal: Signal) -> Iterator[Finding]:
    growth = signal.stream
    change = _change(growth)
    if change is not None and growth.factor > 1:
        yield Finding(
            "stream",
            change > FAR,
            "",
            growth.factor,
            f"The residual stream grows by {growth.factor:.3g} with each branch, "
            f"{growth.total:.2g} over {growth.layers}.",
            "Draw the ends of branches smaller: `jaxinit.reinit(key, params, "
            "jaxinit.tree.gpt2(), apply, inputs)`, or begin with branches of zero: "
            "`jaxinit.tree.fixup()`.",
        )


def _change(growth: Growth) -> float | None:
    """By how much something changes over all layers, if that is unusual and sure."""
    if not growth.factor > 0 or growth.layers < 3:
        return None
    slope = math.log(growth.factor)
    change = math.exp(min(700.0, abs(slope) * (growth.layers - 1)))
    error = growth.error / growth.factor if growth.error == growth.error else 0.0
    return change if change > UNUSUAL and abs(slope) > 3 * error else None


def _dead(signal: Signal) -> Iterator[Finding]:
    if signal.examples < ENOUGH:
        return
    # Half of them are dead wherever all examples have come to look alike.
    rows = [row for row in signal.rows if row.dead > 0.75]
    if rows:
        worst = max(rows, key=lambda row: row.dead)
        yield Finding(
            "dead",
            worst.dead > 0.9,
            worst.name,
            worst.dead,
            f"{worst.dead:.0%} of the units after {worst.name} are dead: no example "
            f"sends a gradient through them"
            f"{f'; {len(rows)} layers are such' if len(rows) > 1 else ''}.",
            "Centre its bias at zero, and draw the kernel anew: "
            f"`jaxinit.reinit(key, params, {_scheme(signal)}, apply, inputs)`.",
        )


def _saturated(signal: Signal) -> Iterator[Finding]:
    rows = [row for row in signal.point_rows if row.saturated > 0.4]
    if rows:
        worst = max(rows, key=lambda row: row.saturated)
        yield Finding(
            "saturated",
            worst.saturated > 0.75,
            worst.name,
            worst.saturated,
            f"{worst.saturated:.0%} of the {worst.kind} units after {worst.name} are "
            "saturated, so that little gradient comes back through them.",
            "Draw its kernel smaller: `jaxinit.glorot_normal()`.",
        )


def _collapsed(signal: Signal) -> Iterator[Finding]:
    told = [row for row in signal.rows if row.cosine == row.cosine]
    if len(told) < 3:
        return
    first, last = told[0], told[-1]
    inner = [row for row in told[1:] if row.cosine > 0.9995]
    if first.cosine < 0.95 and inner and last.cosine > 0.9995:
        yield Finding(
            "collapsed",
            last.cosine > 0.99999,
            inner[0].name,
            last.cosine,
            f"All examples look alike from {inner[0].name} on: the cosine of a pair "
            f"is {inner[0].cosine:.6f}, {first.cosine:.2f} in the first layer.",
            "Move to the edge of chaos: `jaxinit.tree.edge_of_chaos("
            f"{_activation(signal)!r})`, or add a residual stream.",
        )


def _attention(signal: Signal) -> Iterator[Finding]:
    rows = [row for row in signal.point_rows if row.entropy < 0.3]
    if rows:
        worst = min(rows, key=lambda row: row.entropy)
        yield Finding(
            "attention",
            worst.entropy < 0.1,
            worst.name,
            worst.entropy,
            f"The attention at {worst.name} is peaked from the start: the entropy of "
            f"its weights is {worst.entropy:.2f} of that of equal ones, the deviation "
            f"of its logits {worst.logit_std:.3g}.",
            "Divide the logits by the root of the head's size, or draw queries and "
            "keys smaller: `jaxinit.lecun_normal()` with the fan of their use.",
        )


def _loss(signal: Signal) -> Iterator[Finding]:
    loss = signal.loss
    if signal.ignorance is None or not loss < math.inf:
        return
    excess = loss - signal.ignorance
    if excess > 3:  # twenty layers at the right scale make up to two by chance
        head = signal.rows[-1]
        yield Finding(
            "loss",
            excess > 5,
            head.name,
            loss,
            f"The loss begins at {loss:.3g}, where equal probabilities cost "
            f"{signal.ignorance:.3g}: logits of deviation {head.std:.3g} are sure of "
            "what nobody knows yet.",
            f"Draw the head smaller: rules such as `[({head.name!r}, "
            f"jaxinit.normal({_small(head.kernel_std, head.std):.2g}))]`.",
        )


def _updates(signal: Signal) -> Iterator[Finding]:
    rows = [row for row in signal.rows if row.update > 0.3 and row.kernel_std > 0]
    if rows:
        worst = max(rows, key=lambda row: row.update)
        yield Finding(
            "update",
            worst.update > 1,
            worst.name,
            worst.update,
            f"The first update of {worst.name} is {worst.update:.2g} of its size.",
            f"Take a learning rate {worst.update / 0.01:.2g} times smaller.",
        )


def _uneven(signal: Signal) -> Iterator[Finding]:
    rows = [r for r in signal.rows if 0 < r.kernel_gradient < math.inf]
    if len(rows) < 2:
        return
    low = min(rows, key=lambda row: row.kernel_gradient)
    high = max(rows, key=lambda row: row.kernel_gradient)
    ratio = high.kernel_gradient / low.kernel_gradient
    if ratio > FAR:
        yield Finding(
            "uneven gradients",
            False,
            low.name,
            ratio,
            f"The gradient of {low.name} is {ratio:.2g} times smaller than that of "
            f"{high.name}: one learning rate of plain descent serves not both.",
            "Use an optimizer that scales each, such as Adam, or another scheme.",
        )


CHECKS: tuple[Check, ...] = (
    _not_finite,
    _growing,
    _stream,
    _dead,
    _saturated,
    _collapsed,
    _attention,
    _loss,
    _updates,
    _uneven,
)
"""All checks, in the order of what they tell."""


def _activation(signal: Signal) -> str:
    """The nonlinearity that most layers follow."""
    counts = Counter(row.before for row in signal.rows[1:] if row.before)
    name = counts.most_common(1)[0][0] if counts else "linear"
    return name if name in meanfield.ACTIVATIONS else "linear"


def _scheme(signal: Signal) -> str:
    name = _activation(signal)
    return f"jaxinit.{_NAMED[name][0]}" if name in _NAMED else "jaxinit.lecun_normal()"


def _remedy(signal: Signal) -> str:
    """The scheme that keeps a signal through the nonlinearity of most layers."""
    name = _activation(signal)
    if name in _NAMED:
        scheme, says = _NAMED[name]
        return (
            f"`jaxinit.reinit(key, params, jaxinit.{scheme}, apply, inputs)` keeps "
            f"them ({says})."
        )
    which = "critical"
    try:
        says = f"gain {meanfield.critical_gain(name):.4g} for {name}"
    except ValueError:
        which, says = "auto", f"gain {meanfield.gain(name):.4g} for {name}"
    return (
        "`jaxinit.reinit(key, params, jaxinit.lecun_normal(), apply, inputs, "
        f"gain={which!r})` keeps them ({says})."
    )


def _small(std: float, of_logits: float) -> float:
    """The kernel's deviation at which logits have one of a tenth."""
    return std * 0.1 / of_logits if of_logits > 0 else std
