"""The terminal: whatever names hold, nothing in them acts there."""

from __future__ import annotations

from typing import Any

import rich.console
import rich.text

from jaxinit import _checks


class _Console(rich.console.Console):
    """Rich's own, through which every text passes as it stands: in cells, too."""

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        return super().render_str(_checks.visible(text), **options)


def console() -> rich.console.Console:
    """What prints to standard output."""
    return _Console()


def sentence(text: str) -> str:
    """A text as one line, in which nothing acts on a terminal."""
    return _checks.visible(" ".join(text.split()))
