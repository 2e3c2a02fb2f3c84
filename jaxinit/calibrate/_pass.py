"""One pass through a program that finds the scale of each unit on the way.

A kernel's output is linear in the kernel. So it is measured, scaled to what it shall
be, and handed on: what follows already sees the network that is being made, and one
pass does what a loop over layers does with a pass for each. Backwards it is the same,
with the gradient that a kernel hands back in place of its output.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._checks import is_traced
from jaxinit._types import Array
from jaxinit.calibrate._units import Plan, Unit
from jaxinit.diagnosis._statistics import cut
from jaxinit.trace import Loop, Product, Site, replay
from jaxinit.trace._products import enclosing


class Seen(NamedTuple):
    """What a pass finds of one product.

    Attributes:
        mean: of its outputs, by feature where biases centre them.
        variance: the mean square of what is left.
    """

    mean: Array
    variance: Array


Scales: TypeAlias = list[Any]
"""For each unit float32 scales, of the shape `unit.sizes`, of JAX or of NumPy."""


@functools.partial(jax.jit, static_argnums=0)
def applied(axes: tuple[int, ...], leaf: Array, scale: Array) -> Array:
    """A leaf times scales along axes; in float32 or wider, and back in its dtype."""
    wide = _at_least_32_bits(leaf.dtype)
    shape = [leaf.shape[k] if k in axes else 1 for k in range(leaf.ndim)]
    order = sorted(range(len(axes)), key=lambda k: axes[k])
    by = jnp.transpose(scale, order).reshape(shape).astype(wide)
    return (leaf.astype(wide) * by).astype(leaf.dtype)


@functools.partial(jax.jit, static_argnums=0)
def started(axes: tuple[int, ...], leaf: Array, fan_in: float) -> Array:
    """Scales along axes at which entries have variance 1 / fan-in, whatever they were.

    Results do not depend on the size that a leaf comes with, and nothing overflows.
    Where all entries are zero, or one is not finite, it is 1.
    """
    rest = [k for k in range(leaf.ndim) if k not in axes]
    sizes = [leaf.shape[k] for k in axes]
    wide = _at_least_32_bits(leaf.dtype)
    rows = jnp.transpose(leaf, (*axes, *rest)).reshape(*sizes, -1)
    rows = rows.astype(wide)
    most = jnp.abs(rows).max(-1, keepdims=True)
    square = jnp.mean(jnp.square(rows / jnp.where(most > 0, most, 1)), -1)
    scale = 1 / (most[..., 0] * jnp.sqrt(square * fan_in))
    return jnp.where(jnp.isfinite(scale), scale, 1).astype(jnp.float32)


def forward(
    plan: Plan, arrays: Sequence[Any], live: Array
) -> tuple[Scales, Scales, dict[int, Array]]:
    """Measure outputs, and with `live` scale those of exact units on the way.

    Args:
        plan: what is scaled.
        arrays: the program's arguments.
        live: whether to scale; 0 or 1.

    Returns:
        The deviation of each unit's outputs, the factor for each unit, and by the
        number of a bias what centres the outputs then.
    """
    at = {use: unit for unit in plan.units for use in unit.uses}

    def visit(
        product: Product, operands: Any, result: Array, given: Any, found: Any
    ) -> tuple[Array, Any]:
        if product.site in plan.logits:
            return _softened(plan, product.site, operands, result, live)
        emitted: dict[int, Seen] = {}
        for k, part in enumerate(product.parts):
            unit = at.get((product.site, k))
            if unit is None or not jnp.issubdtype(result.dtype, jnp.inexact):
                continue
            told = unit.by_feature or unit.bias is not None
            features = product.features if told else ()
            centred = unit.bias is not None
            how = _How(part.span, features, unit.exact, centred, unit.by_feature)
            result, emitted[k] = _scaled(how, result, unit.target, live)
        return result, emitted or None

    _, found = replay(plan.program, visit, arrays)
    found, xp = at_hand(found)
    deviations = [
        xp.sqrt(_pooled(plan, unit, found, lambda seen: seen, xp))
        for unit in plan.units
    ]
    pairs = zip(plan.units, deviations, strict=True)
    factors = [_factor(unit.target, std, xp) for unit, std in pairs]
    centres: dict[int, Array] = {}
    for unit, by in zip(plan.units, factors, strict=True):
        if unit.bias is not None:
            (site, k), *_ = unit.uses
            mean = found[site][k].mean
            by = by.reshape(by.shape + (1,) * (mean.ndim - by.ndim))
            bias = arrays[unit.bias]
            centre = -(xp.real(mean) * by).reshape(bias.shape)
            centres[unit.bias] = xp.where(xp.isfinite(centre), centre, 0)
    for site, logits in plan.logits.items():
        # What counts of queries and keys is the deviation of their logits.
        own, by = found[site]
        for k in logits.units:
            shape = factors[k].shape
            told = plan.units[k].target * own.reshape(shape) / logits.target
            deviations[k] = xp.where(live, deviations[k], told)
            factor = xp.where(live, factors[k], 1) * xp.sqrt(by).reshape(shape)
            factors[k] = factor
    return deviations, factors, centres


def backward(
    plan: Plan, arrays: Sequence[Any], live: Array, noise: Callable[[Any], Array]
) -> tuple[Scales, Scales]:
    """Measure the gradients that kernels hand back, and with `live` scale them.

    Args:
        plan: what is scaled.
        arrays: the program's arguments.
        live: as for `forward`.
        noise: from what the function returns to the number whose gradient it is.

    Returns:
        For each unit the deviation of what it hands back, and its factor.
    """
    at = {use: unit for unit in plan.units for use in unit.uses}
    sends = {site: _transposed(plan, site) for site, _ in at}

    def visit(
        product: Product, operands: Any, result: Array, given: Any, found: Any
    ) -> tuple[Array, Any]:
        if given is None:
            return result, None
        for k, dummy in given.items():
            unit, span = at[product.site, k], product.parts[k].span
            back = functools.partial(sends[product.site], span)
            result = _probe(back, unit, span, result, dummy, operands, live)
        return result, None

    def total(dummies: Mapping[Site, Any]) -> Array:
        return noise(replay(plan.program, visit, arrays, dummies)[0])

    dummies: dict[Site, dict[int, Array]] = {}
    for site, k in at:
        loops = plan.program.products[site].loops
        dummies.setdefault(site, {})[k] = jnp.zeros(_lengths(loops))
    found, xp = at_hand(jax.grad(total)(dummies))
    squares = lambda x: Seen(xp.zeros_like(x), xp.square(x))  # noqa: E731
    deviations = [
        xp.sqrt(_pooled(plan, unit, found, squares, xp)) for unit in plan.units
    ]
    return deviations, [
        _factor(unit.target, std, xp)
        for unit, std in zip(plan.units, deviations, strict=True)
    ]


class _How(NamedTuple):
    """How an output is measured: what is compiled for it is shared by equal ones.

    Attributes:
        span: the part of the result.
        features: the axes whose entries have means of their own.
        exact: whether it is scaled on the way.
        centred: whether the means are taken away then.
        by_feature: whether each feature has a scale of its own.
    """

    span: tuple[int, int, int] | None
    features: tuple[int, ...]
    exact: bool
    centred: bool
    by_feature: bool


@functools.partial(jax.jit, static_argnums=0)
def _scaled(how: _How, result: Array, target: float, live: Array) -> tuple[Array, Seen]:
    """An output, scaled where one pass does and it is `live`, and what it was."""
    z = _wide(cut(result, how.span))
    if how.features:
        axes = tuple(k for k in range(z.ndim) if k not in how.features)
        mean = jnp.mean(z, axes, keepdims=True)
        square = jnp.square(jnp.abs(z - mean))
        variance = jnp.mean(square, axes if how.by_feature else None)
        seen = Seen(jnp.squeeze(mean, axes), variance)
    else:
        mean = _mean(z)
        seen = Seen(mean, _mean(jnp.square(jnp.abs(z - mean))))
    if how.exact:
        by = _factor(target, jnp.sqrt(seen.variance))
        if how.by_feature:
            by = by.reshape(
                [n if k in how.features else 1 for k, n in enumerate(z.shape)]
            )
        z = by * (z - mean) if how.centred else by * z
        result = jnp.where(live, _put(result, z, how.span), result)
    return result, seen


def _factor(target: Any, deviation: Any, xp: Any = jnp) -> Any:
    """What brings a deviation to the target; 1 where nothing can."""
    with np.errstate(all="ignore"):
        by = target / deviation
    return xp.where((deviation > 0) & xp.isfinite(by), by, 1)


def at_hand(found: Any) -> tuple[Any, Any]:
    """What is known, as NumPy has it, with NumPy; what is traced, with JAX.

    There are a few numbers of each layer, and a program for each size of them would
    take longer to compile than they take.
    """
    if any(map(is_traced, jax.tree.leaves(found))):
        return found, jnp
    return jax.device_get(found), np


def _mean(x: Array) -> Array:
    """The mean, over the longest axis first: one sum to a number takes longer."""
    if x.ndim < 2:
        return x.mean()
    return x.mean(max(range(x.ndim), key=lambda k: x.shape[k])).mean()


def _wide(x: Array) -> Array:
    """In float32 or wider."""
    return x.astype(_at_least_32_bits(x.dtype))


def _at_least_32_bits(dtype: Any) -> Any:
    """A dtype, or float32 where it has fewer bits."""
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.float32


def _put(x: Array, part: Array, span: tuple[int, int, int] | None) -> Array:
    """An array with a part of it replaced."""
    part = part.astype(x.dtype)
    if span is None:
        return part
    axis, start, _ = span
    return jax.lax.dynamic_update_slice_in_dim(x, part, start, axis)


def _softened(
    plan: Plan, site: Site, operands: Sequence[Array], result: Array, live: Array
) -> tuple[Array, tuple[Array, Array]]:
    """A softmax, or its numerators, of logits of the deviation that is asked for."""
    logits = plan.logits[site]
    axis, x = logits.point.axis, _wide(operands[0])
    assert axis is not None
    x = x - x.max(axis, keepdims=True)
    seen = x > -5000  # what is lower is masked
    held = seen.sum(axis, keepdims=True, dtype=x.dtype)
    mean = jnp.where(seen, x, 0).sum(axis, keepdims=True) / held
    spread = jnp.where(seen, jnp.square(x - mean), 0).sum(axis) / held.squeeze(axis)
    more = held.squeeze(axis) > 1
    spread = jnp.where(more, spread, 0).sum() / jnp.maximum(more.sum(dtype=x.dtype), 1)
    deviation = jnp.sqrt(spread)
    by = logits.target / deviation
    by = jnp.where((deviation > 0) & jnp.isfinite(by), by, 1)
    x = jnp.where(seen, by * x, -jnp.inf)
    new = jax.nn.softmax(x, axis) if logits.whole else jnp.exp(x)
    return jnp.where(live, new.astype(result.dtype), result), (deviation, by)


def _pooled(
    plan: Plan,
    unit: Unit,
    found: Mapping[Site, Any],
    read: Callable[[Any], Seen],
    xp: Any,
) -> Any:
    """The variance over all uses of a unit, of the shape of its scales.

    What did not run counts nothing; it is NaN where nothing did.
    """
    parts: list[tuple[Array, Array]] = []
    for site, k in unit.uses:
        product = plan.program.products[site]
        if k not in found.get(site, {}):
            continue
        seen = read(found[site][k])
        if unit.by_feature:
            return seen.variance.reshape(unit.sizes)
        part = product.parts[k]
        through = [
            axis in unit.axes
            for axis, loop in zip(part.axes, product.loops, strict=True)
            if loop.length is not None
        ]
        kept = [j for j, leads in enumerate(through) if leads]
        pooled = [j for j, leads in enumerate(through) if not leads]
        order = (*kept, *pooled)

        def rows(x: Array, order: tuple[int, ...] = order) -> Array:
            x = xp.transpose(x, order) if x.ndim == len(order) else x
            return x.reshape(*unit.sizes, -1)

        mean, variance = seen
        if unit.bias is not None:
            mean = xp.zeros_like(variance)
        parts.append((rows(mean), rows(variance)))
    if not parts:
        return xp.full(unit.sizes, xp.nan)
    mean = xp.concatenate([each for each, _ in parts], -1)
    variance = xp.concatenate([each for _, each in parts], -1)
    ran = ~xp.isnan(variance)
    count = ran.sum(-1, dtype=variance.dtype)
    with np.errstate(all="ignore"):
        total = xp.where(ran, mean, 0).sum(-1, keepdims=True)
        middle = total / count[..., None]
    around = variance + xp.square(xp.abs(mean - middle))
    with np.errstate(all="ignore"):
        return xp.where(ran, around, 0).sum(-1) / count


def _lengths(loops: Sequence[Loop]) -> tuple[int, ...]:
    return tuple(loop.length for loop in loops if loop.length is not None)


def _transposed(plan: Plan, site: Site) -> Callable[..., Array]:
    """What the operation at a site makes of a gradient, for its activations."""
    product = plan.program.products[site]
    *_, (_, eqn) = enclosing(plan.program.jaxpr, site)
    operand = product.operand

    def back(
        span: tuple[int, int, int] | None, operands: Sequence[Array], g: Array
    ) -> Array:
        assert operand is not None
        place: int = operand
        if span is not None:
            g = _put(jnp.zeros_like(g), cut(g, span), span)

        def through(x: Array) -> Array:
            own = [*operands]
            own[place] = x
            return eqn.primitive.bind(*own, **eqn.params)

        (handed,) = jax.linear_transpose(through, operands[place])(g)
        return handed

    return back


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _probe(
    back: Callable[..., Array],
    unit: Unit,
    span: tuple[int, int, int] | None,
    z: Array,
    dummy: Array,
    operands: Sequence[Array],
    live: Array,
) -> Array:
    """An output as it is; its gradient is scaled, the dummy's is the deviation."""
    return z


def _probe_forward(
    back: Any, unit: Unit, span: Any, z: Array, dummy: Array, operands: Any, live: Array
) -> tuple[Array, Any]:
    return z, (operands, live)


def _probe_backward(
    back: Callable[..., Array], unit: Unit, span: Any, kept: Any, g: Array
) -> Any:
    operands, live = kept
    handed = _wide(back(operands, g))
    deviation = jnp.sqrt(_mean(jnp.square(jnp.abs(handed))))
    if unit.exact:
        by = _factor(unit.target, deviation)
        scaled = _put(g, by * _wide(cut(g, span)), span)
        g = jnp.where(live, scaled, g)
    zeros = jax.tree.map(jnp.zeros_like, (operands, live))
    return g, deviation.astype(float), *zeros


_probe.defvjp(_probe_forward, _probe_backward)
