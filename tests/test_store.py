"""What a store never does: lose, replace or alter what it was not asked to."""

from __future__ import annotations

import builtins
import dataclasses
import io
import math
import os
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flax import linen as nn
from sweeps import FAST, SLOW, TRAIN, VALID, of_rows, result, settings, store_of, sweep

import jaxinit as ji
from jaxinit.compare import cli, compare, files, load_result, machine, make_task
from jaxinit.compare.report import result as report
from jaxinit.compare.report import table as tables
from jaxinit.compare.report.study import load_results
from jaxinit.compare.store import folder
from jaxinit.compare.sweep import make
from jaxinit.compare.sweep.checkpoints import Checkpoints, Unfinished
from jaxinit.compare.train.engine import Snapshot
from jaxinit.compare.train.runners import STRATEGIES
from jaxinit.compare.train.trainer import Metrics

WRITE = report.Result.write


@pytest.fixture(autouse=True)
def two_devices_and_no_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(report.Result, "write", lambda *_: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    two = jax.devices()[:2]
    monkeypatch.setattr(jax, "local_devices", lambda: two)


def content(path):
    """All files below a folder, links followed, and their bytes."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def unreadable(monkeypatch, name):
    """Make Python say of some files that it may not open them; root may open all."""
    real = io.open

    def opened(file, *more, **options):
        if not isinstance(file, int) and os.path.basename(file) == name:
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *more, **options)

    monkeypatch.setattr(builtins, "open", opened)
    monkeypatch.setattr(io, "open", opened)


# --- Files ----------------------------------------------------------------------------

NAMES = ["report.html", "summary.json", "curves.png", "heat_map.png", "sweep.json"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("there", ["a file", "nothing"])
def test_a_link_in_a_store_is_replaced_and_not_followed(
    name, there, tmp_path, monkeypatch
):
    monkeypatch.setattr(report.Result, "write", WRITE)
    out, victim = tmp_path / "out", tmp_path / "bashrc"
    swept = result({"a": FAST, "b": SLOW})
    swept.save(out)
    if there == "a file":
        victim.write_bytes((out / name).read_bytes())
    before = content(tmp_path).get("bashrc")
    (out / name).unlink()
    (out / name).symlink_to(victim)
    if there == "nothing" and name == "sweep.json":
        return  # then it is no store
    swept.save(out)
    assert content(tmp_path).get("bashrc") == before
    assert (out / name).is_file() and not (out / name).is_symlink()


def test_a_study_follows_no_link(tmp_path, monkeypatch):
    monkeypatch.setattr(report.Result, "write", WRITE)
    tasks = {"p": "linear(depth=1)", "q": "linear(depth=3)"}
    sources = [
        store_of(tmp_path / name, result({"a": FAST, "b": SLOW}, task=task))
        for name, task in tasks.items()
    ]
    out, victim = tmp_path / "out", tmp_path / "victim"
    assert cli.run(["report", *sources, "--quiet", "--out", str(out)]) == 0
    victim.write_text("mine")
    for name in ("report.html", "profile.png", "report.json"):
        (out / name).rename(tmp_path / name)
        (out / name).symlink_to(victim if name != "report.json" else tmp_path / name)
    assert cli.run(["report", *sources, "--quiet", "--out", str(out)]) == 0
    assert victim.read_text() == "mine"
    assert not any(path.is_symlink() for path in out.iterdir())


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "summary.json"
    files.write(file, "before")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(file, b"after")
    assert content(tmp_path) == {"summary.json": b"before"}


def test_what_is_set_aside_replaces_nothing(tmp_path):
    file = tmp_path / "x.parquet"
    for number, name in enumerate(["x.corrupt", "x.corrupt-2", "x.corrupt-3"]):
        file.write_text(str(number))
        assert files.set_aside(file) == tmp_path / name
    assert files.set_aside(file) is None  # it is gone
    assert [(tmp_path / f"x.corrupt{n}").read_text() for n in ("", "-2", "-3")] == [
        *"012"
    ]


# --- Reports --------------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Stores of two sweeps and of both; with figures and pages."""
    monkeypatch.setattr(report.Result, "write", WRITE)
    both = result({"a": FAST, "b": SLOW})
    for name, of in {"a": ["a"], "b": ["b"], "ab": ["a", "b"]}.items():
        part = report.Result(both.sweep.of(of))
        chosen = dataclasses.replace(both.settings, schemes=tuple(of))
        report.Result(dataclasses.replace(part.sweep, settings=chosen)).save(
            tmp_path / name
        )
    return tmp_path


def put_of(source, *options):
    return cli.run(["report", str(source), *map(str, options), "--quiet"])


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ("another store", "holds a sweep and its report"),
        ("another report", "holds the report of other runs, those of b"),
        ("a larger report", "holds the report of other runs, those of ab"),
        ("a page of somebody", "exists and holds no report"),
        ("a thesis", "exists and holds no report"),
        ("a damaged report", "exists and holds no report"),
        ("a file", "is a file"),
    ],
)
def test_a_report_replaces_nothing_that_it_did_not_write(there, words, sources, capsys):
    out = sources / "out"
    if there == "another store":
        out = sources / "b"
    elif there == "another report":
        assert put_of(sources / "b", "--out", out) == 0
    elif there == "a larger report":
        assert put_of(sources / "ab", "--out", out) == 0
    elif there == "a file":
        out.write_text("x")
    else:
        out.mkdir()
        name = "thesis.tex" if there == "a thesis" else "report.html"
        (out / name).write_text("mine")
        if there == "a damaged report":
            (out / "report.json").write_text('{"runs": 3}')
    before = content(sources)
    assert put_of(sources / "a", "--out", out) == 2
    said = capsys.readouterr().err
    assert f"{out} {words}" in said and said.count("\n") == 1
    assert content(sources) == before


