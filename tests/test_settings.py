"""Settings and sweeps as values: what the marks of the fields decide."""

from __future__ import annotations

import dataclasses
import inspect
import json

import pytest
from sweeps import FAST, SLOW, result, settings

from jaxinit.compare import compare, load_results
from jaxinit.compare.options import Options
from jaxinit.compare.store import folder
from jaxinit.compare.store.identity import run_id
from jaxinit.compare.store.settings import Settings, names
from jaxinit.compare.train.trainer import Run

OTHER = {
    "task": "other()", "parts": {"model": "1"}, "own_schemes": {"b": "2"},
    "untraced": ("a callback",), "loss_name": "hinge", "metric_name": "miss",
    "direction": "min", "target": 0.8, "steps": 200, "eval_every": 20,
    "batch_size": 32, "dtype": "bfloat16",
    "matmul_precision": "high", "stop_at_target": True, "stop_at": 3.0,
    "stopped": 50, "tuning_seeds": 1, "runoff_seeds": 3,
    "schemes": ("c",), "optimizers": ("adam()",), "own_optimizers": {"lion()": "3"},
    "learning_rates": (0.3,), "grids": {"lion()": (0.1,)}, "seeds": 7, "rounds": 3,
    "targets": (0.5,), "extend_grid": True, "until_sure": 4, "strategy": "vmap",
    "settled": True, "made_for": 0.95, "target_of": "a", "versions": {"jax": "1"},
    "device": "1 x gpu", "machine": "one", "block": 8, "code": "commit 1a2b",
}  # fmt: skip
"""Another value of each setting."""

BASE = settings(["a", "b"])


def test_each_setting_has_a_mark_and_another_value_here():
    marks = ("decides", "reads", "grows", "noted")
    of_marks = [names(mark) for mark in marks]
    assert sorted(sum(of_marks, [])) == sorted(OTHER)
    assert names("reads") == ["tuning_seeds", "runoff_seeds"]
    assert set(names("grows")) == {
        "schemes", "own_schemes", "optimizers", "own_optimizers", "learning_rates",
        "grids", "seeds", "rounds",
    }  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_what_decides_is_in_a_runs_name_and_nothing_else(name):
    other = dataclasses.replace(BASE, **{name: OTHER[name]})
    run = Run("a", "sgd()", 0.1, 0)
    same = run_id(BASE, *run) == run_id(other, *run)
    assert same == (name not in names("decides"))


def kept(path, sweep):
    """The sweep in a folder, without figures."""
    folder.claim(path, sweep.settings)
    folder.write_runs(path, sweep.runs)
    return path


@pytest.mark.parametrize("name", names("decides", "reads", "noted"))
def test_sweeps_share_a_folder_and_a_report_if_they_agree(name, tmp_path):
    a = kept(tmp_path / "a", result({"a": FAST}).sweep)
    b = result({"b": SLOW}).sweep
    b = dataclasses.replace(
        b, settings=dataclasses.replace(b.settings, **{name: OTHER[name]})
    )
    if name in names("noted"):
        assert folder.claim(a, b.settings).schemes == ("a", "b")
        a = kept(tmp_path / "again", result({"a": FAST}).sweep)
        assert load_results(a, kept(tmp_path / "b", b)).sweep.schemes == ["a", "b"]
        return
    code = name == "parts"
    said = "code or data: the model" if code else f"another sweep: {name} is .* there"
    with pytest.raises(FileExistsError, match=said):
        folder.claim(a, b.settings)
    if name == "task":  # another task goes beside it, in a study
        return
    said = "the model differs, " if code else f"differ in {name}, "
    with pytest.raises(ValueError, match=f"{said}.*run one of them again"):
        load_results(a, kept(tmp_path / "b", b))


def test_settings_go_through_json():
    every = Settings(**OTHER)
    assert Settings.from_json(json.loads(json.dumps(every.to_json()))) == every
    with pytest.raises(dataclasses.FrozenInstanceError):
        every.steps = 3
    less = {k: v for k, v in every.to_json().items() if k != "dtype"}
    with pytest.raises(ValueError, match="lacks dtype and has the unknown speed, so"):
        Settings.from_json(less | {"speed": 3})


def test_a_union_has_all_of_both():
    new = settings(
        ["b", "c"], [0.3, 0.1], 6, strategy="loop", versions={"jax": "1"},
        device="1 x gpu", targets=(0.5,),
    )  # fmt: skip
    whole = BASE.union(new)
    assert whole.schemes == ("a", "b", "c") and whole.learning_rates == (0.1, 0.3)
    assert whole.all_seeds == 6 and whole.strategy == "loop"
    assert whole.versions == {"python": "3", "jax": "0 or 1"}
    assert whole.device == "1 x cpu; 1 x gpu" and whole.targets == (0.5,)
    # What is not known, or said already, changes nothing.
    assert whole.union(BASE) == whole == whole.union(new)
    assert BASE.schemes == ("a", "b")


SEEDS = [  # seeds and rounds of two sweeps and of both, two seeds tuning
    ((5, 1), (3, 1), (5, 1)),
    ((3, 1), (3, 4), (3, 4)),
    ((3, 4), (3, 2), (3, 4)),
    ((5, 1), (3, 4), (12, 1)),
    ((5, 3), (3, 1), (15, 1)),
]


@pytest.mark.parametrize(("old", "new", "both"), SEEDS)
def test_rounds_of_seeds_add_up(old, new, both):
    def of(seeds, rounds):
        return dataclasses.replace(BASE, tuning_seeds=2, seeds=seeds, rounds=rounds)

    found = of(*old).union(of(*new))
    assert (found.seeds, found.rounds) == both
    assert found.all_seeds == max(of(*old).all_seeds, of(*new).all_seeds)


def test_compare_takes_what_the_options_say():
    given = inspect.signature(compare).parameters
    for field in dataclasses.fields(Options):
        assert given[field.name].default == field.default, field.name
    assert [name for name in given if name in OTHER] == ["task"] + [
        field.name for field in dataclasses.fields(Options)
    ]


def test_parts_of_a_sweep_are_sweeps():
    swept = result({"a": [10, 20, 30, None], "b": ["diverged", 50, 40, 30]}).sweep
    assert swept.schemes == ["a", "b"] and swept.learning_rates == [0.1]
    assert swept.tuning is swept.scoring is swept
    at = swept.at("b", 0.1)
    assert at.column("steps_to_target").tolist() == [float("inf"), 50, 40, 30]
    assert at.column("final_valid_metric").tolist() == [0, 0.95, 0.95, 0.95]
    assert swept.at(learning_rate=0.2).runs.num_rows == 0
    assert swept.of(["a"], seeds=[1, 3]).runs["seed"].to_pylist() == [1, 3]
    tuned = dataclasses.replace(
        swept, settings=dataclasses.replace(swept.settings, tuning_seeds=1)
    )
    assert tuned.tuning.runs["seed"].to_pylist() == [0, 0]
    assert sorted(set(tuned.scoring.runs["seed"].to_pylist())) == [1, 2, 3]
    easier = swept.with_target(0.05)
    assert easier.column("steps_to_target").tolist()[:4] == [0, 0, 0, 0]
    assert (swept.settings.target, easier.settings.made_for) == (0.9, 0.9)
    assert swept.at("a").column("steps_to_target").tolist()[0] == 10
