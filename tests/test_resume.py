"""Sweeps that stop, go on, grow, and are made in parts: nothing lost, nothing twice."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import numpy as np
import pyarrow.compute as pc
import pytest
from flax import linen as nn
from sweeps import TRAIN, VALID, sweep

from jaxinit.compare import cli, compare, machine, make_task, read_runs
from jaxinit.compare.report import result as report
from jaxinit.compare.stats import summary
from jaxinit.compare.store import folder
from jaxinit.compare.sweep import chunks as room
from jaxinit.compare.sweep import make
from jaxinit.compare.train import engine
from jaxinit.compare.train import strategy as choice
from jaxinit.compare.train.runners import STRATEGIES

WRITE = report.Result.write


@pytest.fixture(autouse=True)
def own_cache_two_devices_and_no_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(report.Result, "write", lambda *_: None)
    monkeypatch.setattr(make, "signal_of", lambda *_: {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    two = jax.devices()[:2]  # a program a device to compile
    monkeypatch.setattr(jax, "local_devices", lambda: two)


def numbers(runs):
    return {
        row["run_id"]: np.array([row["train_loss"], row["valid_loss"]])
        for row in runs.to_pylist()
    }


def same(runs, others):
    mine, theirs = numbers(runs), numbers(others)
    assert mine.keys() == theirs.keys()
    for name, curve in mine.items():
        np.testing.assert_allclose(curve, theirs[name], rtol=2e-3, atol=1e-5)


@pytest.fixture(scope="module")
def whole():
    return sweep(seeds=3).runs


def test_a_sweep_without_a_folder_keeps_no_folders_strategy(tmp_path, monkeypatch):
    sweep(["he_normal"], [0.1], 1, out=tmp_path / "out", strategy="loop")
    monkeypatch.chdir(tmp_path / "out")
    assert sweep(["he_normal"], [0.1], 1).settings.strategy == "map"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_gives_the_same_runs(strategy, whole):
    same(sweep(seeds=3, strategy=strategy).runs, whole)


def test_a_convolution_and_a_diverged_run_by_every_strategy():
    class Conv(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(4, (3,))(x[..., None]))
            return nn.Dense(3)(x.reshape(len(x), -1))

    task = make_task(Conv(), TRAIN, VALID, target=0.9)
    results = {
        strategy: compare(
            task, ["he_normal", "normal(1e30)"], [0.05], 3, steps=10, eval_every=5,
            batch_size=16, quiet=True, strategy=strategy, tuning_seeds=0,
        ).runs
        for strategy in STRATEGIES
    }  # fmt: skip
    for runs in results.values():
        status = runs["status"].to_pylist()
        assert status == ["finished"] * 3 + ["diverged"] * 3
        same(runs.slice(0, 3), results["map"].slice(0, 3))


def test_the_choice_is_measured_once_and_remembered(monkeypatch, caplog, whole):
    monkeypatch.setattr(room, "WORTH_MEASURING", 0)
    monkeypatch.setattr(choice, "SECONDS", 0.01)
    caplog.set_level("INFO", logger="jaxinit")
    same(sweep(seeds=3).runs, whole)
    same(sweep(seeds=3).runs, whole)
    first, second = [record.getMessage() for record in caplog.records]
    assert "ms a step" in first and second.endswith("as measured before")
    (file,) = (machine.cache_folder() / "strategies").iterdir()
    file.write_text("{")
    same(sweep(seeds=3).runs, whole)


def test_a_sweep_larger_than_memory_goes_in_chunks(monkeypatch, tmp_path, whole):
    monkeypatch.setattr(room, "free_memory", lambda: 1)
    result = sweep(seeds=3, out=tmp_path / "out")
    same(result.runs, whole)
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 6


def test_out_of_memory_halves_the_chunk(monkeypatch, tmp_path, whole, caplog):
    real, asked = engine.Engine.train, []

    def small(self, params, *rest, **options):
        asked.append(len(jax.tree.leaves(params)[0]))
        if asked[-1] > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return real(self, params, *rest, **options)

    monkeypatch.setattr(engine.Engine, "train", small)
    same(sweep(seeds=3, out=tmp_path / "out").runs, whole)
    assert asked == [12, 6, 3, 3, 3, 3]
    assert "on with chunks of 3 runs" in caplog.text

    def never(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(engine.Engine, "train", never)
    with pytest.raises(ValueError, match="do not fit in the memory"):
        sweep()


def test_a_run_ends_at_the_target_where_that_is_asked(whole, tmp_path):
    target = whole["valid_metric"][0].as_py()[2]  # a value that some run reaches
    options = {"target": target, "seeds": 3}
    free, stopped = (sweep(**options, stop_at_target=s).runs for s in (False, True))
    assert set(stopped["status"].to_pylist()) >= {"reached"}
    for a, b in zip(free.to_pylist(), stopped.to_pylist(), strict=True):
        assert a["steps_to_target"] == b["steps_to_target"]
        assert (b["status"] == "reached") == (a["steps_to_target"] is not None)
        if b["status"] == "reached":
            at = b["eval_steps"].index(b["steps_to_target"])
            np.testing.assert_allclose(
                b["valid_loss"][: at + 1], a["valid_loss"][: at + 1], rtol=1e-4
            )
            assert set(b["valid_loss"][at:]) == {b["valid_loss"][at]}
            assert b["final_valid_metric"] >= target


def test_unfinished_runs_go_on_from_their_checkpoint(monkeypatch, tmp_path, whole):
    from jaxinit.compare.sweep import checkpoints

    monkeypatch.setattr(room._Clock, "is_due", lambda self: True)
    out, real = tmp_path / "out", room.Runs.train

    def killed(self, chunk, show, *given):
        def until_ten(step, runs, metrics):
            if step == 15:
                raise KeyboardInterrupt

        return real(self, chunk, until_ten, *given)

    monkeypatch.setattr(room.Runs, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        sweep(seeds=3, out=out)
    (found,) = checkpoints.Checkpoints(out).found()
    assert found.snapshot.step == 10 and len(found.names) == 12

    steps = []

    def watched(self, chunk, show, *given):
        def see(step, runs, metrics):
            steps.append((step, len(runs)))

        return real(self, chunk, see, *given)

    monkeypatch.setattr(room.Runs, "train", watched)
    # Of a smaller sweep, only its own runs go on; the others begin anew.
    same(
        sweep(seeds=3, rates=[0.01], out=out).runs,
        whole.filter(pc.equal(whole["learning_rate"], 0.01)),
    )
    assert steps == [(15, 6), (20, 6)]
    assert not (out / "checkpoints").exists()
    same(sweep(seeds=3, out=out).runs, whole)


def test_a_damaged_checkpoint_is_left_out(tmp_path, whole, caplog):
    folder = tmp_path / "out" / "checkpoints" / "0123456789abcdef-10"
    folder.mkdir(parents=True)
    (folder / "_CHECKPOINT_METADATA").write_text("{")
    sweep(["he_normal"], seeds=3, out=tmp_path / "none")
    (tmp_path / "none" / "sweep.json").rename(tmp_path / "out" / "sweep.json")
    same(sweep(seeds=3, out=tmp_path / "out").runs, whole)
    assert "its runs begin anew" in caplog.text
    (aside,) = folder.parent.iterdir()
    assert aside.name == "0123456789abcdef-10.corrupt"
    assert (aside / "_CHECKPOINT_METADATA").read_text() == "{"


def test_the_strategy_is_recorded_and_kept(tmp_path, whole):
    out = tmp_path / "out"
    assert sweep(seeds=1, out=out, strategy="vmap").settings.strategy == "vmap"
    assert folder.read_settings(out).strategy == "vmap"
    grown = sweep(seeds=3, out=out)
    assert grown.settings.strategy == "vmap"
    same(grown.runs, whole)


def test_a_store_grows(tmp_path, whole, monkeypatch):
    out = tmp_path / "out"
    sweep(["he_normal"], [0.1], 2, out=out)
    first = {path: path.read_bytes() for path in (out / "runs").iterdir()}
    grown = sweep(seeds=3, out=out)
    same(grown.runs, whole)
    assert all(path.read_bytes() == old for path, old in first.items())
    assert grown.settings.seeds == 3 and len(grown.settings.schemes) == 2
    smaller = sweep(["normal(1)"], [0.01], 1, out=out)  # nothing left to do
    same(smaller.runs, whole)


def test_parts_and_their_merge(tmp_path, whole, capsys, monkeypatch):
    monkeypatch.setattr(report.Result, "write", WRITE)
    for i in range(3):
        sweep(seeds=3, out=tmp_path / str(i), shard=(i, 3))
    sources = [str(tmp_path / str(i)) for i in range(3)]
    sizes = [read_runs(source).num_rows for source in sources]
    assert sum(sizes) == 12 and max(sizes) < 12
    assert cli.run(["merge", *sources, "-o", str(tmp_path / "all")]) == 0
    assert "12 runs" in capsys.readouterr().out
    same(read_runs(tmp_path / "all"), whole)
    assert (tmp_path / "all" / "curves.png").is_file()
    again = folder.merge([*sources, tmp_path / "all"], tmp_path / "all")  # idempotent
    assert again.runs.equals(read_runs(tmp_path / "all"))
    assert again.runs.num_rows == 12


def test_merge_refuses_what_disagrees(tmp_path):
    sweep(out=tmp_path / "a")
    sweep(out=tmp_path / "b", steps=25)
    with pytest.raises(FileExistsError, match="another sweep: steps"):
        folder.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    sweep(out=tmp_path / "d")
    (file,) = (tmp_path / "d" / "runs").iterdir()
    table = read_runs(tmp_path / "d")
    losses = [[9.0] * 5 for _ in range(table.num_rows)]
    column = table.schema.get_field_index("train_loss")
    file.unlink()
    folder.write_runs(
        tmp_path / "d", table.set_column(column, table.schema.field(column), [losses])
    )
    with pytest.raises(ValueError, match="twice with different train_loss"):
        folder.merge([tmp_path / "a", tmp_path / "d"], tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_a_damaged_file_is_set_aside_and_its_runs_made_again(damage, tmp_path, whole):
    out = tmp_path / "out"
    sweep(seeds=2, out=out)
    sweep(seeds=3, out=out)
    file = sorted((out / "runs").iterdir())[0]
    content = file.read_bytes()
    file.write_bytes(
        {"truncated": content[:200], "garbage": b"x" * 500, "empty": b""}[damage]
    )
    with pytest.warns(UserWarning, match="is damaged.* set aside as"):
        repaired = sweep(seeds=3, out=out)
    same(repaired.runs, whole)
    assert file.with_suffix(".corrupt").exists()


def test_two_writers_of_one_store(tmp_path, whole):
    code = (
        "import sys; sys.path.insert(0, 'tests'); import jax;"
        "jax.config.update('jax_num_cpu_devices', 2); import sweeps;"
        "sweeps.sweep(seeds=3, out=sys.argv[1])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    writers = [subprocess.Popen(command) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    same(read_runs(tmp_path / "out"), whole)


def test_a_full_disk_leaves_the_store_readable(tmp_path, monkeypatch, whole):
    out = tmp_path / "out"
    sweep(["he_normal"], seeds=3, out=out)
    real = os.fsync

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        sweep(seeds=3, out=out)
    assert read_runs(out).num_rows == 6
    assert not [p for p in out.rglob(".*")]
    monkeypatch.setattr(os, "fsync", real)
    same(sweep(seeds=3, out=out).runs, whole)


KILLS = """
import os, pathlib, random, signal, sys, time
from jaxinit.compare.sweep import chunks as runs
from jaxinit.compare.store import folder
from jaxinit.compare import cli

