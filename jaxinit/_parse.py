"""From a scheme's text back to the scheme, without evaluating code."""

from __future__ import annotations

import ast
import difflib
import importlib
import math
from typing import Any

from jaxinit._initializer import REGISTRY, Initializer

_CONSTANTS = {"inf": math.inf}


def parse(text: str) -> Initializer:
    """The scheme that a text such as `he_normal(in_axis=-2)` names.

    The inverse of `repr`. The text is a name, or a call of a name with literal
    arguments (numbers, texts, tuples, lists, True, False, None, inf) or further calls;
    nothing else is accepted and nothing is evaluated.

    Args:
        text: the text; a name alone stands for a call without arguments.

    Returns:
        The initializer, or for a name that begins with "tree." the scheme for a whole
        model; `parse(repr(init)) == init`.

    Raises:
        ValueError: the text has another form, or names an unknown scheme.

    Example:
        >>> parse("he_normal(gain=2, distribution='normal')")
        he_normal(gain=2.0, distribution='normal')
        >>> parse("xavier_uniform")
        glorot_uniform()
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


def _scheme(node: ast.expr, text: str) -> Initializer:
    called = node.func if isinstance(node, ast.Call) else node
    if not isinstance(called, (ast.Name, ast.Attribute)):
        raise ValueError(f"{text!r} is no scheme: it calls something without a name.")
    name = ast.unparse(called)
    if name.startswith("tree."):
        importlib.import_module("jaxinit.tree")  # enters its schemes
    if name not in REGISTRY:
        close = difflib.get_close_matches(name, REGISTRY, n=1, cutoff=0.0)
        raise ValueError(
            f"{text!r} names the unknown scheme {name!r}; the nearest is {close[0]!r}."
        )
    if not isinstance(node, ast.Call):
        return REGISTRY[name]()
    if any(keyword.arg is None for keyword in node.keywords):
        raise ValueError(f"{text!r}: ** is not accepted; name each argument.")
    args = [_value(argument, text) for argument in node.args]
    kwargs = {str(k.arg): _value(k.value, text) for k in node.keywords}
    init = REGISTRY[name](*args, **kwargs)
    if not hasattr(init, "arguments"):
        raise ValueError(f"{text!r}: {name} takes no arguments in a scheme's text.")
    return init


def _value(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Call):
        return _scheme(node, text)
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.Name) and node.id in REGISTRY:
        return _scheme(node, text)
    if (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub)
        and isinstance(node.operand, ast.Name)
        and node.operand.id in _CONSTANTS
    ):
        return -_CONSTANTS[node.operand.id]
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(
            f"{text!r}: {ast.unparse(node)!r} is no literal; use numbers, quoted "
            "texts, tuples or further schemes."
        ) from None
