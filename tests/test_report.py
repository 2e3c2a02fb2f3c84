"""Reports of folders: again, of several sweeps, of bad ones, for other libraries."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import shutil
import sys

import numpy as np
import pyarrow as pa
import pytest
from sweeps import FAST, SLOW, Page, of_rows, result, run, settings, store_of, two_rates

from jaxinit.compare import cli, load_result, load_results
from jaxinit.compare.report import protocol
from jaxinit.compare.report import table as tables
from jaxinit.compare.report.result import Result
from jaxinit.compare.report.study import Study
from jaxinit.compare.store.folder import write_runs
from jaxinit.compare.store.sweep import SCHEMA

SMALL = (
    "--task linear(depth=2,width=4) --schemes he_normal normal(0.5) --steps 4 --quiet "
    "--eval-every 2 --seeds 2 --batch-size 8 --optimizers sgd --strategy loop"
)
RERUNS = {
    "everything": (
        "--dtype bfloat16 --matmul-precision high --stop-at-target --target 0.03 "
        "--targets 0.05 --tuning-seeds 1 --learning-rates 0.1 0.2"
    ),
    "a race": "--tuning-seeds 1 --until-sure 3 --learning-rates 0.1 0.2",
    "a grid that grew": "--extend-grid --learning-rates 0.01 0.02",
}


@pytest.mark.parametrize("kind", RERUNS)
def test_the_command_makes_the_same_sweep(kind, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    options = [*SMALL.split(), *RERUNS[kind].split()]
    assert cli.run(["compare", *options, "--out", str(first)]) == 0
    made = load_result(first)
    command = shlex.split(protocol.command(made.settings))
    assert command[0] == "jaxinit" and command[-2] == "--out"
    assert cli.run([*command[1:-1], str(again), "--quiet"]) == 0
    same = load_result(again)
    assert same.settings == dataclasses.replace(
        made.settings, extend_grid=False
    )  # the grid is written out as it grew
    assert same.runs["run_id"].equals(made.runs["run_id"])
    assert same.runs["train_loss"].equals(made.runs["train_loss"])
    if kind == "a grid that grew":
        assert len(made.settings.learning_rates) > 2


def test_a_task_of_data_is_named_by_its_file():
    command = protocol.command(
        settings(
            ["he_normal()"], task="data('my file.npz', depth=2, activation='relu')"
        )
    )
    assert "--data 'my file.npz' --depth 2 --activation relu --target 0.9" in command
    assert protocol.command(settings(["he_normal()"], task="Net")) is None
    assert protocol.command(settings(["one_of_my_own"])) is None


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "out"
    result({"zeros()": SLOW, "he_normal()": FAST, "z": ["diverged"] * 4}).save(folder)
    return folder


def test_a_folder_gives_its_result_again(saved, capsys):
    before = {path.name: path.read_bytes() for path in saved.glob("*.*")}
    again = load_result(saved)
    assert again.seconds == 1.5
    assert again.runs.num_rows == 12 and again.runs.schema == SCHEMA
    (saved / "report.html").unlink()
    (saved / "curves.png").unlink()
    assert cli.run(["report", str(saved)]) == 0
    assert "times sooner" in " ".join(capsys.readouterr().out.split())
    assert before.keys() == {path.name for path in saved.glob("*.*")}
    for name in ("report.html", "summary.json", "sweep.json"):
        assert (saved / name).read_bytes() == before[name], name
    again.save(saved)  # its own folder may be written again


def test_two_sweeps_over_one_task_go_side_by_side(tmp_path, capsys):
    a = store_of(tmp_path / "a", result({"he_normal()": FAST}))
    b = store_of(tmp_path / "b", result({"he_normal()": FAST, "zeros()": SLOW}))
    found = load_results(a, b)
    assert isinstance(found, Result) and found.runs.num_rows == 8  # shared runs once
    assert found.settings.schemes == ("he_normal()", "zeros()")
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
    other = of_rows(
        rows, settings(["he_normal()"], versions={"python": "3", "jax": "1"})
    )
    a = store_of(tmp_path / "a", result({"he_normal()": FAST}))
    found = load_results(a, store_of(tmp_path / "b", other))
    assert isinstance(found, Result)
    assert found.settings.schemes == ("he_normal() [a]", "he_normal() [b]")
    assert found.settings.versions == {"python": "3", "jax": "0 or 1"}
    assert "Runs were made by several versions: jax 0 or 1." in found.notes()


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
    assert isinstance(found, Study)
    times = found.profile_times()  # medians of even numbers are midpoints
    assert {k: v.tolist() for k, v in times.items()} == {
        "x": [15, 20, 90], "y": [45, 40, 30],
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
        write_runs(folder, swept.runs.slice(0, 0))
    if kind == "json":
        (folder / "sweep.json").write_text("{")
    if kind == "old":
        (folder / "sweep.json").write_text('{"task": "x"}')
    if kind == "list":
        (folder / "sweep.json").write_text("[]")
    if kind == "strange":
        (folder / "sweep.json").write_text(json.dumps(settings(["a"]).to_json()))
    if kind == "mixed":
        more = result({"a": FAST, "b": SLOW}, task="other()").runs
        write_runs(folder, pa.concat_tables([swept.runs, more]))
    return [str(folder)]


BAD = {
    "nothing": "is no folder of a sweep: it has no sweep.json",
    "other": "differ in steps, 100 and 200",
    "no scheme in common": "the tasks have 0 scheme in common",
    "no runs": "holds no finished runs",
    "empty": "holds no finished runs",
    "json": "sweep.json cannot be read: ",
    "old": "sweep.json lacks schemes, learning_rates, ",
    "list": "sweep.json cannot be read: it holds a list.",
    "strange": "holds runs of b, which its sweep.json does not list",
    "mixed": "the runs are of the tasks linear(depth=2, width=4), other()",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_in_one_sentence(kind, tmp_path, capsys):
    assert cli.run(["report", *damaged(tmp_path, kind)]) == 2
    message = capsys.readouterr().err
    assert BAD[kind] in message and message.count("\n") == 1
    assert message.startswith("jaxinit: ") and message.endswith(".\n")


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
    assert frame.shape == (12, len(SCHEMA))


def test_arrays_with_named_dimensions():
    pytest.importorskip("xarray")
    data = two_rates(missing=True).to_xarray()
    assert dict(data.sizes) == {
        "scheme": 2, "optimizer": 1, "learning_rate": 2, "seed": 3, "step": 11,
    }  # fmt: skip
    steps = data.steps_to_target.sel(seed=0, optimizer="sgd()")
    np.testing.assert_array_equal(steps, [[20, math.inf], [40, math.nan]])
    assert data.train_loss.dims == tuple(data.sizes)
    assert float(data.train_loss.sel(scheme="a", learning_rate=0.1)[0, 0, 0]) == 2.0
    assert data.attrs["eval_every"] == 10 and data.attrs["extend_grid"] == 0
