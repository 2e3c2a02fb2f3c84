"""What a scheme does to each leaf of a model, before it is done."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxinit import meanfield
from jaxinit._initializer import Initializer
from jaxinit.trace import KERNELS, Layer
from jaxinit.tree._combine import SchemeLike, as_scheme
from jaxinit.tree._gain import Gain, check_gain, with_gain_of
from jaxinit.tree._leaves import Leaf
from jaxinit.tree._rules import Rules
from jaxinit.tree._scheme import Scheme, keys_of


class Choice(NamedTuple):
    """What shall happen to one leaf.

    Attributes:
        layer: what the leaf is.
        init: the scheme that draws it; None if it is kept.
        rule: the rule that says so, as text; empty if none does.
        fans: fan-in and fan-out for the draw, where not the layer's own: a bias has
            the fan of the kernel that it goes with.
        key: the path of the leaf whose key draws it, where not its own.
    """

    layer: Layer
    init: Initializer | None
    rule: str = ""
    fans: tuple[float, float] | None = None
    key: str = ""


def choose(
    leaves: Sequence[Leaf],
    found: Sequence[Layer],
    scheme: SchemeLike,
    gain: Gain | None = None,
    *,
    abstract: bool = True,
    announce: bool = True,
) -> dict[str, Choice]:
    """The choice for each layer by its path, in the order of `found`.

    With `abstract`, leaves that have shapes alone must be drawn. With `announce`, those
    that a scheme for every kernel cannot tell are named.

    Raises:
        ValueError: a rule's pattern matches nothing, a scheme needs a fan that the
            leaf has not, or abstract leaves are left as they are.
        TypeError: the scheme has another form.
    """
    check_gain("reinit", gain)
    scheme = as_scheme(scheme)
    chosen = _by_path(scheme, found)
    by_path = {layer.path: layer for layer in found}
    _check_chosen(scheme, chosen, by_path)
    choices = {
        path: _choice(layer, *chosen.get(path, (None, "")), by_path, gain)
        for path, layer in by_path.items()
    }
    for path, other in keys_of(scheme, found).items():
        if path != other:
            _check_shared(scheme, by_path, path, other)
            choices[path] = choices[path]._replace(key=other)
    if abstract:
        _check_abstract(leaves, choices)
    for choice in choices.values():
        _tell_equalised(choice)
    if announce:
        _tell_passed_over(scheme, chosen, choices)
    return choices


def _tell_passed_over(
    scheme: Scheme, chosen: Mapping[str, object], choices: Mapping[str, Choice]
) -> None:
    """Name the leaves that may be kernels, where a scheme draws every kernel."""
    if isinstance(scheme, Rules) or any(
        choice.init is None and choice.layer.kind in KERNELS
        for choice in choices.values()
    ):
        return
    left = [
        choice.layer
        for path, choice in choices.items()
        if choice.layer.kind == "unknown"
        and path not in chosen
        and jnp.issubdtype(choice.layer.dtype, jnp.inexact)
        # What is not used, or known by name alone, is no kernel if it is no matrix.
        and (choice.layer.uses or len(choice.layer.shape) > 1)
    ]
    if not left:
        return
    told = " ".join(f"{layer.path}: {layer.reason}" for layer in left[:5])
    more = f" And {len(left) - 5} more, which describe names." if left[5:] else ""
    warnings.warn(
        f"reinit: {scheme!r} passes over {len(left)} of the leaves, whose use does not "
        f"say what they are. {told}{more} They keep their values; draw them, or keep "
        "them by None, by rules over the scheme: tree.combined([scheme, "
        f"tree.rules([({left[0].path!r}, None)])]).",
        stacklevel=4,
    )


def _check_shared(
    scheme: Scheme, by_path: Mapping[str, Layer], path: str, other: str
) -> None:
    """Raise unless leaves that share a key can belong together."""
    shapes = [by_path[each].shape for each in (path, other) if each in by_path]
    if len(shapes) != 2 or shapes[0] != shapes[1]:
        raise ValueError(
            f"reinit: {scheme!r} draws {path} and {other} from one key, but their "
            f"shapes are {' and '.join(map(str, shapes))}; equal shapes of two leaves "
            "are needed."
        )


_GAINS = (1.0, 2**0.5, 5 / 3, (2 / 1.04) ** 0.5)
"""What equalised learning rates are made with: for no activation, ReLU, tanh, leaky."""


def _tell_equalised(choice: Choice) -> None:
    """Say that the program has the gain already, where it has."""
    layer = choice.layer
    if choice.init is None or layer.kind not in KERNELS or layer.multiplier == 1:
        return
    gain = abs(layer.multiplier) * layer.fan_in**0.5
    name = layer.activation_before
    own = meanfield.gain(name) if name in meanfield.ACTIVATIONS else 1.0
    equalised = any(abs(gain / known - 1) < 0.01 for known in (*_GAINS, own))
    if layer.fan_in > 1 and equalised and choice.init.needs_fan:
        warnings.warn(
            f"{layer.path or 'The leaf'}: the program multiplies it by "
            f"{layer.multiplier:.3g}, {gain:.3g} over the root of its fan-in, as for "
            f"equalised learning rates, and {choice.init!r} would scale it again; draw "
            "it by normal(1.0).",
            stacklevel=4,
        )


def _by_path(
    scheme: Scheme, found: Sequence[Layer]
) -> Mapping[str, tuple[Initializer | None, str]]:
    """Initializer and the rule that chose it, as text, by path."""
    if isinstance(scheme, Rules):
        return {path: m[:2] for path, m in scheme.matched(found).items()}
    says = "every kernel" if isinstance(scheme, Initializer) else repr(scheme)
    return {path: (init, says) for path, init in scheme.choose(found).items()}


def _check_chosen(
    scheme: SchemeLike,
    chosen: Mapping[str, tuple[Initializer | None, str]],
    by_path: Mapping[str, Layer],
) -> None:
    """Raise if a scheme of one's own names no leaf, or no initializer."""
    for path, (init, _) in chosen.items():
        if path not in by_path:
            raise ValueError(
                f"reinit: {scheme!r} chooses for {path!r}, which is no leaf; the paths "
                f"are such as {', '.join(list(by_path)[:3])}."
            )
        if init is not None and not isinstance(init, Initializer):
            raise TypeError(
                f"reinit: {scheme!r} gives {init!r} for {path}; it must be an "
                "initializer, or None to keep the leaf."
            )


