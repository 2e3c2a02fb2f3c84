"""Changed code never finds the results of the old code, and the same code does."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sweeps
from flax import linen as nn

import jaxinit as ji
from jaxinit.compare import cli, compare, load_results, make_task
from jaxinit.compare.report import protocol
from jaxinit.compare.store import folder
from jaxinit.compare.store.identity import run_id
from jaxinit.compare.store.side_by_side import side_by_side
from jaxinit.compare.train.trainer import Run

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 4)).astype(np.float32)
Y = (X @ RNG.normal(size=(4, 3))).argmax(axis=1)


class Net(nn.Module):
    act: object

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(self.act(nn.Dense(6)(x)))


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: one)


def constant(value):
    """A scheme of the user's own, known as `mine`."""

    def mine(key, params, apply, batch):
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, value), params)

    return mine


def swept(out, act=nn.relu, schemes=("he_normal",), **options):
    task = make_task(Net(act), (X, Y), (X, Y), target=0.95)
    settings = {"steps": 10, "eval_every": 5, "batch_size": 16, "quiet": True}
    settings["tuning_seeds"] = 0
    return compare(task, schemes, [0.1], 1, **settings, out=out, **options)


def losses(result):
    return {row["scheme"]: row["train_loss"] for row in result.runs.to_pylist()}


def test_another_activation_is_another_sweep(tmp_path):
    out = tmp_path / "out"
    first = losses(swept(out))
    files = sorted((out / "runs").iterdir())
    assert losses(swept(out)) == first
    assert sorted((out / "runs").iterdir()) == files  # found, and not made again

    with pytest.raises(FileExistsError) as caught:
        swept(out, nn.tanh)
    assert str(caught.value) == (
        f"{out} holds 1 run of other code or data: the model differs; choose another "
        "folder with out= (--out), or set them aside and make them again with "
        "redo=True (--redo)."
    )
    assert losses(swept(out)) == first

    fresh = losses(swept(None, nn.tanh))
    assert fresh != first
    assert losses(swept(out, nn.tanh, redo=True)) == fresh
    assert losses(load_results(out)) == losses(swept(out, nn.tanh)) == fresh
    assert losses(load_results(out / "aside-1")) == first
    with pytest.raises(
        ValueError, match="of other code or data, for the model differs"
    ):
        load_results(out, out / "aside-1")


def test_a_scheme_of_ones_own_is_known_by_what_it_does(tmp_path):
    both = ["he_normal", constant(0.1)]
    first = losses(swept(tmp_path, schemes=both))
    assert losses(swept(tmp_path, schemes=["he_normal", constant(0.1)])) == first
    with pytest.raises(FileExistsError, match="1 run of .*: the scheme mine differs;"):
        swept(tmp_path, schemes=["he_normal", constant(0.2)])
    assert losses(swept(tmp_path)) == first  # without the scheme nothing differs
    redone = losses(swept(tmp_path, schemes=["he_normal", constant(0.2)], redo=True))
    assert redone["he_normal()"] == first["he_normal()"]
    assert redone["mine"] != first["mine"]


# --- The same without training --------------------------------------------------------


def made(tmp_path, **more):
    """A folder with two runs of a scheme each, and its settings."""
    result = sweeps.result({"mine": [10, 20], "he_normal()": [20, 30]}, **more)
    return written(tmp_path / "out", result), result.settings


def written(out, result):
    folder.claim(out, result.settings)
    folder.write_runs(out, result.runs)
    return out


PARTS = {"data": "d", "model": "m", "loss": "l", "gradient": "g", "jaxinit": "1"}

DIFFERING = [
    ({"model": "n"}, "4 runs of other code or data: the model differs;"),
    ({"data": "e"}, "4 runs of other code or data: the data differ;"),
    ({"data": "e", "model": "n"}, "the data and the model differ;"),
    ({"data": "e", "loss": "n", "model": "n"}, "the data, the model and the loss diff"),
    ({"loss": "n", "gradient": "h"}, "data: the loss differs;"),
    ({"gradient": "h"}, "data: the gradient differs;"),
    ({"jaxinit": "2"}, "data: jaxinit differs;"),
    ({"metric": "new"}, "data: the metric differs;"),
]


@pytest.mark.parametrize(("changes", "words"), DIFFERING)
def test_what_differs_is_said(tmp_path, changes, words):
    out, settings = made(tmp_path, parts=PARTS)
    other = dataclasses.replace(settings, parts={**PARTS, **changes})
    before = (out / "sweep.json").read_bytes()
    with pytest.raises(FileExistsError) as caught:
        folder.claim(out, other)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert (out / "sweep.json").read_bytes() == before
    run = Run("mine", "sgd()", 0.1, 0)
    assert run_id(settings, *run) != run_id(other, *run)


