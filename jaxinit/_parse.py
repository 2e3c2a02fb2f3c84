"""From a text to any scheme: an initializer, or a scheme for a whole model."""

from __future__ import annotations

from typing import Any

from jaxinit import _text


def parse(text: str) -> Any:
    """The scheme that a text such as `he_normal(in_axis=-2)` names.

    The inverse of `repr`. The text is a name, or a call of a name with literal
    arguments (numbers, texts, tuples, lists, True, False, None, inf, nan) or further
    calls; nothing else is accepted, and nothing is evaluated or drawn.

    Args:
        text: the text; a name alone stands for a call without arguments.

    Returns:
        The initializer; for a name that begins with "tree." the scheme for a whole
        model, for one of `jaxinit.calibrate` the calibrated scheme; `parse(repr(scheme)) == scheme`.

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
    return _text.read(text)
