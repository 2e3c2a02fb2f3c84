"""A scheme's text: a name, or a call of a name, read without evaluating code."""

from __future__ import annotations

import ast
import difflib
import math
from typing import Any, NamedTuple

from jaxinit._checks import shortened
from jaxinit._value import Value, registered

_CONSTANTS = {"inf": math.inf, "nan": math.nan}
_LITERALS = (bool, int, float, complex, str, type(None))


class Call(NamedTuple):
    """A text such as `name(1, key=2)`, taken apart.

    Attributes:
        name: what is called, or the whole of a text without brackets.
        args: the arguments by position, as nodes that `literal` reads.
        kwargs: those by name.
    """

    name: str
    args: list[ast.expr]
    kwargs: dict[str, ast.expr]


def parse(text: str) -> Any:
    """The scheme that a text such as `he_normal(in_axis=-2)` names.

    The inverse of `repr`. The text is a name, or a call of a name with literal
    arguments (numbers, texts, tuples, lists, True, False, None, inf, nan) or further
    calls; nothing else is accepted, and nothing is evaluated or drawn.

    Args:
        text: the text; a name alone stands for a call without arguments.

    Returns:
        The initializer, or for a name that begins with "tree." the scheme for a whole
        model; `parse(repr(scheme)) == scheme`.

    Raises:
        ValueError: the text has another form, names an unknown scheme, or gives an
            argument twice or out of range.
        TypeError: it is no text, or the scheme has no such argument.

    Example:
        >>> parse("he_normal(gain=2, distribution='normal')")
        he_normal(gain=2.0, distribution='normal')
        >>> parse("xavier_uniform")
        glorot_uniform()
        >>> parse("tree.gpt2(stddev=0.01)")
        tree.gpt2(stddev=0.01)
    """
    if not isinstance(text, str):
        raise TypeError(
            f"a scheme's text of type {type(text).__name__} must be a str, such as "
            "'he_normal(gain=2)'."
        )
    try:
        return _scheme(parsed(text), text)
    except (RecursionError, MemoryError):
        raise ValueError(
            f"{shortened(text)} is nested too deeply or too large to be read as a "
            "scheme; use a name or a call such as 'he_normal(gain=2)'."
        ) from None


def parsed(text: str) -> ast.expr:
    """The expression that a text is.

    Raises:
        ValueError: it is none.
    """
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        raise ValueError(
            f"{shortened(text)} is no scheme; use a name or a call such as "
            "'he_normal(gain=2)'."
        ) from None


def taken_apart(node: ast.expr, text: str) -> Call:
    """A name or a call of a name, whose arguments are each given once.

    Args:
        node: of the text, or of a part of it.
        text: for what errors say.

    Raises:
        ValueError: it has another form.
    """
    said = shortened(text)
    called = node.func if isinstance(node, ast.Call) else node
    if not isinstance(called, (ast.Name, ast.Attribute)):
        if isinstance(node, ast.Call):
            raise ValueError(f"{said} is no scheme: it calls something without a name.")
        raise ValueError(
            f"{said} is no scheme; use a name or a call such as 'he_normal(gain=2)'."
        )
    name = ast.unparse(called)
    if not isinstance(node, ast.Call):
        return Call(name, [], {})
    kwargs: dict[str, ast.expr] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError(f"{said}: ** is not accepted; name each argument.")
        if keyword.arg in kwargs:
            raise ValueError(
                f"{said}: {keyword.arg} is given twice; give each argument once."
            )
        kwargs[keyword.arg] = keyword.value
    return Call(name, node.args, kwargs)


def literal(node: ast.expr, text: str) -> Any:
    """The value of an argument: a literal, or a scheme.

    Args:
        node: of a part of the text.
        text: for what errors say.

    Raises:
        ValueError: it is neither, or a dict has a key twice.
    """
    match node:
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.Call(func=ast.Name(id="complex"), args=[real, imag], keywords=[]):
            parts = literal(real, text), literal(imag, text)
            if all(type(part) in (int, float) for part in parts):
                return complex(*parts)
        case ast.Name() | ast.Attribute() | ast.Call():
            return _scheme(node, text)
        case ast.Constant(value=value) if type(value) in _LITERALS:
            return value
        case ast.Tuple(elts=elements):
            return tuple(literal(element, text) for element in elements)
        case ast.List(elts=elements):
            return [literal(element, text) for element in elements]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return _mapping([literal(key, text) for key in keys if key], values, text)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            value = literal(operand, text)
            if type(value) in (int, float, complex):
                return -value if isinstance(node.op, ast.USub) else value
        case ast.BinOp(
            left=first,
            op=ast.Add() | ast.Sub(),
            right=ast.Constant(value=complex() as right),
        ):
            left = literal(first, text)
            if type(left) in (int, float):
                return left + right if isinstance(node.op, ast.Add) else left - right
    raise ValueError(
        f"{shortened(text)}: {shortened(ast.unparse(node))} is no literal; use "
        "numbers, quoted texts, tuples or further schemes."
    )


def _mapping(keys: list[Any], values: list[ast.expr], text: str) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in zip(keys, values, strict=True):
        if not isinstance(key, (str, int, float)) or key in found:
            raise ValueError(
                f"{shortened(text)}: {shortened(repr(key))} is no key of a dict, or "
                "one that is there twice; give each name once."
            )
        found[key] = literal(value, text)
    return found


def _scheme(node: ast.expr, text: str) -> Any:
    """What a name, or a call of a name, makes."""
    call = taken_apart(node, text)
    schemes = registered(call.name)
    if call.name not in schemes:
        (close,) = difflib.get_close_matches(call.name[:80], schemes, 1, 0.0)
        raise ValueError(
            f"{shortened(text)} names the unknown scheme {shortened(call.name)}; the "
            f"nearest is {close!r}."
        )
    public: Any = schemes[call.name]
    if isinstance(schemes[call.name], Value) and (call.args or call.kwargs):
        raise ValueError(
            f"{shortened(text)}: {call.name} takes no arguments in a scheme's text."
        )
    args = [literal(argument, text) for argument in call.args]
    kwargs = {name: literal(value, text) for name, value in call.kwargs.items()}
    return public(*args, **kwargs)
