"""Which scheme draws which leaf: rules in order, and roles from use or from names."""

from __future__ import annotations

import fnmatch
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, cast

import jax

from jaxinit import meanfield
from jaxinit._initializer import Initializer
from jaxinit._parse import parse
from jaxinit.initializers import scaled
from jaxinit.trace import KERNELS, Layer, kernels, layers
from jaxinit.tree._leaves import Leaf

Pattern: TypeAlias = str | re.Pattern[str] | Callable[[Layer], bool]
Rule: TypeAlias = tuple[Pattern, Initializer | str | None]


class Assigns(Protocol):
    """A scheme for a whole tree, which chooses for every leaf at once."""

    def assign(self, found: Sequence[Layer], /) -> Mapping[str, Initializer | None]:
        """The scheme of each leaf that it draws, by path; None keeps the leaf."""
        ...


Rules: TypeAlias = Initializer | Assigns | str | Sequence[Rule]


class Choice(NamedTuple):
    """What shall happen to one leaf.

    Attributes:
        layer: what the leaf is.
        init: the scheme that draws it; None if it is kept.
        rule: the rule that says so, as text; empty if none does.
        fans: fan-in and fan-out for the draw, where not the layer's own: a bias has
            the fan of the kernel that it goes with.
    """

    layer: Layer
    init: Initializer | None
    rule: str = ""
    fans: tuple[float, float] | None = None


