"""What a report tells on request: spectra of kernels, Jacobian and tangent kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._types import Array, is_array
from jaxinit.diagnosis._singular import DENSE, largest, singular_values

EXAMPLES = 16
"""That the tangent kernel and the cosine of gradients are taken over."""

SEEN = 4
"""Of those, whose Jacobian is taken."""

_PROBES = 64
"""Random directions of a mean square where not all singular values are taken."""

_OUTPUTS = 16
"""Outputs up to which a tangent kernel takes each; above it as many random sums."""

_EPSILON = 1e-5
"""What keeps a gradient quotient finite."""


class Spectra(NamedTuple):
    r"""What is told on request; NaN where it is not known, and a note says why.

    Attributes:
        largest: largest singular value of the input-output Jacobian, the mean over the
            first few examples.
        smallest: the smallest one, of as many as there are inputs or outputs, whichever
            are fewer; 0 below the rounding of the largest; NaN above 1,024 of them.
        mean_square: of the singular values, as many as that.
        mean_square_error: its standard error where it comes from random directions,
            else 0.
        ntk_largest: largest eigenvalue of the empirical neural tangent kernel
            $\Theta_{ij} = \frac1C \sum_c \langle \partial f_c(x_i), \partial f_c(x_j)
            \rangle$ over the first examples and all parameters, the mean over outputs
            c, or over random sums of them where there are more than 16.
        ntk_smallest: its smallest eigenvalue.
        ntk_condition: their quotient; infinite where the smallest is 0 to rounding.
        gradient_quotient: the mean over parameters of $|(g - Hg) / (g + \epsilon\,
            \mathrm{sgn}\, g) - 1|$ with the loss's gradient g and Hessian H,
            $\epsilon = 10^{-5}$: how much a step along a gradient changes it.
        gradient_cosine: mean cosine of the gradients of two examples' losses.

    References:
        Pennington, Schoenholz and Ganguli 2017, arXiv:1711.04735, for the Jacobian;
        Xiao, Pennington and Schoenholz 2020, arXiv:1912.13053, for the condition of the
        tangent kernel; Dauphin and Schoenholz 2019, MetaInit, for the quotient; Yang et
        al. 2022, arXiv:2210.05956, for the cosine.
    """

    largest: float = math.nan
    smallest: float = math.nan
    mean_square: float = math.nan
    mean_square_error: float = math.nan
    ntk_largest: float = math.nan
    ntk_smallest: float = math.nan
    ntk_condition: float = math.nan
    gradient_quotient: float = math.nan
    gradient_cosine: float = math.nan

    def sentences(self) -> list[str]:
        """What is known, in words."""
        said: list[str] = []
        if self.largest == self.largest:
            ends = f"up to {self.largest:.3g}"
            if self.smallest == self.smallest:
                ends = f"from {self.smallest:.3g} to {self.largest:.3g}"
            error = (
                f" +- {self.mean_square_error:.2g}" if self.mean_square_error else ""
            )
            said.append(
                f"Input-output Jacobian: singular values {ends}, mean square "
                f"{self.mean_square:.3g}{error}."
            )
        if self.ntk_largest == self.ntk_largest:
            said.append(
                f"Tangent kernel: eigenvalues from {self.ntk_smallest:.3g} to "
                f"{self.ntk_largest:.3g}, condition {self.ntk_condition:.3g}."
            )
        if self.gradient_quotient == self.gradient_quotient:
            said.append(f"Gradient quotient: {self.gradient_quotient:.3g}.")
        if self.gradient_cosine == self.gradient_cosine:
            said.append(
                f"Cosine of two examples' gradients: {self.gradient_cosine:.3g}."
            )
        return said


class Asked(NamedTuple):
    """A function on its first examples, and on all.

    Attributes:
        apply: `apply(params, *others)`.
        params: its parameters.
        few: its other arguments with the first `EXAMPLES` of them.
        examples: how many there are in them.
        rows: which leaves of `few` are inputs with an axis of examples.
        of_few: from outputs to losses, an example each; None where there is no loss.
        total: from parameters to the mean loss of all; None where there is none.
    """

    apply: Callable[..., Any]
    params: Any
    few: Any
    examples: int
    rows: Sequence[int]
    of_few: Callable[[Any], Any] | None
    total: Callable[[Any], Array] | None


def measure(asked: Asked) -> tuple[Spectra, list[str]]:
    """The numbers, and sentences on those that are not known."""
    found = Spectra()
    notes: list[str] = []
    leaves, tree = jax.tree.flatten(asked.params)
    moved = [k for k, leaf in enumerate(leaves) if _is_inexact(leaf)]

    def with_own(floats: Sequence[Array]) -> Any:
        own = list(leaves)
        for k, leaf in zip(moved, floats, strict=True):
            own[k] = leaf
        return tree.unflatten(own)

    floats = [leaves[k] for k in moved]
    out = jax.eval_shape(lambda: asked.apply(asked.params, *asked.few))
    parts = (_jacobian, _tangent_kernel, _gradients)
    if not any(_has_rows(x, asked.examples) for x in jax.tree.leaves(out)):
        notes.append(
            "No Jacobian and no tangent kernel is measured: the outputs have no axis "
            "of examples."
        )
        parts = (_gradients,)
    for part in parts:
        told, why = part(asked, with_own, floats)
        found = found._replace(**told)
        notes += [f"{why}."] if why else []
    return found, notes


Told = tuple[dict[str, float], str]
"""Fields of `Spectra`, and why some are not known."""


def _jacobian(asked: Asked, with_own: Any, floats: Sequence[Array]) -> Told:
    """The spectrum of one example's outputs by its own inputs."""
    leaves, tree = jax.tree.flatten(asked.few)
    moved = [k for k in asked.rows if _is_inexact(leaves[k])]
    if not moved:
        return {}, "No Jacobian by the inputs is measured: they are integers"
    sizes = [math.prod(leaves[k].shape[1:]) for k in moved]
    inputs, cuts = sum(sizes), np.cumsum(sizes)[:-1]

    def outputs(x: Array, floats: Sequence[Array], place: Any) -> Array:
        """Those of an example, all else as it is."""
        own = list(leaves)
        for k, part in zip(moved, jnp.split(x, cuts), strict=True):
            row = part.reshape(own[k].shape[1:]).astype(own[k].dtype)
            own[k] = jnp.asarray(own[k]).at[place].set(row)
        out = asked.apply(with_own(floats), *tree.unflatten(own))
        return _rows(out, asked.examples)[place]

    def at(place: Any) -> Array:
        rows = [jnp.asarray(leaves[k])[place] for k in moved]
        return jnp.concatenate([row.ravel().astype(jnp.float32) for row in rows])

    out = jax.eval_shape(lambda x: outputs(x, floats, 0), at(0))

    @jax.jit
    def back(floats: Sequence[Array], place: Any, vectors: Array) -> Array:
        """Rows of products with the Jacobian from the left."""
        _, pull = jax.vjp(lambda x: outputs(x, floats, place), at(place))
        return jax.lax.map(lambda v: pull(v)[0], vectors, batch_size=16)

    @jax.jit
    def forth(floats: Sequence[Array], place: Any, vectors: Array) -> Array:
        """Rows of products with the Jacobian from the right."""
        push = _pushed(lambda x: outputs(x, floats, place), at(place), out)
        return jax.lax.map(push, vectors, batch_size=16)

    count = min(inputs, out.size)
    numbers: list[tuple[float, float, float]] = []
    errors: list[float] = []
    for place in range(min(SEEN, asked.examples)):
        if count <= DENSE:
            unit = jnp.eye(count, dtype=jnp.float32)
            matrix = (back if out.size <= inputs else forth)(floats, place, unit)
            values = singular_values(np.asarray(matrix))
            numbers.append((values[0], values[-1], float(np.mean(values**2))))
            continue

        def one(product: Any, place: int = place) -> Callable[[Any], Any]:
            return lambda v: np.asarray(product(floats, place, v[None]))[0]

        top = largest(one(forth), one(back), inputs)
        key = jax.random.key(place)
        signs = jax.random.rademacher(key, (_PROBES, out.size), jnp.float32)
        squares = np.asarray(back(floats, place, signs), float)
        sums = np.square(squares).sum(1) / count
        numbers.append((top, math.nan, float(sums.mean())))
        errors.append(float(sums.std(ddof=1)) / math.sqrt(_PROBES))
    most, least, square = np.mean(numbers, axis=0)
    error = math.hypot(*errors) / len(numbers) if errors else 0.0
    told: dict[str, float] = {
        "largest": float(most),
        "smallest": float(least),
        "mean_square": float(square),
        "mean_square_error": error,
    }
    if count > DENSE:
        return told, (
            f"The smallest singular value of a Jacobian with {count} of them is not "
            "measured"
        )
    return told, ""


