"""Tasks and schemes of one's own, and several tasks at once, from the command line."""

from __future__ import annotations

import sys

import jax
import pytest

from jaxinit.compare import cli, load_result

MINE = """
import beside
import jax
import jaxinit
import numpy as np
from flax import linen as nn
from jaxinit.compare import make_task

X, Y = np.random.default_rng(0).normal(size=(48, 5)), np.arange(48) % 3
LOADED = beside.COUNT.append(1)
task = make_task(nn.Dense(3), (X, Y), (X, Y), target=0.3, name="mine")


def of_width(width: int = 4, target: float = 0.3):
    model = nn.Sequential([nn.Dense(width), nn.Dense(3)])
    name = f"of_width({width})"
    return make_task(model, (X, Y), (X, Y), target=target, name=name)


def halved(key, params, apply, batch):
    return jax.tree.map(lambda x: x / 2, params)


@jaxinit.initializer
def flat(size: float = 1.0, dtype=None):
    return lambda key, shape, dtype: size * jax.random.normal(key, shape, dtype)


ruled = [("*", jaxinit.zeros)]


def broken():
    raise RuntimeError("no data today")
"""
SHORT = "--steps 4 --eval-every 2 --seeds 1 --batch-size 16 --tuning-seeds 0".split()
SHORT += ["--learning-rates", "0.1", "--quiet"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "beside.py").write_text("COUNT = []\n")
    (tmp_path / "wrong.py").write_text("import nothing_of_the_kind\n")
    monkeypatch.chdir(tmp_path)
    two = jax.devices()[:2]
    monkeypatch.setattr(jax, "local_devices", lambda: two)
    monkeypatch.setattr("sys.path", list(sys.path))
    for name in ("mine", "beside", "wrong"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_a_task_and_schemes_of_ones_own(files, capsys):
    schemes = ["--schemes", "mine.py:halved", "mine.py:flat", "mine.py:ruled"]
    tasks = ["--tasks", "mine.py:task", "mine:of_width"]
    command = ["compare", *tasks, *SHORT, *schemes]
    assert cli.run([*command, "--target", "0.3"]) == 2  # a task has its target
    capsys.readouterr()
    assert cli.run([*command, "--out", "all"]) == 0, capsys.readouterr().err
    rules = "tree.rules(pairs=(('*', zeros()),))"
    for folder, name in (("mine-task", "mine"), ("mine-of_width", "of_width(4)")):
        found = load_result(files / "all" / folder).settings
        assert found.schemes == ("halved", "flat()", rules)
        assert found.task == name and "halved" in found.own_schemes
    page = (files / "all" / "joined" / "report.html").read_text()
    assert "of_width(4)" in page and "mine" in page
    assert sys.modules["beside"].COUNT == [1]  # a file is run once

    own = ["--task", "mine.py:of_width", "--scheme", "mine.py:halved"]
    assert cli.run(["diagnose", *own]) == 0
    assert "layers_1/kernel" in capsys.readouterr().out


BAD = {
    "--task mine.py:nothing": "mine.py has no nothing; it has make_task, X, Y, ",
    "--task no.py:task": "there is no file no.py",
    "--task no.such:task": "no.such raised ModuleNotFoundError",
    "--task wrong.py:task": "wrong.py raised ModuleNotFoundError: No module named",
    "--task mine.py:X": "mine.py:X is a ndarray; a task, or a function that makes one",
    "--task mine.py:halved": "(key, params, apply, batch) and is called with nothing",
    "--task mine.py:broken": "mine.py:broken raised RuntimeError: no data today",
    "--task mine.py:task --width 3": "is a task already, so that width cannot be given",
    "--task mine.py:of_width --depth 3": "is called with depth: got an unexpected",
    "--task linear --data x.npz": "--task and --data exclude each other",
    "--tasks linear mine.py:task linear": "has a task twice, by name",
    "--schemes mine.py:X": "mine.py:X is a ndarray; an initializer, a scheme, or a",
}


@pytest.mark.parametrize("arguments", BAD)
def test_one_sentence(arguments, files, capsys):
    assert cli.run(["compare", *arguments.split(), *SHORT]) == 2
    message = capsys.readouterr().err
    assert BAD[arguments] in message and message.count("\n") == 1
    assert not (files / "results").exists()
