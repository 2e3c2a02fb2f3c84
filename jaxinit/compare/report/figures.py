"""A sweep's figures; a scheme has one colour in all of them.

All take these arguments:

    sweep: over one task.
    verdict: the sweep's; each scheme is drawn at its learning rate there.
    ax: where to draw; by default in a figure of its own.
    medium: what that figure is for; see `style.Medium`.

and return the axes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patches import Rectangle

from jaxinit.compare.report import style, words
from jaxinit.compare.stats import inference, measures, summary
from jaxinit.compare.stats.verdict import Verdict
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.store.sweep import Sweep
from jaxinit.compare.train.optimizer import OWN


def curves(
    sweep: Sweep,
    verdict: Verdict,
    columns: Sequence[str] = ("train_loss", "valid_metric"),
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    medium: style.Medium = "file",
) -> np.ndarray:
    """Learning curves, of each of the columns a panel.

    Lines are medians over seeds, bands the quartiles. A line ends where more than half
    of the seeds have diverged. Seeds that tune are left out. The columns are
    "train_loss", "valid_loss" and "valid_metric"; `ax` has axes for each, and so has
    what is returned.

    Raises:
        ValueError: there are not as many axes as columns.
    """
    settings, scoring = sweep.settings, sweep.scoring
    panels = style.given_or_new(ax, medium, len(columns), "curves: columns")
    look = style.styles(settings.schemes)
    for axes, column in zip(panels, columns, strict=True):
        for scheme in verdict.ranking:
            _band(axes, scoring, column, scheme, look[scheme.scheme], medium)
        axes.set(xlabel="step", **_scale(scoring, column))
        style.plain(axes)
        if column != "valid_metric":
            kind = "training" if column == "train_loss" else "validation"
            axes.set(ylabel=f"{kind} loss{words.unit(settings)}")
            axes.set_title("median and quartiles over seeds", loc="left", fontsize=10)
            continue
        name = settings.metric_name
        unit = words.unit(settings) if name == "loss" else ""
        axes.set(ylabel=style.text(f"validation {name}{unit}"))
        axes.axhline(settings.target, color="0.6", lw=1, ls="--", zorder=0)
        axes.set_title("dashed: the target", loc="left", fontsize=10)
    style.finish(panels, _title(settings), len(columns) + 1, whole=ax is None)
    return panels


def learning_rates(
    sweep: Sweep,
    verdict: Verdict,
    ax: Axes | None = None,
    medium: style.Medium = "file",
) -> Axes:
    """Final training loss against the learning rate, for each scheme.

    Marks are medians over seeds; rates at which half of the seeds or more diverged
    have none. A ring is the rate that the verdict takes.
    """
    axes = ax or style.panels(medium, style.WIDTH, style.HEIGHT)[0]
    look = style.styles(sweep.settings.schemes)
    for scheme in verdict.ranking:
        _losses_by_rate(axes, sweep, scheme, look[scheme.scheme], medium)
    unit = words.unit(sweep.settings)
    axes.set(xlabel="learning rate", ylabel=f"final training loss{unit}")
    drawn = np.concatenate([line.get_ydata() for line in axes.get_lines()])
    drawn = drawn[np.isfinite(drawn)]
    axes.set_yscale("log" if len(drawn) and (drawn > 0).all() else "linear")
    style.plain(axes)
    rates = sweep.learning_rates
    axes.set(xscale="log", xlim=(rates[0] / 1.3, rates[-1] * 1.3))
    if len(rates) <= 12:
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.set_xticks([], minor=True)
    style.finish([axes], _title(sweep.settings), columns=2, whole=ax is None)
    return axes


def _losses_by_rate(
    axes: Axes,
    sweep: Sweep,
    scheme: summary.SchemeSummary,
    way: style.Style,
    medium: style.Medium,
) -> None:
    found = summary.by_rate(sweep, scheme.scheme, "final_train_loss")
    rates, (low, median, high) = list(found), np.array(list(found.values())).T
    gone = ~np.isfinite(median)
    label = style.text(scheme.scheme, style.NAME)
    if scheme.diverged:
        label += f" ({scheme.diverged} of {scheme.runs} diverged)"
    median = np.where(gone, np.nan, median)
    color, marker, dash = way
    axes.plot(rates, median, dash, color=color, marker=marker, ms=5, label=label)
    shown = ~gone & np.isfinite(high)
    axes.fill_between(rates, low, high, where=shown, color=color, alpha=0.15)
    if scheme.learning_rate in rates:
        best = rates.index(scheme.learning_rate)
        axes.plot(rates[best], median[best], "o", mec=color, mfc="none", ms=13)
    if medium == "page":
        for rate, loss in zip(rates, median, strict=True):
            says = f"{scheme.scheme}, rate {rate:g}: {loss:.4g}"
            style.hover(axes, rate, loss, says)


def survival(
    sweep: Sweep,
    verdict: Verdict,
    ax: Axes | None = None,
    medium: style.Medium = "file",
) -> Axes:
    """Kaplan and Meier's curves: the share of runs not yet at the target.

    Bands are pointwise 95 % intervals by Wilson, from the first run at the target on. A
    run that misses, or diverges, stays to the end. Seeds that tune are left out.
    """
    axes = ax or style.panels(medium, style.WIDTH, style.HEIGHT)[0]
    settings, ranking = sweep.settings, verdict.ranking
    budget = float(settings.budget)
    times = summary.times(sweep.scoring, ranking)
    look = style.styles(settings.schemes)
    found = {s.scheme: inference.kaplan_meier(times[s.scheme], budget) for s in ranking}
    apart = _apart(np.append(c.steps, c.fraction) for c in found.values())
    for (name, curve), more in zip(found.items(), apart, strict=True):
        way = look[name]
        steps = np.append(curve.steps, budget)
        share, low, high = (
            np.append(each, each[-1])
            for each in (curve.fraction, curve.low, curve.high)
        )
        axes.step(
            steps, share + more, way.dash, where="post", color=way.color,
            lw=1.8, label=style.text(name, style.NAME),
        )  # fmt: skip
        if len(curve.steps) > 1:
            axes.fill_between(
                steps, low, high, where=share < 1, step="post", color=way.color,
                alpha=0.12, lw=0,
            )  # fmt: skip
        if medium == "page":
            for step, left in zip(curve.steps[1:], curve.fraction[1:], strict=True):
                text = f"{name}, step {step:g}: {1 - left:.0%} of runs at the target"
                style.hover(axes, step, left + more, text)
    axes.set(
        xlabel="step", ylabel="runs not yet at the target", xlim=(0, budget),
        ylim=(-0.02, 1.03 + apart.max()),
    )  # fmt: skip
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_title(
        f"target: {style.text(words.goal(settings))}", loc="left", fontsize=10
    )
    style.finish([axes], _title(settings), columns=2, whole=ax is None)
    return axes


def heat_map(
    sweep: Sweep,
    verdict: Verdict,
    ax: Axes | None = None,
    medium: style.Medium = "file",
) -> Axes:
    """Scheme x learning rate: median steps to target, or final loss where none reach.

    Dark is fast. A grey cell is a median run that missed the target, or diverged; an
    empty one a rate that the scheme did not run at. A frame is the verdict's rate.
    """
    rates, ranking = sweep.learning_rates, verdict.ranking
    reach = any(step is not None for step in sweep.runs["steps_to_target"].to_pylist())
    column = "steps_to_target" if reach else "final_train_loss"
    values = np.full((len(ranking), len(rates)), np.nan)
    for i, scheme in enumerate(ranking):
        for rate, found in summary.by_rate(sweep, scheme.scheme, column).items():
            values[i, rates.index(rate)] = found.median
    size = max(2.3 + 0.62 * len(rates), style.WIDTH), 1.5 + 0.42 * len(ranking)
    axes = ax or style.panels(medium, *size)[0]
    values = np.maximum(values, 1) if reach else values
    texts = {
        (i, j): _cell(value, sweep.at(ranking[i].scheme, rates[j]), reach)
        for (i, j), value in np.ndenumerate(values)
    }
    framed = {
        (i, rates.index(each.learning_rate))
        for i, each in enumerate(ranking)
        if math.isfinite(each.final_train_loss.median) and each.learning_rate in rates
    }
    _paint(axes, values, texts, framed)
    axes.set(xlabel="learning rate")
    axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    axes.set_yticks(range(len(ranking)), [style.text(s.scheme, 26) for s in ranking])
    what = "median steps to target" if reach else "median final training loss"
    axes.set_title(f"{what} (framed: the best rate)", loc="right", fontsize=10)
    return axes


def optimizer_map(
    verdicts: Mapping[str, Verdict],
    settings: Settings,
    ax: Axes | None = None,
    medium: style.Medium = "file",
) -> Axes:
    """Scheme x optimizer: median steps to target, each pair at its own best rate.

    Dark is fast, and grey a median run that missed the target. A frame is the fastest
    scheme of an optimizer, and a star one that is shown to be faster than all others
    there.

    Args:
        verdicts: optimizer to verdict.
        settings: of the sweep.
        ax: where to draw; by default in a figure of its own.
        medium: what that figure is for; see `style.Medium`.
    """
    schemes, optimizers = settings.schemes, list(verdicts)
    values = np.full((len(schemes), len(optimizers)), np.nan)
    texts = dict.fromkeys(np.ndindex(*values.shape), "")
    framed = set()
    for j, verdict in enumerate(verdicts.values()):
        for row in verdict.rows:
            place = schemes.index(row.summary.scheme), j
            values[place] = median = row.summary.steps_to_target.median
            rate = f"\nat {row.summary.learning_rate:g}"
            missed = f">{settings.budget}"
            texts[place] = f"{median:.0f}{rate}" if np.isfinite(median) else missed
        first = schemes.index(verdict.order[0]), j
        if np.isfinite(values[first]):
            framed.add(first)
            if verdict.pairs and not verdict.level_with_first:
                texts[first] = f"★ {texts[first]}"
    size = max(2.3 + 1.1 * len(optimizers), style.WIDTH), 1.5 + 0.5 * len(schemes)
    axes = ax or style.panels(medium, *size)[0]
    _paint(axes, values, texts, framed)
    axes.set_xticks(
        range(len(optimizers)),
        [style.text(words.optimizer(each), 26) for each in optimizers],
    )
    axes.set_yticks(range(len(schemes)), [style.text(each, 26) for each in schemes])
    title = "median steps to target, and the rate (framed: the first of an optimizer)"
    axes.set_title(title, loc="right", fontsize=10)
    return axes


def _paint(
    axes: Axes,
    values: np.ndarray,
    texts: Mapping[tuple[int, ...], str],
    framed: Collection[tuple[int, int]],
) -> None:
    """Cells with their texts: dark is small, infinity grey, and NaN empty."""
    shown = np.ma.masked_invalid(values)
    low, high = (shown.min(), shown.max()) if shown.count() else (1.0, 1.0)
    norm = LogNorm(low, max(high, 1.01 * low)) if low > 0 else Normalize(low, high)
    grey = np.where(np.isinf(values), 0.5, np.nan)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, alpha=0.25, aspect="auto")
    colors = axes.imshow(shown, cmap="cividis", norm=norm, aspect="auto").get_cmap()
    for place, value in np.ndenumerate(values):
        color = _on(colors(norm(value))) if math.isfinite(value) else "black"
        i, j = place
        axes.text(j, i, texts[place], ha="center", va="center", fontsize=9, color=color)
    for i, j in framed:
        corner = (j - 0.47, i - 0.46)
        axes.add_patch(Rectangle(corner, 0.94, 0.92, fill=False, lw=2, ec=style.FRAME))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def profile(
    times: Mapping[str, np.ndarray],
    ax: Axes | None = None,
    medium: style.Medium = "file",
) -> Axes:
    """Dolan and More's performance profile of (tasks,) times to target by scheme."""
    axes = ax or style.panels(medium, style.WIDTH, style.HEIGHT)[0]
    table = np.array(list(times.values()), dtype=float)
    factors = table / np.where(np.isinf(table.min(axis=0)), 1, table.min(axis=0))
    finite = np.unique(factors[np.isfinite(factors)])
    last = 1.15 * max(finite.max(initial=1.0), 1.5)
    taus = np.unique(np.concatenate([[1.0], finite[finite >= 1], [last]]))
    shares = measures.performance_profile(table, taus)
    apart = _apart(shares)
    for place, (name, way) in enumerate(style.styles(list(times)).items()):
        axes.step(
            taus, shares[place] + apart[place], way.dash, where="post",
            color=way.color, lw=1.8, label=style.text(name, style.NAME),
        )  # fmt: skip
        if medium == "page":
            for tau, share in zip(taus[:-1], shares[place], strict=False):
                text = (
                    f"{name}: {share:.0%} of tasks within {tau:.2f} times the fastest"
                )
                style.hover(axes, tau, share + apart[place], text)
    axes.set(
        xscale="log", xlim=(1, last), ylim=(-0.02, 1.02 + apart.max()),
        xlabel="at most so many times as long as the fastest scheme",
        ylabel="share of tasks",
    )  # fmt: skip
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.xaxis.set_major_formatter(lambda factor, _: f"{factor:g}")
    axes.xaxis.set_minor_formatter(lambda factor, _: f"{factor:g}")
    title = f"performance profile over {table.shape[1]} tasks"
    style.finish([axes], title, columns=2, whole=ax is None)
    return axes


