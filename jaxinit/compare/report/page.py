"""A sweep, or several, as one HTML page that needs no network."""

from __future__ import annotations

import html
import importlib.resources
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from jaxinit import _checks
from jaxinit.compare.report import (
    figures,
    protocol,
    signal_figure,
    style,
    svg,
    table,
    words,
)
from jaxinit.compare.stats import across_tasks
from jaxinit.compare.stats.across_optimizers import AcrossOptimizers
from jaxinit.compare.stats.verdict import Row, Verdict, judge
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.store.sweep import Sweep
from jaxinit.compare.train import signal


class Part(NamedTuple):
    """A sweep on a page.

    Attributes:
        sweep: over one task.
        verdict: each scheme at its best rate.
        targets: verdicts at further targets.
        across: verdicts within each of several optimizers; None of one.
    """

    sweep: Sweep
    verdict: Verdict
    targets: Mapping[float, Verdict] = {}
    across: AcrossOptimizers | None = None


def page(part: Part) -> str:
    """The page of one sweep.

    Returns:
        HTML with its style, its script and its figures in it.
    """
    settings = part.sweep.settings
    title = f"Which initialization is faster on {settings.task}"
    body = [f"<h1>{_(title)}</h1>", *_section(part, "s0")]
    return _document(title, [*body, *_citations(settings.schemes)])


def page_of_tasks(
    parts: Sequence[Part],
    profile: Axes,
    sentence: str,
    standings: Sequence[across_tasks.Standing],
) -> str:
    """The page of several sweeps over different tasks.

    Args:
        parts: the sweeps.
        profile: the performance profile over the tasks.
        sentence: what the profile says.
        standings: the schemes over all tasks.

    Returns:
        HTML as `page` gives it.
    """
    title = f"Which initialization is faster over {len(parts)} tasks"
    schemes = list(
        dict.fromkeys(
            name for each in parts for name in each.sweep.contestants().settings.schemes
        )
    )
    says = "The share of tasks on which a scheme is within a factor of the best."
    caption = words.over_tasks(standings, len(parts))
    cited = dict.fromkeys(name for p in parts for name in p.sweep.settings.schemes)
    body = [
        f"<h1>{_(title)}</h1>",
        f'<p class="verdict">{_(sentence)}</p>',
        _sortable(table.standing_cells(standings), schemes, caption),
        _figures({"Performance profile": (profile, says)}, "all"),
    ]
    for i, part in enumerate(parts):
        body.append(f"<h2>{_(part.sweep.settings.task)}</h2>")
        body += _section(part, f"s{i}")
    return _document(title, [*body, *_citations(tuple(cited))])


def fragment(verdict: Verdict, settings: Settings) -> str:
    """The table and the verdict, for a notebook."""
    sentence = words.sentence(verdict, settings)
    return f"{_table(verdict, settings)}<p>{_(sentence)}</p>"


def _section(part: Part, prefix: str) -> list[str]:
    """Everything on one sweep but whom to cite."""
    sweep, verdict = part.sweep.contestants(), part.verdict
    settings = sweep.settings
    notes = "".join(f"<li>{_(note)}</li>" for note in words.notes(verdict, settings))
    command = protocol.command(part.sweep.settings)
    again = (
        f"<pre><code>{_(command)}</code></pre>"
        if command
        else "<p>The task or a scheme is defined in a program: run that again.</p>"
    )
    drawn = _drawn(sweep, verdict) | _signals(sweep)
    return [
        *_across(part, prefix),
        f'<p class="verdict">{_(words.sentence(verdict, settings))}</p>',
        f'<ul class="notes">{notes}</ul>',
        _table(verdict, settings),
        _targets(part),
        _why(sweep, verdict),
        "<h2>Figures</h2>",
        _figures(drawn, prefix),
        _more(verdict, settings),
        _fixed(sweep, verdict),
        "<h2>Protocol</h2>",
        *(f"<p>{_(text)}</p>" for text in protocol.paragraphs(part.sweep)),
        "<h2>Settings</h2>",
        _settings(part.sweep),
        "<h2>Run it again</h2>",
        again,
    ]


