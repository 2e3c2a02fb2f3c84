"""Pairs `(init, apply)`, such as the transformed functions of Haiku."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxinit._models._model import (
    Keys,
    Model,
    Params,
    State,
    left_open,
    one_key,
    parameters,
    takes_any,
    train_flags,
    unpacked,
)
from jaxinit._types import Array

_KEY_NAMES = ("rng", "key")
"""Names by which functions ask for a key."""


def of_pair(init: Callable[..., Any], apply: Callable[..., Any]) -> Model:
    """Haiku's functions are told by what stands between the parameters and inputs.

    It is `state`, `rng`, both in this order, or neither.
    """
    between = list(parameters(apply))[1:3]
    has_state = between[:1] == ["state"]
    key_first = between[has_state : has_state + 1]
    takes_key = bool(key_first) and key_first[0] in _KEY_NAMES

    def start(key: Keys, x: Any) -> tuple[Params, State]:
        args, named = unpacked(x)
        accepted = parameters(init)
        if len(accepted) > 1 or any(
            p.kind is p.VAR_POSITIONAL for p in accepted.values()
        ):
            if not takes_any(init):
                named = {name: named[name] for name in named if name in accepted}
            # Haiku makes the state of its normalization in training alone.
            flags = train_flags(init, (key, *args), named, None, default=True)
            made = init(one_key(key), *args, **named, **flags)
        else:
            made = init(one_key(key))
        return made if has_state else (made, ())

    def call(
        params: Params, state: State, x: Any, key: Keys, train: bool | None
    ) -> tuple[Array, State]:
        args, named = unpacked(x)
        first = (params, *((state,) if has_state else ()))
        args = (*first, *((one_key(key),) if takes_key else ()), *args)
        options = train_flags(apply, args, named, train)
        if not takes_key:
            left = left_open(apply, args, named)
            options.update({name: key for name in _KEY_NAMES if name in left})
        outputs = apply(*args, **named, **options)
        return outputs if has_state else (outputs, state)

    def join(params: Params, state: State) -> Any:
        return (params, state) if has_state else params

    return Model(start, call, join)
