"""Advice as its user sees it: a sentence, and the code to paste."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxinit.compare.report import terminal, words
from jaxinit.compare.report.result import Result
from jaxinit.compare.stats.comparisons import Comparison

PRESENT = "present_initialization"
"""How the model's own initialization is called among the schemes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Advice:
    """Which initialization to use, and how sure that is.

    Attributes:
        scheme: the text of the recommended scheme; None to keep what the model has.
        code: a line that initializes the model with it; empty where nothing changes.
        pair: the scheme that was fastest, or the next where the present one was,
            against the present initialization; None where no run reached the target.
        level: the probability that something slower than the present is recommended
            is at most this.
        left_out: candidates that were not run, each with the reason.
        result: the whole comparison.
    """

    scheme: str | None
    code: str
    pair: Comparison | None
    level: float
    left_out: Mapping[str, str]
    result: Result

    def sentence(self) -> str:
        """What to do, how much it gains, and how sure that is."""
        budget = self.result.contestants.settings.budget
        if self.pair is None:
            return (
                f"Keep what you have: no candidate reaches the target within {budget} "
                "steps, so that nothing is known; take an easier target or more steps."
            )
        times = words.number(self.pair.ratio.ratio)
        interval = words.interval(self.pair)
        if self.scheme is not None:
            return (
                f"Use {self.scheme}: it reaches the target {times} times sooner than "
                f"what the model has now{interval}, each at its best learning rate."
            )
        rival = self.pair.faster if self.pair.faster != PRESENT else self.pair.slower
        if self.pair.faster == PRESENT:
            return (
                f"Keep what you have: of the candidates {rival} comes next, and takes "
                f"{times} times as long{interval}."
            )
        return (
            f"Keep what you have: nothing is shown to be better. {rival} comes first, "
            f"{times} times sooner{interval}, which may be chance; a larger budget "
            "would tell."
        )

    def __str__(self) -> str:
        """The sentence, the code, and what was not run."""
        left = [f"Not run: {name}, {why}." for name, why in self.left_out.items()]
        return "\n".join(filter(None, (self.sentence(), self.code, *left)))

    def show(self) -> None:
        """Print it."""
        terminal.console().print(str(self), markup=False, highlight=False)
