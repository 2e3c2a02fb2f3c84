"""Every scheme for whole models trains on a task that has what it is made for."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

import jaxinit as ji
from jaxinit import _catalogue, tree
from jaxinit._value import REGISTRY
from jaxinit.compare import cli, compare
from jaxinit.compare.task import data
from jaxinit.compare.task.builtin import parse_task
from jaxinit.compare.task.made_for import MADE_FOR

KEY = jax.random.key(0)

# Smaller than by default, the kind of network the same.
SIZES = {
    "digits-mlp": {"width": 16},
    "digits-cnn": {"depth": 3, "width": 8},
    "digits-resnet": {"depth": 2, "width": 8},
    "digits-scaled-resnet": {"depth": 2, "width": 8},
    "adding-lstm": {"width": 8, "length": 10},
    "picture-siren": {"depth": 2, "width": 16},
    "text-transformer": {"depth": 1, "width": 16, "heads": 2},
    "regression-mlp": {"depth": 2, "width": 8},
}
# Of schemes that have a parameter without a default.
VALUES = {
    "tree.by_kind": ["tree.by_kind('he_normal', 'zeros')"],
    "tree.chrono": ["tree.chrono(10)"],
    "tree.combined": ["tree.combined(['he_normal', 'tree.skipinit'])"],
    "tree.rules": ["tree.rules([('*/kernel', 'he_normal'), ('*/bias', 'zeros')])"],
    "tree.with_gain": ["tree.with_gain('orthogonal')"],
}
RATES = {"digits-scaled-resnet": 0.3}  # Fixup's head is 0 at first
OPTIMIZER = {"tree.mup": "adam"}


@functools.cache
def small(text):
    name, _, options = text.partition("(")
    own = {key: size for key, size in SIZES[name].items() if f"{key}=" not in options}
    return parse_task(text, **own)


def values(name):
    if name != "tree.mup":
        return VALUES.get(name, [f"{name}()"])
    base = parse_task("digits-mlp(depth=2, width=8)")
    params = jax.eval_shape(base.model.init, jax.random.key(0), base.x_train[:1])[0]
    return [tree.mup(params)]


def test_every_tree_scheme_has_a_task():
    library = {
        name
        for name in _catalogue.catalogue()
        if name.startswith("tree.") and _catalogue.builder_of(REGISTRY[name]).library
    }
    assert MADE_FOR.keys() == library
    for text in set(MADE_FOR.values()):
        assert parse_task(text).name.startswith(text.partition("(")[0])


@pytest.mark.parametrize("text", sorted(set(MADE_FOR.values())))
def test_each_trains_on_it(text):
    names = [name for name, task in MADE_FOR.items() if task == text]
    for optimizer in {OPTIMIZER.get(name, "sgd") for name in names}:
        schemes = [
            value
            for name in names
            if OPTIMIZER.get(name, "sgd") == optimizer
            for value in values(name)
        ]
        with jax.numpy_dtype_promotion("standard"):  # Optax's Adam needs it
            result = compare(
                small(text),
                schemes,
                [RATES.get(text, 3e-3)],
                seeds=1,
                steps=20,
                eval_every=20,
                batch_size=32,
                tuning_seeds=0,
                optimizers=optimizer,
                quiet=True,
            )
        rows = result.runs.to_pylist()
        assert len(rows) == len(schemes)
        for row in rows:
            losses = row["valid_loss"]
            assert np.isfinite(losses).all(), row["scheme"]
            assert losses[-1] < losses[0], row["scheme"]
            assert ji.parse(row["scheme"]) is not None


def test_multipliers_of_the_tasks_are_found():
    for text, scheme, expected in (
        ("digits-scaled-resnet", tree.skipinit(0.25), 2),
        ("digits-scaled-resnet", tree.fixup(), 2),
        ("text-transformer(norm='scaled')", tree.layerscale(0.25), 2),
    ):
        task = small(text)
        params, state = task.model.init(KEY, x := task.x_train[:2])
        rows = ji.describe(
            params,
            scheme,
            lambda p, x, s=state, t=task: t.model.apply(p, s, x, KEY, False)[0],
            (x,),
        )
        drawn = [r for r in rows if r.init is not None and r.path.startswith("Scale_")]
        assert len(drawn) == expected


@pytest.mark.parametrize("length", [2, 9, 50])
def test_the_sum_of_two_marked_numbers(length):
    for x, y in data.adding(length, 500):
        numbers, marks = x[..., 0], x[..., 1]
        halves = marks[:, : length // 2], marks[:, length // 2 :]
        assert all((half.sum(axis=1) == 1).all() for half in halves)
        np.testing.assert_allclose((numbers * marks).sum(1), y[:, 0], atol=1e-6)
    with pytest.raises(ValueError, match="length=1 must be at least 2"):
        parse_task("adding-lstm", length=1)


def test_the_command_names_the_task(capsys):
    assert cli.run(["show", "tree.skipinit"]) == 0
    assert "made for: digits-scaled-resnet." in capsys.readouterr().out


def test_pairs_and_rules_of_several_leaves_side_by_side():
    task = small("adding-lstm")
    gates = (("*hf/bias", "*hi/bias"), ("chrono(10)", "chrono(10, 'input')"))
    pair = ji.edge_of_chaos("tanh", 0.01)
    result = compare(
        task,
        [pair, [gates], "tree.chrono(10)"],
        [1e-3],
        seeds=1,
        tuning_seeds=0,
        steps=6,
        eval_every=3,
        quiet=True,
    )
    schemes = [row["scheme"] for row in result.runs.to_pylist()]
    assert [ji.parse(text) for text in schemes] == [
        tree.by_kind(*pair),
        tree.rules([gates]),
        tree.chrono(10),
    ]
    # The same leaves from the same keys, so the same runs.
    losses = {row["scheme"]: row["valid_loss"] for row in result.runs.to_pylist()}
    assert losses[schemes[1]] == pytest.approx(losses[schemes[2]])
