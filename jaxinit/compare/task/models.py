"""One face for every model: Flax, Equinox, Haiku, or a plain pair of functions."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
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
    """Take a model of Flax, Equinox or Haiku, or an `(init, apply)` pair.

    Args:
        model: one of

            - a `flax.linen.Module`;
            - a `flax.nnx.Module`, or a function or class `rngs -> nnx.Module`;
            - an `equinox.Module` that maps one example, or a function or class that
              makes one, and has a parameter `key`; so too a pair of a module and its
              `equinox.nn.State`, as `equinox.nn.make_with_state` makes it, which maps
              (example, state) to (output, state) within a batch axis named "batch";
            - what `hk.transform` or `hk.transform_with_state` of Haiku returns, with
              or without `hk.without_apply_rng`;
            - a pair `init(key, x) -> params` or `init(key) -> params`, and
              `apply(params, x) -> outputs`;
            - a `Model`.

    Returns:
        A `Model`. Of a finished module, biases and other non-kernel parameters are the
        same in every run; of a function that makes one they come from the run's seed.
        Whether it trains is told to Linen by arguments such as `train=`, to NNX by
        `train()` and `eval()`, and to Equinox by `inference_mode`. It cannot be told
        to a function of Haiku that wants an argument such as `is_training`: make the
        `Model` oneself, as below.

    Raises:
        TypeError: the model is none of these.
        ValueError: the function that makes the model raises.

    Example:
        >>> import haiku as hk  # doctest: +SKIP
        >>> def net(x, is_training):  # doctest: +SKIP
        ...     return hk.BatchNorm(True, True, 0.9)(hk.Linear(10)(x), is_training)
        >>> f = hk.transform_with_state(net)  # doctest: +SKIP
        >>> model = Model(  # doctest: +SKIP
        ...     lambda key, x: f.init(key, x, True),
        ...     lambda params, state, x, key, train: f.apply(
        ...         params, state, key, x, train
        ...     ),
        ... )
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, linen.Module):
        return _linen(model)
    if isinstance(model, nnx.Module):
        return _nnx(lambda rngs: cast(nnx.Module, nnx.clone(model)))
    if _is_equinox(model):
        return _equinox(lambda key: model)
    if isinstance(model, tuple) and len(model) == 2 and all(map(callable, model)):
        return _pair(*model)
    if callable(model) and "key" in _parameters(model):
        return _equinox(lambda key: model(key=key))
    is_class = isinstance(model, type)
    if callable(model) and (not is_class or issubclass(model, nnx.Module)):
        return _nnx(cast(Any, model))
    raise TypeError(
        f"model={model!r} must be a Flax Linen or NNX module, a function from "
        "nnx.Rngs to an NNX module, an Equinox module or a function of its key, a "
        "transformed function of Haiku, or a pair (init, apply)."
    )


def what_was_raised(error: Exception) -> str:
    """An exception as the end of a sentence: its type, and the first line it says."""
    said = str(error).strip().split("\n")[0].rstrip(". ")
    said = said if len(said) <= 200 else f"{said[:197]}..."
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _parameters(function: Callable[..., Any]) -> Sequence[str]:
    """The names of a function's parameters, in order; none where Python cannot say."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


@contextlib.contextmanager
def _making(given: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"model: the function that makes it, given {given}, raised "
            f"{what_was_raised(error)}."
        ) from error


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
        with _making("an nnx.Rngs"):
            module = factory(nnx.Rngs(key))
        if not isinstance(module, nnx.Module):
            raise TypeError(
                f"model: the function returned {type(module).__name__}, not an "
                "nnx.Module; it must build the module from an nnx.Rngs, or an Equinox "
                "module from a parameter named key."
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


def _is_equinox(model: Any) -> bool:
    """Whether it is a module of Equinox, or a pair of one and its state."""
    equinox = sys.modules.get("equinox")
    if equinox is None:
        return False
    if isinstance(model, tuple) and len(model) == 2:
        module, state = model
        return isinstance(module, equinox.Module) and isinstance(
            state, equinox.nn.State
        )
    return isinstance(model, equinox.Module)


def _equinox(factory: Callable[[Key], Any]) -> Model:
    """Inexact arrays are the parameters, other arrays and a `State` the state."""
    fixed: list[Any] = []  # what is no array, as the last trace found it

    def init(key: Key, x: Any) -> tuple[Params, State]:
        with _making("a key"):
            made = factory(key)
        if not _is_equinox(made):
            raise TypeError(
                f"model: the function of a key returned {type(made).__name__}, not an "
                "equinox.Module, or a pair of one and its equinox.nn.State."
            )
        equinox = sys.modules["equinox"]
        module, carried = made if isinstance(made, tuple) else (made, None)
        params, rest = equinox.partition(module, equinox.is_inexact_array)
        arrays, static = equinox.partition(rest, equinox.is_array)
        fixed[:] = [static]
        return params, (arrays, carried)

    jax.eval_shape(init, jax.random.key(0), None)

    def apply(
        params: Params, state: State, x: Any, key: Key, train: bool
    ) -> tuple[Array, State]:
        equinox = sys.modules["equinox"]
        arrays, carried = state
        module = equinox.combine(params, arrays, *fixed)
        module = equinox.nn.inference_mode(module, not train)
        takes_key = "key" in _parameters(module)

        def one(x: Any, key: Key, carried: Any) -> tuple[Any, Any]:
            options = {"key": key} if takes_key else {}
            if carried is None:
                return module(x, **options), None
            return module(x, carried, **options)

        outputs, carried = jax.vmap(one, (0, 0, None), (0, None), axis_name="batch")(
            x, jax.random.split(key, len(x)), carried
        )
        return outputs, (arrays, carried)

    return Model(init, apply)


def _pair(init: Callable[..., Any], apply: Callable[..., Any]) -> Model:
    """Haiku's functions are told by what stands between the parameters and inputs.

    It is `state`, `rng`, both in this order, or neither.
    """
    wants_input = len(_parameters(init)) > 1
    between = _parameters(apply)[1:3]
    has_state = between[:1] == ["state"]
    takes_key = between[has_state : has_state + 1] == ["rng"]

    def both(key: Key, x: Any) -> tuple[Params, State]:
        made = init(key, x) if wants_input else init(key)
        return made if has_state else (made, ())

    def call(
        params: Params, state: State, x: Any, key: Key, train: bool
    ) -> tuple[Array, State]:
        carried = (state,) if has_state else ()
        outputs = apply(params, *carried, *((key,) if takes_key else ()), x)
        return outputs if has_state else (outputs, state)

    return Model(both, call)
