"""Verdict, table, figures and page, on made-up runs with numbers known by hand."""

from __future__ import annotations

import html
import html.parser
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib import colors

from jaxinit.compare import cli, load_result, load_results
from jaxinit.compare.report import figures, page, protocol, style
from jaxinit.compare.report import table as tables
from jaxinit.compare.report.result import Result
from jaxinit.compare.report.study import Results
from jaxinit.compare.stats import inference, verdict
from jaxinit.compare.store import provenance, store

STEPS = 100
EVERY = 10


def settings(schemes, rates=(0.1,), seeds=4, **more):
    return {
        "task": "linear(depth=2, width=4)",
        "task_fingerprint": "f",
        "loss_name": "cross_entropy",
        "metric_name": "accuracy",
        "direction": "max",
        "target": 0.9,
        "schemes": list(schemes),
        "learning_rates": list(rates),
        "seeds": seeds,
        "steps": STEPS,
        "eval_every": EVERY,
        "batch_size": 16,
        "optimizer": "sgd",
        "versions": {"python": "3", "jax": "0"},
        "device": "1 x cpu",
        **more,
    }


def run(
    scheme, seed, steps, rate=0.1, task=None, final=0.95, version="0", loss=0.1,
    costs=(None, None),
):  # fmt: skip
    """A run that reaches the target at `steps`; None misses it, "diverged" diverges."""
    gone = steps == "diverged"
    when = list(range(0, STEPS + 1, EVERY))
    bad = math.nan if gone else None
    return {
        "run_id": f"{scheme}-{rate}-{seed}-{task}-{version}",
        "task": task or "linear(depth=2, width=4)",
        "scheme": scheme,
        "learning_rate": rate,
        "seed": seed,
        "status": "diverged" if gone else "finished",
        "steps_to_target": None if gone else steps,
        "final_train_loss": math.nan if gone else loss,
        "final_valid_loss": math.nan if gone else 0.2,
        "final_valid_metric": math.nan if gone else final,
        "best_valid_metric": math.nan if gone else final,
        "eval_steps": when,
        "train_loss": [2.0, *(bad or 0.1 + 1 / (1 + step) for step in when[1:])],
        "valid_loss": [2.0, *(bad or 0.2 + 1 / (1 + step) for step in when[1:])],
        "valid_metric": [0.1, *(bad or final for _ in when[1:])],
        "init_seconds": costs[0],
        "step_seconds": costs[1],
    }


def result(times, rate=0.1, inits=(), **more):
    """A sweep from scheme -> times by seed, at one rate, starts drawn in `inits`."""
    inits = dict(inits)
    costs = {scheme: (inits.get(scheme), 0.001 if inits else None) for scheme in times}
    rows = [
        run(scheme, seed, steps, rate, more.get("task"), costs=costs[scheme])
        for scheme, each in times.items()
        for seed, steps in enumerate(each)
    ]
    seeds = max(map(len, times.values()))
    return Result(
        pa.Table.from_pylist(rows, store.SCHEMA),
        settings(times, [rate], seeds, **more),
        1.5,
    )


FAST, SLOW = [10, 20, 10, 20], [30, 50, 40, 50]
# Logs of the ratios 3, 2.5, 4, 2.5: mean 1.0794, deviation 0.2220; t(3) = 3.1824.


def test_the_verdict_has_ratio_and_interval():
    found = result({"slow": SLOW, "fast": FAST}).judge()
    assert found.sentence == (
        "On this task fast reaches the target 2.94 times sooner than slow "
        "(95 % interval 2.07 to 4.19)."
    )
    assert found.baseline == "slow"  # the first that reaches the target at all
    first, second = found.rows
    assert (first.summary.scheme, first.standing) == ("fast", "faster")
    assert first.rank == (1, 1, 1) and second.rank == (2, 2, 2)
    assert first.mean == 15 and second.mean == 42.5
    ratio = first.ratio
    assert ratio is not None and second.ratio is None
    logs = np.log([3, 2.5, 4, 2.5])
    assert ratio.ratio == pytest.approx(math.exp(logs.mean()))
    margin = 3.182446 * logs.std(ddof=1) / 2
    assert ratio.low == pytest.approx(math.exp(logs.mean() - margin), rel=1e-6)


