"""The verdict as a table in the terminal, and as texts for every other table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import rich.box
import rich.console
import rich.markup
import rich.table

from jaxinit.compare.report import words
from jaxinit.compare.stats.across_tasks import Estimate, Standing
from jaxinit.compare.stats.measures import Quartiles
from jaxinit.compare.stats.verdict import Row, Verdict
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.store.sweep import Sweep

TIME = "Time: to the target on that device, drawing the initialization included. "
"""What stands below a table with times."""


Texts: TypeAlias = Sequence[Mapping[str, str]]


class Cell(NamedTuple):
    """A cell.

    Attributes:
        text: what one reads. value: what one sorts by; infinity is last.
    """

    text: str
    value: float | str


def cells(verdict: Verdict, settings: Settings) -> list[dict[str, Cell]]:
    """The verdict's rows as cells by the names of their columns, from left to right.

    Steps are the median and the quartiles over seeds; a miss is `>budget`. Seconds
    have a column where the sweep knows them.
    """
    return [_cells(row, verdict, settings) for row in verdict.rows]


def _cells(row: Row, verdict: Verdict, settings: Settings) -> dict[str, Cell]:
    scheme = row.summary
    dead = not math.isfinite(scheme.final_train_loss.median)
    metric = scheme.final_valid_metric.median
    form = ".1%" if settings.is_accuracy else ".4g"
    loss = scheme.final_train_loss.median
    bad = math.inf if settings.direction == "min" else -math.inf
    return {
        "rank": _rank(row, verdict),
        "scheme": Cell(scheme.scheme, scheme.scheme),
        "rate": Cell(
            "-" if dead else f"{scheme.learning_rate:g}{'*' * scheme.at_edge}",
            math.inf if dead else scheme.learning_rate,
        ),
        "steps": Cell(_steps(row, settings.budget), scheme.steps_to_target.median),
        **({"time": _time(scheme.seconds_to_target)} if timed(verdict) else {}),
        "x faster": _ratio(row, verdict),
        "loss": Cell("-" if dead else words.loss(loss), math.inf if dead else loss),
        metric_name(settings): Cell(
            "-" if dead else f"{metric:{form}}", bad if dead else metric
        ),
        "div.": Cell(f"{scheme.diverged}/{scheme.runs}", scheme.diverged / scheme.runs),
    }


def timed(verdict: Verdict) -> bool:
    """Whether the sweep knows seconds."""
    return any(row.summary.seconds_to_target for row in verdict.rows)


def metric_name(settings: Settings) -> str:
    """The metric as the heading of a column."""
    return "acc." if settings.is_accuracy else f"valid. {settings.metric_name}"


def table(sweep: Sweep, verdict: Verdict, width: int = 120) -> rich.console.Group:
    """The table, the verdict's sentence and its notes, to print with rich.

    Args:
        sweep: its runs.
        verdict: the sweep's.
        width: columns of the screen; where they are few, intervals have lines of their
            own.
    """
    settings = sweep.settings
    view = (
        f"at the best of {words.grid_sizes(settings)} learning rates (* at the edge of "
        "the grid)"
        if verdict.learning_rate is None
        else f"at the learning rate {verdict.learning_rate:g}"
    )
    baseline = "no scheme" if verdict.baseline is None else verdict.baseline
    took = f" in {sweep.seconds:.1f} s" if math.isfinite(sweep.seconds) else ""
    nats = ", in nats" if settings.loss_name == "cross_entropy" else ""
    caption = (
        f"{sweep.runs.num_rows} runs{took} on {settings.device}, {settings.all_seeds} "
        f"seeds. Medians {view}, steps with quartiles. x faster: than {baseline}, "
        f"misses counted as {settings.budget} steps; ranks and ratios with 95 % "
        f"intervals. {TIME if timed(verdict) else ''}Loss: of training{nats}."
    )
    goal = words.goal(settings)
    result = grid(
        texts(cells(verdict, settings)),
        width,
        title=rich.markup.escape(
            f"{settings.task}, {words.optimizers(settings)}:\nsteps to {goal}"
        ),
        caption=rich.markup.escape(caption),
    )
    notes = words.notes(verdict, settings)
    below = ["", words.sentence(verdict, settings), *notes]
    return rich.console.Group(result, *map(rich.markup.escape, below))


def targets(
    verdicts: Mapping[float, Verdict],
    order: Sequence[str],
    settings: Settings,
    width: int = 120,
) -> rich.console.Group:
    """Steps and ratios at several targets, to print with rich.

    Args:
        verdicts: target to verdict.
        order: the schemes from top to bottom.
        settings: the sweep's.
        width: columns of the screen.
    """
    rows = texts(target_cells(verdicts, order, settings))
    marks = [column for column in rows[0] if column != "scheme"]
    many = max(1, (width - max(12, *map(len, order))) // 16)
    several = [marks[at : at + many] for at in range(0, len(marks), many)]
    grids = [
        grid([{k: row[k] for k in ("scheme", *few)} for row in rows], width)
        for few in several
    ]
    head = (
        f"\nSteps to several targets of validation {settings.metric_name}, and x "
        "faster:"
    )
    return rich.console.Group(
        rich.markup.escape(head), *grids, rich.markup.escape(targets_caption(verdicts))
    )


def target_cells(
    verdicts: Mapping[float, Verdict], order: Sequence[str], settings: Settings
) -> list[dict[str, Cell]]:
    """Rows of scheme and, for each target, its median steps and its ratio."""

    def cell(row: Row, seen: Verdict) -> Cell:
        median = row.summary.steps_to_target.median
        steps = f"{median:g}" if math.isfinite(median) else f">{settings.budget}"
        ratio = _ratio(row, seen).text
        return Cell(steps if row.ratio is None else f"{steps} x{ratio}", median)

    found = {scheme: {"scheme": Cell(scheme, scheme)} for scheme in order}
    for target, seen in verdicts.items():
        for row in seen.rows:
            place = words.as_metric(settings, target)
            found[row.summary.scheme][place] = cell(row, seen)
    return list(found.values())


def targets_caption(verdicts: Mapping[float, Verdict]) -> str:
    """What stands below a table of targets."""
    baselines = list({seen.baseline for seen in verdicts.values()})
    than = baselines[0] if len(baselines) == 1 else "the scheme that has no x"
    rates = {seen.learning_rate for seen in verdicts.values()} - {None}
    rate = "its best rate for the target" if not rates else f"the rate {rates.pop():g}"
    return (
        f"Medians, and x faster than {than} with 95 % intervals, each scheme at "
        f"{rate}; all are of the same runs, so that the columns are not independent."
    )


def standing_cells(standings: Sequence[Standing]) -> list[dict[str, Cell]]:
    """The schemes over several tasks as rows of a table, column to cell."""
    return [
        {
            "scheme": Cell(each.scheme, each.scheme),
            "speed": Cell(_estimate(each.speed, words.number), each.speed.value),
            "sooner": Cell("baseline", 0.5)
            if each.sooner is None
            else Cell(_estimate(each.sooner, "{:.0%}".format), each.sooner.value),
        }
        for each in standings
    ]


def texts(rows: Sequence[Mapping[str, Cell]]) -> list[dict[str, str]]:
    """What one reads of rows of cells."""
    return [{column: cell.text for column, cell in row.items()} for row in rows]


def grid(rows: Texts, width: int, **titles: str) -> rich.table.Table:
    """Rows of texts as a table that fits the screen.

    Args:
        rows: column to text; the column "scheme" is folded if need be.
        width: columns of the screen. Where they are few, brackets have lines of their
            own, then the loss stands above the metric.
        **titles: title and caption, as rich takes them.
    """
    longest = max(len(row["scheme"]) for row in rows)
    layouts = _layouts(rows)
    rows, gap = next(
        (each for each in layouts if longest <= _room(*each, width)), layouts[-1]
    )
    room = _room(rows, gap, width)
    fits = longest <= room
    result = rich.table.Table(
        **titles,  # type: ignore[arg-type]
        title_justify="left",
        caption_justify="left",
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        padding=(0, gap - 1, 0, 0),
    )
    for column in rows[0]:
        if column == "scheme":
            most = None if fits else max(room, 12)
            result.add_column(column, no_wrap=fits, max_width=most, overflow="fold")
        else:
            name = rich.markup.escape(column)
            result.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        result.add_row(*map(rich.markup.escape, row.values()))
    return result


def _layouts(texts: Texts) -> list[tuple[Texts, int]]:
    """Rows and the gap between their columns, from wide to narrow."""
    whole = ("rank", "scheme")
    narrow = [
        {k: v if k in whole else v.replace(" (", "\n(") for k, v in row.items()}
        for row in texts
    ]
    return [(texts, 2), (narrow, 1), ([_stacked(row) for row in narrow], 1)]


def _room(rows: Texts, gap: int, width: int) -> int:
    """The width that is left for the schemes."""
    others = [column for column in rows[0] if column != "scheme"]
    lines = [
        [
            line
            for row in rows
            for text in (name, row[name])
            for line in text.split("\n")
        ]
        for name in others
    ]
    return width - sum(gap + max(map(len, each)) for each in lines)


def _stacked(row: Mapping[str, str]) -> dict[str, str]:
    """A row with the loss above the metric that follows it, in one column."""
    columns = list(row)
    if "loss" not in columns:
        return dict(row)
    place = columns.index("loss")
    under = columns[place + 1]
    both = {f"loss\n{under}": f"{row['loss']}\n{row[under]}"}
    left = {column: row[column] for column in columns[:place]}
    return left | both | {column: row[column] for column in columns[place + 2 :]}


def _rank(row: Row, verdict: Verdict) -> Cell:
    rank = row.rank
    if rank is None:
        return Cell("-", math.inf)
    if rank.low == rank.high or not verdict.intervals:
        return Cell(f"{rank.rank}", rank.rank)
    return Cell(f"{rank.rank} ({rank.low}-{rank.high})", rank.rank)


def _steps(row: Row, budget: int) -> str:
    low, median, high = (
        f"{steps:g}" if math.isfinite(steps) else f">{budget}"
        for steps in row.summary.steps_to_target
    )
    return median if low == high else f"{median} ({low}-{high})"


def _time(seconds: Quartiles | None) -> Cell:
    if seconds is None or math.isinf(seconds.median):
        return Cell("-", math.inf)
    return Cell(words.duration(seconds.median), seconds.median)


def _ratio(row: Row, verdict: Verdict) -> Cell:
    if row.summary.scheme == verdict.baseline:
        return Cell("baseline", 1.0)
    if row.ratio is None:
        return Cell("-", -math.inf)
    ratio = row.ratio
    # Where one never reaches, its times are cut at the budget: the ratio is a bound.
    base = next(r for r in verdict.rows if r.summary.scheme == verdict.baseline)
    if not row.summary.reached:
        known = base.summary.reached
        return Cell(
            f"≤{words.number(ratio.ratio)}" if known else "-", ratio.ratio - 1e-9
        )
    if not base.summary.reached:
        return Cell(f"≥{words.number(ratio.ratio)}", ratio.ratio + 1e-9)
    if math.isnan(ratio.low):
        return Cell(words.number(ratio.ratio), ratio.ratio)
    bounds = f"{words.number(ratio.low)}-{words.number(ratio.high)}"
    return Cell(f"{words.number(ratio.ratio)} ({bounds})", ratio.ratio)


def _estimate(each: Estimate, form: Callable[[float], str]) -> str:
    if math.isnan(each.low):
        return form(each.value)
    return f"{form(each.value)} ({form(each.low)}-{form(each.high)})"
