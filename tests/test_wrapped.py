"""What wraps a model changes nothing of what its leaves are: one law for all models."""

import functools

import jax
import jax.numpy as jnp
import pytest
import test_stream as stream
import test_trace_roles as roles

from jaxinit.trace import layers

pytestmark = pytest.mark.usefixtures("users_broadcast")


def of_shapes(shapes):
    return {name: jnp.ones(shape) for name, shape in shapes.items()}


def with_heads(name):
    apply, heads, others = roles.HEADS[name]
    return apply, of_shapes(dict.fromkeys(heads, (8, 4, 5)) | others), roles.X


def changed(name):
    """A kernel that a step of its own changes."""
    apply = roles.CHANGED[name]
    return lambda w, x: apply(w, x, roles.STEP), roles.W, roles.X


def taken(name):
    apply, shapes, x, _ = roles.TAKEN[name]
    return apply, of_shapes(shapes), x


def on_stream(apply, shapes):
    return apply, stream.shapes(**shapes), stream.X


MODELS = (
    {name: functools.partial(taken, name) for name in roles.TAKEN}
    | {f"{name}, a kernel": functools.partial(changed, name) for name in roles.CHANGED}
    | {f"heads: {name}": functools.partial(with_heads, name) for name in roles.HEADS}
    | {
        f"members: {name}": roles.ENSEMBLES[name]
        for name in ("twin critics", "vmap of a convolution", "einsum",
                     "kernels with members last", "tables looked up by one index",
                     "experts that see every token")
    }
    | {f.__name__: functools.partial(on_stream, f, stream.EXPERTS)
       for f in stream.MIXTURES}
    | {f"shared: {name}": functools.partial(on_stream, f, stream.BLOCK)
       for name, f in stream.SHARED.items()}
    | {f"branches: {name}": functools.partial(on_stream, f, stream.TWO | more)
       for name, (f, more) in stream.PLAIN.items()}
    | {f"cross: {name}": stream.CROSS[name][0]
       for name in ("Perceiver", "Perceiver, one example", "no queries", "no outputs",
                    "two memories")}
    | {f"gated: {name}": model for name, (model, _) in stream.GATED.items()}
)  # fmt: skip


def twice(inputs):
    return jax.tree.map(lambda a: jnp.stack([a, a]), inputs)


def one_of_two(apply):
    """A branch of the program, of which another does the same."""

    def either(params, *inputs):
        positive = jnp.asarray(jax.tree.leaves(inputs)[0]).sum() > 0
        return jax.lax.cond(positive, apply, apply, params, *inputs)

    return either


def own_derivative(apply):
    @jax.custom_vjp
    def call(params, *inputs):
        return apply(params, *inputs)

    call.defvjp(lambda *given: (apply(*given), None), lambda *_: None)
    return call


WRAPS = {
    "jit and remat": lambda f: jax.jit(jax.checkpoint(f)),
    "own derivative": own_derivative,
    "cond": one_of_two,
    "map": lambda f: lambda p, *x: jax.lax.map(lambda x: f(p, *x), twice(x)),
    "vmap": lambda f: lambda p, *x: jax.vmap(lambda x: f(p, *x))(twice(x)),
}
UNWRAPPED = {("vmap", "ragged"), ("vmap", "unsorted")}  # JAX has no rule for these


def told(apply, params, *inputs):
    """What is said of each leaf, nan as text."""
    return {
        x.path: (
            x.kind, x.in_axes, x.out_axes, x.batch_axes, x.receptive_axes,
            str(x.fan_in), str(x.fan_out), round(x.additions, 6),
        )
        for x in layers(apply, params, *inputs)
    }  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_what_wraps_a_model_changes_nothing(name):
    apply, params, *inputs = MODELS[name]()
    expected = told(apply, params, *inputs)
    for wrap, wrapped in WRAPS.items():
        if (wrap, name) not in UNWRAPPED:
            assert told(wrapped(apply), params, *inputs) == expected, wrap
