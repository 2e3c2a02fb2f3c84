"""One's own training loop, as pure functions that a sweep can batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from jaxinit._models import Params
from jaxinit._types import Array, Key


class Hparams(NamedTuple):
    """What differs from run to run besides the initialization.

    Attributes:
        learning_rate: scalar, float32.
        scales: a scalar for each parameter that its updates are multiplied with, a
            tree like the parameters; None for ones.
    """

    learning_rate: Any
    scales: Any = None


class Training(NamedTuple):
    """A training loop as pure functions; what they close over is part of them.

    Attributes:
        init: `init(key) -> params`, by the model's own initialization; a scheme then
            draws its kernels anew.
        begin: `begin(params, key, hparams) -> state`, a pytree of arrays with all that
            the training needs from then on. `hparams.learning_rate` may be traced.
        step: `step(state) -> (state, loss)`, one step; the loss is a number.
        evaluate: `evaluate(state) -> {name: value}`, numbers; one named "loss", if
            there is one, is the validation loss.
    """

    init: Callable[[Key], Params]
    begin: Callable[[Params, Key, Hparams], Any]
    step: Callable[[Any], tuple[Any, Array]]
    evaluate: Callable[[Any], Mapping[str, Array]]


Whole: TypeAlias = tuple[
    Callable[[Key], Params], Callable[[Params, Key, Hparams], Mapping[str, Array]]
]
"""A whole training: `init` as above, and `train(params, key, hparams) -> curves`.

Curves are arrays (points,) by name. The first point is step 0, and "loss" is the
training loss.
"""
