"""A sweep, or several, as one HTML page that needs no network."""

from __future__ import annotations

import html
import importlib.resources
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from matplotlib.axes import Axes

from jaxinit.compare.report import figures, protocol, style, svg, table
from jaxinit.compare.stats import summary as stats
from jaxinit.compare.stats.verdict import Row, Verdict, judge, ranking
from jaxinit.compare.train import signal


class Sweep(NamedTuple):
    """What a page shows of a sweep.

    Attributes:
        runs: a row a run, of one task; the columns are those of `store.SCHEMA`.
        settings: as in `sweep.json`.
        seconds: it took; NaN where that is not known.
        verdict: each scheme at its best rate.
        targets: verdicts at other targets, if any.
        signals: of the layers at step 0, by scheme, where they are known.
    """

    runs: pa.Table
    settings: Mapping[str, Any]
    seconds: float
    verdict: Verdict
    targets: Mapping[float, Verdict] = {}
    signals: signal.Signals = {}


def page(
    sweeps: Sequence[Sweep],
    profile: Axes | None = None,
    sentence: str = "",
    standings: Sequence[Mapping[str, table.Cell]] = (),
    caption: str = "",
) -> str:
    """The page.

    Args:
        sweeps: one, or several over different tasks.
        profile: over the tasks, where there are several.
        sentence: what the profile says.
        standings: rows of the schemes over all tasks.
        caption: what stands below them.

    Returns:
        HTML with its style, its script and its figures in it.
    """
    several = len(sweeps) > 1
    title = (
        f"Which start is faster over {len(sweeps)} tasks"
        if several
        else f"Which start is faster on {sweeps[0].settings['task']}"
    )
    parts = [f"<h1>{_(title)}</h1>"]
    if profile is not None:
        parts.append(f'<p class="verdict">{_(sentence)}</p>')
        listed = [scheme for each in sweeps for scheme in each.settings["schemes"]]
        parts.append(_sortable(standings, list(dict.fromkeys(listed)), caption))
        says = "The share of tasks on which a scheme is within a factor of the best."
        parts.append(_figures({"Performance profile": (profile, says)}, "all"))
    for i, sweep in enumerate(sweeps):
        if several:
            parts.append(f"<h2>{_(sweep.settings['task'])}</h2>")
        parts += _section(sweep, f"s{i}")
    schemes = dict.fromkeys(s for each in sweeps for s in each.settings["schemes"])
    parts += _citations(list(schemes))
    return _document(title, "\n".join(parts))


def fragment(verdict: Verdict, settings: Mapping[str, Any]) -> str:
    """The table and the verdict, for a notebook."""
    return f"{_table(verdict, settings)}<p>{_(verdict.sentence)}</p>"


def _section(sweep: Sweep, prefix: str) -> list[str]:
    """Everything on one sweep but whom to cite."""
    runs, settings, verdict = sweep.runs, sweep.settings, sweep.verdict
    notes = "".join(f"<li>{_(note)}</li>" for note in verdict.notes)
    command = protocol.rerun(settings)
    again = (
        f"<pre><code>{_(command)}</code></pre>"
        if command
        else "<p>Task or schemes are a program's own: run that program again.</p>"
    )
    paragraphs = protocol.words(settings, runs)
    return [
        f'<p class="verdict">{_(verdict.sentence)}</p>',
        f'<ul class="notes">{notes}</ul>',
        _table(verdict, settings),
        _targets(sweep),
        "<h2>Figures</h2>",
        _figures(_drawn(runs, settings) | _signals(sweep.signals), prefix),
        _more(verdict, settings),
        _fixed(runs, settings, verdict),
        "<h2>Protocol</h2>",
        *(f"<p>{_(text)}</p>" for text in paragraphs),
        "<h2>Settings</h2>",
        _settings(sweep),
        "<h2>Run it again</h2>",
        again,
    ]


def _drawn(runs: pa.Table, settings: Mapping[str, Any]) -> dict[str, tuple[Axes, str]]:
    """Title to axes and caption."""
    found = ranking(runs, settings)
    given = (runs, settings, found)
    target = "Dashed: the target."
    curves = {
        f"Validation {settings['metric_name']}": ("valid_metric", target),
        "Training loss": (
            "train_loss",
            "A line ends where over half of the seeds diverged.",
        ),
        "Validation loss": ("valid_loss", ""),
    }
    if settings["metric_name"] == "loss":  # once, with its target
        curves["Validation loss"] = ("valid_metric", target)
    band = "Medians and quartiles over seeds, each scheme at its best rate."
    return {
        **{
            title: (
                figures.curves(*given, columns=[column], medium="page")[0],
                f"{band} {more}",
            )
            for title, (column, more) in curves.items()
        },
        "Steps to target": (
            figures.survival(*given, medium="page"),
            "The share of runs not yet at the target (Kaplan-Meier), with pointwise "
            "95 % intervals. Lines that coincide are drawn side by side.",
        ),
        "Learning rates": (
            figures.learning_rates(*given, medium="page"),
            "Final training loss at each rate, median and quartiles; a ring is the "
            "rate that the table takes.",
        ),
        "Scheme x learning rate": (
            figures.heat_map(*given),
            "Dark is fast. Grey: the median run missed the target, or diverged (div.).",
        ),
    }


