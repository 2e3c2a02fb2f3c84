"""Rules by the paths of leaves, of one leaf or of several that share a key."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeAlias

from jaxinit import _text
from jaxinit._canonical import As
from jaxinit._initializer import Initializer
from jaxinit.trace import Layer
from jaxinit.tree._scheme import TreeScheme, tree_scheme
from jaxinit.tree._structure import Structure

Pattern: TypeAlias = str | re.Pattern[str] | Callable[[Layer], bool]
Rule: TypeAlias = (
    tuple[Pattern, Initializer | str | None]
    | tuple[Sequence[Pattern], Initializer | str | Sequence[Initializer | str]]
)

_REGEX = "re:"


class Match(NamedTuple):
    """What a rule says of a leaf.

    Attributes:
        init: what draws it; None if it is kept.
        says: the rule's pattern as text.
        key: the path of the leaf whose key it is drawn with, its own or another's.
    """

    init: Initializer | None
    says: str
    key: str


class Rules(TreeScheme):
    """A list of rules as a value; see `rules`."""

    __slots__ = ()

    def matched(self, layers: Sequence[Layer]) -> dict[str, Match]:
        """What the first rule that matches says, by path."""
        return _matched(self.arguments["pairs"], layers)


def _matched(
    pairs: Sequence[tuple[Any, Any]], layers: Sequence[Layer]
) -> dict[str, Match]:
    chosen: dict[str, Match] = {}
    for pattern, init in pairs:
        together = isinstance(pattern, tuple)
        patterns, inits = (pattern, init) if together else ((pattern,), (init,))
        found = [_paths(each, layers) for each in patterns]
        if together:
            _check_partners(patterns, found)
        for each, draws, paths in zip(patterns, inits, found, strict=True):
            says = getattr(each, "__name__", repr(each))
            for path, stars in paths.items():
                key = _of(stars, found[0]) if together else path
                chosen.setdefault(path, Match(draws, says, key))
    return chosen


def _paths(pattern: Any, layers: Sequence[Layer]) -> dict[str, tuple[Any, ...]]:
    """The paths that a pattern matches, with what its stars stand for in each."""
    found: dict[str, tuple[Any, ...]] = {}
    for layer in layers:
        stars = _stars(pattern, layer)
        if stars is not None:
            found[layer.path] = stars
    if not found:
        raise ValueError(
            f"reinit: no leaf matches {getattr(pattern, '__name__', repr(pattern))}; "
            f"the paths are such as {', '.join(layer.path for layer in layers[:3])}."
        )
    return found


def _of(stars: tuple[Any, ...], paths: Mapping[str, tuple[Any, ...]]) -> str:
    return next(path for path, own in paths.items() if own == stars)


def _check_partners(
    patterns: Sequence[str], found: Sequence[Mapping[str, tuple[Any, ...]]]
) -> None:
    """Raise unless each leaf has one partner, which the stars tell, by each pattern."""
    for pattern, paths in zip(patterns, found, strict=True):
        for path, stars in paths.items():
            for other, partners in zip(patterns, found, strict=True):
                count = list(partners.values()).count(stars)
                if count != 1:
                    raise ValueError(
                        f"reinit: {path}, which {pattern!r} matches, has {count} "
                        f"partners by {other!r}; leaves are drawn together where the "
                        "stars of the patterns stand for the same."
                    )


def _pairs(owner: str, name: str, value: Any) -> tuple[Any, ...]:
    """The rules in one form: globs, "re:..." or functions, with initializers."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise TypeError(
            f"{owner}: {name}={value!r} must be a list of pairs (pattern, initializer)."
        )
    return tuple(map(_pair, value))


def _pair(rule: Any) -> tuple[Any, Any]:
    if not isinstance(rule, (tuple, list)) or len(rule) != 2:
        raise TypeError(f"reinit: rule {rule!r} must be a pair (pattern, initializer).")
    pattern, init = rule
    if not isinstance(pattern, (tuple, list)):
        return _pattern(pattern), _initializer(rule, init)
    patterns = tuple(map(_pattern, pattern))
    several = isinstance(init, (tuple, list))
    inits = tuple(init) if several else (init,) * len(patterns)
    if len(patterns) < 2 or len(patterns) != len(inits):
        raise TypeError(
            f"reinit: rule {rule!r} names {len(patterns)} patterns and {len(inits)} "
            "initializers; leaves that are drawn together need two patterns or more, "
            "and one initializer for all or one for each."
        )
    if not all(isinstance(each, str) for each in patterns):
        raise TypeError(
            f"reinit: rule {rule!r} has a function for a pattern; leaves that are "
            "drawn together need globs or regular expressions, whose stars or groups "
            "tell which belong together."
        )
    if any(each is None for each in inits):
        raise TypeError(
            f"reinit: rule {rule!r} keeps a leaf, which shares no key; name it in a "
            "rule of its own."
        )
    return patterns, tuple(_initializer(rule, each) for each in inits)


