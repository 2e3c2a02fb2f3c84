"""Whether the order of the schemes is another under another optimizer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

from jaxinit.compare.stats import comparisons
from jaxinit.compare.stats.verdict import LEVEL, Verdict, judge
from jaxinit.compare.store.sweep import Sweep


class Turn(NamedTuple):
    """Two schemes whose order is another under another optimizer.

    Attributes:
        first: the scheme that is faster under the optimizer `under`.
        second: the scheme that is faster under the optimizer `against`.
        under: an optimizer.
        against: another.
    """

    first: str
    second: str
    under: str
    against: str


class AcrossOptimizers(NamedTuple):
    """What a sweep with several optimizers shows of them.

    Attributes:
        verdicts: optimizer to the verdict on the schemes under it alone, each at
            `LEVEL` for itself.
        turned: the changes of order that are shown, at `LEVEL` for the comparisons
            within all optimizers together.
    """

    verdicts: Mapping[str, Verdict]
    turned: tuple[Turn, ...]

    @property
    def winners(self) -> dict[str, str | None]:
        """Optimizer to the scheme that is shown to be faster than all others."""
        return {
            optimizer: verdict.order[0]
            if verdict.pairs and not verdict.level_with_first
            else None
            for optimizer, verdict in self.verdicts.items()
        }


def judge_across(
    sweep: Sweep, learning_rate: float | None = None
) -> AcrossOptimizers | None:
    """Verdicts within each optimizer, and which orders change from one to another.

    Each optimizer's comparisons are a family of their own: who has chosen an optimizer
    reads that one alone. A change of order is a statement on two families, so it is
    made where both orders are shown with Holm's adjustment over the comparisons of all
    families: something false is then said with 5 % probability at most, however many
    optimizers there are.

    Args:
        sweep: over one task.
        learning_rate: see all schemes at this rate, instead of each at its best.

    Returns:
        What is shown; None where there is one optimizer.

    Raises:
        ValueError: as `verdict.judge` does.
    """
    if len(sweep.settings.optimizers) == 1:
        return None
    verdicts = {
        each: judge(sweep.under(each), learning_rate=learning_rate)
        for each in sweep.optimizers
    }
    every = [
        (optimizer, pair)
        for optimizer, verdict in verdicts.items()
        for pair in verdict.pairs
        if pair.could_show
    ]
    p_values = comparisons.holm([pair.ratio.p_value for _, pair in every])
    shown = {
        (optimizer, pair.faster, pair.slower)
        for (optimizer, pair), p in zip(every, p_values, strict=True)
        if p <= LEVEL
    }
    turned = tuple(
        Turn(first, second, under, against)
        for under, against in itertools.combinations(verdicts, 2)
        for optimizer, first, second in sorted(shown)
        if optimizer == under and (against, second, first) in shown
    )
    return AcrossOptimizers(verdicts, turned)
