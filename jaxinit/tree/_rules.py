"""Rules by the paths of leaves, and what else may stand for a scheme."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeAlias

from jaxinit import _text
from jaxinit._canonical import As
from jaxinit._initializer import Initializer
from jaxinit.trace import Layer
from jaxinit.tree._scheme import Assign, Scheme, TreeScheme, tree_scheme
from jaxinit.tree._structure import Structure

Pattern: TypeAlias = str | re.Pattern[str] | Callable[[Layer], bool]
Rule: TypeAlias = tuple[Pattern, Initializer | str | None]
SchemeLike: TypeAlias = Scheme | str | Sequence[Rule]
"""A scheme, its text, or a list of rules."""

_REGEX = "re:"


class Rules(TreeScheme):
    """A list of rules as a value; see `rules`."""

    __slots__ = ()

    def matched(
        self, layers: Sequence[Layer]
    ) -> dict[str, tuple[Initializer | None, str]]:
        """Initializer and pattern, as text, of the first rule that matches, by path."""
        return _matched(self.arguments["pairs"], layers)


def _matched(
    pairs: Sequence[tuple[Any, Initializer | None]], layers: Sequence[Layer]
) -> dict[str, tuple[Initializer | None, str]]:
    chosen: dict[str, tuple[Initializer | None, str]] = {}
    for pattern, init in pairs:
        says = getattr(pattern, "__name__", repr(pattern))
        matched = [layer for layer in layers if _matches(pattern, layer)]
        if not matched:
            raise ValueError(
                f"reinit: no leaf matches {says}; the paths are such as "
                f"{', '.join(layer.path for layer in layers[:3])}."
            )
        for layer in matched:
            chosen.setdefault(layer.path, (init, says))
    return chosen


def _pairs(owner: str, name: str, value: Any) -> tuple[Any, ...]:
    """The rules in one form: globs, "re:..." or functions, with initializers."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(
            f"{owner}: {name}={value!r} must be a list of pairs (pattern, initializer)."
        )
    return tuple(map(_pair, value))


def _pair(rule: Any) -> tuple[Any, Initializer | None]:
    if not isinstance(rule, (tuple, list)) or len(rule) != 2:
        raise TypeError(f"reinit: rule {rule!r} must be a pair (pattern, initializer).")
    pattern, init = rule
    if isinstance(init, str):
        init = _text.read(init)
    if init is not None and not isinstance(init, Initializer):
        raise TypeError(
            f"reinit: rule {rule!r} must name an initializer, or None to keep the leaf."
        )
    if isinstance(pattern, re.Pattern):
        pattern = _regex_text(pattern)
    if not isinstance(pattern, str) and not callable(pattern):
        raise TypeError(
            f"reinit: pattern {pattern!r} must be a glob such as '*/kernel', a regular "
            "expression such as 're:/kernel$', or a function of the layer."
        )
    return pattern, init


def _regex_text(pattern: re.Pattern[str]) -> str:
    """A compiled pattern as text, flags that it does not itself say in front."""
    added = pattern.flags & ~re.compile(pattern.pattern).flags
    flags = {re.I: "i", re.M: "m", re.S: "s", re.X: "x", re.A: "a"}
    letters = "".join(letter for flag, letter in flags.items() if added & flag)
    return _REGEX + (f"(?{letters})" if letters else "") + pattern.pattern


def _matches(pattern: str | Callable[[Layer], bool], layer: Layer) -> bool:
    if callable(pattern):
        return bool(pattern(layer))
    if pattern.startswith(_REGEX):
        return re.search(pattern.removeprefix(_REGEX), layer.path) is not None
    return fnmatch.fnmatchcase(layer.path, pattern)


@tree_scheme(kind=Rules)
def rules(pairs: Annotated[Sequence[Any], As(_pairs)]) -> Assign:
    """Rules by path: the first whose pattern matches a leaf says what draws it.

    A list of pairs is accepted wherever a scheme is; this is the same as a value, which
    has a text and can be compared.

    Args:
        pairs: `(pattern, initializer)` each. A pattern is a glob over the whole path
            ("*/kernel"); a regular expression searched for in it, compiled or as text
            that begins with "re:"; or a function of the `jaxinit.trace.Layer`. None in
            place of an initializer keeps the leaf; its text will do, too.

    Returns:
        A `TreeScheme`. With a function for a pattern it has no text that parses.

    Raises:
        TypeError: a rule has another form.

    Example:
        >>> import jaxinit
        >>> scheme = rules([("head/*", jaxinit.zeros), ("*/kernel", "he_normal")])
        >>> scheme
        tree.rules(pairs=(('head/*', zeros()), ('*/kernel', he_normal())))
        >>> jaxinit.parse(repr(scheme)) == scheme
        True
    """

    def assign(model: Structure) -> Mapping[str, Initializer | None]:
        return {path: init for path, (init, _) in _matched(pairs, model.layers).items()}

    return assign


def as_scheme(scheme: SchemeLike) -> Scheme:
    """What stands for a scheme as one.

    Raises:
        TypeError: it is none of them.
    """
    if isinstance(scheme, str):
        scheme = _text.read(scheme)
    if isinstance(scheme, Scheme):
        return scheme
    if isinstance(scheme, (list, tuple)):
        return rules(scheme)
    raise TypeError(
        f"reinit: scheme={scheme!r} must be an initializer, a scheme of jaxinit.tree, "
        "the text of one, or a list of pairs (pattern, initializer)."
    )
