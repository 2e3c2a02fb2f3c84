"""What a model is to this library: pure functions, and how they are called."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import _checks
from jaxinit._types import Array, Key, is_array

Params: TypeAlias = Any
State: TypeAlias = Any
Keys: TypeAlias = Any
"""One PRNG key, or for Flax a mapping from the names of random streams to keys."""

_FLAGS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
"""Names by which models ask whether they train, and their value if so."""


class Inputs(NamedTuple):
    """The inputs of a model that takes several, or takes them by name.

    Attributes:
        args: those that are given by position.
        named: those that are given by name.
    """

    args: tuple[Any, ...] = ()
    named: Mapping[str, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Model:
    """A model as pure functions.

    Attributes:
        init: `init(key, x) -> (params, state)`: trainable parameters by the model's own
            initialization, and whatever else it carries (batch statistics, random
            streams). x is one batch of inputs, which may be abstract: `Inputs`, or a
            plain tuple of those by position, a mapping of those by name, or one.
        apply: `apply(params, state, x, key, train) -> (outputs, state)`; `key` serves
            dropout. `train` is a Python bool, or None: the model is then called as its
            own defaults have it, in evaluation where it has none.
        join: `join(params, state)`, the model as its user knows it: Linen's variables,
            a module of NNX or Equinox, what a pair's `init` returns.
        init_with_output: `init_with_output(key, x) -> ((params, state), outputs)`, for
            a model that can be initialized and applied at once.
        finished: whether the model has its parameters already; `init` returns them.
        joined: what its users call that which `join` returns.
    """

    init: Callable[[Keys, Any], tuple[Params, State]]
    apply: Callable[[Params, State, Any, Keys, bool | None], tuple[Array, State]]
    join: Callable[[Params, State], Any] = lambda params, state: (params, state)
    init_with_output: Callable[[Keys, Any], tuple[Any, Any]] | None = None
    finished: bool = False
    joined: str = "params"

    def made(self, key: Keys, x: Any) -> tuple[tuple[Params, State], Any]:
        """Initialize and apply once: `((params, state), outputs)`."""
        if self.init_with_output is not None:
            return self.init_with_output(key, x)
        params, state = self.init(key, x)
        return (params, state), self.apply(params, state, x, key, None)[0]


def keys_of(key: Any, owner: str) -> tuple[Key, Keys]:
    """The key of the parameters, and the keys as a model takes them.

    Args:
        key: a PRNG key; a mapping from names of random streams to keys, as Linen takes
            it; or an `nnx.Rngs`, of which each stream gives one key.
        owner: who asks, for the error.

    Raises:
        TypeError: it is none of these. ValueError: no stream serves parameters.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(key, nnx.Rngs):
        key = {name: stream() for name, stream in key.items()}
    if isinstance(key, Mapping):
        first = next((key[name] for name in ("params", "default") if name in key), None)
        if first is None:
            raise ValueError(
                f"{owner}: key has the streams {sorted(key)}; parameters need one "
                "named params."
            )
        for stream in key.values():
            _checks.one_key(owner, stream)
        return first, dict(key)
    if not is_array(key) or isinstance(key, np.generic):
        number = isinstance(key, (int, np.integer))
        remedy = f"jax.random.key({key})" if number else "one"
        raise TypeError(
            f"{owner}: key={key!r} must be a PRNG key, a dictionary of keys, or an "
            f"nnx.Rngs; pass {remedy}."
        )
    _checks.one_key(owner, key)
    return key, key


def what_was_raised(error: BaseException) -> str:
    """An exception as the end of a sentence: its type, and the first line it says."""
    said = str(error).strip().split("\n")[0].rstrip(". ")
    said = said if len(said) <= 200 else f"{said[:197]}..."
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def unpacked(x: Any) -> Inputs:
    """Inputs as a call takes them.

    A plain tuple is arguments by position, a mapping those by name, and anything else,
    such as a NamedTuple, is one argument.
    """
    if isinstance(x, Inputs):
        return x
    if type(x) is tuple:
        return Inputs(x)
    return Inputs((), dict(x)) if isinstance(x, Mapping) else Inputs((x,))


def parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """A function's parameters by name; none where Python cannot say."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def takes_any(function: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters(function).values())


def left_open(
    function: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]
) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function that a call leaves open, by name."""
    try:
        taken = inspect.signature(function).bind_partial(*args, **named).arguments
    except (TypeError, ValueError):
        return {}  # the call itself says what is wrong
    return {
        name: parameter
        for name, parameter in parameters(function).items()
        if name not in taken and parameter.kind is not parameter.POSITIONAL_ONLY
    }


def train_flags(
    function: Callable[..., Any],
    args: Sequence[Any],
    named: Mapping[str, Any],
    train: bool | None,
    default: bool = False,
) -> dict[str, bool]:
    """The arguments that tell a call whether it trains, where it leaves them open.

    With `train` None, only those that have no value by default: they get `default`.
    """
    return {
        name: _FLAGS[name] == (default if train is None else train)
        for name, parameter in left_open(function, args, named).items()
        if name in _FLAGS
        and (train is not None or parameter.default in (parameter.empty, None))
    }


def is_jax(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct))


def is_floating(leaf: Any) -> bool:
    return is_jax(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)


@contextlib.contextmanager
def making(given: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"model: the function that makes it, given {given}, raised "
            f"{what_was_raised(error)}."
        ) from error


def one_key(key: Keys) -> Key:
    if isinstance(key, Mapping):
        raise TypeError(
            f"model: key has the streams {sorted(key)}, which only modules of Flax "
            "tell apart; pass one key."
        )
    return key
