"""The signal at step 0: how large each layer's output is, and the gradient there."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jaxinit._types import Array
from jaxinit.compare.report import style
from jaxinit.compare.task.models import Params, State
from jaxinit.compare.task.task import Task
from jaxinit.trace import KERNELS
from jaxinit.trace._calls import CALLS, body, called
from jaxinit.trace._trace import recorded
from jaxinit.trace._view import Site
from jaxinit.tree._leaves import leaves_of

EXAMPLES = 64
"""Of the training data, that the signal is measured on."""

_PRODUCTS = ("dot_general", "conv_general_dilated", "ragged_dot_general")


class Row(NamedTuple):
    """The signal at one layer.

    Attributes:
        path: of the layer's kernel.
        forward: root mean square of what the kernel puts out, before a bias.
        backward: root mean square of the gradient of an example's loss by it.
    """

    path: str
    forward: float
    backward: float


Signals: TypeAlias = Mapping[str, Sequence[Row]]
"""By scheme the layers in order of execution, the same ones for all."""


def signal(task: Task, params: Params, state: State) -> list[Row]:
    """The signal of one start; see `signals`.

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
    task: Task, starts: Mapping[str, tuple[Params, State]]
) -> dict[str, list[Row]]:
    """The signal of several starts, forward and backward, by one program.

    For layer l with output z_l, a product with its kernel, of B training examples of
    losses L_1, ..., L_B: sqrt(mean(z_l^2)) and sqrt(mean((d(L_1 + ... + L_B)/dz_l)^2)),
    so that the latter does not depend on B. The model is as in training, with dropout
    and the batch's statistics, and computes in float32.

    A kernel that is used more than once counts where it is used first; one that acts
    within a loop, as layers of a scan do, is not seen and has no row.

    Args:
        task: what is learned; the examples are the first `EXAMPLES` for training.
        starts: by scheme the parameters and the state of its start.

    Returns:
        By scheme a row for each layer, in order of execution. What overflows is inf or
        NaN.
    """
    if not starts:
        return {}
    x, y = jnp.asarray(task.x_train[:EXAMPLES]), jnp.asarray(task.y_train[:EXAMPLES])
    measure, paths = _measure(task, *next(iter(starts.values())), x, y)
    found: dict[str, list[Row]] = {}
    for scheme, (params, state) in starts.items():
        measured = np.asarray(measure(params, state), float)
        found[scheme] = [
            Row(path, float(out), float(back))
            for path, (out, back) in zip(paths, measured, strict=True)
        ]
    return found


def to_json(signals: Signals) -> dict[str, Any]:
    """The signals as what JSON can hold; a number that is not finite is None.

    Returns:
        `{"paths": [path, ...], "forward": {scheme: [number, ...]}, "backward": ...}`.
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
    }


def from_json(content: Mapping[str, Any]) -> dict[str, list[Row]]:
    """The signals that `to_json` wrote; what was not finite is NaN."""
    number = lambda value: math.nan if value is None else value  # noqa: E731
    return {
        scheme: [
            Row(path, number(out), number(back))
            for path, out, back in zip(
                content["paths"], forward, content["backward"][scheme], strict=True
            )
        ]
        for scheme, forward in content["forward"].items()
    }


WAYS = {"forward": "outputs of layers", "backward": "gradient by outputs of layers"}
"""What is measured, in words."""


def plot(
    signals: Signals,
    title: str = "",
    ways: Sequence[str] = tuple(WAYS),
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    medium: style.Medium = "file",
) -> np.ndarray:
    """The signals over the layers, a line a scheme.

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
    rows: Sequence[Row],
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


