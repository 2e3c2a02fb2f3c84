"""Other targets than a sweep was made for: read from curves known by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest

from jaxinit.compare import cli, compare, load_result
from jaxinit.compare.report import protocol
from jaxinit.compare.report import table as tables
from jaxinit.compare.report.result import Result
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.store.sweep import SCHEMA, Sweep
from jaxinit.compare.task import builtin

NAN = math.nan
STEPS = [0, 10, 20, 30, 40]

CURVES = {
    ("a()", 0.1): ([0.1, 0.5, 0.7, 0.9, 0.8], [0.1, 0.6, 0.9, 0.9, 0.9]),
    ("a()", 0.2): ([0.1, 0.9, NAN, NAN, NAN], [0.1, 0.2, 0.3, 0.3, 0.5]),
    ("zeros()", 0.1): ([0.1, 0.1, 0.2, 0.6, 0.6], [0.1, 0.1, 0.2, 0.6, 0.7]),
    ("zeros()", 0.2): ([0.1, 0.8, 0.8, 0.8, 0.8], [0.1, 0.7, 0.8, 0.8, 0.8]),
}
"""(scheme, rate) to a curve a seed; NaN where the run has diverged."""


def swept(curves=None, direction="max", status="finished", **more):
    """A sweep with these curves, made for the target 0.6."""
    curves = CURVES if curves is None else curves
    rows = []
    for (scheme, rate), each in curves.items():
        for seed, curve in enumerate(each):
            best = max if direction == "max" else min
            dead = math.isnan(curve[-1])
            rows.append({
                "run_id": f"{scheme}{rate}{seed}", "task": "t()", "scheme": scheme,
                "optimizer": "sgd()", "learning_rate": rate, "seed": seed,
                "status": "diverged" if dead else status,
                "steps_to_target": 30,
                "final_train_loss": NAN if dead else 0.5,
                "final_valid_loss": 0.5, "final_valid_metric": curve[-1],
                "best_valid_metric": NAN if dead else best(curve),
                "eval_steps": STEPS, "valid_metric": curve, "valid_loss": curve,
                "train_loss": curve,
            })  # fmt: skip
    more = {
        "task": "t()", "parts": {"model": "m"}, "loss_name": "cross_entropy",
        "metric_name": "accuracy" if direction == "max" else "loss",
        "direction": direction, "target": 0.6, "steps": 40, "eval_every": 10,
        "batch_size": 1, "optimizers": ("sgd()",), "device": "1 x cpu",
        "tuning_seeds": 0, **more,
    }  # fmt: skip
    settings = Settings(
        schemes=tuple(dict.fromkeys(s for s, _ in curves)),
        learning_rates=tuple(sorted({r for _, r in curves})),
        seeds=max(map(len, curves.values())) - more["tuning_seeds"],
        **more,
    )
    return Result(Sweep(pa.Table.from_pylist(rows, SCHEMA), settings, 1.0))


def steps_of(result):
    return result.runs["steps_to_target"].to_pylist()


def test_steps_to_a_target_are_the_first_evaluation_at_it():
    found = swept().with_target(0.8)
    assert steps_of(found) == [30, 20, None, None, None, None, 10, 20]
    assert (found.settings.target, found.settings.made_for) == (0.8, 0.6)
    assert [s.learning_rate for s in found.ranking()] == [0.2, 0.1]  # b, then a
    assert steps_of(found.with_target(0.5)) == [10, 10, None, 40, 30, 30, 10, 10]
    assert found.with_target(0.5).settings.made_for == 0.6


def test_a_metric_that_falls_reaches_from_above():
    falls = swept({("a()", 0.1): ([2.0, 0.7, 0.4, 0.3, 0.5],)}, "min")
    assert steps_of(falls.with_target(0.7)) == [10]
    assert steps_of(falls.with_target(0.35)) == [30]
    assert steps_of(falls.with_target(0.1)) == [None]


def test_the_target_a_sweep_was_made_for_gives_its_own_steps(tmp_path):
    task = builtin.linear(depth=2, width=4, target=1.1)
    kinds = ["he_normal", "normal(0.5)"]
    made = compare(
        task, kinds, [0.01, 0.1, 1.0], 2, steps=40, eval_every=4, batch_size=8,
        optimizers="sgd", quiet=True,
    )  # fmt: skip
    other = compare(
        builtin.linear(depth=2, width=4, target=2.0), kinds, [0.01, 0.1, 1.0], 2,
        steps=40, eval_every=4, batch_size=8, optimizers="sgd", quiet=True,
    )  # fmt: skip
    assert None in steps_of(made) and set(steps_of(made)) - {None}
    assert "diverged" in made.runs["status"].to_pylist()
    assert steps_of(made) != steps_of(other)
    assert steps_of(made.with_target(2.0)) == steps_of(other)
    assert steps_of(made.with_target(2.0).with_target(1.1)) == steps_of(made)


def test_rounds_that_settled_one_target_say_nothing_of_another():
    result = swept(until_sure=3, rounds=2, settled=True)
    assert any("2 rounds of seeds" in note for note in result.notes())
    assert not any("rounds" in note for note in result.with_target(0.8).notes())


def test_at_another_target_rates_are_among_those_that_were_scored():
    tuning = {
        ("a()", 0.1): [[0.1] + [0.7] * 4, [0.1] + [0.7] * 4, [0.1, 0.2, 0.6, 0.6, 0.9]],
        ("a()", 0.2): [[0.1, 0.5, 0.9, 0.9, 0.9]] * 2,
    }
    result = swept(tuning, tuning_seeds=2)
    (row,) = result.with_target(0.9).judge().rows
    assert (row.summary.learning_rate, row.summary.steps_to_target.median) == (0.1, 40)
    assert row.summary.at_edge  # of the grid that was tuned over
    words = " ".join(protocol.paragraphs(result.with_target(0.9).sweep))
    assert "among those that the scoring seeds ran at" in words


@pytest.mark.parametrize("target", [0.0, 1.5, NAN, -0.1])
def test_a_target_is_a_value_of_the_metric(target):
    with pytest.raises(ValueError, match=r"target=\S+ must be .*\.$"):
        swept().with_target(target)


@pytest.mark.parametrize("told", ["by the settings", "by the runs"])
def test_runs_that_stopped_know_nothing_of_a_harder_target(told):
    stops = {("a()", 0.1): ([0.1, 0.5, 0.6, 0.6, 0.6],)}
    if told == "by the settings":
        result = swept(stops, stop_at_target=True)
    else:
        result = swept(stops, status="reached")
    assert steps_of(result.with_target(0.5)) == [10]
    assert steps_of(result.with_target(0.5).with_target(0.6)) == [20]
    sentence = "the runs stopped at the target 0.6, .* the harder 0.7"
    with pytest.raises(ValueError, match=sentence):
        result.with_target(0.7)
    with pytest.raises(ValueError, match=sentence):
        result.with_target(0.5).with_target(0.7)
    with pytest.raises(ValueError, match="the harder 0.5"):
        swept(stops, "min", stop_at_target=True).with_target(0.5)


def test_runs_that_stopped_at_the_target_are_finished_runs(tmp_path):
    result = swept(status="reached", stop_at_target=True)
    assert {s.scheme: s.diverged for s in result.ranking()} == {"a()": 1, "zeros()": 0}
    result.save(tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    assert "8 runs are finished, 1 of them diverged" in text
    assert "A run stops at the evaluation that reaches it" in text


# Best values of a: .9, .9 at rate .1 and, a run diverged, nothing better at .2.
RULES = [
    ("a()", 0.9), ("zeros", 0.8),
    ({("a()", 0.1): [[0.1, x] + [0.2] * 3 for x in (0.5, 0.6, 0.7, 0.8)]}, 0.6),
    ({("a()", 0.1): [[0.1, x] + [0.2] * 3 for x in (0.5, 0.7, 0.8)]}, 0.7),
    ({("a()", 0.1): [[0.1, 0.9] + [NAN] * 3, [0.1, 0.7] + [0.2] * 3,
                     [0.1, 0.8] + [0.2] * 3]}, 0.7),
]  # fmt: skip


@pytest.mark.parametrize(("given", "target"), RULES)
def test_the_target_by_a_rule_is_what_half_of_the_runs_reach(given, target):
    curves, scheme = (None, given) if isinstance(given, str) else (given, "a()")
    found = swept(curves).with_target_of(scheme)
    assert found.settings.target == target
    name = scheme if scheme.endswith("()") else f"{scheme}()"
    assert found.settings.target_of == name
    (mine,) = [s for s in found.ranking() if s.scheme == name]
    assert 2 * mine.reached >= mine.seeds
    assert f"is what {name} reaches" in " ".join(protocol.paragraphs(found.sweep))
    assert found.with_target(0.55).settings.target_of is None


def test_the_rule_for_a_metric_that_falls_and_on_tuning_seeds():
    losses = {("a()", 0.1): [[2.0, x] + [2.0] * 3 for x in (0.5, 0.6, 0.7, 0.8)]}
    assert swept(losses, "min").with_target_of("a()").settings.target == 0.7
    found = swept(losses, "min", tuning_seeds=2).with_target_of("a()")
    assert found.settings.target == 0.6  # of 0.5 and 0.6 alone
    assert "on the seeds that tune" in protocol.paragraphs(found.sweep)[1]


def test_a_scheme_that_learns_nothing_gives_no_target():
    flat = {
        ("a()", 0.1): [[0.1, 0.1, 0.1, 0.1, 0.1]],
        ("a()", 0.2): [[0.1] + [NAN] * 4],
    }
    with pytest.raises(ValueError, match="the median run of a.. learns nothing"):
        swept(flat).with_target_of("a()")
    with pytest.raises(ValueError, match="target_of='c' is unknown; use one of 'a"):
        swept().with_target_of("c")


def test_several_targets_side_by_side():
    result = swept().with_targets([0.9, 0.5, 0.8])
    assert result.settings.targets == (0.5, 0.8, 0.9)
    several = result.judge_targets("a()")
    rows = tables.target_cells(several, ["zeros()", "a()"], result.settings)
    texts = [{name: cell.text for name, cell in row.items()} for row in rows]
    # At 50 % both take 10 steps; at 80 % b takes 10 and 20, a 30 and 20.
    assert texts[0]["50%"].startswith("10 x1.00 (") and texts[1]["50%"] == "10"
    ratio = math.sqrt(3)
    assert texts[0]["80%"].startswith(f"15 x{ratio:.2f} (")
    assert texts[0]["90%"].startswith(">40 x≤") and texts[1]["90%"] == "25"
    assert result.summary()["ranking_at_targets"]["0.9"][0]["scheme"] == "a()"
    fall = swept({("a()", 0.1): [[2.0, 0.7, 0.4, 0.3, 0.5]]}, "min")
    assert fall.with_targets([0.3, 0.7]).settings.targets == (0.7, 0.3)


def test_a_ratio_is_a_bound_where_the_baseline_never_reaches():
    result = swept().with_target(0.9)
    found = result.judge("zeros()")
    cells = tables.cells(found, result.settings)
    assert [c["scheme"].text for c in cells] == ["a()", "zeros()"]
    assert cells[0]["x faster"].text.startswith("≥1.")
    neither = swept().with_target(0.95)
    found = neither.judge("zeros()")
    cells = tables.cells(found, neither.settings)
    assert {c["x faster"].text for c in cells} == {"-", "baseline"}


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_command_shows_targets(width, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    swept().save(tmp_path / "in")
    targets = [f"0.{i}5" for i in range(1, 9)]
    out = tmp_path / "out"
    options = ["report", str(tmp_path / "in"), "--out", str(out), "--targets", *targets]
    assert cli.run(options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert all(any(f" {t[2:]}%" in line for line in lines) for t in targets)
    text = (out / "report.html").read_text()
    assert "Several targets of validation accuracy" in text and ">45%</button>" in text
    assert (
        len(json.loads((out / "summary.json").read_text())["ranking_at_targets"]) == 8
    )
    assert load_result(tmp_path / "in").settings.targets == ()


def test_the_command_takes_the_target_of_a_scheme(tmp_path, capsys):
    swept().save(tmp_path / "in")
    folder = str(tmp_path / "in")
    out = ["--out", str(tmp_path / "out")]
    assert cli.run(["report", folder, *out, "--target-of", "zeros"]) == 0
    assert "steps to 80% validation accuracy" in capsys.readouterr().out
    assert "is what zeros() reaches" in (tmp_path / "out" / "report.html").read_text()
    assert cli.run(["report", folder, *out, "--targets", "7"]) == 2
    assert "must be an accuracy" in capsys.readouterr().err


def test_targets_over_several_tasks(tmp_path, capsys):
    for i in range(2):
        result = swept(task=f"t({i})")
        named = pa.array([f"t({i})"] * result.runs.num_rows)
        runs = result.runs.set_column(1, "task", named)
        Result(Sweep(runs, result.settings, 1.0)).save(tmp_path / str(i))
    folders = [str(tmp_path / "0"), str(tmp_path / "1")]
    assert (
        cli.run(["report", *folders, "--target-of", "zeros", "--targets", "0.5"]) == 0
    )
    out = capsys.readouterr().out
    assert out.count("steps to 80%") == 2 and out.count(" 50%") == 2


def test_arrays_of_curves_are_what_the_store_keeps():
    whole = swept().with_target(0.8).runs
    assert whole.schema == SCHEMA
    np.testing.assert_array_equal(
        whole["valid_metric"].to_pylist(), swept().runs["valid_metric"].to_pylist()
    )