VERDICTS = [
    (
        {"a": [10, 20, 30, 40], "b": [20, 10, 40, 30]},
        "No difference is shown between a and b (b 1.00 times sooner than a, "
        "95 % interval 0.38 to 2.65).",
    ),
    ({"a": [10], "b": [30]}, "One seed: no interval is possible"),
    ({"a": [None, None], "b": [None, None]}, "no scheme reaches the target within 100"),
    ({"a": FAST, "b": [None] * 4}, "a alone reaches the target within 100 steps, in 4"),
    ({"a": [10, None], "b": [None, None]}, "in 1 of 2 runs, which shows no difference"),
    ({"a": [10, 20]}, "a reaches the target in 2 of 2 runs; there is no other scheme"),
    ({"a": [10, 20], "b": [10, 20]}, "(a and b take equally long at every seed)."),
    (
        {"a": FAST, "b": SLOW, "c": [60, 90, 80, 90]},
        ", the next of 2 that it is shown to beat.",
    ),
    (
        {name: np.random.default_rng(i).integers(1, 9, 4) * 10 for i, name in
         enumerate("abcde")},
        "and any of the 4 others (",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("times", "words"), VERDICTS, ids=[w[:30] for _, w in VERDICTS]
)
def test_verdicts(times, words):
    times = {
        name: [None if s is None else int(s) for s in each]
        for name, each in times.items()
    }
    sentence = result(times).judge().sentence
    assert words in sentence and sentence.endswith(".")


def test_equal_times_have_no_interval_but_a_ratio():
    found = result({"a": [20] * 6, "b": [10] * 6}).judge()
    assert (
        "2.00 times sooner than a (the same ratio at each of 6 seeds" in found.sentence
    )


def test_schemes_without_a_common_seed_are_not_compared():
    rows = [run("a", 0, 10), run("a", 1, 20), run("b", 2, 30), run("b", 3, 30)]
    runs = pa.Table.from_pylist(rows, store.SCHEMA)
    found = Result(runs, settings(["a", "b"]), math.nan).judge()
    assert "no seed in common" in found.sentence
    assert all(row.rank is None and row.ratio is None for row in found.rows)


def test_cells():
    swept = result({"slow": [30, 50, 40, None], "fast": FAST, "dead": ["diverged"] * 4})
    found = swept.judge()
    fast, slow, dead = (tables.cells(r, found, swept.settings) for r in found.rows)
    texts = {name: cell.text for name, cell in slow.items()}
    assert texts == {
        "rank": "2 (2-3)", "scheme": "slow", "rate": "0.1", "steps": "50 (40->100)",
        "x faster": "baseline", "loss": "0.100", "acc.": "95.0%", "div.": "0/4",
    }  # fmt: skip
    assert fast["steps"].text == "20 (10-20)" and fast["steps"].value == 20
    assert fast["x faster"].text.startswith("3.") and "-" in fast["x faster"].text
    assert dead["steps"].text == ">100" and dead["steps"].value == math.inf
    assert dead["rate"].text == dead["loss"].text == dead["acc."].text == "-"
    assert dead["div."].text == "4/4" and dead["x faster"].text.startswith("≤0.")


def test_times_count_the_start_in_and_say_where_they_turn_the_order():
    swept = result({"slow": SLOW, "fast": FAST}, inits={"slow": 0.002, "fast": 1.5})
    found = swept.judge()
    first, second = (tables.cells(r, found, swept.settings)["time"] for r in found.rows)
    assert (first.text, first.value) == ("1.52 s", pytest.approx(1.52))
    assert second.text == "52.0 ms"  # 50 steps of 1 ms and 2 ms for the start
    assert (
        "With the drawing of the start counted in, slow reaches the target after "
        "52.0 ms and fast after 1.52 s (medians), the other way round than in steps."
    ) in found.notes
    assert found.rows[0].summary.scheme == "fast"  # ratio and rank are of steps
    (words,) = [w for w in protocol.words(swept.settings, swept.runs) if "Times:" in w]
    assert "for every step 1.00 ms" in words and "on 1 x cpu" not in words
    assert swept.summary()["ranking"][1]["seconds_to_target"]["low"] == 0.042
    assert '<th scope="col"><button type="button">time' in swept._repr_html_()


def test_times_that_keep_the_order_or_are_not_known_need_no_word():
    cheap = result({"slow": SLOW, "fast": FAST}, inits={"slow": 0.01, "fast": 0.01})
    assert not any("counted in" in note for note in cheap.judge().notes)
    old = result({"slow": SLOW, "fast": FAST})
    cells = tables.cells(old.judge().rows[0], old.judge(), old.settings)
    assert "time" not in cells and "Times:" not in str(
        protocol.words(old.settings, old.runs)
    )


DURATIONS = {
    0.0: "0.00 us", 9.994e-6: "9.99 us", 0.0009996: "1.00 ms", 0.0457: "45.7 ms",
    0.9999: "1.00 s", 9.996: "10.0 s", 99.96: "100 s", 12345.0: "12345 s",
}  # fmt: skip


@pytest.mark.parametrize("seconds", DURATIONS)
def test_durations_have_three_digits(seconds):
    assert verdict.duration(seconds) == DURATIONS[seconds]


def test_ranks_show_their_intervals():
    swept = result({"a": [10, 20, 30, 40], "b": [20, 10, 40, 30]})
    found = swept.judge()
    assert tables.cells(found.rows[0], found, swept.settings)["rank"].text == "1 (1-2)"
    one = result({"a": [10], "b": [20]})
    found = one.judge()
    assert tables.cells(found.rows[0], found, one.settings)["rank"].text == "1"


@pytest.mark.parametrize(
    ("direction", "worst"), [("min", math.inf), ("max", -math.inf)]
)
def test_a_diverged_runs_metric_is_the_worst_there_is(direction, worst):
    swept = result(
        {"a": ["diverged"] * 3, "b": [10, 20, 10]}, metric_name="miss",
        direction=direction,
    )  # fmt: skip
    found = {s.scheme: s.final_valid_metric.median for s in swept.ranking()}
    assert found == {"a": worst, "b": 0.95}
    cell = tables.cells(swept.judge().rows[1], swept.judge(), swept.settings)
    assert cell["valid. miss"].value == worst


def two_rates(missing=False):
    rows = [run("a", seed, 20, 0.1) for seed in range(3)]
    rows += [run("a", seed, None, 0.2) for seed in range(3)]
    rows += [run("b", seed, 40 + 10 * seed, 0.1) for seed in range(3)]
    rows += [] if missing else [run("b", seed, 10, 0.2) for seed in range(3)]
    runs = pa.Table.from_pylist(rows, store.SCHEMA)
    return Result(runs, settings(["a", "b"], [0.1, 0.2], 3), math.nan)


def test_the_other_view_is_of_one_rate():
    swept = two_rates()
    best, fixed = swept.judge(), swept.judge(learning_rate=0.1)
    assert [row.summary.scheme for row in best.rows] == ["b", "a"]
    assert [row.summary.scheme for row in fixed.rows] == ["a", "b"]
    assert "at the learning rate 0.1" in fixed.notes[0]
    assert "edge of the grid" in best.notes[0] and "a and b" not in fixed.notes[0]
    assert "b and a lies at the edge" in best.notes[0]


def test_missing_rates_are_named(capsys):
    swept = two_rates(missing=True)
    swept.show()
    out = " ".join(capsys.readouterr().out.split())
    assert "b was not tuned with equal budget: it has no run at 0.2." in out
    assert "Only 9 of 12 planned runs are finished." in out
    with pytest.raises(ValueError, match="b has no run to score at the learning rate"):
        swept.judge(learning_rate=0.2)


@pytest.mark.parametrize("width", [72, 80, 100, 140])
@pytest.mark.parametrize("timed", [False, True])
def test_the_table_fits_the_screen(width, timed, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    name = "orthogonal(scale=1.4142)"
    inits = {name: 12.3456, "he_normal()": 0.00123} if timed else {}
    result({name: [50, 60, None, None], "he_normal()": FAST}, inits=inits).show()
    lines = capsys.readouterr().out.splitlines()
    assert timed == any(" time " in line for line in lines)
    assert max(map(len, lines)) <= width and "…" not in "".join(lines)
    assert width < 80 or any(name in line for line in lines)


def test_the_screen_obeys_no_name(capsys):
    result({"[bold]x[/]": FAST, "y": SLOW}, metric_name="[red]m").show()
    out = capsys.readouterr().out
    assert out.count("[bold]x[/]") >= 2 and "valid. [red]m" in out


@pytest.fixture
def pyplot():
    """A pyplot that shows nothing, starts empty and forgets its figures."""
    from matplotlib import pyplot

    before = pyplot.get_backend()
    pyplot.switch_backend("agg")
    pyplot.close("all")
    yield pyplot
    pyplot.close("all")
    pyplot.switch_backend(before)


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
    swept = Result(
        pa.Table.from_pylist(rows, store.SCHEMA),
        settings("a", [rate / 100 for rate in range(1, 101)], 1), 1.0,
    )  # fmt: skip
    axes = figures.heat_map(swept.runs, swept.settings, swept.ranking())
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
    swept = Result(pa.Table.from_pylist(rows, store.SCHEMA), swept.settings, 1.5)
    curve = swept.plot_curves()[0].get_lines()[0].get_ydata()
    assert curve[0] == 2 and max(curve[1:]) < 9
    assert swept.ranking()[0].final_valid_metric.high < 1


def cut_short(row):
    return row | {
        name: row[name][:3]
        for name in ("eval_steps", "train_loss", "valid_loss", "valid_metric")
    }


ODD = {
    "all diverged": [run("a", 0, "diverged"), run("b", 0, "diverged")],
    "negative losses": [run("a", s, None, loss=-1.0 - s) for s in range(3)],
    "reached at once": [run(n, s, 0) for n in "ab" for s in range(2)],
    "one run": [run("a", 0, 10)],
    "interrupted": [cut_short(run("a", 0, "diverged")), run("a", 1, 20)],
    "a long name": [run("tree.mup(" + 20 * "base={'Dense_0': 4}, ", 0, 10)],
    "many rates": [run("a", 0, 10 * i, 0.01 * i) for i in range(1, 10)],
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_sweeps_are_saved_too(kind, tmp_path):
    rows = ODD[kind]
    named = dict.fromkeys(row["scheme"] for row in rows)
    rates = sorted({row["learning_rate"] for row in rows})
    runs = pa.Table.from_pylist(rows, store.SCHEMA)
    Result(runs, settings(named, rates), 1.0).save(tmp_path / "out")
    assert Page((tmp_path / "out" / "report.html").read_text()).open == []


def test_many_schemes_are_told_apart():
    look = style.styles([str(i) for i in range(20)])
    assert len(set(look.values())) == 20


def test_names_that_matplotlib_would_take_for_its_own(pyplot):
    swept = result({"_mine": FAST, "cash$and$more": SLOW, "x" * 190: SLOW})
    (legend,) = swept.plot_survival().figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[0] == " _mine" and texts[1] == r"cash\$and\$more"
    assert len(texts) == 3 and len(texts[2]) == style.NAME


class Page(html.parser.HTMLParser):
    """A page read by a parser that keeps what tests ask for."""

    VOID = {"meta", "link", "br", "wbr"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.sorts, self.marks = [], [], [], [], []
        self.ids = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[name] for name in ("src", "href") if name in attrs]
        self.sorts += [attrs["data-sort"]] if "data-sort" in attrs else []
        self.marks += [attrs["data-hover"]] if "data-hover" in attrs else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


EVIL = "<script>alert(1)</script>\"'&amp;"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "out"
    result({EVIL: SLOW, "he_normal()": FAST, "z": ["diverged"] * 4}).save(folder)
    return folder


def test_the_page_is_whole_and_needs_no_network(saved):
    text = (saved / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert page.tags.count("svg") == 6 and page.tags.count("script") == 1
    assert len(page.ids) == len(set(page.ids))
    targets = {link[1:] for link in page.links if link.startswith("#")}
    assert targets <= set(page.ids)


def test_the_page_obeys_no_text_of_the_user(saved):
    text = (saved / "report.html").read_text()
    assert "alert(1)" in text and "<script>alert" not in text
    assert EVIL in Page(text).sorts


def test_the_page_says_everything(saved):
    text = (saved / "report.html").read_text()
    page = Page(text)
    assert any(mark.startswith("he_normal(), step ") for mark in page.marks)
    assert {"15.0", "20.0", "inf"} <= set(page.sorts)
    for words in ("times sooner than", "1 x cpu", "jax 0", "@misc{he2015", "Protocol"):
        assert words in text
    assert "a program's own" in text  # EVIL is no scheme that a command can name


def git(folder, *words):
    who = "-c user.name=n -c user.email=e -c commit.gpgsign=false".split()
    subprocess.run(
        ["git", "-C", folder, *who, *words], check=True, capture_output=True,
        env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull},
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_code_is_a_commit_and_whether_it_was_changed(tmp_path, monkeypatch):
    assert provenance.code_state(tmp_path) is None  # no repository
    assert provenance.code_state(tmp_path / "nowhere") is None
    git(tmp_path, "init")
    assert provenance.code_state(tmp_path) is None  # no commit yet
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "file.py"
    file.write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "m")
    git(tmp_path, "tag", "v1")
    monkeypatch.chdir(tmp_path / "sub")
    clean = provenance.code_state()
    assert clean is not None and re.fullmatch(r"commit [0-9a-f]{12}", clean)
    (tmp_path / "results.csv").write_text("2")  # not tracked, so no change of code
    assert provenance.code_state() == clean
    file.write_text("3")
    assert provenance.code_state() == f"{clean}, with uncommitted changes"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.code_state() is None  # no git


def test_git_that_takes_too_long_is_not_waited_for(tmp_path, monkeypatch):
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec sleep 9\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "PATIENCE", 0.1)
    assert provenance.code_state(tmp_path) is None


def test_the_page_names_the_code():
    swept = result({"a": FAST}, code="commit 1a2b, with uncommitted changes")
    text = page.page([swept.page_part()])
    assert "<dt>code</dt><dd>commit 1a2b, with uncommitted changes</dd>" in text
    assert "<p>Code: commit 1a2b, with uncommitted changes.</p>" in text


def test_html_for_notebooks():
    text = result({"a": FAST, "b": SLOW})._repr_html_()
    assert Page(text).open == [] and "times sooner" in text and "<script" not in text


def test_the_command_makes_the_same_sweep(tmp_path):
    options = "--task linear(depth=2,width=4) --schemes he_normal normal(0.5) --steps 4"
    options += " --eval-every 2 --seeds 1 --learning-rates 0.1 0.2 --batch-size 8"
    options += " --optimizer sgd --target 0.03 --tuning-seeds 1 --targets 0.05 --quiet"
    options += " --dtype bfloat16 --matmul-precision high --strategy loop"
    options += " --stop-at-target --out"
    first, again = tmp_path / "first", tmp_path / "again"
    assert cli.run(["compare", *options.split(), str(first)]) == 0
    sweep = json.loads((first / "sweep.json").read_text())
    command = shlex.split(protocol.rerun(sweep))
    assert command[0] == "jaxinit" and command[-2] == "--out"
    assert cli.run([*command[1:-1], str(again), "--quiet"]) == 0
    assert json.loads((again / "sweep.json").read_text()) == sweep


def test_a_task_of_data_is_named_by_its_file():
    command = protocol.rerun(
        settings(
            ["he_normal()"], task="data('my file.npz', depth=2, activation='relu')"
        )
    )
    assert "--data 'my file.npz' --depth 2 --activation relu --target 0.9" in command
    assert protocol.rerun(settings(["he_normal()"], task="Net")) is None
    assert protocol.rerun(settings(["mine"])) is None


def test_a_store_gives_its_result_again(saved, capsys):
    before = {path.name: path.read_bytes() for path in saved.glob("*.*")}
    again = load_result(saved)
    assert again.seconds == Result.from_store(saved).seconds == 1.5
    assert again.runs.num_rows == 12 and again.runs.schema == store.SCHEMA
    (saved / "report.html").unlink()
    (saved / "curves.png").unlink()
    assert cli.run(["report", str(saved)]) == 0
    assert "times sooner" in " ".join(capsys.readouterr().out.split())
    assert before.keys() == {path.name for path in saved.glob("*.*")}
    for name in ("report.html", "summary.json", "sweep.json"):
        assert (saved / name).read_bytes() == before[name], name
    again.save(saved)  # its own folder may be written again


def store_of(folder, swept):
    swept.save(folder)
    return str(folder)


def test_two_sweeps_over_one_task_go_side_by_side(tmp_path, capsys):
    a = store_of(tmp_path / "a", result({"he_normal()": FAST}))
    b = store_of(tmp_path / "b", result({"he_normal()": FAST, "zeros()": SLOW}))
    found = load_results(a, b)
    assert isinstance(found, Result) and found.runs.num_rows == 8  # shared runs once
    assert found.settings["schemes"] == ["he_normal()", "zeros()"]
    assert cli.run(["report", a, b, "--out", str(tmp_path / "c")]) == 0
    assert (tmp_path / "c" / "report.html").is_file()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.tex").write_text("x")
    assert cli.run(["report", a, b, "--quiet", "--out", str(tmp_path / "d")]) == 2
    assert "holds no report" in capsys.readouterr().err


def test_seconds_of_two_machines_are_not_put_side_by_side(tmp_path):
    times, inits = {"he_normal()": FAST}, {"he_normal()": 0.1}
    a = store_of(tmp_path / "a", result(times, inits=inits))
    there = {"zeros()": SLOW}, {"zeros()": 0.1}
    b = store_of(tmp_path / "b", result(there[0], inits=there[1]))
    c = store_of(tmp_path / "c", result(there[0], inits=there[1], device="1 x gpu"))
    assert tables.timed(load_results(a, b).judge())
    assert not tables.timed(load_results(a, c).judge())


def test_one_scheme_with_two_numbers_is_named_twice(tmp_path):
    rows = [run("he_normal()", seed, 40, version="1") for seed in range(4)]
    other = Result(
        pa.Table.from_pylist(rows, store.SCHEMA),
        settings(["he_normal()"], versions={"python": "3", "jax": "1"}),
        1.0,
    )
    a = store_of(tmp_path / "a", result({"he_normal()": FAST}))
    found = load_results(a, store_of(tmp_path / "b", other))
    assert isinstance(found, Result)
    assert found.settings["schemes"] == ["he_normal() [a]", "he_normal() [b]"]
    assert found.settings["versions"] == {"python": "3", "jax": "0 or 1"}
    found.judge()


def test_several_tasks_have_a_profile(tmp_path, capsys, pyplot):
    folders = [
        store_of(tmp_path / name, result(times, task=f"linear(depth={i})"))
        for i, (name, times) in enumerate({
            "a": {"x": FAST, "y": SLOW},
            "b": {"x": [20] * 4, "y": [40] * 4, "z": [10] * 4},
            "c": {"x": [90] * 4, "y": [30] * 4},
        }.items())
    ]  # fmt: skip
    found = load_results(*folders)
    assert isinstance(found, Results)
    times = found.profile_times()  # quartiles are observed values: 20 of 10 and 20
    assert {k: v.tolist() for k, v in times.items()} == {
        "x": [20, 20, 90], "y": [50, 40, 30],
    }  # fmt: skip
    axes = pyplot.subplot()
    assert found.plot_profile(ax=axes) is axes
    lines = axes.get_lines()
    # Lines that coincide are drawn side by side.
    assert lines[0].get_ydata()[0] == pytest.approx(2 / 3, abs=0.01)
    assert cli.run(["report", *folders, "--out", str(tmp_path / "all")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "x is the fastest on 2 of 3 tasks, and takes at most 3.00 times" in out
    assert "scheme speed sooner" in out and "resampling runs within tasks" in out
    page = Page((tmp_path / "all" / "report.html").read_text())
    assert page.open == [] and page.tags.count("svg") == 1 + 3 * 6
    assert page.tags.count("table") >= 4
    first, second = found.standings()
    assert (first.scheme, first.sooner) == ("x", None)  # x is listed first
    assert second.sooner is not None and second.sooner.value == pytest.approx(1 / 3)
    assert found.standings("y")[1].sooner is None
    with pytest.raises(ValueError, match="baseline='z' is unknown"):
        found.standings("z")  # not on all tasks
    assert len(page.ids) == len(set(page.ids))


def damaged(tmp_path, kind):
    folder = tmp_path / "sweep"
    swept = result({"a": FAST, "b": SLOW})
    if kind == "nothing":
        return [str(folder)]
    if kind == "other":
        other = result({"a": FAST}, steps=200)
        return [store_of(folder, swept), store_of(tmp_path / "other", other)]
    if kind == "no scheme in common":
        other = result({"c": FAST}, task="linear(depth=9)")
        return [store_of(folder, swept), store_of(tmp_path / "other", other)]
    store_of(folder, swept)
    if kind == "no runs":
        shutil.rmtree(folder / "runs")
    if kind == "empty":
        shutil.rmtree(folder / "runs")
        store.write_runs(folder, swept.runs.slice(0, 0))
    if kind == "json":
        (folder / "sweep.json").write_text("{")
    if kind == "old":
        (folder / "sweep.json").write_text('{"task": "x"}')
    if kind == "list":
        (folder / "sweep.json").write_text("[]")
    if kind == "strange":
        (folder / "sweep.json").write_text(json.dumps(settings(["a"])))
    if kind == "mixed":
        more = result({"a": FAST, "b": SLOW}, task="other()").runs
        store.write_runs(folder, pa.concat_tables([swept.runs, more]))
    return [str(folder)]


BAD = {
    "nothing": "is no folder of a sweep: it has no sweep.json",
    "other": "differ in steps, 100 and 200",
    "no scheme in common": "the tasks have 0 scheme in common",
    "no runs": "holds no finished runs",
    "empty": "holds no finished runs",
    "json": "cannot be read",
    "old": "lacks target, schemes",
    "list": "cannot be read",
    "strange": "holds runs of b, which its sweep.json does not list",
    "mixed": "the runs are of the tasks linear(depth=2, width=4), other()",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_in_one_sentence(kind, tmp_path, capsys):
    assert cli.run(["report", *damaged(tmp_path, kind)]) == 2
    message = capsys.readouterr().err
    assert BAD[kind] in message and message.count("\n") == 1
    assert message.startswith("jaxinit: ") and message.endswith(".\n")


def test_a_sweep_from_before_other_losses_and_seconds(tmp_path):
    folder = tmp_path / "old"
    store_of(folder, result({"a": FAST, "b": SLOW}))
    for file in (folder / "runs").iterdir():
        rows = pq.read_table(file)
        pq.write_table(rows.drop_columns(["init_seconds", "step_seconds"]), file)
    old = settings(["a", "b"])
    for name in ("loss_name", "metric_name", "direction", "versions", "device"):
        del old[name]
    (folder / "sweep.json").write_text(json.dumps(old))
    assert cli.run(["report", str(folder), "--quiet"]) == 0
    assert ">time<" not in (folder / "report.html").read_text()
    assert load_result(folder).judge().rows[0].summary.seconds_to_target is None


def test_one_seed_is_a_report_without_intervals(tmp_path, capsys):
    folder = store_of(tmp_path / "one", result({"a": [10], "b": [30]}))
    assert cli.run(["report", folder]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "One seed: no interval is possible" in out and "nan" not in out
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", (tmp_path / "one/report.html")
                               .read_text(), flags=re.DOTALL)  # fmt: skip


def test_unknown_baseline(saved, capsys):
    assert cli.run(["report", str(saved), "--baseline", "nix"]) == 2
    assert "baseline='nix' is unknown" in capsys.readouterr().err
    swept = load_result(saved)
    assert swept.judge("he_normal").baseline == swept.judge("he_normal()").baseline


@pytest.mark.parametrize("name", ["pandas", "polars", "xarray"])
def test_libraries_that_are_absent_are_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=f"run: pip install {name}"):
        getattr(two_rates(), f"to_{name}")()


@pytest.mark.parametrize("name", ["pandas", "polars"])
def test_tables_of_other_libraries(name):
    pytest.importorskip(name)
    frame = getattr(two_rates(), f"to_{name}")()
    assert frame.shape == (12, len(store.SCHEMA))


def test_arrays_with_named_dimensions():
    pytest.importorskip("xarray")
    data = two_rates(missing=True).to_xarray()
    assert dict(data.sizes) == {"scheme": 2, "learning_rate": 2, "seed": 3, "step": 11}
    steps = data.steps_to_target.sel(seed=0)
    np.testing.assert_array_equal(steps, [[20, math.inf], [40, math.nan]])
    assert data.train_loss.dims == ("scheme", "learning_rate", "seed", "step")
    assert float(data.train_loss.sel(scheme="a", learning_rate=0.1)[0, 0]) == 2.0
    assert data.attrs["optimizer"] == "sgd"


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of one sweep with targets and times, and one of several tasks."""
    folder = tmp_path_factory.mktemp("pages")
    times = {EVIL: SLOW, "he_normal()": FAST, "z": ["diverged"] * 4}
    inits = {EVIL: 0.5, "he_normal()": 1.5}
    code = {"code": "commit 1a2b, with uncommitted changes"}
    found = [result(times, inits=inits, task=f"t({i})", **code) for i in range(2)]
    more = [swept.with_targets([0.5, 0.9, 0.95]) for swept in found]
    (folder / "one").mkdir()
    more[0].write(folder / "one")
    (folder / "all").mkdir()
    Results(tuple(more)).write(folder / "all")
    return [(folder / name / "report.html").read_text() for name in ("one", "all")]


SAID = """
  const said = {};
  const press = (name) => {
    const button = [...document.querySelectorAll("table th button")]
      .find((each) => each.textContent === name);
    button.click();
    const place = [...button.closest("tr").children].indexOf(button.closest("th"));
    return [...button.closest("table").tBodies[0].rows]
      .map((row) => row.children[place].textContent);
  };
  const rgb = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = (color) => {
    const [r, g, b] = color.map((x) => x / 255)
      .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = (each) => {
    for (; each; each = each.parentElement) {
      const color = rgb(getComputedStyle(each).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
  };
  const contrasts = () => {
    document.querySelectorAll("details").forEach((each) => { each.open = true; });
    const found = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
      const each = walk.currentNode.parentElement;
      const skip = "script, [aria-hidden], title, #said";
      if (!walk.currentNode.textContent.trim() || each.closest(skip)) continue;
      const style = getComputedStyle(each);
      const drawn = each.closest("svg");
      const color = rgb(drawn ? style.fill : style.color);
      // The numbers on cells of a heat map stand on colours, and have their own test.
      if (drawn && [0, 1, 255].includes(color[0]) && color[1] === color[0]) continue;
      const [a, b] = [light(color.slice(0, 3)), light(paper(each).slice(0, 3))];
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      found.push([ratio, walk.currentNode.textContent.trim().slice(0, 40)]);
    }
    return found.sort((a, b) => a[0] - b[0]);
  };
  said.up = press("steps"); said.down = press("steps");
  said.names = press("scheme");
  said.times = press("time");
  const mark = document.querySelector("[data-hover]");
  mark.dispatchEvent(new MouseEvent("click", {bubbles: true}));
  said.mark = mark.closest("figure").querySelector("output").textContent;
  said.width = window.innerWidth;
  const all = contrasts();
  said.texts = all.length; said.contrast = all[0];
  said.scroll = document.documentElement.scrollWidth;
  said.dark = matchMedia("(prefers-color-scheme: dark)").matches;
  parent.postMessage([name, said], "*");
"""

SIZES = [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")]


def in_browser(pages, folder):
    """What pages say of themselves at each size and theme, from one browser."""
    frames, names = "", []
    for number, text in enumerate(pages):
        (folder / f"{number}.html").write_text(
            text.replace("</body>", f"<script>{SAID}</script></body>")
        )
        for width, theme in SIZES:
            names.append(f"{number} {width} {theme}")
            frames += (
                f'<iframe name="{names[-1]}" src="{number}.html" width="{width}" '
                f'height="900" style="border: 0; color-scheme: {theme}"></iframe>'
            )
    outer = (
        '<!doctype html><html><head><link rel="icon" href="data:,"><script>'
        "const said = {}; addEventListener('message', (e) => {"
        "said[e.data[0]] = e.data[1];"
        "document.querySelector('pre').textContent = JSON.stringify(said); });"
        f'</script></head><body><pre id="said"></pre>{frames}</body></html>'
    )
    path = folder / "outer.html"
    path.write_text(outer)
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-sync"
    flags += " --disable-background-networking --disable-component-update"
    flags += " --window-size=1400,900 --virtual-time-budget=8000 --dump-dom"
    done = subprocess.run(
        [CHROMIUM, *flags.split(), f"--user-data-dir={folder / 'user'}",
         "--enable-logging=stderr", path.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
        env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    said = re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.DOTALL)
    assert said is not None
    found = json.loads(html.unescape(said[1]))
    assert list(sorted(found)) == sorted(names)
    return found, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_pages_in_a_browser(pages, tmp_path):
    found, console = in_browser(pages, tmp_path)
    assert console == []
    for name, said in found.items():
        _, width, theme = name.split()
        assert (said["width"], said["dark"]) == (int(width), theme == "dark"), name
        assert said["scroll"] <= said["width"], name
        assert said["texts"] > 100 and said["contrast"][0] >= 4.5, (name, said)
        assert "step 0: " in said["mark"] or "tasks within" in said["mark"], name
        assert said["up"] == ["20 (10-20)", "50 (40-50)", ">100"], name
        assert said["down"] == said["up"][::-1], name
        assert said["times"] == ["550 ms", "1.52 s", "-"], name
        schemes = [each.removeprefix("■") for each in said["names"]]
        assert schemes == sorted(schemes, key=str.lower) and len(schemes) >= 2, name


def test_measures_beside_the_steps():
    a, b = result({"a": [20, 40, 20], "b": ["diverged"] * 3}).judge().rows
    assert math.isnan(a.logrank)  # the baseline's own
    assert b.logrank == pytest.approx(
        inference.logrank([20, 40, 20], [math.inf] * 3, STEPS)
    )
    # 0.1 at step 0, and from the first evaluation on 0.95, or nothing.
    rise = EVERY * (0.1 + 0.95) / 2
    assert a.area == pytest.approx((rise + 0.95 * (STEPS - EVERY)) / STEPS)
    assert b.area == pytest.approx(EVERY * 0.1 / 2 / STEPS)
    assert (a.works.low, a.works.high, a.works.decades) == (0.1, 0.1, 0)
    assert math.isnan(b.works.decades)
    grid = [(0.01, 90), (0.1, 30), (1.0, 60)]  # twice the best works, thrice does not
    rows = [run("a", seed, steps, rate) for rate, steps in grid for seed in (0, 1)]
    runs = pa.Table.from_pylist(rows, store.SCHEMA)
    (row,) = Result(runs, settings(["a"], [0.01, 0.1, 1.0], 2), 1.5).judge().rows
    assert (row.works.low, row.works.high) == (0.1, 1.0)
