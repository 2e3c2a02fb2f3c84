"""The gain of the activation that feeds a kernel, in place of its scheme's own."""

from __future__ import annotations

import functools
import warnings
from typing import Literal, TypeAlias

from jaxinit import _checks, meanfield
from jaxinit._initializer import Initializer
from jaxinit.initializers import scaled
from jaxinit.trace import Layer

Gain: TypeAlias = Literal["auto", "critical"]
"""Which gain: `meanfield.gain` keeps signals, `meanfield.critical_gain` gradients."""


def check_gain(owner: str, gain: str | None) -> None:
    """Raise unless it is a gain, or None."""
    if gain is not None:
        _checks.choice(owner, "gain", gain, ("auto", "critical"))


def gain_of(owner: str, layer: Layer, gain: Gain, bias_variance: float = 0.0) -> float:
    """The gain of the activation that feeds a layer, 1 if there is none.

    Raises:
        ValueError: the activation has no such gain; names the layer.
    """
    name = layer.activation_before
    if name is not None and name not in meanfield.ACTIVATIONS:
        warnings.warn(
            f"{owner}: {layer.path} is fed by {name}, of which no gain is known, and "
            "has the gain 1; a rule of its own can give it another.",
            stacklevel=4,
        )
    try:
        return _gain(_activation(layer), gain, bias_variance)
    except ValueError as error:
        raise ValueError(f"{owner}: {layer.path} has no {gain} gain: {error}") from None


def with_gain_of(
    owner: str, init: Initializer, layer: Layer, gain: Gain
) -> Initializer:
    """The scheme with the gain of the activation that feeds the layer."""
    factor = gain_of(owner, layer, gain)
    if gain == "auto" and "activation" in init.arguments:  # which says where it is from
        own = {"gain": None} if "gain" in init.arguments else {}
        return init.replace(activation=_activation(layer), **own)
    return _with_gain(init, factor)


def _with_gain(init: Initializer, gain: float) -> Initializer:
    """The scheme with a gain in place of its own; that of a scheme within, if any."""
    within = {name: init.arguments[name] for name in init._builder.within}
    if within:
        return init.replace(**{k: _with_gain(each, gain) for k, each in within.items()})
    changes = {}
    if "activation" in init.arguments:
        optional = init._builder.defaults["activation"] is None
        changes["activation"] = None if optional else "linear"
    own = init._trait("gain")
    if own in init.arguments:
        return init.replace(**{own: gain}, **changes)
    init = init.replace(**changes)
    return init if gain == 1 else scaled(init, gain)


def _activation(layer: Layer) -> str:
    name = layer.activation_before
    return name if name is not None and name in meanfield.ACTIVATIONS else "linear"


@functools.cache
def _gain(activation: str, gain: Gain, bias_variance: float) -> float:
    if activation == "linear":
        return 1.0
    if gain == "auto":
        return meanfield.gain(activation)
    return meanfield.critical_gain(activation, bias_variance)
