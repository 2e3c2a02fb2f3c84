"""A whole model from a key: parameters drawn by a scheme, all else by the model."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxinit._types import Key
from jaxinit.trace import Layer
from jaxinit.trace._trace import layers_made
from jaxinit.tree._choice import choose
from jaxinit.tree._layers import layers_of
from jaxinit.tree._leaves import leaves_of
from jaxinit.tree._reinit import Shardings, draw, is_nnx_module, reinit
from jaxinit.tree._rules import SchemeLike


class _Made(NamedTuple):
    """A model as its framework makes it.

    Attributes:
        make: `make(key, *inputs) -> ((params, rest), outputs)`: what schemes draw, all
            else that the model holds, and its outputs.
        apply: `apply(params, rest, *inputs) -> outputs`.
        join: `join(params, rest)`, what the user gets.
    """

    make: Callable[..., tuple[tuple[Any, Any], Any]]
    apply: Callable[..., Any]
    join: Callable[[Any, Any], Any]


def init(
    model: Any,
    key: Key,
    *inputs: Any,
    scheme: SchemeLike,
    gain: Literal["auto"] | None = None,
    out_shardings: Shardings = None,
    **options: Any,
) -> Any:
    """Make a model whose parameters a scheme draws, without drawing them twice.

    The model is traced from shapes alone. What the scheme draws is drawn in place, one
    compiled program for each distinct scheme, shape, dtype and sharding; biases,
    normalisation and what else no rule matches come from the model's own
    initialization, of which only the operations that they need are run.

    Args:
        model: a Flax Linen module; a class of NNX, or a function whose parameter is
            named `rngs`, that makes an NNX module; a pair `(init, apply)` such as
            Haiku's transformed functions; or a function of a key that makes a
            callable pytree, such as a module of Equinox. A finished module of NNX or
            Equinox will do too: its parameters are drawn anew.
        key: one PRNG key.
        *inputs: inputs of the model, concrete or `jax.ShapeDtypeStruct`s.
        scheme: as in `jaxinit.reinit`.
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
    made = _made(model, options)
    program = _Program(made.make, key, inputs)
    params, rest = program.shapes
    leaves, rebuild = leaves_of(params)
    found = program.layers([leaf.path for leaf in leaves])
    if found is None:
        found = layers_of(leaves, params, made.apply, (rest, *inputs))
    choices = choose(leaves, found, scheme, gain, abstract=False)

    ruled = [choices[leaf.path].init is not None for leaf in leaves]
    own_params, rest = program.but(ruled, key)
    leaves, _ = leaves_of(own_params)
    values = draw(key, leaves, choices, scheme, out_shardings)
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


def _made(model: Any, options: dict[str, Any]) -> _Made:
    linen, nnx = sys.modules.get("flax.linen"), sys.modules.get("flax.nnx")
    if linen is not None and isinstance(model, linen.Module):
        return _linen(model, options)
    if options:
        raise TypeError(
            f"init: options {sorted(options)} are for Linen modules; wrap the model in "
            "a function that takes the inputs alone."
        )
    if isinstance(model, tuple) and len(model) == 2 and all(map(callable, model)):
        return _pair(*model)
    if nnx is not None and _makes_nnx(model, nnx):
        return _nnx(model, nnx)
    if callable(model):
        return _of_key(model)
    raise TypeError(
        f"init: model={model!r} must be a Linen module, a function of rngs that makes "
        "an NNX module, a pair (init, apply), or a function of a key that makes a "
        "callable module."
    )


def _linen(module: Any, options: dict[str, Any]) -> _Made:
    def make(key: Key, *x: Any) -> Any:
        outputs, variables = module.init_with_output(key, *x, **options)
        rest = dict(variables)
        return (rest.pop("params", {}), rest), outputs

    def apply(params: Any, rest: Any, *x: Any) -> Any:
        variables = {"params": params, **rest}
        rngs = {name: jax.random.key(0) for name in ("params", "dropout")}
        return module.apply(variables, *x, rngs=rngs, mutable=list(rest), **options)[0]

    return _Made(make, apply, lambda params, rest: {"params": params, **rest})


def _nnx(factory: Any, nnx: Any) -> _Made:
    graphs: list[Any] = []

    def make(key: Key, *x: Any) -> Any:
        module = factory(rngs=nnx.Rngs(key))
        graph, params, rest = nnx.split(module, nnx.Param, ...)
        graphs.append(graph)
        return (params, rest), module(*x)

    def join(params: Any, rest: Any) -> Any:
        return nnx.merge(graphs[0], params, rest)

    return _Made(make, lambda params, rest, *x: join(params, rest)(*x), join)


