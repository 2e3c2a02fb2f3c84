"""`audit`: what is wrong with an initialization, in plain words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from jaxinit import _checks
from jaxinit._types import is_array
from jaxinit.diagnosis import _leaves, _signal
from jaxinit.diagnosis._deviations import Subject
from jaxinit.diagnosis._diagnose import Options
from jaxinit.diagnosis._finding import Finding
from jaxinit.diagnosis._prepare import Prepared, prepare
from jaxinit.diagnosis._report import Report
from jaxinit.diagnosis._singular import on_host
from jaxinit.trace import KERNELS, Layer
from jaxinit.tree._combine import SchemeLike
from jaxinit.tree._describe import describe
from jaxinit.tree._leaves import leaves_of


@dataclasses.dataclass(frozen=True)
class Audit:
    """What `jaxinit.audit` found.

    Attributes:
        findings: what is wrong, serious things first.
        report: the signal that was measured for it.
    """

    findings: tuple[Finding, ...]
    report: Report

    @property
    def serious(self) -> tuple[Finding, ...]:
        """The findings with which training fails, or falls far short."""
        return tuple(finding for finding in self.findings if finding.serious)

    def raise_if_serious(self) -> Audit:
        """Raise if something serious was found.

        Returns:
            The audit itself.

        Raises:
            ValueError: with a line for each serious finding.
        """
        if self.serious:
            raise ValueError("audit: " + "\n".join(map(str, self.serious)))
        return self

    def __str__(self) -> str:
        """A line for each finding."""
        if not self.findings:
            return "Nothing is wrong, as far as an audit sees."
        return "\n".join(map(str, self.findings))


def audit(
    apply: Any,
    params: Any = None,
    *inputs: Any,
    scheme: SchemeLike | None = None,
    **options: Unpack[Options],
) -> Audit:
    """Say what is wrong with an initialization, before a step is trained.

    It judges the signal that `jaxinit.diagnose` measures, and the leaves by how the
    computation uses them: leaves that are not used, not finite, or zero where no
    gradient will ever come; units, layers and leaves with equal values; deviations of
    miscounted fans, of packed kernels drawn jointly, of leaves drawn as if transposed;
    values that are cut off or of low precision, and truncations that cut nothing; a
    tied head as large as its embedding; the wrong matrix of a branch scaled by depth;
    biases and scales that are not what their role expects.

    False alarms: 4,000 audits of twenty healthy models, 200 draws of each, had five
    findings, all notices of a plain network of twenty layers whose loss began three
    nats above ignorance by chance (`benchmarks/false_alarms.py`). Two thresholds of
    notices were settled on these very draws, so that others may have more.

    Args:
        apply: as in `jaxinit.diagnose`.
        params: as in `jaxinit.diagnose`, concrete.
        inputs: as in `jaxinit.diagnose`, one batch. With fewer than 16 examples dead
            units are not judged.
        scheme: a scheme, as in `jaxinit.reinit`, that the leaves should follow.
        options: the keywords of `jaxinit.diagnose`; with `learning_rate=` or
            `optimizer=` updates are judged.

    Returns:
        The `Audit`; printed, a sentence for each finding with what mends it.

    Raises:
        TypeError, ValueError: as `jaxinit.diagnose`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxinit
        >>> key = jax.random.key(0)
        >>> draw = jaxinit.lecun_normal()
        >>> params = {name: draw(key, (64, 64)) for name in ("q", "k")}
        >>> apply = lambda params, x: jnp.tanh(x @ params["q"]) @ params["k"]
        >>> found = jaxinit.audit(apply, params, jax.random.normal(key, (32, 64)))
        >>> [finding.rule for finding in found.findings]
        ['same values']
    """
    ready = prepare("audit", apply, params, inputs, **options)
    if any(_checks.is_traced(leaf.value) for leaf in leaves_of(ready.params)[0]):
        raise TypeError(
            "audit: params are traced; judge concrete ones, outside of jax.jit."
        )
    return judged(ready, ready.params, ready.others, scheme)


def judged(
    ready: Prepared,
    params: Any,
    others: tuple[Any, ...],
    scheme: SchemeLike | None = None,
) -> Audit:
    """The audit of parameters like those of a function that is ready."""
    report = ready.report(params, others)
    layers = [_renamed(layer, ready) for layer in ready.measurement.layers]
    leaves, _ = leaves_of(params)
    floating = [x for x in leaves if jnp.issubdtype(x.value.dtype, jnp.inexact)]
    values = {leaf.path: on_host(leaf.value) for leaf in floating}
    layers = [layer for layer in layers if layer.path in values]
    expected: dict[str, float] = {}
    uncut: dict[str, float] = {}
    if scheme is not None:
        rows = describe(params, scheme, ready.apply, others)
        drawn = [(row.path, row.std, row.init) for row in rows if row.init is not None]
        expected = {path: std for path, std, _ in drawn}
        bounds = ((path, _nearest_bound(init)) for path, _, init in drawn)
        uncut = {path: bound for path, bound in bounds if _FAR_OUT < bound < math.inf}
    joined = _joined(layers, ready)
    subject = Subject(layers, values, report, expected, uncut, joined)
    found = [
        *_leaves.findings(subject),
        *_cut_off(ready, params, others, subject),
        *_signal.findings(report.signal),
    ]
    found.sort(key=lambda finding: not finding.serious)
    return Audit(tuple(found), report)


_FAR_OUT = 6.0
"""Deviations at which nothing is cut: two draws in a thousand million."""


def _nearest_bound(init: Any) -> float:
    """How many deviations out a draw is cut that has absolute bounds."""
    given = init.arguments
    if init.name != "truncated_normal" or given["bounds"] != "absolute":
        return math.inf
    ends = (abs(given[name] - given["mean"]) for name in ("lower", "upper"))
    return float(min(ends)) / float(given["stddev"])


def _joined(layers: Sequence[Layer], ready: Prepared) -> dict[str, tuple[int, str]]:
    """Leaves that pack queries, keys and values, or gates: how many, and of what."""
    found: dict[str, tuple[int, str]] = {}
    dense = {layer.path: layer for layer in layers if layer.kind == "dense"}
    for path in ready.measurement.attended:
        layer = dense.get(path)
        third = layer.fan_out / 3 if layer is not None else math.nan
        after = [
            dense[each] for each in (layer.feeds if layer else ()) if each in dense
        ]
        if any(each.fan_in == third for each in after):
            found[path] = 3, "kernels of queries, keys and values"
    for layer in dense.values():
        gates = layer.fan_out / layer.fan_in
        if layer.path in layer.feeds and gates in (2, 3, 4, 5, 6):
            for other in dense.values():
                if other.fan_out == layer.fan_out and layer.path in other.feeds:
                    found[other.path] = int(gates), "gates"
    return found


def _renamed(layer: Layer, ready: Prepared) -> Layer:
    """The layer with the paths that a reader knows."""
    paths = ready.measurement.paths
    others = {
        name: tuple(paths[path] for path in getattr(layer, name))
        for name in ("feeds", "acts_on", "ends")
    }
    return dataclasses.replace(layer, path=paths[layer.path], **others)


_STEPS = 3
"""Of descent, after which a factor of zero has a gradient, if it ever has."""


def _cut_off(
    ready: Prepared, params: Any, others: tuple[Any, ...], subject: Subject
) -> Iterator[Finding]:
    """Leaves of zeros that no gradient reaches, because a factor beside them is zero.

    One factor of zero is no harm: a branch or a head that begins with zeros moves at
    the first step, and what is before it at the second. Whether a leaf will move is
    found out by moving the others.
    """
    norms = {path: float(norm) for path, norm in subject.report.leaves.items()}
    waiting = {
        layer.path
        for layer in subject.layers
        if layer.kind in (*KERNELS, "scale")
        and norms.get(layer.path) == 0
        and not subject.values[layer.path].any()
    }
    if not waiting:
        return
    named = [leaf.path for leaf in leaves_of(params)[0]]
    arrays = [leaf for leaf in jax.tree.leaves((params, others)) if is_array(leaf)]
    for _ in range(_STEPS):
        arrays, sizes = ready.descend(arrays)
        waiting -= {p for p, g in zip(named, sizes, strict=True) if float(g) != 0}
        if not waiting:
            return
    for path in sorted(waiting):
        yield Finding(
            "cut off",
            True,
            path,
            0.0,
            f"{path} is zero and will stay so: its gradient is zero, and stays zero "
            "as the others move, for a factor beside it is zero too.",
            "Draw one of the two: zeros belong into the last factor alone.",
        )
