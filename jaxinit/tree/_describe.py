"""What a scheme will do to a tree, before it does it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxinit._initializer import Initializer
from jaxinit._layout import Spot
from jaxinit._types import Array, Key
from jaxinit.trace import KERNELS
from jaxinit.tree._choice import Choice, choose
from jaxinit.tree._combine import SchemeLike
from jaxinit.tree._draw import draw_leaf, spot_of
from jaxinit.tree._gain import Gain
from jaxinit.tree._layers import layers_of
from jaxinit.tree._leaves import leaves_of
from jaxinit.tree._module import opened


class Row(NamedTuple):
    """One leaf of a description.

    Attributes:
        path: where it is.
        shape: its shape.
        kind: what it is; see `jaxinit.trace.Layer`.
        fan_in: terms that an output sums; nan where nothing is summed.
        fan_out: outputs that an input reaches.
        activation: what feeds it, as far as its use tells.
        rule: the pattern or scheme that chose; empty if none did.
        init: the initializer that draws it; None if it is kept.
        std: standard deviation of its entries, measured on a draw, or of the values
            that are kept.
        reason: why its kind is unknown.
    """

    path: str
    shape: tuple[int, ...]
    kind: str
    fan_in: float
    fan_out: float
    activation: str | None
    rule: str
    init: Initializer | None
    std: float
    reason: str


class Description(tuple[Row, ...]):
    """Rows, one per leaf, in order of execution; printed, a table."""

    def __repr__(self) -> str:
        """The table, a line per leaf."""
        head = ("path", "shape", "kind", "fan in", "fan out", "after", "scheme", "std")
        lines = [head, *map(_cells, self)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        right = {"fan in", "fan out", "std"}
        aligned = (
            "  ".join(
                cell.rjust(width) if name in right else cell.ljust(width)
                for name, cell, width in zip(head, line, widths, strict=True)
            ).rstrip()
            for line in lines
        )
        notes = [f"{row.path}: {row.reason}" for row in self if row.reason]
        return "\n".join([*aligned, *notes])

    def _repr_html_(self) -> str:
        """The same table in a notebook."""
        return f"<pre>{self!r}</pre>"


def describe(
    params: Any,
    scheme: SchemeLike = (),
    apply: Callable[..., Any] | None = None,
    inputs: Sequence[Any] = (),
    *,
    gain: Gain | None = None,
) -> Description:
    """Say of each leaf what it is and what a scheme would do to it.

    Args:
        params: as in `jaxinit.reinit`.
        scheme: as in `jaxinit.reinit`; without one, the leaves as they are.
        apply: as in `jaxinit.reinit`.
        inputs: as in `jaxinit.reinit`.
        gain: as in `jaxinit.reinit`.

    Returns:
        The `Description`: a tuple of `Row`s, which prints as a table.

    Raises:
        ValueError, TypeError: as `jaxinit.reinit`, save that abstract leaves need no
            initializer.

    Example:
        >>> import jax, jax.numpy as jnp, jaxinit
        >>> params = {"w": jax.ShapeDtypeStruct((512, 512), jnp.float32)}
        >>> apply = lambda params, x: jax.nn.relu(x) @ params["w"]
        >>> x = jnp.ones((1, 512))
        >>> jaxinit.describe(params, jaxinit.he_normal(), apply, (x,))
        path  shape    kind   fan in  fan out  after  scheme          std
        w     512x512  dense     512      512  relu   he_normal()  0.0625
    """
    params, apply, _ = opened(params, apply, inputs)
    leaves, _ = leaves_of(params)
    found = layers_of(leaves, params, apply, inputs)
    values = {leaf.path: leaf.value for leaf in leaves}
    choices = choose(leaves, found, scheme, gain, abstract=False, announce=False)
    return Description(_row(choice, values[path]) for path, choice in choices.items())


def _row(choice: Choice, value: Any) -> Row:
    layer = choice.layer
    fans = choice.fans or (layer.fan_in, layer.fan_out)
    if choice.init is not None:
        std = _measured(choice.init, spot_of(layer, choice.fans))
    elif isinstance(value, jax.ShapeDtypeStruct):
        std = float("nan")
    elif not jnp.issubdtype(value.dtype, jnp.number):
        std = float("nan")  # keys have no size
    else:
        std = float(jnp.std(value.astype(jnp.float32)))
    return Row(
        layer.path,
        layer.shape,
        layer.kind,
        *fans,
        layer.activation_before,
        choice.rule,
        choice.init,
        std,
        layer.reason,
    )


@functools.lru_cache(maxsize=1024)
def _measured(init: Initializer, spot: Spot) -> float:
    """The standard deviation of a draw, whose entries need not be held for it."""

    def std(key: Key) -> Array:
        return jnp.std(draw_leaf(key, "", init, spot).astype(jnp.float32))

    return float(jax.jit(std)(jax.random.key(0)))


def _cells(row: Row) -> tuple[str, ...]:
    number = lambda x: "" if x != x else f"{x:g}"  # noqa: E731
    summed = row.kind in KERNELS
    return (
        row.path,
        "x".join(map(str, row.shape)) or "()",
        row.kind,
        number(row.fan_in) if summed else "",
        number(row.fan_out) if summed else "",
        row.activation or "",
        repr(row.init) if row.init is not None else "as it is",
        f"{row.std:.3g}" if row.std == row.std else "",
    )