def _makes_nnx(model: Any, nnx: Any) -> bool:
    if isinstance(model, type):
        return issubclass(model, nnx.Module)
    return callable(model) and "rngs" in inspect.signature(model).parameters


def _pair(start: Callable[..., Any], call: Callable[..., Any]) -> _Made:
    takes_inputs = len(inspect.signature(start).parameters) > 1
    takes_key = "rng" in inspect.signature(call).parameters

    def apply(params: Any, rest: Any, *x: Any) -> Any:
        return call(params, jax.random.key(0), *x) if takes_key else call(params, *x)

    def make(key: Key, *x: Any) -> Any:
        params = start(key, *x) if takes_inputs else start(key)
        return (params, ()), apply(params, (), *x)

    return _Made(make, apply, lambda params, rest: params)


def _of_key(build: Callable[[Key], Any]) -> _Made:
    def make(key: Key, *x: Any) -> Any:
        module = build(key)
        return (module, ()), module(*x)

    def apply(module: Any, rest: Any, *x: Any) -> Any:
        return module(*x)

    return _Made(make, apply, lambda module, rest: module)


class _Program:
    """A model made and used once, traced: for its shapes, its layers and its parts.

    What is no array in the model stays as it is.
    """

    def __init__(
        self, make: Callable[..., Any], key: Key, inputs: Sequence[Any]
    ) -> None:
        """Trace the making of the model and its use."""
        flat, tree = jax.tree.flatten((key, *inputs))
        seen: list[tuple[list[Any], Any]] = []

        def arrays(*given: Any) -> tuple[list[Any], list[Any]]:
            key, *x = jax.tree.unflatten(tree, given)
            model, outputs = make(key, *x)
            seen.append(jax.tree.flatten(model))
            return _arrays(seen[0][0]), _arrays(jax.tree.leaves(outputs))

        self._closed, (shapes, _) = jax.make_jaxpr(arrays, return_shape=True)(*flat)
        (self._flat, self._tree), *_ = seen
        self._count = len(shapes)
        self._inputs = inputs
        self.shapes = self._filled(shapes)

    def layers(self, paths: Sequence[str]) -> list[Layer] | None:
        """The layers of the first arrays, which have these paths, if it can tell."""
        jaxpr = self._closed.jaxpr
        made = dict(zip(paths, jaxpr.outvars, strict=False))
        outputs = jaxpr.outvars[self._count :]
        if any(isinstance(var, core.Literal) for var in (*made.values(), *outputs)):
            return None
        return layers_made(jaxpr, made, set(jaxpr.invars[1:]), outputs)

    def but(self, skipped: Sequence[bool], key: Key) -> Any:
        """The model without the first arrays that are to be skipped.

        Args:
            skipped: for the first arrays whether each is skipped; all others are made.
            key: the model's key.

        Returns:
            The model, with shapes in place of arrays that were skipped.
        """
        jaxpr = self._closed.jaxpr
        skipped = [*skipped, *[False] * (self._count - len(skipped))]
        wanted = [
            var for var, skip in zip(jaxpr.outvars, skipped, strict=False) if not skip
        ]
        needed = {var for var in wanted if not isinstance(var, core.Literal)}
        eqns = []
        for eqn in reversed(jaxpr.eqns):
            if not needed.isdisjoint(eqn.outvars):
                eqns.append(eqn)
                needed.update(v for v in eqn.invars if not isinstance(v, core.Literal))
        part = jaxpr.replace(eqns=eqns[::-1], outvars=wanted)
        # Operation by operation: equal ones share what is compiled.
        x = [_concrete(leaf) for leaf in jax.tree.leaves(self._inputs)]
        made = iter(core.jaxpr_as_fun(self._closed.replace(jaxpr=part))(key, *x))
        pairs = zip(_arrays(jax.tree.leaves(self.shapes)), skipped, strict=True)
        return self._filled([shape if skip else next(made) for shape, skip in pairs])

    def _filled(self, arrays: Iterable[Any]) -> Any:
        given = iter(arrays)
        flat = [next(given) if hasattr(x, "dtype") else x for x in self._flat]
        return jax.tree.unflatten(self._tree, flat)


def _arrays(leaves: Iterable[Any]) -> list[Any]:
    return [leaf for leaf in leaves if hasattr(leaf, "dtype")]


def _concrete(leaf: Any) -> Any:
    """Zeros for a shape without values."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jnp.zeros(leaf.shape, leaf.dtype)
    return leaf
