"""What the package reads of a jaxpr's equations, against the JAX that is installed."""

import ast
import pathlib

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxinit
from jaxinit import _compat

X, W = jnp.ones((4, 4)), jnp.ones((4, 4))
MESH = jax.sharding.AbstractMesh((2,), ("d",), (AxisType.Auto,))


@jax.custom_jvp
def with_jvp(x):
    return 2 * x


@jax.custom_vjp
def with_vjp(x):
    return 2 * x


@jax.custom_batching.custom_vmap
def with_vmap(x):
    return 2 * x


with_jvp.defjvp(lambda x, dx: (with_jvp(*x), *dx))
with_vjp.defvjp(lambda x: (with_vjp(x), None), lambda _, g: (g,))
with_vmap.def_vmap(lambda size, batched, x: (with_vmap(x), batched[0]))


def sharded(function):
    specs = {"in_specs": P("d"), "out_specs": P("d"), "check_vma": False}
    return jax.shard_map(function, mesh=MESH, **specs)


READ = {
    "all_gather": (
        sharded(lambda x: lax.all_gather(x, "d", axis=1, tiled=True)),
        "all_gather_dimension axis_size tiled",
    ),
    "argmax": (lambda x: jnp.argmax(x, 1), "axes"),
    "broadcast_in_dim": (
        lambda x: jnp.broadcast_to(x, (2, 4, 4)),
        "shape broadcast_dimensions",
    ),
    "composite": (lax.composite(jnp.sin, "test.sin"), "jaxpr|call_jaxpr"),
    "concatenate": (lambda x: jnp.concatenate([x, x], 1), "dimension"),
    "cond": (lambda x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x), "branches"),
    "conv_general_dilated": (
        lambda x: lax.conv(x[None, None], x[None, None], (1, 1), "SAME"),
        "dimension_numbers feature_group_count batch_group_count window_strides "
        "lhs_dilation rhs_dilation",
    ),
    "custom_linear_solve": (
        lambda x: lax.custom_linear_solve(
            lambda v: 2 * v, x, lambda _, b: b / 2, symmetric=True
        ),
        "const_lengths jaxprs",
    ),
    "custom_jvp_call": (with_jvp, "call_jaxpr"),
    "custom_vjp_call": (with_vjp, "call_jaxpr"),
    "custom_vmap_call": (with_vmap, "call"),
    "dot_general": (lambda x: x @ W, "dimension_numbers"),
    "dynamic_slice": (
        lambda x: lax.dynamic_slice(x, (x[0, 0].astype(int), 0), (1, 4)),
        "slice_sizes",
    ),
    "gather": (
        lambda x: jnp.take(x, jnp.zeros((4,), int), axis=0),
        "dimension_numbers slice_sizes",
    ),
    "integer_pow": (lambda x: x**2, "y"),
    "jit": (jax.jit(jnp.sin), "jaxpr name donated_invars"),
    "linear_call": (
        lambda x: jax.custom_derivatives.linear_call(jnp.multiply, jnp.multiply, x, x),
        "callee",
    ),
    "pad": (lambda x: jnp.pad(x, 1), "padding_config"),
    "ragged_dot_general": (
        lambda x: lax.ragged_dot(x, W[None], jnp.array([4])),
        "ragged_dot_dimension_numbers",
    ),
    "reduce_sum": (lambda x: x.sum(0), "axes"),
    "remat2": (jax.checkpoint(jnp.sin), "jaxpr policy prevent_cse"),
    "reshape": (lambda x: x.reshape(16), "new_sizes dimensions"),
    "scan": (
        lambda x: lax.scan(lambda c, row: (c + row, c), x[0], x),
        "jaxpr length reverse unroll num_consts|ft_in num_carry|ft_in",
    ),
    "shard_map": (
        sharded(jnp.sin),
        "jaxpr mesh in_specs out_specs check_vma newly_manual_axes",
    ),
    "slice": (
        lambda x: lax.slice(x, (0, 1), (4, 3)),
        "start_indices limit_indices strides",
    ),
    "split": (lambda x: jnp.split(x, 2), "axis sizes"),
    "squeeze": (lambda x: x[None].squeeze(0), "dimensions"),
    "stack": (lambda x: jnp.stack([x, x]), "axis"),
    "tile": (lambda x: jnp.tile(x, (2, 1)), "reps"),
    "transpose": (lambda x: x.T, "permutation"),
    "unstack": (lambda x: jnp.unstack(x), "axis"),
    "while": (
        lambda x: lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ W, x),
        "cond_jaxpr body_jaxpr cond_nconsts body_nconsts",
    ),
}
"""For each primitive whose parameters are read a program that holds one, and them.

Between bars stand the names that one parameter has had; one of them is needed.
"""

NEWER = {"stack", "tile", "unstack"}
"""Primitives that some supported releases write as others."""


def equations(jaxpr):
    """The equations of a program and of all programs inside it."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple) else (value,):
                if isinstance(inner, (_compat.ClosedJaxpr, _compat.Jaxpr)):
                    yield from equations(_compat.body(inner))


def found(program, primitive):
    """The equations of a primitive in a program."""
    eqns = equations(jax.make_jaxpr(program)(X).jaxpr)
    return [eqn for eqn in eqns if eqn.primitive.name == primitive]


def test_equations_have_the_parameters_that_are_read():
    lacking = []
    for primitive, (program, names) in READ.items():
        eqns = found(program, primitive)
        if not eqns and primitive not in NEWER:
            lacking.append(f"{primitive}: no such equation")
        for eqn in eqns[:1]:
            lacking += [
                f"{primitive}: no {name}, but {sorted(eqn.params)}"
                for name in names.split()
                if not any(each in eqn.params for each in name.split("|"))
            ]
    assert not lacking, "JAX changed its equations:\n" + "\n".join(lacking)


def test_every_parameter_that_is_read_is_checked():
    known = {name for _, names in READ.values() for name in names.split()}
    known = {each for name in known for each in name.split("|")}
    root = pathlib.Path(jaxinit.__file__).parent
    read = {}
    for file in root.rglob("*.py"):
        text = file.read_text()
        if "jax.extend.core" not in text:
            continue  # elsewhere `params` are a model's
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                if ast.unparse(node.value).split(".")[-1] == "params":
                    place = f"{file.relative_to(root)}:{node.lineno}"
                    read.setdefault(node.slice.value, place)
    assert len(read) > 20
    assert {name: at for name, at in read.items() if name not in known} == {}


def test_parts_of_loops():
    def turn(carry, xs):
        x, count = carry
        return (x @ W + xs[0], count + 1), (xs[1], x, count)

    def program(x):
        rows = jnp.ones((3, 4, 4)), jnp.ones(3)
        return lax.scan(turn, (x, 0.0), rows, reverse=True)

    (scan,) = map(_compat.scan, found(program, "scan"))
    assert (scan.consts, scan.carry, scan.length, scan.reverse) == (1, 2, 3, True)
    assert len(_compat.body(scan.jaxpr).invars) == 1 + 2 + 2
    (loop,) = map(_compat.while_loop, found(READ["while"][0], "while"))
    assert (loop.test_consts, loop.turn_consts) == (0, 1)
