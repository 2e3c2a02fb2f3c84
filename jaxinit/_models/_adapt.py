"""From what a user calls a model to a `Model`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from jaxinit._models._flax import of_linen, of_nnx
from jaxinit._models._model import Model, parameters, takes_any
from jaxinit._models._pair import of_pair
from jaxinit._models._pytree import is_pytree, of_pytree


def as_model(model: Any, *, whole: bool = False) -> Model:
    """Take a model of Flax, Equinox or Haiku, or an `(init, apply)` pair.

    Args:
        model: one of

            - a `flax.linen.Module`;
            - a `flax.nnx.Module`, or a class or function `rngs -> nnx.Module`;
            - an `equinox.Module` or another callable pytree, or a class or function
              `key -> module`; so too a pair of a module and its `equinox.nn.State`,
              as `equinox.nn.make_with_state` makes it, which maps (example, state) to
              (output, state);
            - what `hk.transform` or `hk.transform_with_state` of Haiku returns, with
              or without `hk.without_apply_rng`;
            - a pair `init(key, x) -> params` or `init(key) -> params`, and
              `apply(params, x) -> outputs`, which may have `state`, `rng` or both
              between the parameters and the inputs, as Haiku's functions do;
            - a `Model`.
        whole: whether `params` shall hold all that a scheme may meet, as the model
            holds it: NNX's variables in their boxes, and the integers of a pytree. A
            function that makes the model is then first called by `init`.

    Returns:
        A `Model`. Of a finished module, biases and other non-kernel parameters are the
        same in every run; of a function that makes one they come from the run's seed.

        A callable pytree maps one example, as is the custom of Equinox: it is mapped
        over the leading axis of its inputs, within a batch axis of the name that its
        normalization has, or "batch". Only one that takes no single entry of that axis
        is given the inputs as they are: one example, or a batch that it handles itself.

    Raises:
        TypeError: the model is none of these.
        ValueError: the function that makes the model raises.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen as nn
        >>> model = as_model(nn.Dense(3))
        >>> params, state = model.init(jax.random.key(0), jnp.ones((2, 4)))
        >>> params["kernel"].shape, state
        ((4, 3), {})
    """
    if isinstance(model, Model):
        return model
    linen, nnx = sys.modules.get("flax.linen"), sys.modules.get("flax.nnx")
    if linen is not None and isinstance(model, linen.Module):
        return of_linen(model)
    if nnx is not None and isinstance(model, nnx.Module):
        return of_nnx(lambda rngs: nnx.clone(model), whole, finished=True)
    if is_pytree(model):
        return of_pytree(lambda key: model, whole, finished=True)
    if isinstance(model, tuple) and len(model) == 2 and all(map(callable, model)):
        return of_pair(*model)
    if callable(model):
        return _made_by(model, whole)
    raise TypeError(
        f"model={model!r} must be a Flax Linen or NNX module, a function from "
        "nnx.Rngs to an NNX module, an Equinox module or a function of its key, a "
        "transformed function of Haiku, or a pair (init, apply)."
    )


def _made_by(make: Callable[..., Any], whole: bool) -> Model:
    """A model of a function that makes a module from an `nnx.Rngs` or a key.

    The names of its parameters tell which, or else what it makes of either.
    """
    nnx = sys.modules.get("flax.nnx")
    names = parameters(make)
    if nnx is not None:
        if "rngs" in names:
            return of_nnx(lambda rngs: make(rngs=rngs), whole, tried=not whole)
        if isinstance(make, type) and issubclass(make, nnx.Module):
            return of_nnx(make, whole, tried=not whole)
    by_name = lambda key: make(key=key)  # noqa: E731
    ways = [by_name] if "key" in names else [make]
    if "key" not in names and takes_any(make):
        ways.append(by_name)
    tries = [functools.partial(of_pytree, way, whole) for way in ways]
    if nnx is not None:
        tries += [functools.partial(of_nnx, w, whole, from_key=True) for w in ways]
        tries += [functools.partial(of_nnx, make, whole)]
    errors: list[Exception] = []
    for attempt in tries:
        try:
            return attempt()
        except (TypeError, ValueError) as error:
            errors.append(error)
    raise errors[0]