def _signals(signals: signal.Signals) -> dict[str, tuple[Axes, str]]:
    """The same of the signals at step 0, none where they are not known."""
    return {
        f"At step 0, {way}": (
            signal.plot(signals, ways=[way], medium="page")[0],
            f"Root mean square of {says}, of seed 0, on the first examples for "
            "training: where a line falls or rises, a start lets the signal vanish or "
            "explode.",
        )
        for way, says in signal.WAYS.items()
        if any(signals.values())
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


def _targets(sweep: Sweep) -> str:
    """Steps and ratios at several targets."""
    if not sweep.targets:
        return ""
    order = [row.summary.scheme for row in sweep.verdict.rows]
    rows = table.target_cells(sweep.targets, order, sweep.settings)
    what = f"Several targets of validation {sweep.settings['metric_name']}"
    caption = table.targets_caption(sweep.targets)
    return f"<h2>{_(what)}</h2>{_sortable(rows, sweep.settings['schemes'], caption)}"


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


def _table(verdict: Verdict, settings: Mapping[str, Any]) -> str:
    rows = [_cells(row, verdict, settings) for row in verdict.rows]
    baseline = (
        "" if verdict.baseline is None else f"x faster: than {verdict.baseline}. "
    )
    caption = (
        f"Steps: median and quartiles over seeds, a miss >{settings['steps']}. "
        f"{table.TIME if table.timed(verdict) else ''}{baseline}Shown: against it, at "
        "5 % over all pairs. Hits: runs that reached the target. Diverged: at all "
        "rates. In brackets, 95 % intervals, or quartiles. * at the edge of the grid."
    )
    return _sortable(rows, settings["schemes"], caption)


def _more(verdict: Verdict, settings: Mapping[str, Any]) -> str:
    """Further measures of the schemes, for those who look closer."""
    caption = (
        "Mean: steps within the budget, a miss counted as all of it. Log-rank: p "
        "against the baseline, seeds not paired. Area: under the curve of validation "
        f"{settings['metric_name']}, by its length, median over seeds. Works: the "
        "rates around the best within twice its steps. Diverged: at its rate, with 95 "
        "% intervals."
    )
    rows = [_more_cells(row) for row in verdict.rows]
    return f"<h2>Further measures</h2>{_sortable(rows, settings['schemes'], caption)}"


def _cells(
    row: Row, verdict: Verdict, settings: Mapping[str, Any]
) -> dict[str, table.Cell]:
    """The terminal's cells, and those for which there is room here."""
    cells = table.cells(row, verdict, settings)
    last = cells.pop("div.")
    reached, seeds = row.summary.reached, row.summary.seeds
    standing = row.standing or ("" if row.ratio is None else "no")
    return {
        **cells,
        "shown": table.Cell(standing, standing),
        "hits": table.Cell(f"{reached}/{seeds}", reached / seeds),
        "diverged": last,
    }


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


def _fixed(runs: pa.Table, settings: Mapping[str, Any], verdict: Verdict) -> str:
    """The other view: all schemes at each rate that all of them ran at."""
    missing = {rate for rates in stats.missing_rates(runs).values() for rate in rates}
    rates = sorted(set(runs["learning_rate"].to_pylist()) - missing)
    if len(rates) < 2:
        return ""
    parts = []
    for rate in rates:
        seen = judge(runs, settings, verdict.baseline, rate)
        parts.append(
            f"<details><summary>Learning rate {rate:g}</summary>"
            f"<p>{_(seen.sentence)}</p>{_table(seen, settings)}</details>"
        )
    return (
        "<h2>The other view: one fixed rate for all</h2>"
        '<p class="soft">What happens when the start alone is exchanged in a given '
        "recipe. It favours the schemes that the rate happens to suit.</p>"
        + "".join(parts)
    )


def _settings(sweep: Sweep) -> str:
    settings = dict(sweep.settings)
    versions = settings.pop("versions", {})
    items = {name.replace("_", " "): _plain(each) for name, each in settings.items()}
    items["versions"] = ", ".join(f"{name} {each}" for name, each in versions.items())
    if sweep.seconds == sweep.seconds:
        items["wall clock"] = f"{sweep.seconds:.1f} s, compilation included"
    listed = "".join(f"<dt>{_(k)}</dt><dd>{_(v)}</dd>" for k, v in items.items())
    return f"<dl>{listed}</dl>"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _citations(schemes: Sequence[str]) -> list[str]:
    found = protocol.citations(schemes)
    if not found:
        return []
    parts = [
        f"<details><summary>{_(scheme)}</summary><pre>{_(bibtex)}</pre></details>"
        for scheme, bibtex in found.items()
    ]
    return ["<h2>Cite the schemes</h2>", *parts]


def _document(title: str, body: str) -> str:
    css, script = _file("page.css"), _file("page.js")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{_(title)}</title><style>{css}</style></head>\n"
        f"<body>{body}\n<script>{script}</script></body></html>\n"
    )


def _file(name: str) -> str:
    room = importlib.resources.files("jaxinit.compare.report")
    return (room / name).read_text("utf-8")


def _name(column: str) -> str:
    return ' class="name"' if column == "scheme" else ""


def _(text: str) -> str:
    """A text with nothing in it that HTML would obey."""
    return html.escape(text).replace("95 %", "95&nbsp;%")