def _across(part: Part, prefix: str) -> list[str]:
    """What several optimizers show, before the pairs of scheme and optimizer."""
    if part.across is None:
        return []
    says = (
        "Median steps to target, and the rate that was tuned for the pair. Dark is "
        "fast, grey missed the target. Framed: the first of an optimizer; ★ where it "
        "is shown to be faster than all others there."
    )
    drawn = figures.optimizer_map(part.across.verdicts, part.sweep.settings)
    body = [
        f'<p class="verdict">{_(words.across_optimizers(part.across))}</p>',
        _figures({"Scheme x optimizer": (drawn, says)}, f"{prefix}o"),
    ]
    for name, verdict in part.across.verdicts.items():
        settings = part.sweep.under(name).settings
        notes = "".join(f"<li>{_(n)}</li>" for n in words.notes(verdict, settings))
        body += [
            f"<h2>Under {_(words.optimizer(name))}</h2>",
            f'<p class="verdict">{_(words.sentence(verdict, settings))}</p>',
            f'<ul class="notes">{notes}</ul>',
            _table(verdict, settings),
        ]
    return [*body, "<h2>All pairs of scheme and optimizer</h2>"]


def _why(sweep: Sweep, verdict: Verdict) -> str:
    """What the signal at step 0 shows of the schemes that are shown to be slower."""
    first, *others = verdict.order
    slower = [
        name
        for name in others
        if verdict.is_shown(first, name) and sweep.signals.get(name)
    ]
    says = {name: signal.explanation(sweep.signals[name]) for name in slower}
    items = [f"{_(name)}: {_(text)}" for name, text in says.items() if text]
    silent = [name for name, text in says.items() if not text]
    if silent:
        verb = "is" if len(silent) == 1 else "are"
        items.append(
            f"Nothing at step 0 shows why {_(words.listed(silent))} {verb} slower."
        )
    if not items:
        return ""
    listed = "".join(f"<li>{item}</li>" for item in items)
    return f'<h2>Why slower: before the first step</h2><ul class="notes">{listed}</ul>'


def _drawn(sweep: Sweep, verdict: Verdict) -> dict[str, tuple[Axes, str]]:
    """Title to axes and caption."""
    metric = sweep.settings.metric_name
    target = "Dashed: the target."
    curves = {
        f"Validation {metric}": ("valid_metric", target),
        "Training loss": (
            "train_loss",
            "A line ends where over half of the seeds diverged.",
        ),
        "Validation loss": ("valid_loss", ""),
    }
    if metric == "loss":  # once, with its target
        curves["Validation loss"] = ("valid_metric", target)
    band = "Medians and quartiles over seeds, each scheme at its best rate."
    return {
        **{
            title: (
                figures.curves(sweep, verdict, [column], medium="page")[0],
                f"{band} {more}",
            )
            for title, (column, more) in curves.items()
        },
        "Steps to target": (
            figures.survival(sweep, verdict, medium="page"),
            "The share of runs not yet at the target (Kaplan-Meier), with pointwise "
            "95 % intervals. Lines that coincide are drawn side by side.",
        ),
        "Learning rates": (
            figures.learning_rates(sweep, verdict, medium="page"),
            "Final training loss at each rate, median and quartiles; a ring is the "
            "rate that the table takes.",
        ),
        "Scheme x learning rate": (
            figures.heat_map(sweep, verdict),
            "Dark is fast. Grey: the median run missed the target, or diverged (div.).",
        ),
    }


def _signals(sweep: Sweep) -> dict[str, tuple[Axes, str]]:
    """The same of the signals at step 0, none where they are not known."""
    return {
        f"At step 0, {way}": (
            signal_figure.plot(sweep.signals, ways=[way], medium="page")[0],
            f"Root mean square of {says}, of seed 0, on the first training examples. A "
            "line that falls is a signal that vanishes with depth; one that rises is a "
            "signal that explodes.",
        )
        for way, says in signal_figure.WAYS.items()
        if any(sweep.signals.values())
    }