def test_a_report_may_be_written_again_and_grow(sources):
    out = sources / "out"
    out.mkdir()  # an empty folder is as good as none
    assert put_of(sources / "a", "--out", out) == 0
    page = (out / "report.html").read_text()
    assert put_of(sources / "a", "--out", out, "--targets", "0.5") == 0
    assert (out / "report.html").read_text() != page
    assert put_of(sources / "a", sources / "b", "--out", out) == 0
    assert put_of(sources / "a", "--out", out) == 2  # of fewer


def test_a_sweeps_own_folder_is_its_reports(sources):
    (sources / "link").symlink_to(sources / "a")
    for out in (sources / "a", sources / "link", sources / "b" / ".." / "a"):
        assert put_of(sources / "a", "--out", out) == 0
    before = content(sources)
    assert put_of(sources / "a", sources / "b", "--out", sources / "a") == 2
    assert content(sources) == before


# --- Files of runs --------------------------------------------------------------------


def stored(tmp_path, **more):
    """A store of two files of runs, and these."""
    swept = result({"a": FAST, "b": SLOW}, **more)
    out = tmp_path / "out"
    folder.claim(out, swept.settings)
    folder.append_runs(out, swept.runs.slice(0, 4), 1.0)
    folder.append_runs(out, swept.runs.slice(4), 2.0)
    return out, sorted((out / "runs").iterdir())


PASSING = {
    "permission": PermissionError(13, "Permission denied"),
    "input": OSError(5, "Input/output error"),
    "files": OSError(24, "Too many open files"),
    "memory": MemoryError(),
}


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize("who", ["report", "compare"])
def test_what_hinders_reading_now_is_said_and_nothing_moved(
    kind, who, tmp_path, monkeypatch
):
    out, (first, second) = stored(tmp_path)
    before, real = content(out), type(out).read_bytes

    def read(self):
        if self == second:
            raise PASSING[kind]
        return real(self)

    with monkeypatch.context() as now:
        now.setattr(type(out), "read_bytes", read)
        with pytest.raises((OSError, MemoryError), match=second.name):
            folder.mend(out) if who == "compare" else folder.read_sweep(out)
    assert content(out) == before
    assert folder.read_sweep(out).runs.num_rows == 8


