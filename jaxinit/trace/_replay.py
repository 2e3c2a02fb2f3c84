"""The one interpreter of programs for all who observe or change a kernel's outputs.

Operations are bound as they are. Those that run programs with products inside are made
anew with the same meaning: a scan stays a scan and a checkpoint a checkpoint, so that
nothing is kept that was not kept before.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.sharding import PartitionSpec

from jaxinit import _compat

from ._products import OWN_DERIVATIVE, Product, Program, program, within
from ._view import Site

Found: TypeAlias = dict[Site, Any]
"""Pytrees of arrays by site."""

Visit: TypeAlias = Callable[
    [Product, tuple[Any, ...], jax.Array, Any, Mapping[Site, Any]], tuple[Any, Any]
]
"""`visit(product, operands, result, given, found) -> (result, emitted)`."""


def replay(
    program: Program,
    visit: Visit,
    arrays: Sequence[Any] | None = None,
    given: Mapping[Site, Any] | None = None,
) -> tuple[Any, Found]:
    """Evaluate a program, and see or change the result of each product on the way.

    Args:
        program: what `program` returned.
        visit: `visit(product, operands, result, given, found) -> (result, emitted)`,
            called for each product as it is traced:

            - `operands` and `result` are those of the operation, within a loop those
              of one iteration;
            - `given` is what the caller gives this product, None if nothing;
            - `found` holds, by site, what products before it emitted in this
              iteration, and before the loop;
            - the result goes on in place of the operation's, in its shape and dtype;
            - what is emitted, a pytree of arrays or None, is handed to the caller.
        arrays: the program's arguments, as `arrays_of(params, *inputs)` lists them;
            those that it was traced with by default.
        given: pytrees of arrays by site. Each scan and each shard_map around the
            product is a leading axis, from outside to inside, as in `Product.loops`.

    Returns:
        What the function returns, and by site what was emitted, with the same leading
        axes. Of a while loop it is the mean over the iterations, of integers the last;
        of a branch that was not taken NaN, of integers 0.

        The program can be differentiated as the function can, `given` included. Within
        a function that brings its own derivative, that one holds, and nothing is known
        of what was given there; `Product.unseen` says so.

    Call it under `jax.jit`: a compiled function binds its parts once.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def apply(params, x):
        ...     return jax.lax.scan(lambda x, w: (x @ w, None), x, params["w"])[0]
        >>> made = program(apply, {"w": jnp.ones((3, 2, 2))}, jnp.ones((1, 2)))
        >>> def visit(product, operands, result, given, found):
        ...     return result / 2, result.mean()
        >>> out, found = replay(made, visit)
        >>> out.tolist(), [means.tolist() for means in found.values()]
        ([[1.0, 1.0]], [[2.0, 2.0, 2.0]])
    """
    run = _Replay(program.products, visit)
    found: Found = {}
    values = program.arrays if arrays is None else arrays
    outs = run.evaluate(program.jaxpr, program.consts, values, (), given or {}, found)
    return program.rebuild(outs), found


class _Replay:
    """One evaluation of a program.

    Attributes:
        products: by site.
        visit: what is called for each.
        around: the sites of all operations that have products within.
    """

    def __init__(self, products: Mapping[Site, Product], visit: Visit) -> None:
        self.products = products
        self.visit = visit
        self.around = {site[:k] for site in products for k in range(1, len(site))}

    def evaluate(
        self,
        jaxpr: Jaxpr,
        consts: Sequence[Any],
        arguments: Sequence[Any],
        outer: Site,
        given: Mapping[Site, Any],
        found: Found,
    ) -> list[Any]:
        """The results of a program; what its products emit is entered in `found`."""
        env = dict(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, core.Literal) else env[atom]

        kept = {id(atom) for atom in jaxpr.outvars}
        last = {
            atom: number
            for number, eqn in enumerate(jaxpr.eqns)
            for atom in eqn.invars
            if not isinstance(atom, core.Literal) and id(atom) not in kept
        }
        for number, eqn in enumerate(jaxpr.eqns):
            site = (*outer, number)
            values = [read(atom) for atom in eqn.invars]
            for atom in eqn.invars:
                if not isinstance(atom, core.Literal) and last.get(atom) == number:
                    env.pop(atom, None)  # no later operation reads it
            if site in self.around:
                outs = self.enter(jaxpr, eqn, values, site, given, found)
            else:
                outs = _bind(jaxpr, eqn, values)
            if site in self.products:
                result, emitted = self.visit(
                    self.products[site], tuple(values), outs[0], given.get(site), found
                )
                outs = [result]
                if emitted is not None:
                    found[site] = emitted
            env.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def enter(
        self,
        jaxpr: Jaxpr,
        eqn: JaxprEqn,
        values: Sequence[Any],
        site: Site,
        given: Mapping[Site, Any],
        found: Found,
    ) -> list[Any]:
        """The results of an operation that has products within."""
        name = eqn.primitive.name
        given = _under(given, site)

        def inside(
            values: Sequence[Any], given: Mapping[Site, Any], prefix: Site = ()
        ) -> tuple[list[Any], Found]:
            """Evaluate a program within; what is emitted there comes back as well."""
            inner = within(eqn)[prefix]
            place = (*site, *prefix)
            seen = dict(found)
            outs = self.evaluate(
                _compat.body(inner), _compat.consts(inner), values, place, given, seen
            )
            return outs, _under(seen, place)

        if name in OWN_DERIVATIVE:
            outs, emitted = inside(*jax.lax.stop_gradient((list(values), given)))
            bound = _bind(jaxpr, eqn, values)
            outs = [_with_derivative(*pair) for pair in zip(outs, bound, strict=True)]
        elif name.startswith("remat"):
            options = {k: eqn.params[k] for k in ("policy", "prevent_cse")}
            outs, emitted = jax.checkpoint(inside, **options)(list(values), given)
        elif name in _compat.CALLS:
            outs, emitted = inside(values, given)
        else:
            build = {
                "scan": _scan,
                "while": _while,
                "cond": _cond,
                "shard_map": _shard_map,
            }
            outs, emitted = build[name](eqn, values, given, inside)
        found.update(emitted)
        return outs


Inside: TypeAlias = Callable[..., tuple[list[Any], Found]]
"""`inside(values, given, prefix) -> (results, emitted)` of a program within."""

Entered: TypeAlias = tuple[list[Any], Found]


def _scan(
    eqn: JaxprEqn, values: Sequence[Any], given: Mapping[Site, Any], inside: Inside
) -> Entered:
    scan = _compat.scan(eqn)
    first = scan.consts + scan.carry
    consts, carry = list(values[: scan.consts]), list(values[scan.consts : first])

    def step(carry: list[Any], slices: Any) -> tuple[list[Any], Any]:
        xs, given = slices
        outs, emitted = inside([*consts, *carry, *xs], given)
        return outs[: scan.carry], (outs[scan.carry :], emitted)

    carry, (ys, emitted) = jax.lax.scan(
        step,
        carry,
        (list(values[first:]), given),
        scan.length,
        reverse=scan.reverse,
        unroll=eqn.params["unroll"],
    )
    return [*carry, *ys], emitted


def _while(
    eqn: JaxprEqn, values: Sequence[Any], given: Mapping[Site, Any], inside: Inside
) -> Entered:
    loop = _compat.while_loop(eqn)
    first = loop.test_consts + loop.turn_consts
    test_consts, consts = values[: loop.test_consts], values[loop.test_consts : first]
    start = list(values[first:])
    test = core.jaxpr_as_fun(_closed(loop.test))

    def turn(carry: list[Any]) -> Entered:
        return inside([*consts, *carry], given, (0,))

    def step(state: tuple[list[Any], Found, Any]) -> tuple[list[Any], Found, Any]:
        carry, sums, count = state
        outs, emitted = turn(carry)
        total = jax.tree.map(lambda a, b: a + b if _inexact(b) else b, sums, emitted)
        return outs, total, count + 1

    shapes = jax.eval_shape(turn, start)[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    outs, sums, count = jax.lax.while_loop(
        lambda state: test(*test_consts, *state[0])[0],
        step,
        (start, zeros, jnp.zeros((), jnp.int32)),
    )
    mean = lambda x: x / count.astype(x.dtype) if _inexact(x) else x  # noqa: E731
    return outs, jax.tree.map(mean, sums)


def _cond(
    eqn: JaxprEqn, values: Sequence[Any], given: Mapping[Site, Any], inside: Inside
) -> Entered:
    index, *operands = values
    count = len(_compat.branches(eqn))

    def branch(k: int) -> Callable[[list[Any], Mapping[Site, Any]], Entered]:
        return lambda values, given: inside(values, given, (k,))

    branches = [branch(k) for k in range(count)]
    shapes = [jax.eval_shape(each, operands, given)[1] for each in branches]

    def filled(k: int) -> Callable[[list[Any], Mapping[Site, Any]], Entered]:
        def run(values: list[Any], given: Mapping[Site, Any]) -> Entered:
            outs, emitted = branches[k](values, given)
            others = {site: of for found in shapes for site, of in found.items()}
            return outs, {**jax.tree.map(_missing, others), **emitted}

        return run

    return jax.lax.switch(index, [filled(k) for k in range(count)], operands, given)


def _shard_map(
    eqn: JaxprEqn, values: Sequence[Any], given: Mapping[Site, Any], inside: Inside
) -> Entered:
    parts = _compat.shard_map(eqn)
    axes = tuple(axis for axis in parts.mesh.axis_names if axis in parts.axes)
    split = PartitionSpec(axes)

    def part(values: list[Any], given: Mapping[Site, Any]) -> Entered:
        outs, emitted = inside(values, jax.tree.map(lambda x: x[0], given))
        # Statistics of one device's part differ from device to device.
        places = [jax.lax.axis_index(axis) for axis in axes]
        varying = 0 * sum(places, jnp.zeros((), jnp.int32))
        own = lambda x: (x + varying.astype(x.dtype))[None]  # noqa: E731
        return outs, jax.tree.map(own, emitted)

    return jax.shard_map(
        part,
        mesh=parts.mesh,
        in_specs=(list(parts.in_specs), split),
        out_specs=(list(parts.out_specs), split),
        axis_names=set(parts.axes),
        check_vma=parts.check_vma,
    )(list(values), given)


def _under(found: Mapping[Site, Any], site: Site) -> Found:
    """What stands at sites within a site."""
    return {at: x for at, x in found.items() if at[: len(site)] == site and at != site}


def _inexact(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _missing(x: Any) -> jax.Array:
    """What stands for an array that a branch has not made."""
    return jnp.full(x.shape, jnp.nan if _inexact(x) else 0, x.dtype)


@jax.custom_jvp
def _replaced(value: jax.Array, bound: jax.Array) -> jax.Array:
    return value


@_replaced.defjvp
def _replaced_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, Any]:
    return primals[0], tangents[1]


def _with_derivative(value: jax.Array, bound: jax.Array) -> jax.Array:
    """The value of one array with the derivative of the other."""
    return _replaced(value, bound) if _inexact(value) else value


def _closed(inner: ClosedJaxpr | Jaxpr) -> ClosedJaxpr:
    if isinstance(inner, ClosedJaxpr):
        return inner
    return ClosedJaxpr(inner, list(_compat.consts(inner)))


def _runs_programs(eqn: JaxprEqn) -> bool:
    return any(
        isinstance(each, (Jaxpr, ClosedJaxpr))
        for value in eqn.params.values()
        for each in (value if isinstance(value, (tuple, list)) else (value,))
    )


def _bind(jaxpr: Jaxpr, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """The results of an operation, bound whole."""
    if not _runs_programs(eqn):
        outs = eqn.primitive.bind(*values, **eqn.params)
        return list(outs) if eqn.primitive.multiple_results else [outs]
    if "donated_invars" in eqn.params:
        # Outside of a trace it would take the caller's arrays away.
        kept = (False,) * len(eqn.params["donated_invars"])
        eqn = eqn.replace(params={**eqn.params, "donated_invars": kept})
    places = {
        atom: place
        for place, atom in enumerate(eqn.invars)
        if not isinstance(atom, core.Literal)
    }
    part = jaxpr.replace(
        eqns=[eqn], constvars=[], invars=list(places), outvars=eqn.outvars
    )
    function = core.jaxpr_as_fun(ClosedJaxpr(part, ()))
    return list(function(*(values[place] for place in places.values())))


def outputs(
    apply: Callable[..., Any], params: Any, *inputs: Any
) -> dict[str, jax.Array]:
    """Evaluate `apply(params, *inputs)` and return the output of each kernel.

    Args:
        apply: as in `layers`.
        params: as in `layers`, concrete or traced.
        inputs: as in `layers`, at least one.

    Returns:
        For the path of each parameter that enters a product or a convolution, what
        came out of the first of them, in order of execution. Each scan around it, as
        over layers, is a leading axis; of a while loop it is the mean over iterations.

    Raises:
        TypeError: as `layers`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxinit.trace import outputs
        >>> params = {"w": jnp.eye(2), "v": 3 * jnp.eye(2)}
        >>> apply = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]
        >>> outputs(apply, params, jnp.zeros((1, 2)))["w"].tolist()
        [[0.0, 0.0]]
    """
    made = program(apply, params, *inputs)
    first: dict[str, Site] = {}
    for product in made.products.values():
        for part in product.parts:
            first.setdefault(part.path, product.site)
    wanted = set(first.values())

    def visit(
        product: Product, operands: Any, result: jax.Array, given: Any, found: Any
    ) -> tuple[jax.Array, jax.Array | None]:
        return result, result if product.site in wanted else None

    _, found = replay(made, visit)
    return {path: found[site] for path, site in first.items()}