def layers_of(
    leaves: Sequence[Leaf],
    params: Any,
    apply: Callable[..., Any] | None,
    inputs: Sequence[Any],
) -> list[Layer]:
    """What each leaf is, in the order of the leaves: by its use, or by its name."""
    if apply is None:
        return [_by_name(leaf) for leaf in leaves]
    arrays = jax.tree_util.tree_leaves_with_path(params)
    raw = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in arrays
        if hasattr(leaf, "dtype")
    ]
    clean = dict(zip(raw, (leaf.path for leaf in leaves), strict=True))

    def named(layer: Layer) -> Layer:
        def others(paths: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(clean[path] for path in paths)

        return replace(
            layer,
            path=clean[layer.path],
            feeds=others(layer.feeds),
            acts_on=others(layer.acts_on),
            ends=others(layer.ends),
        )

    return [named(layer) for layer in layers(apply, params, *inputs)]


def choose(
    leaves: Sequence[Leaf],
    found: Sequence[Layer],
    rules: Rules,
    gain: Literal["auto"] | None = None,
    *,
    abstract: bool = True,
) -> dict[str, Choice]:
    """The choice for each layer by its path, in the order of `found`.

    With `abstract`, leaves that have shapes alone must have a rule.

    Raises:
        ValueError: a rule's pattern matches nothing, a scheme needs a fan that the
            leaf has not, or abstract leaves are left without a rule.
        TypeError: the rules have another form.
    """
    if gain not in (None, "auto"):
        raise ValueError(f"reinit: gain={gain!r} must be None or 'auto'.")
    if isinstance(rules, str):
        rules = parse(rules)
    chosen: Mapping[str, tuple[Initializer | None, str]]
    if isinstance(rules, Initializer):
        chosen = {layer.path: (rules, "every kernel") for layer in kernels(found)}
    elif hasattr(rules, "assign"):
        assigned = cast(Assigns, rules).assign(found)
        chosen = {path: (init, repr(rules)) for path, init in assigned.items()}
    else:
        chosen = _by_pattern(found, rules)
    by_path = {layer.path: layer for layer in found}
    choices = {
        path: _choice(layer, *chosen.get(path, (None, "")), by_path, gain)
        for path, layer in by_path.items()
    }
    if abstract:
        _check_abstract(leaves, choices)
    for choice in choices.values():
        _tell_equalised(choice)
    return choices


def _tell_equalised(choice: Choice) -> None:
    """Say that the program has the gain already, where it has."""
    layer = choice.layer
    if choice.init is None or layer.kind not in KERNELS or layer.multiplier == 1:
        return
    gain = abs(layer.multiplier) * layer.fan_in**0.5
    if layer.fan_in > 1 and 0.5 < gain < 3 and _needs_fan(choice.init):
        warnings.warn(
            f"{layer.path or 'The leaf'}: the program multiplies it by "
            f"{layer.multiplier:.3g}, {gain:.3g} over the root of its fan-in, as for "
            f"equalised learning rates, and {choice.init!r} would scale it again; draw "
            "it by normal(1.0).",
            stacklevel=4,
        )


def _by_pattern(
    found: Sequence[Layer], rules: Any
) -> dict[str, tuple[Initializer | None, str]]:
    chosen: dict[str, tuple[Initializer | None, str]] = {}
    if not isinstance(rules, Sequence):
        raise TypeError(
            f"reinit: rules={rules!r} must be an initializer, a scheme of "
            "jaxinit.tree, or a list of pairs (pattern, initializer)."
        )
    for rule in rules:
        if not isinstance(rule, (tuple, list)) or len(rule) != 2:
            raise TypeError(
                f"reinit: rule {rule!r} must be a pair (pattern, initializer)."
            )
        pattern, init = rule
        if isinstance(init, str):
            init = parse(init)
        if init is not None and not isinstance(init, Initializer):
            raise TypeError(
                f"reinit: rule {rule!r} must name an initializer, or None to keep "
                "the leaf."
            )
        matched = [layer for layer in found if _matches(pattern, layer)]
        if not matched:
            raise ValueError(
                f"reinit: no leaf matches {_text(pattern)}; the paths are such as "
                f"{', '.join(layer.path for layer in found[:3])}."
            )
        for layer in matched:
            chosen.setdefault(layer.path, (init, _text(pattern)))
    return chosen


def _matches(pattern: Pattern, layer: Layer) -> bool:
    if isinstance(pattern, str):
        return fnmatch.fnmatchcase(layer.path, pattern)
    if isinstance(pattern, re.Pattern):
        return pattern.search(layer.path) is not None
    if callable(pattern):
        return bool(pattern(layer))
    raise TypeError(
        f"reinit: pattern {pattern!r} must be a glob such as '*/kernel', a compiled "
        "regular expression, or a function of the layer."
    )


def _text(pattern: Pattern) -> str:
    if isinstance(pattern, str):
        return repr(pattern)
    if isinstance(pattern, re.Pattern):
        return f"/{pattern.pattern}/"
    return getattr(pattern, "__name__", repr(pattern))


def _choice(
    layer: Layer,
    init: Initializer | None,
    rule: str,
    by_path: Mapping[str, Layer],
    gain: Literal["auto"] | None,
) -> Choice:
    if init is None:
        return Choice(layer, None, rule)
    if gain == "auto" and layer.kind in KERNELS:
        init = with_activation(init, layer.activation_before)
    fans = None
    if _needs_fan(init) and layer.kind not in (*KERNELS, "embedding"):
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


def _needs_fan(init: Initializer) -> bool:
    inner = init.arguments.get("init")
    if isinstance(inner, Initializer):
        return _needs_fan(inner)
    return "fan" in init.arguments and init.arguments["fan"] is None


def with_activation(init: Initializer, activation: str | None) -> Initializer:
    """The scheme with the gain of the activation that feeds the layer."""
    name = activation if activation in meanfield.ACTIVATIONS else "linear"
    if "activation" in init.arguments:
        own = {"gain": None} if "gain" in init.arguments else {}
        return init.replace(activation=name, **own)
    factor = meanfield.gain(name)
    return init if factor == 1 else scaled(init, factor)


def _check_abstract(leaves: Sequence[Leaf], choices: Mapping[str, Choice]) -> None:
    left = [x.path for x in leaves if x.abstract and choices[x.path].init is None]
    if left:
        raise ValueError(
            f"reinit: {len(left)} leaves have shapes but no values, and no rule: "
            f"{', '.join(left)}. Add rules for them, such as ('*bias', jaxinit.zeros), "
            "or pass concrete parameters."
        )


_EMBEDDINGS = {"embedding", "embeddings", "embed", "wte", "wpe"}
_BIASES = {"bias", "b", "offset", "beta"}
_SCALES = {"scale", "gamma", "g"}
_KERNELS = {"kernel", "w", "recurrent_kernel"}


def _by_name(leaf: Leaf) -> Layer:
    """What a leaf is by the conventions of names and shapes.

    Flax and Haiku keep kernels as (*window, in, out), Equinox and torch keep a
    `weight` as (out, in, *window).
    """
    shape = tuple(leaf.value.shape)
    name = re.split(r"[/.]", leaf.path)[-1]
    head = {"path": leaf.path, "shape": shape, "dtype": leaf.value.dtype}
    rank = len(shape)
    if name in _EMBEDDINGS and rank == 2:
        fans = {"fan_in": 1.0, "fan_out": float(shape[1])}
        return Layer("embedding", in_axes=(0,), out_axes=(1,), **fans, **head)
    if name in _BIASES:
        return Layer("bias", out_axes=tuple(range(rank)), fan_in=1, fan_out=1, **head)
    if name in _SCALES or (name == "weight" and rank < 2):
        return Layer("scale", out_axes=tuple(range(rank)), fan_in=1, fan_out=1, **head)
    if rank >= 2 and (name in _KERNELS or name.startswith("weight")):
        first = name.startswith("weight")
        in_axis, out_axis = (1, 0) if first else (rank - 2, rank - 1)
        window = tuple(a for a in range(rank) if a not in (in_axis, out_axis))
        field = math.prod(shape[axis] for axis in window)
        return Layer(
            "conv" if window else "dense",
            in_axes=(in_axis,),
            out_axes=(out_axis,),
            receptive_axes=window,
            fan_in=float(shape[in_axis] * field),
            fan_out=float(shape[out_axis] * field),
            **head,
        )
    reason = "Its name says no role; pass apply= and inputs=, that its use may tell."
    return Layer("unknown", reason=reason, **head)