def test_a_folder_of_runs_that_may_not_be_listed_is_not_an_empty_one(
    tmp_path, monkeypatch
):
    out, _ = stored(tmp_path)
    real = os.listdir

    def listed(path):
        if os.path.basename(path) == "runs":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "listdir", listed)
    with pytest.raises(PermissionError):
        folder.finished(out)


def test_no_flipped_bit_of_a_file_of_runs_goes_unnoticed(tmp_path):
    out, (first, _) = stored(tmp_path)
    whole, good = folder.read_sweep(out).runs, first.read_bytes()
    rng = np.random.default_rng(0)
    for bit in rng.choice(8 * len(good), 150, replace=False):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        first.write_bytes(bad)
        with pytest.raises(ValueError, match=f"{first.name} is damaged.*its runs agai"):
            folder.read_sweep(out)
    first.write_bytes(good)
    assert folder.read_sweep(out).runs.equals(whole)


def test_pages_are_verified_under_any_name(tmp_path):
    out, (first, _) = stored(tmp_path)
    other, good = first.with_name("mine.parquet"), first.read_bytes()
    first.rename(other)
    whole = folder.read_sweep(out).runs
    assert whole.num_rows == 8
    found = set()
    for byte in range(4, pq.ParquetFile(other).metadata.row_group(0).total_byte_size):
        bad = bytearray(good)
        bad[byte] ^= 4
        other.write_bytes(bad)
        try:
            found.add(folder.read_sweep(out).runs.equals(whole))
        except ValueError as error:
            assert "move it away" in str(error)
            folder.mend(out)
            assert other.read_bytes() == bad  # what is not ours stays where it is
            found.add("refused")
    assert found <= {"refused", True}


