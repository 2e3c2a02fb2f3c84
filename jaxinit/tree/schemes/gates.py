"""Schemes for the gates of recurrent networks, whose biases belong together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxinit import initializers
from jaxinit._initializer import Initializer
from jaxinit.initializers.gates import Part
from jaxinit.trace import Layer
from jaxinit.tree._scheme import Parts, tree_scheme
from jaxinit.tree._structure import Structure

_FORGET, _INPUT = "hf", "hi"  # as Flax calls the layers of an LSTM's gates
_PACKED = "dense_h"


class _Gates(NamedTuple):
    """The gate biases of a model's LSTMs.

    Attributes:
        input_of: paths of input gates' biases, by those of the forget gates.
        packed: paths of biases that hold the four gates side by side.
    """

    input_of: dict[str, str]
    packed: list[str]


def _gates(owner: str, model: Structure) -> _Gates:
    biases = {layer.path: layer for layer in model.biases}
    pairs: dict[str, str] = {}
    for path in biases:
        words = path.split("/")
        renamed = "/".join(_INPUT if word == _FORGET else word for word in words)
        if words.count(_FORGET) == 1 and renamed in biases:
            pairs[path] = renamed
    packed = [path for path, bias in biases.items() if _is_packed(bias, model)]
    if not pairs and not packed:
        raise ValueError(
            f"{owner}: the model has no LSTM whose gates it knows, neither layers hf "
            "and hi as Flax has them nor a packed bias of a recurrent kernel (hidden, "
            "4 hidden); give rules that name them, such as (('*forget/bias', "
            "'*input/bias'), ('chrono(100)', \"chrono(100, 'input')\"))."
        )
    return _Gates(pairs, packed)


def _is_packed(bias: Layer, model: Structure) -> bool:
    """Whether it goes with a recurrent kernel of four gates."""
    if not bias.acts_on:
        return _PACKED in bias.path.split("/") and bias.shape[-1] % 4 == 0
    met = [model.by_path[path] for path in bias.acts_on]
    return any(
        kernel.kind == "dense"
        and kernel.path in kernel.feeds
        and kernel.fan_out == 4 * kernel.fan_in == bias.shape[-1]
        for kernel in met
    )


def _drawn(owner: str, scheme: Callable[[Part], Initializer]) -> Parts:
    def assign(model: Structure) -> Mapping[str, Initializer]:
        gates = _gates(owner, model)
        chosen = dict.fromkeys(gates.packed, scheme("packed"))
        for forget, entry in gates.input_of.items():
            chosen |= {forget: scheme("forget"), entry: scheme("input")}
        return chosen

    def keys(model: Structure) -> Mapping[str, str]:
        pairs = _gates(owner, model).input_of
        return {entry: forget for forget, entry in pairs.items()}

    return Parts(assign, keys=keys)


@tree_scheme(cites=("tallec2018",))
def chrono(max_length: float):
    r"""Gate biases of every LSTM for dependencies of up to a given length.

    $b_f = \log u$, $u \sim U[1, T - 1]$, and $b_i = -b_f$ unit by unit, as in
    `jaxinit.chrono`. All else stays as it is.

    Gates are known by name where they are apart (`hf` and `hi`, as in Flax), and by a
    recurrent kernel (hidden, 4 hidden) where they are packed, in the order i, f, g, o
    of Flax, Keras, Equinox and torch; packed biases then have zeros for g and o.

    Args:
        max_length: T, the longest dependency in steps, above 2.

    Returns:
        A `TreeScheme`.

    Raises:
        ValueError: T of at most 2, or the model has no such gates.

    Example:
        >>> chrono(100)
        tree.chrono(max_length=100.0)

    References:
        Tallec and Ollivier 2018, arXiv:1804.11188, equation 16.
    """
    initializers.chrono(max_length)  # checks it
    return _drawn("tree.chrono", lambda part: initializers.chrono(max_length, part))


@tree_scheme(cites=("gu2020gating",))
def uniform_gate():
    r"""Gate biases of every LSTM that spread its gates evenly over (0, 1).

    $\sigma(b_f) \sim U[1/n, 1 - 1/n]$ with n units, and $b_i = -b_f$ unit by unit, as
    in `jaxinit.uniform_gate`. All else stays as it is; gates are known as in `chrono`.

    Returns:
        A `TreeScheme`.

    Raises:
        ValueError: the model has no such gates.

    Example:
        >>> uniform_gate()
        tree.uniform_gate()

    References:
        Gu et al. 2020, arXiv:1910.09890, section 3.3.
    """
    return _drawn("tree.uniform_gate", initializers.uniform_gate)
