"""One face for every model: Flax Linen, Flax NNX, or a plain pair of functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, cast

import jax
from flax import linen, nnx

from jaxinit._types import Array, Key

Params: TypeAlias = Any
State: TypeAlias = Any

_TRAIN_FLAGS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
"""Names by which Linen modules ask whether they train, and their value if so."""


class Model(NamedTuple):
    """A model as two pure functions.

    Attributes:
        init: `init(key, x) -> (params, state)`: trainable parameters as the model
            itself starts them, and whatever else it carries (batch statistics, random
            streams); x is one batch of inputs, and may be abstract.
        apply: `apply(params, state, x, key, train) -> (outputs, state)`; `train` is a
            Python bool, `key` serves dropout.
    """

    init: Callable[[Key, Any], tuple[Params, State]]
    apply: Callable[[Params, State, Any, Key, bool], tuple[Array, State]]


def as_model(model: Any) -> Model:
    """Take a Linen module, an NNX module or factory, or an `(init, apply)` pair.

    Args:
        model: a `flax.linen.Module`; a `flax.nnx.Module`, whose biases and other
            non-kernel parameters are then the same in every run; a function or class
            `rngs -> nnx.Module`; or a pair `init(key, x) -> params` and
            `apply(params, x) -> outputs` (Haiku's transformed functions fit after
            fixing their key).

    Returns:
        A `Model`.

    Raises:
        TypeError: the model is none of these.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, linen.Module):
        return _linen(model)
    if isinstance(model, nnx.Module):
        return _nnx(lambda rngs: cast(nnx.Module, nnx.clone(model)))
    if isinstance(model, tuple) and len(model) == 2 and all(map(callable, model)):
        return _pair(*model)
    is_class = isinstance(model, type)
    if callable(model) and (not is_class or issubclass(model, nnx.Module)):
        return _nnx(cast(Any, model))
    raise TypeError(
        f"model={model!r} must be a Flax Linen or NNX module, a function from "
        "nnx.Rngs to an NNX module, or a pair (init, apply)."
    )


def _linen(module: linen.Module) -> Model:
    accepted = inspect.signature(type(module).__call__).parameters
    flags = {name: on for name, on in _TRAIN_FLAGS.items() if name in accepted}

    def arguments(train: bool) -> dict[str, Any]:
        return {name: on == train for name, on in flags.items()}

    def init(key: Key, x: Any) -> tuple[Params, State]:
        rngs = {"params": key, "dropout": key}
        state = module.init(rngs, x, **arguments(False))
        return state.pop("params"), state

    def apply(
        params: Params, state: State, x: Any, key: Key, train: bool
    ) -> tuple[Array, State]:
        variables = {"params": params, **state}
        mutable = list(state) if train else False
        outputs = module.apply(
            variables, x, rngs={"dropout": key}, mutable=mutable, **arguments(train)
        )
        return outputs if train else (outputs, state)  # type: ignore[return-value]

    return Model(init, apply)


def _nnx(factory: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    def split(key: Key) -> tuple[nnx.GraphDef, Params, State]:
        module = factory(nnx.Rngs(key))
        if not isinstance(module, nnx.Module):
            raise TypeError(
                f"model: the function returned {type(module).__name__}, not an "
                "nnx.Module; it must build the module from an nnx.Rngs."
            )
        graph, params, state = nnx.split(module, nnx.Param, ...)
        return graph, nnx.as_pure(params), nnx.as_pure(state)

    graph = nnx.eval_shape(split, jax.random.key(0))[0]

    def init(key: Key, x: Any) -> tuple[Params, State]:
        return split(key)[1:]

    def apply(
        params: Params, state: State, x: Any, key: Key, train: bool
    ) -> tuple[Array, State]:
        module = nnx.merge(graph, params, state)
        module.train() if train else module.eval()
        nnx.reseed(module, default=key, dropout=key)
        outputs = module(x)  # type: ignore[operator]
        return outputs, nnx.as_pure(nnx.split(module, nnx.Param, ...)[2])

    return Model(init, apply)


def _pair(
    init: Callable[[Key, Any], Params], apply: Callable[[Params, Any], Array]
) -> Model:
    wants_input = len(inspect.signature(init).parameters) > 1

    def both(key: Key, x: Any) -> tuple[Params, State]:
        return (init(key, x) if wants_input else init(key)), ()  # type: ignore

    return Model(both, lambda params, state, x, key, train: (apply(params, x), state))