def _apart(curves: Iterable[np.ndarray]) -> np.ndarray:
    """How far each curve is moved up, (curves,): those alone that coincide.

    They are then all seen, and none is moved as far as a run of fifty would move it.
    """
    texts = [curve.tobytes() for curve in curves]
    place = np.array([texts[:k].count(text) for k, text in enumerate(texts)])
    return place * min(0.006, 0.018 / max(1, place.max()))


def _band(
    axes: Axes,
    sweep: Sweep,
    column: str,
    scheme: summary.SchemeSummary,
    way: style.Style,
    medium: style.Medium,
) -> None:
    """Median and quartiles over seeds of a scheme's curves."""
    at = sweep.at(scheme.scheme, scheme.learning_rate)
    steps = max(at.runs["eval_steps"].to_pylist(), key=len)
    values, loss = _padded(at, column), _padded(at, "train_loss")
    gone = np.maximum.accumulate(~np.isfinite(loss), axis=1)
    values = np.where(gone, np.inf, values)  # a diverged model has none
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0, method="higher")
    alive = np.isfinite(median)
    axes.plot(
        steps, np.where(alive, median, np.nan), way.dash, color=way.color, lw=1.8,
        label=f"{style.text(scheme.scheme, style.NAME)}, {_rate(scheme)}",
    )  # fmt: skip
    axes.fill_between(
        steps, low, high, where=alive & np.isfinite(high), color=way.color,
        alpha=0.18, lw=0,
    )  # fmt: skip
    if medium == "page":
        every = max(1, math.ceil(len(steps) / 50))
        for step, value in list(zip(steps, median, strict=True))[::every]:
            says = f"{scheme.scheme}, {_rate(scheme)}, step {step}: {value:.4g}"
            style.hover(axes, step, value, says)


