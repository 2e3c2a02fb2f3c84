"""`layers`: from a function and its parameters to the list of its layers."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, Var

from jaxinit._types import is_array

# Imported for the rules they enter.
from . import _axes, _calls, _entrywise, _index, _layout, _sinks, _sums  # noqa: F401
from ._layer import KERNELS, Layer, Use
from ._stream import Window
from ._value import CONST, GATES, Info, Value
from ._view import whole_leaf
from ._walk import Record, Trace, number_of, shape_of


def layers(apply: Callable[..., Any], params: Any, *inputs: Any) -> list[Layer]:
    """The layers of `apply(params, *inputs)`, by how it uses each parameter.

    Nothing is computed and nothing allocated: the function is traced once, from
    shapes. It may be any that JAX can trace, of any framework or none.

    Args:
        apply: the function, called as `apply(params, *inputs)`.
        params: a pytree whose array leaves, concrete or `jax.ShapeDtypeStruct`, are
            the parameters. Leaves that are neither, such as an Equinox module's
            functions, are passed on as they are.
        inputs: pytrees of the same, the function's inputs (typed keys included). With
            none, the arrays that `apply` closes over count as inputs.

    Returns:
        One `Layer` for each array leaf of `params`, in order of execution; those that
        are not used, or in no readable way, come last, of kind "unknown" with the
        reason.

    Raises:
        TypeError: if `params` has no array leaf.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxinit.trace import layers
        >>> params = {"q": jax.ShapeDtypeStruct((16, 4, 8), jnp.float32)}
        >>> def heads(params, x):
        ...     return jnp.einsum("bd,dhk->bhk", x, params["q"])
        >>> (q,) = layers(heads, params, jax.ShapeDtypeStruct((2, 16), jnp.float32))
        >>> q.kind, q.in_axes, q.out_axes, q.fan_in, q.fan_out
        ('dense', (0,), (1, 2), 16.0, 32.0)
    """
    program = recorded(apply, params, *inputs)
    leaves = program.arrays[: len(program.names)]
    return assembled(program.trace, program.names, leaves)


_RESULT = object()
"""Stands where a function returns an array."""


class Recorded(NamedTuple):
    """A function as a program, walked once.

    Attributes:
        jaxpr: the program. consts: its constants.
        arrays: its arguments, parameters first.
        names: paths of the parameters.
        trace: what the walk found.
        rebuild: from the program's results to what the function returns.
    """

    jaxpr: Jaxpr
    consts: list[Any]
    arrays: list[Any]
    names: list[str]
    trace: Trace
    rebuild: Callable[[Sequence[Any]], Any]


def recorded(apply: Callable[..., Any], params: Any, *inputs: Any) -> Recorded:
    """Trace `apply(params, *inputs)` and walk the program; see `layers`."""
    flat, tree = jax.tree_util.tree_flatten_with_path((params, *inputs))
    dynamic = [leaf for _, leaf in flat if is_array(leaf)]
    if not any(is_array(leaf) for leaf in jax.tree_util.tree_leaves(params)):
        raise TypeError(
            "params holds no arrays; pass a pytree of arrays or ShapeDtypeStructs, "
            "for instance the result of jax.eval_shape(model.init, key, x)."
        )

    returned: list[tuple[list[Any], Any]] = []  # what is no array, and the structure

    def call(*arrays: Any) -> list[Any]:
        given = iter(arrays)
        leaves = [next(given) if is_array(leaf) else leaf for _, leaf in flat]
        params, *inputs = jax.tree_util.tree_unflatten(tree, leaves)
        out, out_tree = jax.tree_util.tree_flatten(apply(params, *inputs))
        returned.append(([_RESULT if is_array(x) else x for x in out], out_tree))
        return [leaf for leaf in out if is_array(leaf)]

    def rebuild(results: Sequence[Any]) -> Any:
        out, out_tree = returned[0]
        made = iter(results)
        return out_tree.unflatten([next(made) if x is _RESULT else x for x in out])

    program = jax.make_jaxpr(call)(*dynamic)
    jaxpr = program.jaxpr
    count = len([x for x in jax.tree_util.tree_leaves(params) if is_array(x)])
    paths = [path[1:] for path, leaf in flat if is_array(leaf)][:count]
    shapes = [tuple(leaf.shape) for leaf in dynamic[:count]]

    def walk(trace: Trace) -> None:
        values = [Value((whole_leaf(k, shape),)) for k, shape in enumerate(shapes)]
        for number in range(len(dynamic) - count):
            layout = _axes.of_input(dynamic[count + number].shape)
            values.append(Value(info=_input(trace.token(number, (0,)), layout)))
        consts: list[Value] = []
        for var in jaxpr.constvars:
            info = _input(trace.token(0, (1,)), _axes.of_input(shape_of(var)))
            closed = len(dynamic) == count and bool(shape_of(var))
            consts.append(Value(info=info) if closed else CONST)
        for k, const in enumerate(program.consts):
            if consts[k].is_const and not shape_of(jaxpr.constvars[k]):
                consts[k] = Value(scalar=number_of(const))
        for out in trace.run(jaxpr, values, consts):
            trace.end(out)

    trace = _walked(shapes, walk)
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p in paths]
    return Recorded(jaxpr, program.consts, dynamic, names, trace, rebuild)


def _walked(
    shapes: Sequence[tuple[int, ...]], walk: Callable[[Trace], object]
) -> Trace:
    """A trace after its walk; one more where that shows leaves to be latents."""
    trace = Trace(shapes)
    walk(trace)
    if latents := trace.latents():
        trace = Trace(shapes, latents)
        walk(trace)
    return trace


_RANK = {"scale": 1, "bias": 1, "unknown": 2}


def _input(node: frozenset[int], layout: _axes.Layout) -> Info:
    """What is known of an input."""
    return Info(roots=node, reach=node, layout=layout)


def layers_made(
    jaxpr: Jaxpr,
    made: Mapping[str, Var],
    inputs: Collection[Var],
    outputs: Sequence[Any],
) -> list[Layer] | None:
    """The layers of a program that makes its parameters itself, and then uses them.

    Args:
        jaxpr: the program.
        made: for each parameter's path the variable that holds it once it is made.
        inputs: those of the program's inputs that are inputs of the model.
        outputs: the variables of the model's outputs.

    Returns:
        As `layers`; None where a parameter is used before it is whole, as layers are
        that a loop makes, so that the program cannot tell.
    """
    variables = list(made.values())
    computed = {var for eqn in jaxpr.eqns for var in eqn.outvars}
    if len(set(variables)) < len(variables) or not computed.issuperset(variables):
        return None
    shapes = [shape_of(var) for var in variables]

    def walk(trace: Trace) -> None:
        given = {
            var: Value((whole_leaf(k, shape),))
            for k, (var, shape) in enumerate(zip(variables, shapes, strict=True))
        }
        values = [
            Value(info=_input(trace.token(k, (0,)), _axes.of_input(shape_of(var))))
            if var in inputs
            else CONST
            for k, var in enumerate(jaxpr.invars)
        ]
        outs = dict(
            zip(jaxpr.outvars, trace.run(jaxpr, values, (), given), strict=True)
        )
        for var in outputs:
            trace.end(outs[var])

    trace = _walked(shapes, walk)
    found = assembled(trace, list(made), [var.aval for var in variables])
    return None if any(layer.uses == 0 for layer in found) else found


def gates_of(trace: Trace) -> set[int]:
    """The leaves of which gates are made."""
    return {leaf for leaf, (_, name) in trace.after.items() if name in GATES}


def assembled(trace: Trace, names: list[str], leaves: list[Any]) -> list[Layer]:
    """The records of each leaf as one layer, in order of the first."""
    of_leaf: dict[int, list[tuple[int, Record]]] = {}
    for order, ((_, leaf), record) in enumerate(trace.records.items()):
        of_leaf.setdefault(leaf, []).append((order, record))
    placed: list[tuple[int, Layer]] = []
    ends, windows = trace.stream.ends(gates_of(trace)), trace.stream.windows()
    pieces = trace.stream.pieces()
    learned = {
        leaf
        for leaf, found in of_leaf.items()
        if any(r.use.kind in (*KERNELS, "embedding") for _, r in found)
    }
    order_of_kernel = {leaf: found[0][0] for leaf, found in of_leaf.items()}
    for leaf, name in enumerate(names):
        found = of_leaf.get(leaf, [])
        # A known use tells more than an earlier unknown one, and a product than a scale
        # or a bias, as which a leaf that is updated or normalised is met first.
        found.sort(key=lambda pair: _RANK.get(pair[1].use.kind, 0))
        if leaf in trace.normalised:
            # Products before it, as in a spectral norm, only measure the kernel.
            last = [p for p in found if p[1].use.kind in KERNELS][-1:]
            found = last + [p for p in found if p not in last]
        uses = [_named(record, names, learned, trace, leaf) for _, record in found]
        if not uses:
            reason = trace.hints.get(leaf, "It is never used.")
            uses = [Use("unknown", reason=reason)]
        after = trace.after.get(leaf) if leaf in learned else None
        if leaf in learned and not (after and after[1] == "softmax"):
            # Queries have a factor for the size of their heads.
            factor = uses[0].multiplier * trace.factors.get(leaf, 1.0)
            uses[0] = replace(uses[0], multiplier=factor)
        if leaf in pieces:
            uses[0] = _pieced(uses[0], [r for _, r in found if r.site in pieces[leaf]])
        if leaf in windows:
            uses[0] = _window(uses[0], trace.shapes[leaf], windows[leaf])
        if leaf in ends:
            uses[0] = _in_turn(uses[0], trace.shapes[leaf], ends[leaf].additions)
        first = {field.name: getattr(uses[0], field.name) for field in fields(Use)}
        fed = trace.feeds.get(leaf, {}) if leaf in learned else {}
        fed = sorted(fed.keys() & learned, key=lambda k: order_of_kernel.get(k, 0))
        layer = Layer(
            **first,
            path=name,
            shape=tuple(leaves[leaf].shape),
            dtype=leaves[leaf].dtype,
            uses=_count([record for _, record in found]),
            feeds=tuple(names[k] for k in fed),
            activation_after=after[1] if after else None,
            normalized_after=leaf in trace.normed,
            residual=leaf in ends,
            additions=ends[leaf].additions if leaf in ends else 0.0,
            uncounted=leaf in ends and ends[leaf].uncounted,
            ends=tuple(names[k] for k, end in ends.items() if leaf in end.inside),
            other_uses=tuple(uses[1:]),
        )
        place = found[0][0] if found else len(trace.records) + leaf
        placed.append((place, layer))
    return [layer for _, layer in sorted(placed, key=lambda pair: pair[0])]


def _count(records: list[Record]) -> int:
    """How often a leaf is used, parts added up to wholes."""
    if not records:
        return 0
    return max(1, round(sum(record.fraction for record in records)))


def _window(use: Use, shape: Sequence[int], window: Window) -> Use:
    """A kernel whose slices are summed: a convolution, or a product in blocks."""
    count = window.number
    if use.kind != "dense" or count == 1:
        return use
    if math.prod(shape[axis] for axis in use.in_axes) == use.fan_in * count:
        return replace(use, fan_in=use.fan_in * count)
    if not window.parts or [shape[axis] for axis in use.layer_axes] != [count]:
        return use
    return replace(
        use,
        kind="conv",
        layer_axes=(),
        batch_axes=tuple(a for a in use.batch_axes if a not in use.layer_axes),
        receptive_axes=use.layer_axes,
        fan_in=use.fan_in * count,
        fan_out=use.fan_out * count,
    )


def _pieced(use: Use, records: Sequence[Record]) -> Use:
    """A kernel whose parts meet parts of an input, and are summed, as the whole."""
    apart = sum(record.fraction for record in records) < 1 + 1e-6
    if not apart or len(records) < 2 or any(r.use.batch_axes for r in records):
        return use
    return replace(use, fan_in=sum(record.use.fan_in for record in records))


def _in_turn(use: Use, shape: Sequence[int], additions: float) -> Use:
    """The last kernels of branches: one after the other only if each adds its own."""
    count = math.prod(shape[axis] for axis in use.layer_axes)
    return use if additions >= count else replace(use, layer_axes=())


def _named(
    record: Record, names: list[str], learned: set[int], trace: Trace, leaf: int
) -> Use:
    """The finished use."""
    acts_on = tuple(names[leaf] for leaf in sorted(record.acts_on & learned))
    use = replace(record.use, acts_on=acts_on)
    if use.kind not in (*KERNELS, "embedding") or record.fraction < 1:
        return use
    stacked = trace.labels.separate(leaf, use.out_axes)
    members = math.prod(trace.shapes[leaf][axis] for axis in stacked)
    return replace(
        use,
        out_axes=tuple(axis for axis in use.out_axes if axis not in stacked),
        batch_axes=tuple(sorted({*use.batch_axes, *stacked})),
        fan_out=use.fan_out / members,
    )
