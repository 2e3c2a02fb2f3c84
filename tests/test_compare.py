"""The sweep: what a run's numbers depend on, its files, and bad input."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from sweeps import TRAIN, VALID, Net, X, Y, sweep, task

import jaxinit as ji
from jaxinit import tree
from jaxinit.compare import cli, compare, digits_mlp, make_task, read_runs
from jaxinit.compare.report import result as report
from jaxinit.compare.sweep import progress


@pytest.fixture(scope="module")
def small():
    return sweep()


def by_id(result):
    rows = result.runs.to_pylist()
    assert len({row["run_id"] for row in rows}) == len(rows)
    return {row.pop("run_id"): row for row in rows}


@pytest.mark.parametrize(
    "more",
    [
        {"schemes": ("zeros", "he_normal", "orthogonal", "normal(1)")},
        {"rates": (0.003, 0.01, 0.03, 0.1)},
        {"seeds": 5},
    ],
    ids=lambda more: next(iter(more)),
)
def test_more_runs_change_no_other_runs_numbers(small, more):
    before, after = by_id(small), by_id(sweep(**more))
    assert set(before) < set(after)
    for name, row in before.items():
        for column, value in row.items():
            if column.endswith("_seconds"):
                continue  # no part of the numbers
            if isinstance(value, (float, list)):
                value = pytest.approx(value, rel=1e-5)
            assert after[name][column] == value, column


def test_seeds_are_paired(small):
    # zeros ignores the key, so seeds differ in the data order alone: the same in
    # every scheme. One scheme under two names gives one run.
    def he(key, params, apply, batch):
        return params

    def also_he(key, params, apply, batch):
        return params

    rows = sweep([he, also_he], [0.1], 3).runs.to_pylist()
    for seed in range(3):
        a, b = rows[seed], rows[3 + seed]
        assert (a["scheme"], b["scheme"]) == ("he", "also_he")
        assert a["train_loss"] == b["train_loss"]
    assert rows[0]["train_loss"] != rows[1]["train_loss"]


def test_another_task_or_setting_is_another_run(small):
    other = compare(
        task(target=0.8), ["he_normal"], [0.01], 2, steps=20, eval_every=5,
        batch_size=16, quiet=True,
    )  # fmt: skip
    assert not set(by_id(small)) & set(by_id(other))


def test_a_scheme_as_function_sees_model_and_batch():
    def unit_logits(key, params, apply, batch):
        x, y = batch
        assert y.shape == (16,)
        scale = apply(params, x).std()
        kernel = params["Dense_1"]["kernel"] / scale
        return {**params, "Dense_1": {**params["Dense_1"], "kernel": kernel}}

    row = sweep([unit_logits], [1e-9], 1).runs.to_pylist()[0]
    assert row["scheme"] == "unit_logits"
    # Logits of unit standard deviation cost more than ln 3 but far less than wild ones.
    assert 1.0 < row["train_loss"][0] < 1.8


def test_schemes_draw_kernels_and_leave_biases():
    class Biased(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, bias_init=nn.initializers.constant(5.0))(x)

    seen = {}

    def look(key, params, apply, batch):
        seen.update(jax.tree.map(lambda x: x.shape, params["Dense_0"]))
        return params

    biased = make_task(Biased(), TRAIN, VALID, target=0.9)
    result = compare(
        biased, ["zeros", look], [1e-9], 1, steps=5, eval_every=5, batch_size=16,
        quiet=True,
    )  # fmt: skip
    assert seen == {"kernel": (5, 3), "bias": (3,)}
    # Zero kernels and equal biases: every class is as likely as the others.
    assert result.runs["valid_loss"][0].as_py()[0] == pytest.approx(np.log(3), rel=1e-5)


def test_diverged_runs_are_results():
    result = sweep(["normal(1e30)", "he_normal"], [0.1], 2)
    rows = result.runs.to_pylist()
    assert [row["status"] for row in rows] == ["diverged"] * 2 + ["finished"] * 2
    assert all(row["steps_to_target"] is None for row in rows[:2])
    best, worst = result.ranking()
    assert (best.scheme, worst.scheme) == ("he_normal()", "normal(stddev=1e+30)")
    assert worst.diverged == worst.runs == 2 and worst.reached == 0


def test_files(tmp_path, capsys):
    result = sweep(out=tmp_path / "out", quiet=False)
    assert "he_normal()" in capsys.readouterr().out
    names = {p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.rglob("*.*")}
    assert names >= {"summary.json", "curves.png", "learning_rates.png"}
    assert len([n for n in names if n.endswith(".parquet")]) == 1
    assert read_runs(tmp_path / "out").equals(result.runs)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["runs"] == 8 and summary["ranking"][0]["scheme"]
    signal = json.loads((tmp_path / "out" / "signal.json").read_text())
    assert signal["paths"] == ["Dense_1/kernel", "Dense_0/kernel"]  # as executed
    assert list(signal["forward"]) == ["he_normal()", "normal(stddev=1.0)"]
    again = report.load_result(tmp_path / "out")
    assert again.sweep.signals == result.sweep.signals and len(again.plot_signal()) == 2
    assert "At step 0, backward" in (tmp_path / "out" / "report.html").read_text()
    for figure in ("curves.png", "learning_rates.png", "signal.png"):
        assert (tmp_path / "out" / figure).read_bytes().startswith(b"\x89PNG")


def test_a_store_that_grows_has_the_signal_of_all_schemes(tmp_path):
    sweep(["he_normal"], out=tmp_path / "out")
    sweep(["normal(1)"], out=tmp_path / "out")
    nothing_new = sweep(["normal(1)"], out=tmp_path / "out")
    assert list(nothing_new.sweep.signals) == ["he_normal()", "normal(stddev=1.0)"]
    alone = report.Result(dataclasses.replace(nothing_new.sweep, signals={}))
    with pytest.raises(ValueError, match="no signal at step 0"):
        alone.plot_signal()


def test_targets_beside_the_tasks_own(tmp_path, capsys):
    result = sweep(targets=[0.7, 0.5], out=tmp_path / "out", quiet=False)
    assert result.settings.targets == (0.5, 0.7)
    assert "50%" in capsys.readouterr().out
    sweep(out=tmp_path / "out")  # nothing to do, and they stay
    saved = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(saved["ranking_at_targets"]) == {"0.5", "0.7"}
    with pytest.raises(ValueError, match="harder"):
        sweep(targets=[0.95], stop_at_target=True, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()  # before anything is trained


def test_other_results_are_never_overwritten(tmp_path):
    sweep(out=tmp_path / "a")
    before = {p: p.read_bytes() for p in (tmp_path / "a").rglob("*.*") if p.is_file()}
    sweep(out=tmp_path / "a")  # the same sweep may run again
    with pytest.raises(
        FileExistsError, match="another sweep: steps is 20 there and 25"
    ):
        sweep(steps=25, out=tmp_path / "a")
    assert all(p.read_bytes() == b for p, b in before.items() if p.suffix == ".parquet")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="holds no sweep of jaxinit"):
        sweep(out=tmp_path / "b")
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["thesis.tex"]
    with pytest.raises(FileNotFoundError, match="no finished runs"):
        read_runs(tmp_path / "b")


def test_ctrl_c_ends_in_one_line(tmp_path, monkeypatch, capsys):
    real = progress.Progress.show

    def interrupted_halfway(self, runs, diverged):
        real(self, runs, diverged)
        if runs == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress.Progress, "show", interrupted_halfway)
    out = tmp_path / "out"
    settings = "--depth 2 --width 8 --seeds 1 --steps 20 --eval-every 5 --quiet".split()
    schemes = ["--schemes", "he_normal", "normal(1e30)", "--learning-rates", "0.1"]
    assert cli.run(["compare", *settings, *schemes, "--out", str(out)]) == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["sweep.json"]


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = "--depth 1 --width 8 --activation tanh --steps 10 --eval-every 5".split()
    settings += "--batch-size 32 --optimizers sgd --target 0.5 --seeds 1".split()
    settings += ["--tuning-seeds", "0"]
    settings += ["--schemes", "lecun_normal(gain=2)", "--learning-rates", "0.01", "0.1"]
    assert cli.run(["compare", *settings]) == 0
    assert "lecun_normal(gain=2.0)" in capsys.readouterr().out
    saved = json.loads((tmp_path / "results/digits-mlp/summary.json").read_text())
    assert saved["settings"]["optimizers"] == ["sgd()"] and saved["runs"] == 2
    assert saved["settings"]["task"].endswith("(depth=1, width=8, activation='tanh')")
    assert cli.run(["compare", *settings, "--steps", "15"]) == 2
    assert "another sweep" in capsys.readouterr().err
    assert cli.run(["compare", *settings, "--seeds", "2"]) == 0
    saved = json.loads((tmp_path / "results/digits-mlp/summary.json").read_text())
    assert saved["settings"]["seeds"] == 2 and saved["runs"] == 4
    assert cli.run(["compare", "--schemes", "he_norml"]) == 2
    error = capsys.readouterr().err
    assert "nearest is 'he_normal'" in error and error.count("\n") == 1
    assert cli.run(["compare", "--platform", "tpu"]) == 2


def bad_data(x=X[:64], y=Y[:64], model=None, target=0.9):
    return lambda: make_task(model or Net(), (x, y), VALID, target=target)


NAN = X[:64].copy()
NAN[7, 2] = np.nan

BAD = [
    (bad_data(x=NAN), "NaN or infinity in 1 of 64 examples, as float32, the first at"),
    (bad_data(y=Y[:60]), "inputs have 64 examples and labels 60"),
    (bad_data(y=Y[:64] + 1), "labels reach 3, but the model has 3 outputs"),
    (bad_data(y=Y[:64] - 1), "labels start at -1"),
    (bad_data(y=Y[:64] * 0.5), "integer classes"),
    (bad_data(x=X[:64, :4]), "they must be the same"),
    (bad_data(x=X[:0], y=Y[:0]), "at least one"),
    (bad_data(target=1.5), "target=1.5"),
    (bad_data(model=nn.Sequential([nn.Dense(3), jnp.ravel])), "inputs to shape"),
    (lambda: sweep(["he_norml"]), "nearest is 'he_normal'"),
    (lambda: sweep(["he_normal", "he_normal()"]), "given twice"),
    (lambda: sweep([]), "no scheme is given"),
    (
        lambda: sweep([3.0]),
        "must be an initializer, a scheme of jaxinit.tree, the text of one",
    ),
    (lambda: sweep(rates=[]), "one or more different numbers"),
    (lambda: sweep(rates=[0.1, -0.1]), "learning_rate=-0.1"),
    (lambda: sweep(seeds=0), "seeds=0"),
    (lambda: sweep(steps=7), "steps=7 must be a multiple of eval_every=5"),
    (lambda: sweep(eval_every=0), "eval_every=0"),
    (lambda: sweep(steps=0, eval_every=None), "steps=0"),
    (lambda: sweep(batch_size=65), "exceeds the 64 training examples"),
    (lambda: sweep(optimizers="lyon"), "optimizer='lyon' is unknown"),
    (lambda: compare("mnist"), "task='mnist' is unknown"),
    (
        lambda: compare(
            make_task(
                (lambda key: {"b": jnp.zeros(3)}, lambda p, x: x[:, :3] + p["b"][None]),
                TRAIN,
                VALID,
                target=0.9,
            )
        ),
        "has no kernel",
    ),
]


@pytest.mark.parametrize(("call", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_input_in_one_sentence(call, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    message = str(caught.value)
    assert words in message and "\n" not in message and message.endswith(".")


def test_a_plain_model_and_a_users_own_scheme():
    @ji.initializer  # and so known by its name
    def tenth(dtype=None):
        return lambda key, shape, dtype: jnp.full(shape, 0.1, dtype)

    pair = (
        lambda key, x: {"w": jax.random.normal(key, (5, 3))},
        lambda params, x: x @ params["w"],
    )
    result = compare(
        make_task(pair, TRAIN, VALID, target=0.5),
        ["tenth"],
        [0.1],
        1,
        steps=5,
        eval_every=5,
        batch_size=16,
        quiet=True,
    )
    assert result.runs["valid_loss"][0].as_py()[0] == pytest.approx(np.log(3), rel=1e-5)


def test_rules_are_a_scheme():
    rules = [("Dense_0/kernel", "orthogonal"), ("Dense_1/kernel", "zeros")]
    one = sweep(rules, [0.1], 1)
    several = sweep([rules, "he_normal"], [0.1], 1)
    (name,) = one.settings.schemes
    assert several.settings.schemes == (name, "he_normal()")
    assert ji.parse(name) == tree.rules(rules)  # a text, so a command can name it
    # The last layer is zero: all classes are as likely as the others.
    losses = one.runs["valid_loss"][0].as_py()
    assert losses[0] == pytest.approx(np.log(3), rel=1e-5) and losses[-1] < losses[0]
    assert several.runs["valid_loss"][0].as_py() == pytest.approx(losses, rel=1e-5)


def test_schemes_for_whole_models_go_side_by_side():
    task = digits_mlp(depth=2, width=16)

    def apply(params, x):
        return task.model.apply(params, {}, x, jax.random.key(0), False)[0]

    params = jax.eval_shape(task.model.init, jax.random.key(0), task.x_train[:1])[0]
    base = jax.eval_shape(
        digits_mlp(depth=2, width=8).model.init, jax.random.key(0), task.x_train[:1]
    )[0]
    mup = tree.mup(base, zero_readout=False)
    rates = mup.multipliers(params, apply, (task.x_train[:1],))
    assert rates["Dense_1"]["kernel"].learning_rate == 0.5
    options = {"seeds": 2, "steps": 50, "quiet": True, "optimizers": "adam"}
    options["tuning_seeds"] = 0
    with jax.numpy_dtype_promotion("standard"):  # Optax's Adam needs it
        together = compare(
            task, ["tree.delta_conv()", "he_normal", mup], [0.01], **options
        )
        alone = compare(task, ["he_normal"], [0.01], **options)
    assert [s.scheme for s in together.ranking()].count(repr(mup)) == 1
    losses = lambda result: {  # noqa: E731
        (row["scheme"], row["seed"]): row["final_train_loss"]
        for row in result.runs.to_pylist()
    }
    shared = losses(together)
    for run, loss in losses(alone).items():
        assert shared[run] == pytest.approx(loss, rel=1e-4)
    with pytest.raises(ValueError, match="has the learning rates of adam"):
        compare(task, [mup], [0.01], seeds=1, steps=25, quiet=True)