def _figures(drawn: Mapping[str, tuple[Axes, str]], prefix: str) -> str:
    parts = []
    for i, (title, (axes, caption)) in enumerate(drawn.items()):
        figure = style.figure_of(axes)
        figure.suptitle("")
        image = svg.inline(figure, f"{prefix}f{i}", title)
        parts.append(
            f"<figure><h3>{_(title)}</h3>{image}<output></output>"
            f"<figcaption>{_(caption)}</figcaption></figure>"
        )
    return f'<div class="figures">{"".join(parts)}</div>'


def _targets(part: Part) -> str:
    """Steps and ratios at several targets."""
    if not part.targets:
        return ""
    settings = part.sweep.settings
    rows = table.target_cells(part.targets, part.verdict.order, settings)
    what = f"Several targets of validation {settings.metric_name}"
    caption = table.targets_caption(part.targets)
    return f"<h2>{_(what)}</h2>{_sortable(rows, settings.schemes, caption)}"


def _sortable(
    rows: Sequence[Mapping[str, table.Cell]], schemes: Sequence[str], caption: str
) -> str:
    """A table of cells, each row with its scheme's colour."""
    look = style.styles(schemes)
    head = "".join(
        f'<th scope="col"{_name(column)}>'
        f'<button type="button">{_(column)}</button></th>'
        for column in rows[0]
    )
    body = ""
    for row in rows:
        color = look[row["scheme"].text].color.replace("#000000", "currentColor")
        swatch = (
            f'<span class="swatch" style="color:{color}" aria-hidden="true">■</span>'
        )
        cells = "".join(
            f'<td data-sort="{_(str(cell.value))}"{_name(column)}>'
            f"{swatch if column == 'scheme' else ''}{_cell(column, cell)}</td>"
            for column, cell in row.items()
        )
        body += f"<tr>{cells}</tr>"
    return (
        '<div class="scroll"><table class="sorts">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="soft">{_(caption)}</p>'
    )


def _table(verdict: Verdict, settings: Settings) -> str:
    baseline = (
        "" if verdict.baseline is None else f"x faster: than {verdict.baseline}. "
    )
    caption = (
        f"Steps: median and quartiles over seeds, a miss >{settings.budget}. "
        f"{table.TIME if table.timed(verdict) else ''}{baseline}Shown: against it, at "
        "5 % over all pairs. Reached: runs at the target. Diverged: at all "
        "rates. In brackets, 95 % intervals, or quartiles. * at the edge of the grid."
    )
    return _sortable(_cells(verdict, settings), settings.schemes, caption)


def _cells(verdict: Verdict, settings: Settings) -> list[dict[str, table.Cell]]:
    """The terminal's cells, and those for which there is room here."""
    rows = []
    for row, cells in zip(verdict.rows, table.cells(verdict, settings), strict=True):
        last = cells.pop("div.")
        shown = row.against or ("" if row.ratio is None else "no")
        rows.append(
            {
                **cells,
                "shown": table.Cell(shown, shown),
                "reached": table.Cell(
                    f"{row.summary.reached}/{row.summary.seeds} "
                    f"({row.reached.low:.0%}-{row.reached.high:.0%})",
                    row.reached.share,
                ),
                "diverged": last,
            }
        )
    return rows


def _more(verdict: Verdict, settings: Settings) -> str:
    """Further measures of the schemes, for those who look closer."""
    caption = (
        "Mean: steps within the budget, a miss counted as all of it. Log-rank: p "
        "against the baseline, seeds not paired. Area: under the curve of validation "
        f"{settings.metric_name}, divided by its length, median over seeds. Works: the "
        "rates around the best within twice its steps. Diverged: at its rate, with 95 "
        "% intervals."
    )
    rows = [_more_cells(row) for row in verdict.rows]
    return f"<h2>Further measures</h2>{_sortable(rows, settings.schemes, caption)}"