def _initializer(rule: Any, init: Any) -> Initializer | None:
    if isinstance(init, str):
        init = _text.parse(init)
    if init is not None and not isinstance(init, Initializer):
        raise TypeError(
            f"reinit: rule {rule!r} must name an initializer, or None to keep the leaf."
        )
    return init


def _pattern(pattern: Any) -> Any:
    if isinstance(pattern, re.Pattern):
        pattern = _regex_text(pattern)
    if not isinstance(pattern, str) and not callable(pattern):
        raise TypeError(
            f"reinit: pattern {pattern!r} must be a glob such as '*/kernel', a regular "
            "expression such as 're:/kernel$', or a function of the layer."
        )
    return pattern


def _regex_text(pattern: re.Pattern[str]) -> str:
    """A compiled pattern as text, flags that it does not itself say in front."""
    added = pattern.flags & ~re.compile(pattern.pattern).flags
    flags = {re.I: "i", re.M: "m", re.S: "s", re.X: "x", re.A: "a"}
    letters = "".join(letter for flag, letter in flags.items() if added & flag)
    return _REGEX + (f"(?{letters})" if letters else "") + pattern.pattern


def _stars(
    pattern: str | Callable[[Layer], bool], layer: Layer
) -> tuple[Any, ...] | None:
    """What stars or groups of a pattern stand for in a path; None if it is another."""
    if callable(pattern):
        return () if pattern(layer) else None
    if pattern.startswith(_REGEX):
        found = re.search(pattern.removeprefix(_REGEX), layer.path)
    else:
        found = _glob(pattern).fullmatch(layer.path)
    return None if found is None else found.groups()


@functools.cache
def _glob(pattern: str) -> re.Pattern[str]:
    """A glob as `fnmatch` reads it, each of its wildcards a group."""

    def group(part: str) -> str:
        if part in ("*", "?"):
            return "(.*)" if part == "*" else "(.)"
        inside = part[1:-1].replace("\\", r"\\")
        if inside.startswith("!"):
            inside = f"^{inside[1:]}"
        elif inside.startswith(("^", "[")):
            inside = f"\\{inside}"
        return f"([{inside}])"

    parts = re.split(r"(\*|\?|\[!?\]?[^]]*\])", re.sub(r"\*+", "*", pattern))
    odd = (group(part) if k % 2 else re.escape(part) for k, part in enumerate(parts))
    return re.compile("".join(odd), re.DOTALL)


@tree_scheme(kind=Rules)
def rules(pairs: Annotated[Sequence[Any], As(_pairs)]):
    r"""Rules by path: the first whose pattern matches a leaf says what draws it.

    A list of pairs is accepted wherever a scheme is; this is the same as a value, which
    has a text and can be compared.

    A rule of several patterns draws leaves together, from one key: that of the leaf
    which the first of them matches. Leaves belong together where the stars, or a
    regular expression's groups, stand for the same. By `jaxinit.chrono` the forget and
    the input gate of each LSTM are then opposite, by `lru_nu_log` and `lru_gamma_log`
    a normalization is that of the very eigenvalues.

    Args:
        pairs: `(pattern, initializer)` each. A pattern is a glob over the whole path
            ("*/kernel"); a regular expression searched for in it, compiled or as text
            that begins with "re:"; or a function of the `jaxinit.trace.Layer`. None in
            place of an initializer keeps the leaf; its text will do, too. For leaves
            that are drawn together, a tuple of globs or regular expressions, and one
            initializer for all or a tuple of as many.

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

        The gates of every LSTM of Flax, for dependencies of up to 100 steps:

        >>> import jax
        >>> gates = ("*hf/bias", "*hi/bias")
        >>> memory = rules([(gates, ("chrono(100)", "chrono(100, 'input')"))])
        >>> params = {name: {"bias": jax.numpy.ones(2)} for name in ("hf", "hi")}
        >>> params = jaxinit.reinit(jax.random.key(0), params, memory)
        >>> bool((params["hf"]["bias"] == -params["hi"]["bias"]).all())
        True
    """

    def assign(model: Structure) -> Mapping[str, Initializer | None]:
        return {path: m.init for path, m in _matched(pairs, model.layers).items()}

    def keys(model: Structure) -> Mapping[str, str]:
        return {path: m.key for path, m in _matched(pairs, model.layers).items()}

    return assign, None, keys
