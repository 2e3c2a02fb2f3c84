"""Numbers in the program, and what they multiply: kernels, tables and activations."""

import contextlib
import operator
from collections.abc import Callable, Sequence

from ._value import Value
from ._walk import Trace

_ARITHMETIC: dict[str, Callable[..., float]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "max": max,
    "min": min,
}


def of_numbers(name: str, numbers: Sequence[float | None]) -> float | None:
    """What an operation makes of two numbers, if they are known."""
    if name not in _ARITHMETIC or len(numbers) != 2 or None in numbers:
        return None
    with contextlib.suppress(ArithmeticError, ValueError):
        return float(_ARITHMETIC[name](*numbers))
    return None


def multiplied(name: str, merged: Value, values: Sequence[Value]) -> Value:
    """Leaves times a constant, if that is one number."""
    factor = _factor(name, [value for value in values if not value.views])
    views = (view._replace(factor=view.factor * factor) for view in merged.views)
    return merged._replace(views=tuple(views))


def _factor(name: str, constants: Sequence[Value]) -> float:
    """What a product or quotient multiplies with, 1 if that is not one known number."""
    number = constants[0].scalar if len(constants) == 1 else None
    if name not in ("mul", "div") or not number:
        return 1.0
    return number if name == "mul" else 1 / number


def times(trace: Trace, name: str, value: Value, values: Sequence[Value]) -> Value:
    """Activations times a constant: they stay what they are, tables have a factor."""
    factor, info = _factor(name, [each for each in values if each is not value]), None
    if value.info is not None and not value.info.reduced:  # as by a mean
        info = value.info._replace(factor=value.info.factor * factor)
        if len(info.reach) == 1 or all(map(trace.is_table, info.sources)):
            trace.factors |= dict.fromkeys(info.sources, info.factor)
    return value._replace(
        info=info or value.info,
        views=tuple(
            view._replace(factor=view.factor * factor)
            if view.pending == "embedding"
            else view
            for view in value.views
        ),
    )