def _choice(
    layer: Layer,
    init: Initializer | None,
    rule: str,
    by_path: Mapping[str, Layer],
    gain: Gain | None,
) -> Choice:
    if init is None:
        return Choice(layer, None, rule)
    if gain is not None and layer.kind in KERNELS:
        init = with_gain_of("reinit", init, layer, gain)
    _check_dtype(layer, init)
    fans = None
    if init.needs_fan and layer.kind not in (*KERNELS, "embedding"):
        kernel = next(
            (k for p in layer.acts_on if (k := by_path[p]).kind in KERNELS), None
        )
        if layer.kind != "bias" or kernel is None:
            reason = layer.reason or f"It is a {layer.kind}."
            raise ValueError(
                f"reinit: {init!r} needs a fan, which {layer.path} has not: {reason} "
                "Give fan= to the initializer, or another one."
            )
        fans = (kernel.fan_in, kernel.fan_out)
    return Choice(layer, init, rule, fans)


def _check_dtype(layer: Layer, init: Initializer) -> None:
    """Raise if the leaf is of integers, or of keys, that the scheme cannot draw."""
    is_key = jnp.issubdtype(layer.dtype, jax.dtypes.prng_key)
    inexact = jnp.issubdtype(layer.dtype, jnp.inexact)
    if is_key or (init.inexact and not inexact):
        raise ValueError(
            f"reinit: {layer.path} of dtype {layer.dtype} cannot be drawn by {init!r}; "
            f"keep it by rules that begin with ({layer.path!r}, None), or make it "
            "float32."
        )


def _check_abstract(leaves: Sequence[Leaf], choices: Mapping[str, Choice]) -> None:
    left = [x.path for x in leaves if x.abstract and choices[x.path].init is None]
    if left:
        raise ValueError(
            f"reinit: {len(left)} leaves have shapes but no values, and nothing "
            f"draws them: {', '.join(left)}. Add rules for them, such as ('*bias', "
            "jaxinit.zeros), or pass concrete parameters."
        )
