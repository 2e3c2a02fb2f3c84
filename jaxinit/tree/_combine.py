"""Schemes made of schemes, and what else may stand for a scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias, TypeGuard

from jaxinit import _text
from jaxinit._canonical import As
from jaxinit._initializer import Initializer
from jaxinit._types import Array, Key
from jaxinit.trace import KERNELS, Layer
from jaxinit.tree._gain import Gain, check_gain, with_gain_of
from jaxinit.tree._rules import Rule, rules
from jaxinit.tree._scheme import (
    Parts,
    Scheme,
    TreeScheme,
    calibration_of,
    keys_of,
    tree_scheme,
)
from jaxinit.tree._structure import Structure

SchemeLike: TypeAlias = Scheme | str | Sequence[Rule] | tuple[Initializer, Initializer]
"""A scheme, its text, a list of rules, or a pair: for kernels and for biases."""


def as_scheme(scheme: SchemeLike) -> Scheme:
    """What stands for a scheme as one.

    Raises:
        TypeError: it is none of them.
    """
    if isinstance(scheme, str):
        scheme = _text.parse(scheme)
    if isinstance(scheme, Scheme):
        return scheme
    if is_pair(scheme):
        return by_kind(*scheme)
    if isinstance(scheme, (list, tuple)):
        return rules(scheme)
    raise TypeError(
        f"reinit: scheme={scheme!r} must be an initializer, a scheme of jaxinit.tree, "
        "the text of one, or a list of pairs (pattern, initializer)."
    )


def is_pair(scheme: Any) -> TypeGuard[tuple[Initializer, Initializer]]:
    """Whether it is a pair of initializers, as `jaxinit.edge_of_chaos` returns."""
    return (
        isinstance(scheme, tuple)
        and len(scheme) == 2
        and all(isinstance(each, Initializer) for each in scheme)
    )


def _alone(owner: str, name: str, value: Any) -> Scheme:
    """What stands for a scheme that may be part of another."""
    scheme = as_scheme(value)
    if calibration_of(scheme) is not None:
        raise TypeError(
            f"{owner}: {name} has {scheme!r}, which looks at the whole model after all "
            "of it is drawn; make the rest its base= instead."
        )
    if not isinstance(scheme, (Initializer, TreeScheme)):
        raise TypeError(
            f"{owner}: {name} has {scheme!r}, which is no value; make it one by "
            "jaxinit.tree.tree_scheme."
        )
    if isinstance(scheme, TreeScheme) and scheme.has_rates:
        raise TypeError(
            f"{owner}: {name} has {scheme.name}, whose learning rates belong to its "
            "own values; use it by itself."
        )
    return scheme


def _several(owner: str, name: str, value: Any) -> tuple[Scheme, ...]:
    if not isinstance(value, (tuple, list)) or len(value) < 2:
        raise TypeError(f"{owner}: {name}={value!r} must be two schemes or more.")
    return tuple(_alone(owner, name, each) for each in value)


def _kernel_or_none(owner: str, name: str, value: Any) -> Initializer | None:
    if isinstance(value, str):
        value = _text.parse(value)
    if value is not None and not isinstance(value, Initializer):
        raise TypeError(f"{owner}: {name}={value!r} must be an initializer, or None.")
    return value


OneOrNone = Annotated[Initializer | str | None, As(_kernel_or_none)]


@tree_scheme
def by_kind(
    kernel: OneOrNone = None,
    bias: OneOrNone = None,
    embedding: OneOrNone = None,
    scale: OneOrNone = None,
):
    """One initializer for the leaves of each kind.

    A pair of initializers is accepted wherever a scheme is, and means the first two.

    Args:
        kernel: draws what enters a product or a convolution; None keeps it.
        bias: draws what is added to the outputs of kernels; None keeps it.
        embedding: draws tables that are looked up; None keeps them.
        scale: draws multipliers, those of normalizations included; None keeps them.

    Returns:
        A `TreeScheme`.

    Raises:
        TypeError: an argument is no initializer.

    Example:
        >>> import jaxinit
        >>> by_kind("he_normal", bias=jaxinit.zeros)
        tree.by_kind(kernel=he_normal(), bias=zeros())
    """
    inits = {"embedding": embedding, "scale": scale, **dict.fromkeys(KERNELS, kernel)}

    def assign(model: Structure) -> Mapping[str, Any]:
        chosen = {x.path: inits[x.kind] for x in model.layers if x.kind in inits}
        chosen.update((layer.path, bias) for layer in model.biases)
        return {path: init for path, init in chosen.items() if init is not None}

    return assign


@tree_scheme
def combined(schemes: Annotated[Sequence[Any], As(_several)]):
    """Several schemes, one over the other: of those that draw a leaf, the last does.

    An initializer for kernels combines with a scheme for what is between them: He's
    kernels and SkipInit's multipliers, orthogonal kernels and Chrono's gates.

    Args:
        schemes: two or more, each a scheme, its text, a list of rules or a pair. A leaf
            that a rule keeps, by None, is kept whatever came before.

    Returns:
        A `TreeScheme`.

    Raises:
        TypeError: one is no scheme, or has learning rates of its own (`mup`).

    Example:
        >>> combined(["he_normal", "tree.skipinit"])
        tree.combined(schemes=(he_normal(), tree.skipinit()))
    """

    def last(layers: Sequence[Layer]) -> dict[str, int]:
        """Which of the schemes draws each leaf."""
        return {path: k for k, s in enumerate(schemes) for path in s.choose(layers)}

    def assign(model: Structure) -> Mapping[str, Initializer | None]:
        chosen: dict[str, Initializer | None] = {}
        for scheme in schemes:
            chosen.update(scheme.choose(model.layers))
        return chosen

    def finish(
        key: Key, values: Mapping[str, Array], model: Structure
    ) -> Mapping[str, Array]:
        by = last(model.layers)
        made: dict[str, Array] = {}
        for k, scheme in enumerate(schemes):
            if isinstance(scheme, TreeScheme):
                new = scheme.finish(key, {**values, **made}, model.layers)
                made.update((p, x) for p, x in new.items() if by.get(p, k) <= k)
        return made

    def keys(model: Structure) -> Mapping[str, str]:
        by = last(model.layers)
        return {
            path: key
            for k, scheme in enumerate(schemes)
            for path, key in keys_of(scheme, model.layers).items()
            if by.get(path) == k
        }

    return Parts(assign, finish, keys)


@tree_scheme
def with_gain(scheme: Annotated[Any, As(_alone)], gain: Gain = "critical"):
    """A scheme whose kernels have the gain of the activation that feeds them.

    What `gain=` of `jaxinit.init` does, as a value that has a text.

    Args:
        scheme: a scheme, its text, a list of rules or a pair.
        gain: "critical", which keeps gradients through smooth activations at any
            depth; or "auto", which keeps the signal. See `jaxinit.reinit`.

    Returns:
        A `TreeScheme`.

    Raises:
        TypeError: it is no scheme, or has learning rates of its own (`mup`).
        ValueError: another gain, or an activation that has no critical one.

    Example:
        >>> with_gain("orthogonal")
        tree.with_gain(scheme=orthogonal())
    """
    owner = "tree.with_gain"
    check_gain(owner, gain)

    def assign(model: Structure) -> Mapping[str, Initializer | None]:
        chosen = dict(scheme.choose(model.layers))
        for kernel in model.kernels:
            init = chosen.get(kernel.path)
            if init is not None:
                chosen[kernel.path] = with_gain_of(owner, init, kernel, gain)
        return chosen

    def finish(
        key: Key, values: Mapping[str, Array], model: Structure
    ) -> Mapping[str, Array]:
        own = isinstance(scheme, TreeScheme)
        return scheme.finish(key, values, model.layers) if own else {}

    def keys(model: Structure) -> Mapping[str, str]:
        return keys_of(scheme, model.layers)

    return Parts(assign, finish, keys)