def _padded(sweep: Sweep, column: str) -> np.ndarray:
    """(runs, evaluations) of a curve; NaN after the end of a run cut short."""
    curves = sweep.runs[column].to_pylist()
    values = np.full((len(curves), max(map(len, curves))), np.nan)
    for row, curve in zip(values, curves, strict=True):
        row[: len(curve)] = curve
    return values


def _cell(value: float, at: Sweep, reach: bool) -> str:
    """What a heat map says of a scheme at a rate."""
    if math.isnan(value):
        return ""
    if math.isfinite(value):
        return f"{value:.0f}" if reach else f"{value:.3g}"
    if 2 * at.diverged.sum() >= len(at.diverged):
        return "div."
    return f">{at.settings.budget}"


def _on(color: tuple[float, ...]) -> str:
    """White or black, whichever is easier to read on a colour.

    The black is one that `svg` leaves alone, for the colour is that of no theme.
    """
    channels = np.array(color[:3])
    linear = np.where(
        channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
    )
    light = float(linear @ [0.2126, 0.7152, 0.0722])
    return "white" if 1.05 / (light + 0.05) > (light + 0.05) / 0.05 else "#010101"


def _scale(sweep: Sweep, column: str) -> dict[str, Any]:
    """Scale and limits that an exploded scheme cannot stretch beyond reading.

    Logarithmic where no value is negative; else linear, without the worst tenth.
    """
    settings = sweep.settings
    if column == "valid_metric" and settings.is_accuracy:
        return {"ylim": (0, 1.02)}
    curves = _padded(sweep, column)
    values = curves[np.isfinite(curves)]
    if (values < 0).any():
        falls = column != "valid_metric" or settings.direction == "min"
        kept = (0, 0.9) if falls else (0.1, 1)
        return {"yscale": "linear", "ylim": tuple(np.quantile(values, kept))}
    values = values[values > 0]
    if not len(values):
        return {"yscale": "log", "ylim": (1e-3, 10.0)}
    low = max(np.quantile(values, 0.001), 1e-6)
    nats = settings.loss_name == "cross_entropy"
    cap = 10.0 if nats else 4 * np.nanmedian(curves[:, 0])
    return {"yscale": "log", "ylim": (low / 1.5, 2 * min(values.max(), cap))}


def _title(settings: Settings) -> str:
    own = settings.optimizers == (OWN,)
    batch = "" if own else f", batch {settings.batch_size}"
    with_each = words.optimizers(settings)
    return f"{settings.task}, {with_each}{batch}, {settings.all_seeds} seeds"


def _rate(scheme: summary.SchemeSummary) -> str:
    dead = not math.isfinite(scheme.final_train_loss.median)
    return "diverged" if dead else f"rate {scheme.learning_rate:g}"
