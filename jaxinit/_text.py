"""A scheme's text: a name, or a call of a name, read without evaluating code."""

from __future__ import annotations

import ast
import difflib
import math
from typing import Any

from jaxinit._value import REGISTRY, Value

_CONSTANTS = {"inf": math.inf}


def read(text: str) -> Any:
    """The scheme that a text names, of those whose modules have been imported.

    Args:
        text: a name, or a call of a name with literals, `inf` and further schemes as
            arguments.

    Returns:
        What the builder of that name returns.

    Raises:
        ValueError: the text has another form, or names an unknown scheme.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        node = None
    if not isinstance(node, (ast.Name, ast.Attribute, ast.Call)):
        raise ValueError(
            f"{text!r} is no scheme; use a name or a call such as 'he_normal(gain=2)'."
        )
    return _scheme(node, text)


def _scheme(node: ast.expr, text: str) -> Any:
    called = node.func if isinstance(node, ast.Call) else node
    if not isinstance(called, (ast.Name, ast.Attribute)):
        raise ValueError(f"{text!r} is no scheme: it calls something without a name.")
    name = ast.unparse(called)
    if name not in REGISTRY:
        close = difflib.get_close_matches(name, REGISTRY, n=1, cutoff=0.0)
        raise ValueError(
            f"{text!r} names the unknown scheme {name!r}; the nearest is {close[0]!r}."
        )
    if not isinstance(node, ast.Call):
        return REGISTRY[name]()
    if any(keyword.arg is None for keyword in node.keywords):
        raise ValueError(f"{text!r}: ** is not accepted; name each argument.")
    if isinstance(REGISTRY[name], Value) and (node.args or node.keywords):
        raise ValueError(f"{text!r}: {name} takes no arguments in a scheme's text.")
    args = [_value(argument, text) for argument in node.args]
    kwargs = {str(k.arg): _value(k.value, text) for k in node.keywords}
    return REGISTRY[name](*args, **kwargs)


def _value(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, (ast.Call, ast.Name, ast.Attribute)):
        return _scheme(node, text)
    if isinstance(node, (ast.Tuple, ast.List)):
        elements = [_value(element, text) for element in node.elts]
        return tuple(elements) if isinstance(node, ast.Tuple) else elements
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, text)
        if isinstance(value, (int, float, complex)):
            return -value
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(
            f"{text!r}: {ast.unparse(node)!r} is no literal; use numbers, quoted "
            "texts, tuples or further schemes."
        ) from None