def test_what_was_asked_for_differs_first(tmp_path):
    out, settings = made(tmp_path, parts=PARTS)
    other = dataclasses.replace(settings, parts={"model": "n"}, dtype="bfloat16")
    with pytest.raises(FileExistsError, match="dtype is 'float32' there and 'bfloat1"):
        folder.claim(out, other)


def test_schemes_that_differ_are_counted_alone(tmp_path):
    out, settings = made(tmp_path, own_schemes={"mine": "a"})
    other = dataclasses.replace(settings, own_schemes={"mine": "b"})
    with pytest.raises(FileExistsError, match="2 runs of .*: the scheme mine differs;"):
        folder.claim(out, other)
    both = (settings, other)
    apart = [run_id(each, *Run("mine", "sgd()", 0.1, 0)) for each in both]
    alike = [run_id(each, *Run("he_normal()", "sgd()", 0.1, 0)) for each in both]
    assert apart[0] != apart[1] and alike[0] == alike[1]

    more = dataclasses.replace(
        settings, schemes=("mine", "yours"), own_schemes={"mine": "a", "yours": "c"}
    )
    whole = folder.claim(out, more)
    assert whole.own_schemes == {"mine": "a", "yours": "c"}
    assert folder.read_settings(out) == whole


def test_a_folder_without_runs_is_anyones(tmp_path):
    one = sweeps.settings(["mine"], parts={"model": "m"}, own_schemes={"mine": "a"})
    other = dataclasses.replace(one, parts={"model": "n"}, own_schemes={"mine": "b"})
    folder.claim(tmp_path, one)
    whole = folder.claim(tmp_path, other)
    assert (whole.parts, whole.own_schemes) == (other.parts, other.own_schemes)


def test_folders_of_other_code_are_not_joined(tmp_path):
    for name, model in (("a", "m"), ("b", "n")):
        result = sweeps.result({"s": [10, 20]}, parts={"model": model})
        written(tmp_path / name, result)
    with pytest.raises(FileExistsError, match="b holds 2 runs .*: the model differs;"):
        folder.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    read = {name: folder.read_sweep(tmp_path / name) for name in "ab"}
    with pytest.raises(ValueError, match="a and b .* code or data, for the model diff"):
        side_by_side(read)


def test_what_is_set_aside_stays_in_order(tmp_path):
    new = tmp_path / "new"
    folder.set_aside(new, sweeps.settings(["mine"]))
    assert not new.exists()
    out, first = made(tmp_path)
    second = dataclasses.replace(first, steps=50, parts={"model": "n"})
    folder.set_aside(out, second)
    assert folder.read_settings(out) == second and not folder.finished(out)
    folder.set_aside(out, first)
    assert folder.read_settings(out / "aside-1") == first
    assert folder.read_settings(out / "aside-2") == second
    assert len(folder.finished(out / "aside-1")) == 4


def test_redo_needs_a_folder_of_its_own(tmp_path, capsys):
    for options in ({}, {"out": tmp_path, "shard": (0, 2)}):
        with pytest.raises(ValueError, match="redo=True sets aside all runs of"):
            compare("linear", ["zeros"], tuning_seeds=0, redo=True, **options)
    command = ["compare", "--task", "linear", "--redo", "--shard", "0/2", "--out"]
    assert cli.run([*command, str(tmp_path / "new")]) == 2
    assert "redo=True sets aside" in capsys.readouterr().err


def test_the_protocol_names_what_cannot_be_traced():
    plain = sweeps.result({"s": [10, 20]})
    assert not any("traced" in text for text in protocol.paragraphs(plain.sweep))
    host = ("the Python function host in the model", "the stream")
    told = protocol.paragraphs(sweeps.result({"s": [10, 20]}, untraced=host).sweep)
    (text,) = (text for text in told if "traced" in text)
    assert text.startswith(
        "Cannot be traced: the Python function host in the model; the"
    )


def test_a_registered_scheme_redefined():
    def registered(value):
        @ji.initializer
        def mine(dtype=None):
            return lambda key, *given: value * jax.random.normal(key, *given)

        return mine()

    task = make_task(nn.Dense(3), (X, Y), (X, Y), target=0.9)
    short = {"steps": 5, "eval_every": 5, "batch_size": 16, "quiet": True}
    found = [
        compare(task, [registered(value)], [0.1], 1, **short) for value in (0.1, 0.2)
    ]
    digests = [each.settings.own_schemes["mine()"] for each in found]
    assert digests[0] != digests[1] and losses(found[0]) != losses(found[1])
