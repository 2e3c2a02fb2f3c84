"""What is wrong, as a value."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that is wrong with an initialization.

    Attributes:
        rule: which check found it, such as "dead".
        serious: whether training will fail, or fall far short; what is not serious is
            unusual, and may be meant.
        path: of the leaf or the layer; empty for the whole model.
        number: what was measured.
        sentence: what is wrong, in plain words.
        remedy: what mends it, as code where code does.
    """

    rule: str
    serious: bool
    path: str
    number: float
    sentence: str
    remedy: str = ""

    def __str__(self) -> str:
        """One line."""
        mark = "serious" if self.serious else "notice"
        return f"{mark}, {self.rule}: {self.sentence} {self.remedy}".rstrip()
