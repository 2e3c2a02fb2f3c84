"""Names that hold anything: nothing of them acts on a terminal, a page or a figure."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import sys
import unicodedata
import warnings
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from sweeps import FAST, SLOW, Page, of_rows, result, run, settings, store_of

from jaxinit import _checks
from jaxinit.compare import cli, load_result
from jaxinit.compare.report import figures, page, signal_figure, style
from jaxinit.compare.report.result import Result
from jaxinit.compare.report.study import Study
from jaxinit.compare.store import folder as store
from jaxinit.compare.store.sweep import Sweep
from jaxinit.compare.train.signal import LayerSignal

NAMES = {
    "escape": "\x1b[31mred\x1b[0m",
    "title": "\x1b]0;owned\x07",
    "one byte": "\x9b31mred",
    "string": "\x90evil\x9c",
    "nothing": "a\0b",
    "back": "ab\b\b\rcd",
    "delete": "a\x7fb",
    "form feed": "a\x0cb\x0bc",
    "right to left": "a\u202eb\u2066c",
    "no width": "a\u200bb\ufeffc",
    "half a pair": "a\ud800b",
    "no letter": "a\ufffe\uffffb",
    "lines": "a\u2028b\u2029c\x85d",
    "tag": "[red]a[/red] [link=file:///x]b[/link]",
    "dollars": "$$",
    "more dollars": "a$$b$$c$",
    "a formula": r"$\frac{1}{$",
    "escaped dollars": r"\$a\$$",
    "command": r"$\input{/etc/passwd}$ \x $_{",
    "percent": "%s %d {0} {x}",
    "under": "__a",
    "emoji": "\U0001f600\u200d\U0001f600",
}
COLORS = re.compile(r"\x1b\[[0-9;]*m")
"""What rich itself writes; nothing else begins with an escape."""


SEVERAL = {
    "controls": "".join(
        NAMES[k] for k in NAMES if not {"$", "["} & set(NAMES[k]) and k[:4] != "half"
    ),
    "dollars": NAMES["dollars"],
    "more dollars": NAMES["more dollars"],
    "a formula": NAMES["a formula"],
    "the rest": "".join(NAMES[k] for k in ("tag", "escaped dollars", "command")),
}
"""The names in few, for what takes its time."""


def every_name(name):
    """A sweep in which all that has a name has this one."""
    swept = result(
        {name: SLOW, f"{name} 2": FAST, "c": ["diverged"] * 4},
        inits={name: 0.1, f"{name} 2": 0.2, "c": 0.1},
        task=f"t {name}", metric_name=f"m {name}", loss_name=f"l {name}",
        device=f"d {name}", code=f"c {name}",
        versions={f"p {name}": f"1 {name} or 2"}, untraced=(f"u {name}",),
        target_of=name, made_for=0.8, direction="max",
    )  # fmt: skip
    rows = [LayerSignal(f"layer {name} {k}", 1.0 + k, 2.0) for k in range(2)]
    return Result(Sweep(swept.runs, swept.settings, 1.0, {name: rows, "c": rows}))


def acts(text):
    """The letters of a text that act on a terminal, or are no letters."""
    return {
        each
        for each in text
        if unicodedata.category(each) in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")
        and each != "\n"
    }


@pytest.mark.parametrize("kind", NAMES)
def test_visible_leaves_what_one_sees_alone(kind):
    text = _checks.visible(NAMES[kind])
    assert not acts(text) and text.encode()
    assert _checks.visible("é 日本 ∂ x\ny") == "é 日本 ∂ x\ny"
    assert (text == NAMES[kind]) == (not acts(NAMES[kind]))


@pytest.mark.parametrize("kind", SEVERAL)
def test_no_name_acts_on_the_terminal(kind, capsys):
    swept = every_name(SEVERAL[kind]).with_targets([0.5, 0.9])
    swept.show()
    other = result({SEVERAL[kind]: FAST, "c": SLOW}, task="u")
    Study((swept, other)).show()
    out = capsys.readouterr().out
    assert not acts(COLORS.sub("", out))
    assert _checks.visible(SEVERAL[kind])[:6] in out


@pytest.mark.parametrize("kind", SEVERAL)
def test_no_name_acts_on_the_page_or_in_a_figure(kind, tmp_path):
    every_name(SEVERAL[kind]).write(tmp_path)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert Page(text).open == [] and not acts(text) and "<red>" not in text
    images = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(images) == 8
    for image in images:
        ElementTree.fromstring(image)
    assert len(list(tmp_path.glob("*.png"))) == 5


def test_half_a_pair_of_utf16_in_a_setting_is_shown(tmp_path):
    swept = result({"a": FAST, "b": SLOW})
    half = dataclasses.replace(swept.settings, task="t \ud800", code="\udfff")
    swept = Result(dataclasses.replace(swept.sweep, settings=half))
    text = page.page(swept.page_part())
    assert text.encode() and r"t \ud800" in text and r"\udfff" in text
    assert swept._repr_html_().encode()
    swept.show()
    style.figure_of(figures.survival(swept.sweep, swept.judge())).savefig(
        tmp_path / "a.png"
    )


def test_no_name_acts_in_axes_that_are_given(tmp_path):
    for name in SEVERAL.values():
        swept = every_name(name)
        own = Figure().subplots(1, 5)
        figures.curves(swept.sweep, swept.judge(), ax=own[:2])
        figures.survival(swept.sweep, swept.judge(), ax=own[2])
        signal_figure.plot(swept.sweep.signals, name, ax=own[3:])
        own[0].figure.savefig(tmp_path / "own.svg")
        ElementTree.fromstring((tmp_path / "own.svg").read_text("utf-8"))


@pytest.mark.parametrize("kind", [k for k in NAMES if k not in ("half a pair",)])
def test_what_the_command_says_acts_on_nothing(kind, tmp_path, capsys):
    name = NAMES[kind]
    given = [["report", name], ["show", name], ["compare", "--task", name],
             ["compare", "--data", name], ["compare", "--schemes", name],
             ["merge", name, "-o", "x"], ["list", "--family", name],
             ["compare", "--shard", name]]  # fmt: skip
    for words in given:
        assert cli.run(words) == 2
        out, err = capsys.readouterr()
        assert not acts(out) and not acts(err) and err.count("\n") == 1
    folder = store_of(tmp_path / "a", result({"a": FAST}))
    content = json.loads((tmp_path / "a" / "sweep.json").read_text())
    for change in ({name: 1}, {"direction": name}, {"schemes": [name]}):
        (tmp_path / "a" / "sweep.json").write_text(json.dumps({**content, **change}))
        assert cli.run(["report", folder]) == 2
        err = capsys.readouterr().err
        assert not acts(err) and err.count("\n") == 1


@pytest.mark.parametrize("kind", ["escape", "title", "one byte", "half a pair"])
def test_what_the_command_warns_of_acts_on_nothing(kind, monkeypatch, capsys):
    def compare(*_, **__):
        warnings.warn(f"careful with\n{NAMES[kind]}", stacklevel=1)
        logging.getLogger("jaxinit").warning("mind %s\nplease", NAMES[kind])

    monkeypatch.setattr("jaxinit.compare.sweep.compare.compare", compare)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # pytest has its own there
    before = warnings.formatwarning, logging.lastResort
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "_showwarnmsg_impl", show)
        assert cli.run(["compare"]) == 0
    err = capsys.readouterr().err
    assert not acts(err) and err.count("\n") == 2 and err.count("jaxinit: ") == 2
    assert (warnings.formatwarning, logging.lastResort) == before


def show(message):
    """What Python does with a warning, which pytest takes over."""
    print(warnings._formatwarnmsg(message), end="", file=sys.stderr)


def test_a_store_from_elsewhere_is_shown_and_acts_on_nothing(tmp_path, capsys):
    name = NAMES["escape"] + NAMES["dollars"] + NAMES["no letter"]
    swept = every_name(name)
    store.claim(tmp_path / "a", swept.settings)
    store.write_runs(tmp_path / "a", swept.runs)
    folder = str(tmp_path / "a")
    assert cli.run(["report", folder]) == 0
    out, err = capsys.readouterr()
    assert not acts(COLORS.sub("", out)) and err == ""
    assert load_result(folder).settings.task == f"t {name}"


# Many schemes, and numbers of many digits.


def many(count, steps=None):
    rows = [
        run(f"scheme_number_{k:02}", seed, steps, final=0.5)
        for k in range(count)
        for seed in range(2)
    ]
    named = dict.fromkeys(row["scheme"] for row in rows)
    return of_rows(rows, settings(named, seeds=2))


@pytest.mark.parametrize("count", [8, 9, 40])
def test_the_legend_of_many_schemes_leaves_the_plots_their_room(count):
    swept = many(count)
    given = swept.sweep, swept.judge()
    for axes in (
        figures.curves(*given)[0],
        figures.learning_rates(*given),
        figures.survival(*given),
    ):
        figure = axes.figure
        figure.draw_without_rendering()
        (legend,) = figure.legends
        below = legend.get_window_extent().ymax
        place = axes.get_window_extent()
        assert below <= place.ymin and len(legend.get_texts()) == count
        assert place.height / figure.dpi > 2
        assert legend.get_window_extent().ymin >= 0


def test_the_legend_of_many_schemes_leaves_axes_that_are_given(pyplot):
    swept = many(40, 10)
    axes = pyplot.figure().subplots()
    figures.survival(swept.sweep, swept.judge(), ax=axes)
    axes.figure.canvas.draw()
    legend = axes.get_legend().get_window_extent()
    assert legend.xmin >= axes.get_window_extent().xmax


@pytest.mark.parametrize("count", [2, 40])
def test_survival_curves_are_where_they_belong(count):
    same = many(count)
    axes = figures.survival(same.sweep, same.judge())
    heights = [line.get_ydata()[0] for line in axes.get_lines()]
    assert 1 <= min(heights) and max(heights) < 1.02
    assert len(set(heights)) == count  # those that coincide are all seen
    times = {f"s{k}": [10, 20, 30 + k, None] for k in range(count)}
    apart = result(times)
    axes = figures.survival(apart.sweep, apart.judge())
    for line in axes.get_lines():
        assert set(np.round(line.get_ydata(), 9)) <= {1.0, 0.75, 0.5, 0.25}


@pytest.mark.parametrize(
    ("loss", "text"),
    [(0.12345, "0.123"), (9999.9, "9999.900"), (1e4, "1e+04"), (3.4e38, "3.4e+38"),
     (-2e30, "-2e+30"), (1.8e308, "-")],
)  # fmt: skip
def test_a_loss_has_few_digits(loss, text, capsys):
    rows = [run("a", seed, 10, loss=loss) for seed in range(2)]
    rows += [run("b", seed, 20) for seed in range(2)]
    swept = of_rows(rows, settings(["a", "b"], seeds=2))
    cells = page.table.cells(swept.judge(), swept.settings)
    (cell,) = [row["loss"].text for row in cells if row["scheme"].text == "a"]
    assert cell == text
    swept.show()
    assert text in capsys.readouterr().out
