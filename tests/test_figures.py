"""Figures: what they show, where they are drawn, and that they can be read."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib import colors
from sweeps import FAST, SLOW, STEPS, of_rows, result, run, settings, two_rates

from jaxinit.compare.report import figures, style

PLOTS = ["plot_learning_rates", "plot_survival", "plot_heat_map"]


def test_plots_are_axes_that_pyplot_shows(pyplot):
    swept = two_rates()
    curves = swept.plot_curves()
    assert [axes.get_ylabel() for axes in curves] == [
        "training loss (nats)", "validation accuracy",
    ]  # fmt: skip
    assert curves[0].figure.legends and curves[0].figure.get_suptitle()
    drawn = {name: getattr(swept, name)() for name in PLOTS}
    shown = {number: pyplot.figure(number) for number in pyplot.get_fignums()}
    assert list(shown.values()) == [
        curves[0].figure,
        *(a.figure for a in drawn.values()),
    ]
    texts = [text.get_text() for text in drawn["plot_heat_map"].texts]
    assert texts == ["50", "10", "20", ">100"]
    line = drawn["plot_survival"].get_lines()[0]  # b at 0.2 reaches at 10, all of it
    assert line.get_xdata()[1] == 10 and line.get_ydata()[1] == 0


@pytest.mark.parametrize("name", PLOTS)
def test_plots_go_into_axes_that_are_given(name, pyplot):
    figure, (left, right) = pyplot.subplots(1, 2)
    left.plot([1, 2])
    assert getattr(two_rates(), name)(ax=right) is right
    assert pyplot.get_fignums() == [figure.number] and figure.axes == [left, right]
    assert not figure.legends and not figure.get_suptitle()  # the figure is not ours
    assert len(left.get_lines()) == 1 and right.get_title() + right.get_xlabel()
    assert name == "plot_heat_map" or right.get_legend()


def test_curves_go_into_axes_one_for_each_column(pyplot):
    figure, both = pyplot.subplots(2)
    swept = two_rates()
    drawn = swept.plot_curves(ax=both)
    assert list(drawn) == figure.axes and both[1].get_ylabel() == "validation accuracy"
    (alone,) = swept.plot_curves(["valid_loss"], ax=both[0])
    assert alone is both[0] and alone.get_ylabel() == "validation loss (nats)"
    with pytest.raises(ValueError, match="2 axes for 1 columns; give one for each"):
        swept.plot_curves(["valid_loss"], ax=both)


def test_files_need_no_pyplot(tmp_path):
    code = (
        "import sys; from jaxinit.compare import load_result as load;"
        f"load({str(tmp_path)!r}).write({str(tmp_path)!r});"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    two_rates().save(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def contrast(one, other):
    """How much lighter one colour is than another, by the rules for web pages."""

    def light(color):
        x = np.array(colors.to_rgb(color))
        x = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
        return float(x @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_numbers_on_a_heat_map_can_be_read():
    rows = [run("a", 0, step, rate / 100) for rate, step in enumerate(range(1, 101), 1)]
    swept = of_rows(rows, settings("a", [rate / 100 for rate in range(1, 101)], 1))
    axes = figures.heat_map(swept.sweep, swept.judge())
    image = axes.images[1]
    cells = image.to_rgba(image.get_array())[0]
    least = min(contrast(text.get_color(), cells[int(text.get_position()[0])][:3])
                for text in axes.texts)  # fmt: skip
    assert len(axes.texts) == 100 and least >= 4.5


def test_seeds_that_tune_score_nothing(pyplot):
    times = {"a": [100, 100, 10, 20], "b": [10, 10, 40, 50]}
    swept = result(times, tuning_seeds=2, metric_name="loss", direction="min")
    found = swept.judge()
    assert [row.summary.scheme for row in found.rows] == ["a", "b"]
    assert [row.summary.seeds for row in found.rows] == [2, 2]
    line = swept.plot_survival().get_lines()[0]  # a, of seeds 2 and 3 alone
    assert line.get_xdata().tolist() == [0, 10, 20, STEPS]
    rows = swept.runs.to_pylist()
    for row in rows:
        if row["seed"] < 2:
            row["train_loss"] = [9.0] * len(row["train_loss"])
            row["final_valid_metric"] = 7.0
    swept = of_rows(rows, swept.settings)
    curve = swept.plot_curves()[0].get_lines()[0].get_ydata()
    assert curve[0] == 2 and max(curve[1:]) < 9
    assert swept.ranking()[0].final_valid_metric.high < 1


def test_many_schemes_are_told_apart():
    look = style.styles([str(i) for i in range(20)])
    assert len(set(look.values())) == 20


def test_names_that_matplotlib_would_take_for_its_own(pyplot):
    swept = result({"_mine": FAST, "cash$and$more": SLOW, "x" * 190: SLOW})
    (legend,) = swept.plot_survival().figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[0] == " _mine" and texts[1] == r"cash\$and\$more"
    assert len(texts) == 3 and len(texts[2]) == style.NAME
