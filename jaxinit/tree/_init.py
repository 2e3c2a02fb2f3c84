"""A whole model from a key: parameters drawn by a scheme, all else by the model."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxinit._types import Key
from jaxinit.tree._leaves import leaves_of
from jaxinit.tree._reinit import Shardings, draw, is_nnx_module, reinit
from jaxinit.tree._rules import Rules, choose, layers_of


class _Made(NamedTuple):
    """A model as its framework makes it.

    Attributes:
        make: `make(key) -> (params, rest)`: what schemes draw, and all else.
        apply: `apply(params, rest, *inputs) -> outputs`.
        join: `join(params, rest)`, what the user gets.
    """

    make: Callable[[Key], tuple[Any, Any]]
    apply: Callable[..., Any]
    join: Callable[[Any, Any], Any]


def init(
    model: Any,
    key: Key,
    *inputs: Any,
    scheme: Rules,
    gain: Literal["auto"] | None = None,
    out_shardings: Shardings = None,
    **options: Any,
) -> Any:
    """Make a model whose parameters a scheme draws, without drawing them twice.

    The model is traced from shapes alone. What the scheme draws is drawn in place, one
    compiled program for each distinct scheme, shape, dtype and sharding; biases,
    normalisation and what else no rule matches come from the model's own
    initialization, in one program that makes nothing more.

    Args:
        model: a Flax Linen module; a class of NNX, or a function whose parameter is
            named `rngs`, that makes an NNX module; a pair `(init, apply)` such as
            Haiku's transformed functions; or a function of a key that makes a
            callable pytree, such as a module of Equinox. A finished module of NNX or
            Equinox will do too: its parameters are drawn anew.
        key: one PRNG key.
        *inputs: inputs of the model, concrete or `jax.ShapeDtypeStruct`s.
        scheme: as `rules` of `jaxinit.reinit`.
        gain: as in `jaxinit.reinit`.
        out_shardings: as in `jaxinit.reinit`, for the parameters.
        **options: keywords with which a Linen module is called, such as `train=False`.

    Returns:
        For Linen the variables, as `model.init` gives them; for NNX and Equinox the
        module; for a pair the parameters.

    Raises:
        TypeError: the model is none of these. ValueError: as `jaxinit.reinit`.

    Example:
        >>> import jax, jax.numpy as jnp, jaxinit
        >>> from flax import linen as nn
        >>> x = jnp.ones((1, 8))
        >>> variables = jaxinit.init(
        ...     nn.Dense(4), jax.random.key(0), x, scheme=jaxinit.he_normal()
        ... )
        >>> variables["params"]["kernel"].shape
        (8, 4)
    """
    if _is_finished(model):

        def call(module: Any, *x: Any) -> Any:
            return module(*x)

        return reinit(
            key, model, scheme, call, inputs, gain=gain, out_shardings=out_shardings
        )
    made = _made(model, inputs, options)
    params, rest = _eval_shape(made.make, key)
    leaves, rebuild = leaves_of(params)
    found = layers_of(leaves, params, made.apply, (rest, *inputs))
    choices = choose(leaves, found, scheme, gain, abstract=False)

    def own(key: Key) -> tuple[list[Any], list[Any]]:
        """What no rule draws; the compiler leaves out the rest of the model's work."""
        params, rest = made.make(key)
        values = {leaf.path: leaf.value for leaf in leaves_of(params)[0]}
        kept = [
            None if choices[leaf.path].init else values[leaf.path] for leaf in leaves
        ]
        return kept, [x for x in jax.tree.leaves(rest) if hasattr(x, "dtype")]

    kept, arrays = jax.jit(own)(key)
    values = draw(
        key,
        [
            leaf if value is None else leaf._replace(value=value)
            for leaf, value in zip(leaves, kept, strict=True)
        ],
        choices,
        scheme,
        out_shardings,
    )
    remaining = iter(arrays)
    rest = jax.tree.map(lambda x: next(remaining) if hasattr(x, "dtype") else x, rest)
    return made.join(rebuild(values), rest)