def _has_rows(x: Any, count: int) -> bool:
    return _is_inexact(x) and x.ndim > 0 and len(x) == count


def _rows(out: Any, count: int) -> Array:
    """All outputs of each example, (examples, numbers)."""
    kept = [x for x in jax.tree.leaves(out) if _has_rows(x, count)]
    return jnp.concatenate(
        [jnp.real(x).reshape(count, -1).astype(jnp.float32) for x in kept], axis=1
    )


def _pushed(function: Any, at: Any, out: Any) -> Callable[[Any], Any]:
    """A product with a Jacobian from the right, for which none but vjp is needed."""
    _, pull = jax.vjp(function, at)
    _, push = jax.vjp(lambda u: pull(u)[0], jnp.zeros(out.shape, out.dtype))
    return lambda v: push(v)[0]


def _tangent_kernel(asked: Asked, with_own: Any, floats: Sequence[Array]) -> Told:
    def outputs(floats: Sequence[Array]) -> Array:
        return _rows(asked.apply(with_own(floats), *asked.few), asked.examples)

    shape = jax.eval_shape(outputs, floats)
    count, width = shape.shape
    if width <= _OUTPUTS:
        signs = jnp.eye(width, dtype=jnp.float32)
    else:
        key = jax.random.key(0)
        signs = jax.random.rademacher(key, (_OUTPUTS, width), jnp.float32)
        signs = signs * math.sqrt(1 / _OUTPUTS)

    @jax.jit
    def rows(floats: Sequence[Array]) -> Array:
        _, pull = jax.vjp(outputs, floats)
        push = _pushed(outputs, floats, shape)

        def row(place: Array) -> Array:
            own = jnp.zeros(shape.shape, shape.dtype).at[place[0]]
            of = pull(own.set(signs[place[1]]))[0]
            return push(of) @ signs[place[1]]

        grid = jnp.indices((count, len(signs))).reshape(2, -1).T
        found = jax.lax.map(row, grid)
        return found.reshape(count, len(signs), count).sum(1) / width

    kernel = np.asarray(rows(floats), float)
    values = np.linalg.eigvalsh((kernel + kernel.T) / 2)
    least, most = float(values[0]), float(values[-1])
    sure = least > count * np.finfo(np.float32).eps * most
    condition = most / least if sure else math.inf
    told = {
        "ntk_largest": most,
        "ntk_smallest": least if sure else 0.0,
        "ntk_condition": condition if most > 0 else math.nan,
    }
    return told, ""