def _more_cells(row: Row) -> dict[str, table.Cell]:
    scheme, gone, works = row.summary.scheme, row.gone, row.works
    share = f"{gone.share:.0%} ({gone.low:.0%}-{gone.high:.0%})".replace("%-", "-")
    rates = f"{works.low:g} to {works.high:g}" if works.decades else f"{works.low:g}"
    return {
        "scheme": table.Cell(scheme, scheme),
        "mean": table.Cell(f"{row.mean:.0f}", row.mean),
        "log-rank": _known(f"{row.logrank:.2g}", row.logrank),
        "area": _known(f"{row.area:.3g}", row.area),
        "works": _known(rates, works.decades),
        "diverged": table.Cell(share, gone.share),
    }


def _known(text: str, value: float) -> table.Cell:
    """A cell of a number that may not be known; such ones are sorted last."""
    return (
        table.Cell(text, value) if math.isfinite(value) else table.Cell("-", math.inf)
    )


def _cell(column: str, cell: table.Cell) -> str:
    """A cell's text, what stands in brackets set apart."""
    if column == "scheme":  # a line may break after its bracket
        return _(cell.text).replace("(", "(<wbr>")
    if " (" not in cell.text:
        return _(cell.text)
    text, _sep, more = cell.text.partition(" ")
    return f'{_(text)} <span class="more">{_(more)}</span>'


def _fixed(sweep: Sweep, verdict: Verdict) -> str:
    """The other view: all schemes at each rate that all of them ran at."""
    if len(sweep.settings.optimizers) > 1:
        return ""  # one rate for several optimizers compares nothing
    missing = {rate for rates in verdict.missing.values() for rate in rates}
    rates = sorted(set(sweep.learning_rates) - missing)
    if len(rates) < 2:
        return ""
    parts = []
    for rate in rates:
        seen = judge(sweep, verdict.baseline, rate)
        parts.append(
            f"<details><summary>Learning rate {rate:g}</summary>"
            f"<p>{_(words.sentence(seen, sweep.settings))}</p>"
            f"{_table(seen, sweep.settings)}</details>"
        )
    return (
        "<h2>The other view: one fixed rate for all</h2>"
        '<p class="soft">What happens when the initialization alone is exchanged in a '
        "given recipe. It favours the schemes that the rate happens to suit.</p>"
        + "".join(parts)
    )


def _settings(sweep: Sweep) -> str:
    items = {
        name.replace("_", " "): _plain(value)
        for name, value in sweep.settings.to_json().items()
        if value not in (None, (), {})
    }
    if math.isfinite(sweep.seconds):
        items["wall clock"] = f"{sweep.seconds:.1f} s, compilation included"
    listed = "".join(f"<dt>{_(k)}</dt><dd>{_(v)}</dd>" for k, v in items.items())
    return f"<dl>{listed}</dl>"


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        value = tuple(f"{name} {each}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _citations(schemes: Sequence[str]) -> list[str]:
    found = protocol.citations(schemes)
    if not found:
        return []
    parts = [
        f"<details><summary>{_(scheme)}</summary><pre>{_(bibtex)}</pre></details>"
        for scheme, bibtex in found.items()
    ]
    return ["<h2>Cite the schemes</h2>", *parts]


def _document(title: str, body: Sequence[str]) -> str:
    css, script, text = _file("page.css"), _file("page.js"), "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{_(title)}</title><style>{css}</style></head>\n"
        f"<body>{text}\n<script>{script}</script></body></html>\n"
    )


def _file(name: str) -> str:
    room = importlib.resources.files("jaxinit.compare.report")
    return (room / name).read_text("utf-8")


def _name(column: str) -> str:
    return ' class="name"' if column == "scheme" else ""


def _(text: str) -> str:
    """A text with nothing in it that HTML would obey, or that is no letter."""
    return html.escape(_checks.visible(text)).replace("95 %", "95&nbsp;%")