runs.SAVE_EVERY = 0.0
out, kills, seen = pathlib.Path(sys.argv[1]), int(sys.argv[2]), set()
killed = resumed = 0


def progress():
    return sorted(map(str, out.rglob("*")))


while True:
    child = os.fork()  # before JAX has started, so that the import is made once
    if not child:
        os._exit(cli.run(["compare", *sys.argv[3:], "--out", str(out)]))
    if killed < kills:
        before, moment = progress(), random.Random(killed)
        late = time.monotonic() + 60
        while killed % 2 and progress() == before and time.monotonic() < late:
            time.sleep(0.01)  # every other time not before something is written
        time.sleep(moment.uniform(0, 0.5 if killed % 2 else 2))
        os.kill(child, signal.SIGKILL)
        killed += 1
    _, status = os.waitpid(child, 0)
    if (out / "sweep.json").exists():
        found = folder.finished(out)
        assert found >= seen, "a run is lost"
        seen = found
        resumed += any(out.glob("checkpoints/*-*"))
    if os.WIFEXITED(status):
        break
print(killed, resumed > 0, os.WEXITSTATUS(status))
"""


def test_killed_twenty_times_at_any_moment_then_resumed(tmp_path):
    options = [
        *"--depth 2 --width 8 --steps 4000 --eval-every 40 --seeds 20 --quiet".split(),
        *"--learning-rates 0.05 --schemes he_normal normal(1) --strategy map".split(),
        *"--tuning-seeds 0".split(),
    ]
    command = [sys.executable, "-W", "ignore", "-c", KILLS, str(tmp_path / "out")]
    done = subprocess.run([*command, "20", *options], capture_output=True, text=True)
    assert done.stdout.split()[-3:] == ["20", "True", "0"], done
    made = read_runs(tmp_path / "out")
    ids = made["run_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 40
    assert not (tmp_path / "out" / "checkpoints").exists()
    command[-1] = str(tmp_path / "whole")
    subprocess.run([*command, "0", *options], check=True, capture_output=True)
    same(made, read_runs(tmp_path / "whole"))


def test_rates_are_tuned_on_seeds_of_their_own(tmp_path):
    out = tmp_path / "out"
    options = {"seeds": 3, "tuning_seeds": 2, "runoff_seeds": 0, "out": out}
    result = sweep(["he_normal", "normal(1)"], [0.001, 0.1], **options)
    rows = result.runs.to_pylist()
    tuning = [row for row in rows if row["seed"] < 2]
    scoring = [row for row in rows if row["seed"] >= 2]
    assert len(tuning) == 2 * 2 * 2 and len(scoring) == 2 * 3
    for scheme in ("he_normal()", "normal(stddev=1.0)"):
        losses = {0.001: [], 0.1: []}
        for row in tuning:
            if row["scheme"] == scheme:
                losses[row["learning_rate"]].append(row["final_train_loss"])
        (rate,) = {r["learning_rate"] for r in scoring if r["scheme"] == scheme}
        assert rate == min(losses, key=lambda r: np.mean(losses[r]))  # noqa: B023
    again = sweep(["he_normal", "normal(1)"], [0.001, 0.1], **options)
    same(again.runs, result.runs)
    with pytest.raises(FileExistsError, match="tuning_seeds is 2 there and 0"):
        sweep(["he_normal"], [0.1], out=out)


def test_the_best_two_rates_run_off():
    dead = "normal(stddev=1e-09)"
    found = sweep(
        ["he_normal", dead], [0.001, 0.1, 0.2], 3, tuning_seeds=1, runoff_seeds=2,
        target=0.6, steps=40,
    )  # fmt: skip
    best = {row.scheme: row.learning_rate for row in found.ranking()}

    def seeds(scheme, rate):
        return found.sweep.at(scheme, rate).runs["seed"].to_pylist()

    for scheme in ("he_normal()", dead):
        assert seeds(scheme, best[scheme]) == [0, 1, 2, 3]
    others = [rate for rate in (0.001, 0.1, 0.2) if rate != best["he_normal()"]]
    # One rate lost the run-off; where the target is never reached there is none.
    assert sorted(seeds("he_normal()", rate) for rate in others) == [[0], [0, 1, 2]]
    assert all(seeds(dead, r) == [0] for r in (0.001, 0.1, 0.2) if r != best[dead])
    held = [
        rate
        for rate in found.sweep.learning_rates
        if len(seeds("he_normal()", rate)) > 1
    ]
    decided = summary.best_first(found.sweep.of(["he_normal()"], held, range(3)))
    assert decided[0] == best["he_normal()"]


def test_parts_of_a_tuned_sweep_have_whole_schemes(tmp_path):
    options = {"seeds": 2, "tuning_seeds": 1, "runoff_seeds": 1}
    whole = sweep(out=tmp_path / "whole", **options)
    for i in range(2):
        part = sweep(out=tmp_path / str(i), shard=(i, 2), **options)
        assert len(part.sweep.schemes) == 1
    sources = [str(tmp_path / str(i)) for i in range(2)]
    assert cli.run(["merge", *sources, "-o", str(tmp_path / "all")]) == 0
    same(read_runs(tmp_path / "all"), whole.runs)


def test_a_grid_grows_where_a_scheme_is_best_at_its_end():
    rates = sweep(["he_normal"], [1e-5, 1e-4], 1, extend_grid=True).settings
    assert rates.learning_rates[:2] == (1e-5, 1e-4)
    np.testing.assert_allclose(rates.learning_rates, 10.0 ** np.arange(-5, 1))
    inside = sweep(["he_normal"], [1e-6, 0.1, 1e6], 1, extend_grid=True).settings
    assert inside.learning_rates == (1e-6, 0.1, 1e6)


def test_until_sure_stops_when_the_winner_is_settled():
    clear = sweep(
        ["he_normal", "zeros"], [0.1, 0.3], 5, tuning_seeds=1, until_sure=4, steps=60,
        eval_every=2,
    ).settings  # fmt: skip
    assert clear.settled and clear.rounds < 4
    alike = sweep(
        ["he_normal", "lecun_normal(gain=1.4142)"], [0.1], 3, tuning_seeds=1,
        until_sure=2,
    )  # fmt: skip
    assert alike.settings.settled is False and alike.settings.rounds == 2
    assert alike.settings.all_seeds == 7 and alike.runs.num_rows == 14


BAD = [
    ({"until_sure": 2}, ValueError, "give tuning_seeds="),
    ({"extend_grid": True, "shard": (0, 2)}, ValueError, "leave shard= out"),
    ({"tuning_seeds": 1, "shard": (0, 3)}, ValueError, "make fewer parts"),
    ({"shard": (3, 3)}, ValueError, "i from 0 to n - 1"),
    ({"shard": (0,)}, TypeError, "must be two integers"),
    ({"strategy": "fast"}, ValueError, "strategy='fast'"),
]


@pytest.mark.parametrize(("options", "error", "words"), BAD)
def test_one_sentence(options, error, words):
    with pytest.raises(error, match=words):
        sweep(**options)


def test_command_line_says_what_is_wrong(tmp_path, capsys):
    assert cli.run(["compare", "--shard", "half"]) == 2
    assert "must read I/N" in capsys.readouterr().err
    assert cli.run(["merge", str(tmp_path), "-o", str(tmp_path / "x")]) == 2
    assert "is no folder of a sweep" in capsys.readouterr().err