def _gradients(asked: Asked, with_own: Any, floats: Sequence[Array]) -> Told:
    if asked.total is None or asked.of_few is None:
        return {}, (
            "No gradient quotient and cosine are measured: they are those of a loss"
        )
    whole, of_few = asked.total, asked.of_few

    @jax.jit
    def quotient(floats: Sequence[Array]) -> Array:
        slope = jax.grad(lambda x: whole(with_own(x)))
        g = slope(floats)
        held = jax.lax.stop_gradient(g)
        curved = jax.grad(lambda x: _dot(slope(x), held))(floats)
        sums = [
            jnp.abs((a - b) / (a + _EPSILON * jnp.where(a < 0, -1, 1)) - 1).sum()
            for a, b in zip(g, curved, strict=True)
        ]
        return sum(sums, jnp.zeros(())) / sum(x.size for x in floats)

    def losses(floats: Sequence[Array]) -> Array:
        values = of_few(asked.apply(with_own(floats), *asked.few))
        return values.reshape(values.shape[0], -1).mean(1) if values.ndim else values

    told = {"gradient_quotient": float(quotient(floats))}
    if jax.eval_shape(losses, floats).shape != (asked.examples,):
        return told, (
            "No cosine of gradients is measured: the loss is one number and not one of "
            "each example"
        )

    @jax.jit
    def cosine(floats: Sequence[Array]) -> Array:
        _, pull = jax.vjp(losses, floats)

        def add(state: Any, place: Array) -> tuple[Any, None]:
            total, count = state
            (g,) = pull(jnp.zeros(asked.examples).at[place].set(1.0))
            norm = jnp.sqrt(_dot(g, g))
            by = jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0)
            total = [a + by * b.astype(float) for a, b in zip(total, g, strict=True)]
            return (total, count + (norm > 0).astype(float)), None

        start = [jnp.zeros(x.shape, float) for x in floats], jnp.zeros(())
        (total, count), _ = jax.lax.scan(add, start, jnp.arange(asked.examples))
        return (_dot(total, total) - count) / (count * (count - 1))

    return {**told, "gradient_cosine": float(cosine(floats))}, ""


def _dot(a: Sequence[Array], b: Sequence[Array]) -> Array:
    pairs = zip(a, b, strict=True)
    return sum((jnp.vdot(x, y).real for x, y in pairs), jnp.zeros(()))


def _is_inexact(leaf: Any) -> bool:
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)