def _is_finished(model: Any) -> bool:
    if is_nnx_module(model):
        return True
    linen = sys.modules.get("flax.linen")
    if isinstance(model, (type, tuple)) or not callable(model):
        return False
    if linen is not None and isinstance(model, linen.Module):
        return False
    return any(hasattr(leaf, "dtype") for leaf in jax.tree_util.tree_leaves(model))


def _made(model: Any, inputs: Sequence[Any], options: dict[str, Any]) -> _Made:
    linen, nnx = sys.modules.get("flax.linen"), sys.modules.get("flax.nnx")
    if linen is not None and isinstance(model, linen.Module):
        return _linen(model, inputs, options)
    if options:
        raise TypeError(
            f"init: options {sorted(options)} are for Linen modules; wrap the model in "
            "a function that takes the inputs alone."
        )
    if isinstance(model, tuple) and len(model) == 2 and all(map(callable, model)):
        return _pair(*model, inputs)
    if nnx is not None and _makes_nnx(model, nnx):
        return _nnx(model, nnx)
    if callable(model):
        return _Made(
            lambda key: (model(key), ()),
            lambda params, rest, *x: params(*x),
            lambda params, rest: params,
        )
    raise TypeError(
        f"init: model={model!r} must be a Linen module, a function of rngs that makes "
        "an NNX module, a pair (init, apply), or a function of a key that makes a "
        "callable module."
    )


def _linen(module: Any, inputs: Sequence[Any], options: dict[str, Any]) -> _Made:
    def make(key: Key) -> tuple[Any, Any]:
        rest = dict(module.init(key, *map(_concrete, inputs), **options))
        return rest.pop("params", {}), rest

    def apply(params: Any, rest: Any, *x: Any) -> Any:
        variables = {"params": params, **rest}
        rngs = {name: jax.random.key(0) for name in ("params", "dropout")}
        outputs = module.apply(variables, *x, rngs=rngs, mutable=list(rest), **options)
        return outputs[0]

    return _Made(make, apply, lambda params, rest: {"params": params, **rest})


def _nnx(factory: Any, nnx: Any) -> _Made:
    graphs: list[Any] = []

    def make(key: Key) -> tuple[Any, Any]:
        graph, params, rest = nnx.split(factory(rngs=nnx.Rngs(key)), nnx.Param, ...)
        graphs.append(graph)
        return params, rest

    def join(params: Any, rest: Any) -> Any:
        return nnx.merge(graphs[0], params, rest)

    return _Made(make, lambda params, rest, *x: join(params, rest)(*x), join)


def _makes_nnx(model: Any, nnx: Any) -> bool:
    if isinstance(model, type):
        return issubclass(model, nnx.Module)
    return callable(model) and "rngs" in inspect.signature(model).parameters


def _pair(
    make: Callable[..., Any], apply: Callable[..., Any], inputs: Sequence[Any]
) -> _Made:
    takes_inputs = len(inspect.signature(make).parameters) > 1
    takes_key = "rng" in inspect.signature(apply).parameters
    given = [_concrete(x) for x in inputs] if takes_inputs else []

    def on(params: Any, rest: Any, *x: Any) -> Any:
        return apply(params, jax.random.key(0), *x) if takes_key else apply(params, *x)

    return _Made(lambda key: (make(key, *given), ()), on, lambda params, rest: params)


def _concrete(x: Any) -> Any:
    """Zeros for what has a shape alone, leaf by leaf."""
    return jax.tree.map(
        lambda leaf: (
            jnp.zeros(leaf.shape, leaf.dtype)
            if isinstance(leaf, jax.ShapeDtypeStruct)
            else leaf
        ),
        x,
    )


def _eval_shape(make: Callable[[Key], Any], key: Key) -> Any:
    """`jax.eval_shape` that keeps what is no array as it is."""
    seen: list[tuple[list[Any], Any]] = []

    def arrays(key: Key) -> list[Any]:
        flat, tree = jax.tree.flatten(make(key))
        seen.append((flat, tree))
        return [x for x in flat if hasattr(x, "dtype")]

    shapes = iter(jax.eval_shape(arrays, key))
    flat, tree = seen[0]
    filled = [next(shapes) if hasattr(x, "dtype") else x for x in flat]
    return jax.tree.unflatten(tree, filled)