def test_only_a_writer_sets_a_damaged_file_aside(tmp_path, capsys):
    out, (first, second) = stored(tmp_path)
    first.write_bytes(first.read_bytes()[:100])
    before = content(out)
    assert cli.run(["report", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{first} is damaged" in said
    assert content(out) == before
    with pytest.warns(UserWarning, match=f"set aside as {first.stem}.corrupt, and"):
        folder.mend(out)
    assert len(folder.finished(out)) == 4
    assert content(out)[f"runs/{first.stem}.corrupt"] == before[f"runs/{first.name}"]


@pytest.mark.parametrize("kind", ["other columns", "text", "a link to nothing"])
def test_what_others_put_among_the_runs_stays_and_is_named(kind, tmp_path, capsys):
    out, (first, second) = stored(tmp_path)
    file = out / "runs" / "photos.parquet"
    if kind == "other columns":
        pq.write_table(pa.table({"run_id": ["x"], "scheme": ["a"]}), file)
    elif kind == "text":
        file.write_text("mine")
    else:
        file.symlink_to(tmp_path / "nothing")
    names = sorted(path.name for path in (out / "runs").iterdir())
    folder.mend(out)
    assert cli.run(["report", str(out)]) == 2
    said = capsys.readouterr().err
    assert f"{file}" in said and said.endswith("move it away.\n")
    assert sorted(path.name for path in (out / "runs").iterdir()) == names


def test_a_damaged_signal_is_said_and_the_rest_shown(tmp_path):
    out, _ = stored(tmp_path)
    (out / "signal.json").write_text('{"paths": [')
    with pytest.warns(UserWarning, match="signal.json cannot be read"):
        assert folder.read_sweep(out).signals == {}


# --- Checkpoints ----------------------------------------------------------------------


def unfinished(runs=6, step=10):
    rng = np.random.default_rng(runs)
    numbers = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return Unfinished(
        [f"run {i}" for i in range(runs)],
        Metrics(*numbers(3, 3, runs)),
        Snapshot(
            step,
            np.arange(runs - 1),
            [numbers(runs - 1, 4, 8), np.arange(runs - 1, dtype=np.int32)],
            Metrics(*numbers(3, runs)),
        ),
        2.5,
    )


def same(mine, other):
    assert jax.tree.structure(mine) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(other), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        assert np.array_equal(a, b)


def test_a_checkpoint_gives_back_what_it_was_given(tmp_path):
    given, empty = unfinished(), unfinished(runs=1)
    for each in (given, empty):
        Checkpoints(tmp_path).begin()(each)
    found = {len(each.names): each for each in Checkpoints(tmp_path).found()}
    same(found[6], given)
    same(found[1]._replace(snapshot=None), empty._replace(snapshot=None))
    same(found[1].snapshot.metrics, empty.snapshot.metrics)
    assert not len(empty.snapshot.runs) and found[1].snapshot.state == []
    half = given.of(["run 1", "run 2", "run 5"])
    assert half.seconds == 1.25 and half.snapshot.runs.tolist() == [0, 1]
    Checkpoints(tmp_path).clear()
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("damage", ["a bit", "cut", "gone", "one more"])
def test_no_damage_of_a_checkpoint_goes_unnoticed(damage, tmp_path, caplog):
    given = unfinished()
    Checkpoints(tmp_path).begin()(given)
    (path,) = (tmp_path / "checkpoints").iterdir()
    good = content(path)
    for name, old in good.items():
        bad = bytearray(old)
        if damage == "a bit" and old:
            bad[len(old) // 2] ^= 4
            (path / name).write_bytes(bad)
        elif damage == "cut" and old:
            (path / name).write_bytes(bad[:-1])
        elif damage == "gone":
            (path / name).unlink()
        else:
            (path / f"{name}.2").write_bytes(bad)
        before = content(path)
        assert Checkpoints(tmp_path).found() == []
        (aside,) = (tmp_path / "checkpoints").iterdir()
        assert aside.name == f"{path.name}.corrupt" and content(aside) == before
        aside.rename(path)
        (path / f"{name}.2").unlink(missing_ok=True)
        (path / name).write_bytes(old)
    assert caplog.text.count("its runs begin anew") >= len(good) > 3
    (found,) = Checkpoints(tmp_path).found()
    same(found, given)


@pytest.mark.parametrize("where", ["in the store", "behind a link"])
def test_a_resume_touches_no_checkpoint_of_others(where, tmp_path):
    out = tmp_path / "out"
    sweep(["he_normal"], [0.1], 1, out=out)
    place = out / "checkpoints"
    if where == "behind a link":
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    for name in ("thesis-2024", "0123-10", "0123456789abcdef", "abcdefabcdefabcd-x"):
        (place / name).mkdir(parents=True)
        (place / name / "notes.txt").write_text("mine")
    (place / "0123456789abcdef-10").write_text("a file")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_text("mine")
    (place / "fedcba9876543210-10").symlink_to(tmp_path / "photos")
    before = content(place)
    Checkpoints(out).begin()(unfinished())
    assert sweep(["he_normal"], [0.1], 2, out=out).runs.num_rows == 2
    assert content(place) == before
    assert (place / "fedcba9876543210-10").is_symlink()


@pytest.mark.parametrize("name", ["_METADATA", "jaxinit.sha256"])
def test_a_checkpoint_that_cannot_be_read_now_is_left_alone(
    name, tmp_path, monkeypatch
):
    given = [unfinished(runs=n) for n in (3, 4, 5)]
    for each in given:
        Checkpoints(tmp_path).begin()(each)
    before = content(tmp_path)
    with monkeypatch.context() as now:
        unreadable(now, name)
        words = "Permission denied.*mend that to go on from there"
        with pytest.raises(OSError, match=words):
            Checkpoints(tmp_path).found()
    assert content(tmp_path) == before
    assert len(Checkpoints(tmp_path).found()) == 3


# --- Merging --------------------------------------------------------------------------


def altered(runs, **columns):
    """Runs with other values in some columns of the first."""
    rows = runs.to_pylist()
    rows[0].update(columns)
    return pa.Table.from_pylist(rows, runs.schema)


ALTERED = {
    "steps_to_target": 20,
    "status": "diverged",
    "final_valid_metric": 0.5,
    "best_valid_metric": 0.99,
    "valid_metric": [0.1, *[0.97] * 10],
    "valid_loss": [9.0] * 11,
    "final_train_loss": 3.0,
    "seed": 3,
    "learning_rate": 0.2,
    "scheme": "b",
    "eval_steps": list(range(11)),
    "train_loss": [0.5] * 11,
}


@pytest.mark.parametrize("column", ALTERED)
def test_a_merge_compares_all_of_a_run(column, tmp_path):
    swept = result({"a": FAST, "b": SLOW})
    one = altered(swept.runs, **{column: ALTERED[column]})
    a = store_of(tmp_path / "a", swept)
    b = store_of(tmp_path / "b", of_rows(one.to_pylist(), swept.settings))
    with pytest.raises(ValueError, match=f"twice with different {column};"):
        folder.merge([a, b], tmp_path / "c")
    assert not (tmp_path / "c").exists()
    with pytest.raises(ValueError, match="twice with different"):
        folder.merge([b], a)


def test_what_devices_round_differently_is_one_run(tmp_path):
    # On the other device the metric is just below the target at step 10.
    swept = result({"a": FAST, "b": SLOW})
    (row, *rest) = swept.runs.to_pylist()
    here = {**row, "valid_metric": [0.1, 0.9001, *row["valid_metric"][2:]]}
    there = {
        **row,
        "valid_metric": [0.1, 0.8999, *row["valid_metric"][2:]],
        "steps_to_target": 20,
        "train_loss": [1.0001 * loss for loss in row["train_loss"]],
    }
    a = store_of(tmp_path / "a", of_rows([here, *rest], swept.settings))
    b = store_of(tmp_path / "b", of_rows([there, *rest], swept.settings))
    assert folder.merge([a, b], tmp_path / "c").runs.num_rows == 8
    c = store_of(
        tmp_path / "d", of_rows([{**there, "status": "diverged"}], swept.settings)
    )
    with pytest.raises(ValueError, match="twice with different status"):
        folder.merge([a, c], tmp_path / "e")


@pytest.mark.parametrize("what", ["device", "machine", "neither"])
@pytest.mark.parametrize("how", ["merged", "side by side", "added to"])
def test_seconds_of_several_machines_are_not_taken_together(what, how, tmp_path):
    inits = {"he_normal()": 0.1, "zeros()": 0.2}
    more = {} if what == "neither" else {what: "2 x another"}
    here = result({"he_normal()": FAST}, inits=inits, machine="one")
    where: dict[str, Any] = {"machine": "one", **more}
    there = result({"zeros()": SLOW}, inits=inits, **where)
    a, b = (store_of(tmp_path / n, r) for n, r in (("a", here), ("b", there)))
    if how == "merged":
        folder.merge([a, b], tmp_path / "c")
        found = load_result(tmp_path / "c")
    elif how == "side by side":
        found = load_results(a, b)
    else:
        there.save(a)
        found = load_result(a)
    assert isinstance(found, report.Result)
    assert tables.timed(found.judge()) == (what == "neither")
    said = "\n".join(report.page.protocol.paragraphs(found.sweep))
    assert ("made on several machines" in said) == (what != "neither")
    assert ("2 x another" in said) == (what != "neither")


# --- Wall clock -----------------------------------------------------------------------


class Clock:
    """Seconds that pass by one with every look at the clock."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 1.0
        return self.now


def test_the_wall_clock_is_of_all_sessions(tmp_path):
    out = tmp_path / "out"
    first = sweep(["he_normal"], [0.1], 1, out=out).seconds
    assert first > 0
    assert load_result(out).seconds == first
    nothing_new = sweep(["he_normal"], [0.1], 1, out=out)
    assert nothing_new.seconds == first
    assert nothing_new.summary()["seconds"] == round(first, 2)
    more = sweep(["he_normal"], [0.1], 3, out=out).seconds
    assert more > first and load_result(out).seconds == more


def test_the_wall_clock_of_a_checkpoint_goes_on(tmp_path, monkeypatch):
    clock, began = [], unfinished(runs=4).seconds
    names = {f"run {i}": ("a", 0.1, i) for i in range(4)}
    _, at = make._next_chunk(names, [unfinished(runs=4)], 4)
    assert at is not None and at.seconds == began
    out = tmp_path / "out"
    folder.claim(out, settings(["a"]))
    maker = make.Maker.__new__(make.Maker)
    maker._out, maker._took, maker._kept = out, 0.0, make.SCHEMA.empty_table()
    monkeypatch.setattr(make, "time", Clock())
    maker._since = 0.0
    for start in (0, 1):
        maker._keep(result({"a": FAST}).runs.slice(start, 1), at.seconds)
        clock.append(folder.seconds(out))
    assert clock == [3.5, 7.0] and maker._took == 7.0


def test_the_wall_clock_of_merged_runs_is_not_known(tmp_path):
    for i in range(2):
        sweep(["he_normal"], [0.1, 0.01], 3, out=tmp_path / str(i), shard=(i, 2))
    merged = folder.merge([tmp_path / "0", tmp_path / "1"], tmp_path / "all")
    assert math.isnan(merged.seconds)
    assert math.isnan(load_result(tmp_path / "all").seconds)
    assert report.Result(merged).summary()["seconds"] is None
    folder.merge([tmp_path / "1"], tmp_path / "0")
    assert math.isnan(load_result(tmp_path / "0").seconds)
    assert load_result(tmp_path / "1").seconds > 0


def test_a_look_at_a_folder_from_another_machine_does_not_make_it_its_own(
    tmp_path, monkeypatch
):
    out = tmp_path / "out"
    made = sweep(["he_normal"], [0.1], 1, out=out).settings
    assert made.machine == machine.processor() != ""
    monkeypatch.setattr(machine, "processor", lambda: "another")
    assert sweep(["he_normal"], [0.1], 1, out=out).settings.machine == made.machine
    grown = sweep(["he_normal"], [0.1], 2, out=out).settings
    assert grown.machine == f"{made.machine}; another" and grown.of_several_machines


# --- Signal at step 0 -----------------------------------------------------------------

SCHEMES = ["he_normal()", "normal(stddev=1.0)"]


def killed(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("when", ["measuring", "writing"])
def test_the_signal_is_there_though_the_report_was_killed(when, tmp_path, monkeypatch):
    whole = sweep(out=tmp_path / "whole").sweep.signals
    out = tmp_path / "out"
    with monkeypatch.context() as now:
        if when == "measuring":
            now.setattr(make, "signal_of", killed)
        else:
            now.setattr(report.Result, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep(out=out)
    assert folder.read_sweep(out).runs.num_rows == 8
    assert sweep(out=out).sweep.signals == whole == load_result(out).sweep.signals
    assert list(whole) == SCHEMES


def test_merged_parts_have_the_signal(tmp_path):
    whole = sweep(out=tmp_path / "whole").sweep.signals
    for i in range(2):
        sweep(out=tmp_path / str(i), shard=(i, 2))
    sources = [tmp_path / "0", tmp_path / "1"]
    assert folder.merge(sources, tmp_path / "all").signals == whole
    assert load_result(tmp_path / "all").sweep.signals == whole
    a, b = (tmp_path / n for n in "ab")
    sweep(["he_normal"], out=a)
    sweep(["normal(1)"], out=b)
    assert list(folder.merge([a, b], a).signals) == SCHEMES


# --- A verdict that is no longer one --------------------------------------------------

SAID = settings(["a", "b"], [0.1, 0.2], 3, settled=False, until_sure=1)


@pytest.mark.parametrize(
    "more",
    [{"seeds": 9}, {"rounds": 2}, {"schemes": ("c",)}, {"learning_rates": (0.4,)}],
)
@pytest.mark.parametrize("order", ["added", "added to"])
def test_what_was_said_of_the_winner_goes_when_there_are_more_runs(more, order):
    new = dataclasses.replace(SAID, settled=None, until_sure=0, **more)
    both = SAID.union(new) if order == "added" else new.union(SAID)
    assert both.settled is None
    said = dataclasses.replace(both, settled=True)
    assert both.union(said).settled is True  # the last word on all of them
    assert said.union(SAID).settled is said.union(both).settled is True


def test_a_sweep_that_grows_is_not_said_to_be_unsettled(tmp_path):
    out = tmp_path / "out"
    alike = ["he_normal", "lecun_normal(gain=1.4142)"]
    race = {"tuning_seeds": 1, "out": out}
    first = sweep(alike, [0.1], 3, until_sure=1, **race)
    assert first.settings.settled is False
    again = sweep(alike, [0.1], 3, until_sure=1, **race)
    assert again.settings.settled is False
    assert any("not settled" in note for note in load_result(out).notes())
    grown = sweep(alike, [0.1], 6, **race)
    assert grown.settings.settled is None
    assert folder.read_settings(out).settled is None
    assert not any("settled" in note for note in load_result(out).notes())


# --- Bits -----------------------------------------------------------------------------


def numbers(runs):
    """All of each run but its seconds, as they are stored."""
    return {
        row["run_id"]: repr({k: v for k, v in row.items() if "seconds" not in k})
        for row in runs.to_pylist()
    }


class Orthogonal(nn.Module):
    """A model whose own initialization is kept by a scheme that is a function."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(7, kernel_init=ji.orthogonal())(x))
        return nn.Dense(3, kernel_init=ji.orthogonal())(x)


def as_it_is(key, params, apply, batch):
    return params


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_parts_and_growth_give_the_bits_of_the_whole(strategy, tmp_path):
    given = {"rates": [0.01, 0.1, 1e30], "strategy": strategy}
    whole = sweep(seeds=4, out=tmp_path / "whole", **given)
    assert whole.sweep.diverged.any()
    for i in range(3):
        sweep(seeds=4, out=tmp_path / str(i), shard=(i, 3), **given)
    parts = folder.merge([tmp_path / str(i) for i in range(3)], tmp_path / "all")
    assert numbers(parts.runs) == numbers(whole.runs)
    one = sweep(["normal(1)"], [0.1], 1, strategy=strategy)
    assert numbers(one.runs).items() <= numbers(whole.runs).items()
    sweep(["normal(1)"], [0.1], 1, out=tmp_path / "grown", strategy=strategy)
    grown = sweep(seeds=4, out=tmp_path / "grown", **given)
    assert numbers(grown.runs) == numbers(whole.runs)


def test_a_models_own_initialization_is_that_of_its_seed_alone():
    task = make_task(Orthogonal(), TRAIN, VALID, target=0.9)
    options = {"steps": 4, "eval_every": 2, "batch_size": 16, "quiet": True}
    found = [
        numbers(compare(task, schemes, [0.1], seeds, **options).runs)
        for schemes, seeds in (
            ([as_it_is], 1),
            ([as_it_is], 5),
            ([as_it_is, "zeros"], 2),
        )
    ]
    assert found[0].items() <= found[2].items()
    assert found[0].items() <= found[1].items()
