"""Modules of Flax: Linen and NNX."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxinit._checks import is_traced
from jaxinit._models._model import (
    Keys,
    Model,
    Params,
    State,
    is_floating,
    making,
    one_key,
    train_flags,
    unpacked,
)
from jaxinit._types import Array


def of_linen(module: Any) -> Model:
    """A module of Linen."""

    def init_with_output(key: Keys, x: Any) -> tuple[Any, Any]:
        if isinstance(key, Mapping) and "params" not in key:
            key = {**key, "params": key["default"]}
        args, named = unpacked(x)
        flags = train_flags(module.__call__, args, named, None)
        outputs, variables = module.init_with_output(key, *args, **named, **flags)
        state = dict(variables)
        return (state.pop("params", {}), state), outputs

    def apply(
        params: Params, state: State, x: Any, key: Keys, train: bool | None
    ) -> tuple[Array, State]:
        args, named = unpacked(x)
        flags = train_flags(module.__call__, args, named, train)
        rngs = key if isinstance(key, Mapping) else {"params": key, "dropout": key}
        mutable = False if train is False else list(state)
        variables = {"params": params, **state}
        out = module.apply(
            variables, *args, rngs=rngs, mutable=mutable, **named, **flags
        )
        return (out, state) if mutable is False else out

    return Model(
        lambda key, x: init_with_output(key, x)[0],
        apply,
        lambda params, state: {"params": params, **state},
        init_with_output,
        joined="variables",
    )


def of_nnx(
    make: Callable[[Any], Any],
    whole: bool,
    *,
    from_key: bool = False,
    finished: bool = False,
    tried: bool = True,
) -> Model:
    """A module that `make` makes of an `nnx.Rngs`, or of a key; `tried` at once."""
    nnx = sys.modules["flax.nnx"]
    graphs: list[Any] = []  # as the last trace found it
    pure = (lambda state: state) if whole else nnx.as_pure

    def split(key: Keys) -> tuple[Params, State]:
        with making("a key" if from_key else "an nnx.Rngs"):
            if from_key:
                module = make(one_key(key))
            elif isinstance(key, Mapping):
                module = make(nnx.Rngs(**key))
            else:
                module = make(nnx.Rngs(key))
        if not isinstance(module, nnx.Module):
            raise TypeError(
                f"model: the function returned {type(module).__name__}, not an "
                "nnx.Module; it must build the module from an nnx.Rngs, or an Equinox "
                "module from a parameter named key."
            )
        _keep_traced(module)
        graph, params, state = nnx.split(module, nnx.Param, ...)
        if not jax.tree.leaves(params):
            _check_boxed(module, state)
        graphs[:] = [graph]
        return pure(params), pure(state)

    if tried:
        nnx.eval_shape(split, jax.random.key(0))

    def join(params: Params, state: State) -> Any:
        # Variables of the trace that we are in, which the call may change.
        return nnx.merge(graphs[0], params, jax.tree.map(lambda leaf: leaf, state))

    def apply(
        params: Params, state: State, x: Any, key: Keys, train: bool | None
    ) -> tuple[Array, State]:
        args, named = unpacked(x)
        module = join(params, state)
        if train is not None:
            module.train() if train else module.eval()
        keys = key if isinstance(key, Mapping) else {"default": key, "dropout": key}
        nnx.reseed(module, **keys)
        outputs = module(*args, **named, **train_flags(module, args, named, train))
        return outputs, pure(nnx.split(module, nnx.Param, ...)[2])

    return Model(
        lambda key, x: split(key), apply, join, finished=finished, joined="model"
    )


def _keep_traced(module: Any) -> None:
    """Mark plain arrays as data, as NNX itself does unless a trace makes them."""
    nnx = sys.modules["flax.nnx"]
    for _, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Module):
            for name, value in list(vars(node).items()):
                if is_traced(value):
                    setattr(node, name, nnx.data(value))


def _check_boxed(module: Any, state: Any) -> None:
    """Raise if a module without parameters has plain arrays that may be meant so."""
    plain = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            state, is_leaf=lambda leaf: hasattr(leaf, "get_metadata")
        )
        if is_floating(leaf) and not hasattr(leaf, "get_metadata")
    ]
    if plain:
        raise ValueError(
            f"model: {type(module).__name__} has no nnx.Param, and plain arrays are no "
            f"parameters of NNX: {', '.join(plain)}; wrap them in nnx.Param(...)."
        )