def _measure(
    task: Task, params: Params, state: State, x: Array, y: Array
) -> tuple[Callable[[Params, State], Any], list[str]]:
    """`(params, state) -> (layers, 2)` as a program, and the paths of the layers."""

    def total(params: Params, state: State, x: Array, y: Array, key: Any) -> Array:
        outputs, _ = task.model.apply(params, state, x, key, True)
        return task.loss(outputs, y).mean() * len(x)

    given = (x, y, jax.random.key(0))
    with jax.default_matmul_precision("highest"):
        program = recorded(total, params, state, *given)
    paths = [leaf.path for leaf in leaves_of(params)[0]]
    first: dict[int, Site] = {}
    for (site, leaf), record in program.trace.records.items():
        if record.use.kind in KERNELS:
            first.setdefault(leaf, site)
    sites = frozenset(first.values())

    def losses(taps: Mapping[Site, Array], *arrays: Any) -> tuple[Array, Any]:
        outputs: dict[Site, Array] = {}
        tapped = _Tapped(sites, taps, outputs)
        (loss,) = tapped.evaluate(program.jaxpr, program.consts, arrays, ())
        return loss, outputs

    _, shapes = jax.eval_shape(losses, {}, *program.arrays)
    # A dictionary of tuples comes back sorted, so by equation: in order of execution.
    order = [(site, leaf) for site in shapes for leaf in first if first[leaf] == site]

    @jax.jit
    def measure(params: Params, state: State) -> Array:
        arrays = jax.tree.leaves((params, state, *given))
        zeros = jax.tree.map(lambda out: jnp.zeros(out.shape, out.dtype), shapes)
        grads, outputs = jax.grad(losses, has_aux=True)(zeros, *arrays)
        pairs = [(_rms(outputs[site]), _rms(grads[site])) for site, _ in order]
        return jnp.array(pairs).reshape(-1, 2)

    return measure, [paths[leaf] for _, leaf in order]


class _Tapped(NamedTuple):
    """The evaluation of a program in which the results of some equations are seen.

    Attributes:
        sites: of the equations. taps: what is added to their results, nothing if
            missing. outputs: where results are put, in order of execution.
    """

    sites: Collection[Site]
    taps: Mapping[Site, Array]
    outputs: dict[Site, Array]

    def evaluate(
        self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any], outer: Site
    ) -> list[Any]:
        """The program's results; calls are entered where a site lies within."""
        env = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, core.Literal) else env[atom]

        for number, eqn in enumerate(jaxpr.eqns):
            site = (*outer, number)
            values = [read(atom) for atom in eqn.invars]
            if eqn.primitive.name in ("jit", *CALLS):
                inner = called(eqn)
                if any(each[: len(site)] == site for each in self.sites):
                    closed = getattr(inner, "consts", ())
                    outs = self.evaluate(body(inner), closed, values, site)
                else:
                    # Whole, so that a function keeps the derivative it was given.
                    outs = _alone(jaxpr, eqn)(*values)
            else:
                outs = eqn.primitive.bind(*values, **eqn.params)
                outs = outs if eqn.primitive.multiple_results else [outs]
            if site in self.sites and eqn.primitive.name in _PRODUCTS:
                if site in self.taps:
                    outs = [outs[0] + self.taps[site]]
                self.outputs[site] = outs[0]
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]


def _alone(jaxpr: Any, eqn: Any) -> Callable[..., list[Any]]:
    """One equation of a program as a function of its operands."""
    places = {
        atom: place
        for place, atom in enumerate(eqn.invars)
        if not isinstance(atom, core.Literal)
    }
    part = jaxpr.replace(
        eqns=[eqn], constvars=[], invars=list(places), outvars=eqn.outvars
    )
    function = core.jaxpr_as_fun(core.ClosedJaxpr(part, ()))
    return lambda *values: function(*(values[place] for place in places.values()))


def _rms(x: Array) -> Array:
    """sqrt(mean(x^2)) without squares that overflow or vanish."""
    most = jnp.abs(x).max()
    unit = jnp.where(jnp.isfinite(most) & (most > 0), most, 1)
    return unit * jnp.sqrt(jnp.mean(jnp.square(x / unit)))
