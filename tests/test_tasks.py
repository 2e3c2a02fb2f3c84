"""Tasks: the built-in ones, any loss and metric, and data from elsewhere."""

from __future__ import annotations

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from sklearn.linear_model import LogisticRegression

from jaxinit.compare import (
    Config,
    Hparams,
    cli,
    compare,
    data_task,
    make_task,
    make_train,
    parse_task,
)
from jaxinit.compare.task import builtin as tasks
from jaxinit.compare.task import data, trees
from jaxinit.trace import kernels, layers

SMALL = [  # a task's text, a good learning rate, and its number of kernels
    ("digits-mlp(depth=2, width=16, activation='relu')", 0.03, 3),
    ("digits-cnn(depth=3, width=4, activation='relu')", 0.03, 4),
    ("digits-resnet(depth=2, width=8, activation='relu')", 0.03, 6),
    ("mnist1d-mlp(depth=2, width=16, activation='gelu')", 0.03, 3),
    ("mnist1d-cnn(depth=4, width=8, activation='relu')", 0.1, 5),
    ("autoencoder(depth=2, width=32, code=8, activation='tanh')", 0.1, 6),
    *(
        (
            "text-transformer(depth=1, width=16, heads=2, activation='gelu', "
            f"norm='{norm}')",
            0.03,
            7,
        )
        for norm in ("pre", "post", "none", "deep", "scaled")
    ),
    ("digits-scaled-resnet(depth=2, width=8, activation='relu')", 0.03, 6),
    ("adding-lstm(depth=1, width=8, length=10)", 0.03, 9),
    ("picture-siren(depth=2, width=16, frequency=30)", 0.01, 3),
    ("regression-mlp(depth=2, width=16, activation='tanh')", 0.01, 3),
    ("linear(depth=2, width=16)", 0.01, 3),
]
each_task = pytest.mark.parametrize(
    ("text", "rate", "count"), SMALL, ids=[text for text, _, _ in SMALL]
)


def trained(task, rate, **config):
    """The curves of a run from the model's own initialization."""
    key = jax.random.key(0)
    params, _ = task.model.init(key, task.x_train[:1])
    train = jax.jit(make_train(task, Config(**config)))
    return train(params, key, Hparams(jnp.float32(rate)))


def test_every_task_is_tried():
    assert {text.split("(")[0] for text, _, _ in SMALL} == set(tasks.TASKS)


@each_task
def test_a_task_is_built_traced_and_learned(text, rate, count):
    task = parse_task(text)
    assert task.name == text and text.endswith(")")
    x = task.x_train[:4]
    params, state = jax.eval_shape(task.model.init, jax.random.key(0), x)
    found = layers(
        lambda p, x: task.model.apply(p, state, x, jax.random.key(0), False)[0],
        params,
        x,
    )
    assert [layer.reason for layer in found if layer.kind == "unknown"] == []
    assert len(kernels(found)) == count
    residual = text.startswith(("digits-resnet", "digits-scaled", "text"))
    assert any(layer.residual for layer in found) == residual

    curves = trained(task, rate, steps=60, eval_every=60, batch_size=32)
    assert curves.train_loss[-1] < 0.98 * curves.train_loss[0]
    assert curves.valid_loss[-1] < 0.98 * curves.valid_loss[0]
    if task.metric_name == "loss":
        np.testing.assert_array_equal(curves.valid_metric, curves.valid_loss)
    else:
        assert curves.valid_metric.max() <= 1


def test_defaults_and_targets():
    for name in tasks.TASKS:
        task = parse_task(name)
        assert task.name.startswith(f"{name}(")
        assert parse_task(task.name, target=0.5).target == 0.5
        assert task.direction == ("max" if task.metric_name == "accuracy" else "min")


def test_fingerprints_differ_by_options():
    texts = ["digits-mlp(depth=1)", "digits-mlp(depth=2)", "digits-cnn(depth=1)"]
    texts += ["digits-mlp(depth=1, activation='tanh')", "digits-mlp(depth=1, width=9)"]
    texts += [f"text-transformer(depth=1, norm={n!r})" for n in ("pre", "post", "none")]
    texts += ["linear", "regression-mlp"]
    prints = {parse_task(text).fingerprint for text in texts}
    assert len(prints) == len(texts)
    assert parse_task("linear").fingerprint in prints


X = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
Y = X @ np.array([[1.0], [2.0], [-1.0]], np.float32)


def cosine(outputs, y):
    return (outputs * y).sum(-1) / jnp.abs(outputs * y).sum(-1)


def absolute(outputs, y):
    return jnp.abs(outputs - y)


def regression(model=None, y=Y, **kwargs):
    split = (X, y)
    settings = {"target": 0.1, "loss": "squared_error", **kwargs}
    return make_task(model or nn.Dense(1), split, split, **settings)


def test_loss_and_metric_are_any_functions():
    signs = regression(metric=cosine, direction="max", target=0.99)
    assert (signs.metric_name, signs.direction) == ("cosine", "max")
    curves = trained(signs, 0.1, steps=40, eval_every=20, batch_size=32)
    assert signs.reached(curves.valid_metric)[-1]
    np.testing.assert_allclose(curves.valid_metric[-1], 1, atol=0.01)

    own = regression(loss=absolute)
    assert (own.loss_name, own.metric_name, own.direction) == (
        "absolute",
        "loss",
        "min",
    )
    names = {regression().fingerprint, signs.fingerprint, own.fingerprint}
    assert len(names) == 3


def test_reached_never_by_nan():
    values = np.array([0.05, 0.1, 0.2, np.nan])
    assert regression().reached(values).tolist() == [True, True, False, False]
    rising = regression(metric=cosine, direction="max")
    assert rising.reached(values).tolist() == [False, True, True, False]


def test_a_metric_that_falls_is_reported(tmp_path, capsys):
    result = compare(
        "regression-mlp(depth=2, width=16)",
        ["he_normal", "normal(1e30)"],
        [0.03],
        2,
        steps=60,
        eval_every=20,
        batch_size=32,
        tuning_seeds=0,
        out=tmp_path / "out",
    )
    rows = result.runs.to_pylist()
    assert all(row["steps_to_target"] is not None for row in rows[:2])
    for row in rows[:2]:
        curve = row["valid_metric"]
        assert row["best_valid_metric"] == min(curve) <= 0.6 < curve[0]
    best, worst = result.ranking()
    assert best.scheme == "he_normal()" and best.reached == 2
    assert worst.final_valid_metric.median == np.inf  # none, and not the best: 0
    printed = capsys.readouterr().out
    assert "validation loss <= 0.6" in printed and "validation accuracy" not in printed
    settings = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert (settings["metric_name"], settings["direction"]) == ("loss", "min")
    panels = result.plot_curves()
    assert [axes.get_ylabel() for axes in panels] == [
        "training loss",
        "validation loss",
    ]


def test_mnist1d_is_as_hard_as_published():
    (x, y), (x_valid, y_valid) = data.mnist1d()
    assert x.shape == (4000, 40) and x_valid.shape == (1000, 40)
    both = np.concatenate([x, x_valid])
    assert abs(both.mean()) < 1e-3 and abs(both.std() - 1) < 1e-3
    assert np.bincount(np.concatenate([y, y_valid])).tolist() == [500] * 10
    accuracy = (
        LogisticRegression(max_iter=500, tol=1e-3).fit(x, y).score(x_valid, y_valid)
    )
    assert 0.25 < accuracy < 0.42  # 0.32 published, and 0.32 here


def test_text_follows_itself():
    (x, y), (x_valid, _) = data.text(length=16)
    np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
    np.testing.assert_array_equal(x[1:, 0], y[:-1, -1])
    assert x.max() < len(data.CHARACTERS) and len(x_valid) >= len(x) // 10
    first = "".join(data.CHARACTERS[token] for token in x[0])
    assert first == 'The "assert" sta'


def test_linear_reaches_its_closed_form():
    task = parse_task("linear(depth=2, width=16)")
    x, y = task.x_train.astype(np.float64), task.y_train.astype(np.float64)
    np.testing.assert_allclose(x.T @ x / len(x), np.eye(32), atol=1e-5)
    best = x.T @ y / len(x)
    np.testing.assert_allclose(best, np.linalg.lstsq(x, y)[0], atol=1e-5)
    least = np.square(x @ best - y).mean()
    least_valid = np.square(task.x_valid @ best - task.y_valid).mean()
    curves = trained(task, 0.1, steps=400, eval_every=100, batch_size=1024)
    np.testing.assert_allclose(curves.train_loss[-1], least, rtol=1e-3)
    np.testing.assert_allclose(curves.valid_loss[-1], least_valid, rtol=1e-2)


def bad(text, **options):
    return lambda: parse_task(text, **options)


BAD = [
    (bad("mnist"), "task='mnist' is unknown; use one of digits-mlp, digits-cnn"),
    (bad("digits-mlp(heads=2)"), "option='heads' is unknown; use one of 'depth'"),
    (bad("linear", activation="relu"), "option='activation' is unknown"),
    (bad("digits-mlp(depth=2)", depth=3), "depth is given in the text and beside it"),
    (bad("digits-mlp(2)"), "is no task; use a name or a call with named options"),
    (bad("digits-mlp(depth=print())"), "is no task"),
    (bad("digits-mlp(depth=2)(width=3)"), "is no task"),
    (bad("digits-mlp(**{'depth': 2})"), "** is not accepted"),
    (bad("digits-mlp(depth=2"), "is no task"),
    (bad("digits-mlp(depth='2')"), "depth='2' must be an integer"),
    (bad("digits-cnn(width=0)"), "width=0 must be at least 1"),
    (bad("digits-mlp(activation=3)"), "activation=3 is unknown"),
    (bad("digits-mlp(target='high')"), "target='high' must be a number"),
    (bad("digits-mlp(target=90)"), "target=90 must be an accuracy in (0, 1]"),
    (bad("text-transformer(norm='batch')"), "norm='batch' is unknown"),
    (bad("text-transformer(width=10)"), "width=10 must be a multiple of heads=4"),
    (lambda: regression(loss="hinge"), "loss='hinge' is unknown"),
    (lambda: regression(metric="auc"), "metric='auc' is unknown"),
    (lambda: regression(metric=cosine), "direction=None of metric cosine must be"),
    (lambda: regression(metric="loss", direction="max"), "whose direction is 'min'"),
    (lambda: regression(metric="accuracy"), "integer classes are needed"),
    (lambda: regression(target=float("nan")), "target=nan must be a finite number"),
    (lambda: regression(y=Y[:, 0]), "(64, 1), but their labels have shape (64,)"),
    (lambda: regression(y=Y / 0), "train labels hold NaN or infinity in 64"),
    (lambda: regression(y=np.full((64, 1), "a")), "real numbers are needed"),
    (lambda: regression(y=np.float32(1)), "train labels have shape ()"),
    (lambda: regression(loss=lambda o, y: jnp.mean(o - y)), "has shape ()"),
    (lambda: make_task(nn.Dense(2), (X, Y), (X, Y[:, [0, 0]]), target=1,
                       loss="squared_error"), "train labels have shape (1,) each"),
    (lambda: data_task("mine.csv"), "data='mine.csv' is unknown; use a file NAME.npz"),
    (lambda: data_task("none.npz"), "there is no such file"),
    (lambda: data_task("sklearn:iris"), "sklearn='iris' is unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "words"), BAD, ids=[words for _, words in BAD])
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_input_in_one_sentence(call, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    message = str(caught.value)
    assert words in message and "\n" not in message and message.endswith(".")


def test_bad_files_in_one_sentence(tmp_path):
    path = tmp_path / "mine.npz"
    for content, words in (
        ({"a": X}, "holds the arrays ['a']"),
        ({"x": X, "y": Y[:5]}, "x of shape (64, 3) and y of shape (5, 1)"),
        ({"x": X, "y": np.array([None] * 64)}, "cannot be read as arrays"),
    ):
        np.savez(path, **content)
        with pytest.raises(ValueError) as caught:
            data_task(str(path))
        message = str(caught.value)
        assert words in message and "\n" not in message and message.endswith(".")
    path.write_text("no arrays")
    with pytest.raises(ValueError, match="cannot be read as arrays"):
        data_task(str(path))


BEYOND = {
    "labels over": ("labels", [0, 1, 2**32], "train labels hold 4294967296, beyond"),
    "labels under": ("labels", [0, 1, -(2**31) - 1], "hold -2147483649, beyond"),
    "unsigned labels": ("labels", np.array([0, 1, 2**64 - 1], np.uint64), "hold 1844"),
    "labels of 32 bits": ("labels", np.array([0, 1, 2**31], np.uint32), "hold 2147483"),
    "inputs over": ("inputs", [[0], [1], [2**31]], "train inputs hold 2147483648, bey"),
    "unsigned inputs": ("inputs", np.array([[0], [1], [2**32]], np.uint64), "hold 429"),
}


@pytest.mark.parametrize("kind", BEYOND)
@pytest.mark.parametrize("way", ["npz", "npz of splits", "arrays", "stream"])
def test_no_integer_wraps(kind, way, tmp_path):
    what, values, words = BEYOND[kind]
    good = {"inputs": np.eye(3, dtype=np.float32), "labels": np.arange(3)}
    x, y = ({**good, what: np.asarray(values)}[each] for each in ("inputs", "labels"))
    assert not np.array_equal(y, y.astype(np.int32)) or what == "inputs"
    valid = good["inputs"][:, : x.shape[1]], good["labels"]
    path = tmp_path / "mine.npz"
    with pytest.raises(ValueError) as caught:
        if way == "npz":
            np.savez(path, x=np.repeat(x, 9, axis=0), y=np.repeat(y, 9))
            data_task(str(path))
        elif way == "npz of splits":
            x_valid, y_valid = valid
            np.savez(path, x_train=x, y_train=y, x_valid=x_valid, y_valid=y_valid)
            data_task(str(path))
        else:
            train = (x, y) if way == "arrays" else lambda: [(x, y)]
            make_task(nn.Dense(3), train, valid, target=0.9)
    message = str(caught.value)
    assert words in message and "\n" not in message and message.endswith("as floats.")


def test_integers_that_fit_stay_what_they_are():
    most = np.iinfo(np.int32)
    x, y = np.array([[0], [2**32 - 1]], np.uint32), np.array([most.min, most.max])
    given, labels = trees.checked("train", x, y, classes=False)
    assert given is x and labels.dtype == np.int32 and (labels == y).all()


def test_data_from_a_file(tmp_path):
    path = str(tmp_path / "mine.npz")
    np.savez(path, x=X, y=Y[:, 0])
    task = data_task(path, depth=1, width=8)
    assert (task.loss_name, task.metric_name) == ("squared_error", "loss")
    assert task.name == f"data({path!r}, depth=1, width=8, activation='relu')"
    assert task.x_train.shape == (51, 3) and task.y_valid.shape == (13, 1)
    np.testing.assert_allclose(task.x_train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(task.y_train.std(), 1, rtol=1e-6)

    images = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    labels = np.array([0, 1, 2])
    np.savez(path, x_train=images, y_train=labels, x_valid=images, y_valid=labels)
    task = data_task(path, depth=1, width=8, target=0.7)
    assert (task.loss_name, task.metric_name) == ("cross_entropy", "accuracy")
    assert task.x_valid.shape == (3, 4, 4) and task.target == 0.7
    np.testing.assert_allclose(task.x_train.std(), 1, rtol=1e-6)


def test_data_of_scikit_learn():
    shapes = {"digits": 64, "wine": 13, "breast_cancer": 30, "diabetes": 10}
    for name, features in shapes.items():
        task = data_task(f"sklearn:{name}", depth=1, width=8)
        assert task.x_train.shape[1] == features
        assert (task.metric_name == "loss") == (name == "diabetes")


STUB = """
import numpy as np

class Part:
    def __init__(self, columns):
        self.columns = columns

    def with_format(self, kind):
        assert kind == "numpy"
        return self

    def __getitem__(self, rows):
        return {name: column[rows] for name, column in self.columns.items()}

def load_dataset(name):
    rng = np.random.default_rng(0)
    label = np.arange(20) % 2
    if name == "images":
        columns = {"image": rng.integers(256, size=(20, 4, 4)), "label": label}
        return {"train": Part(columns), "test": Part(columns)}
    if name == "table":
        columns = {"a": rng.normal(size=20), "b": label, "target": rng.normal(size=20)}
        return {"train": Part(columns)}
    if name == "texts":
        return {"train": Part({"text": np.array(["a"] * 20), "label": label})}
    if name == "unlabelled":
        return {"train": Part({"text": label})}
    if name == "untrained":
        return {"test": Part({"label": label})}
    raise FileNotFoundError(f"no dataset {name}\\nlook elsewhere")
"""


def test_data_of_the_hugging_face_hub(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="needs the package datasets; run: pip"):
        data_task("hf:images")
    monkeypatch.delitem(sys.modules, "datasets")
    (tmp_path / "datasets.py").write_text(STUB)
    monkeypatch.syspath_prepend(tmp_path)
    images = data_task("hf:images", depth=1, width=8)
    assert images.x_train.shape == images.x_valid.shape == (20, 4, 4)
    table = data_task("hf:table", depth=1, width=8)
    assert table.x_train.shape == (16, 2) and table.y_valid.shape == (4, 1)
    for name, words in (
        ("texts", "real numbers are needed."),
        ("unlabelled", "one of label, labels, target, class, y is needed"),
        ("untrained", "and no train."),
        ("missing", "cannot be loaded: no dataset missing."),
    ):
        with pytest.raises(ValueError) as caught:
            data_task(f"hf:{name}")
        message = str(caught.value)
        assert words in message and "\n" not in message
    monkeypatch.delitem(sys.modules, "datasets")


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", x=X, y=Y)
    settings = "--schemes he_normal --learning-rates 0.05 --seeds 1 --steps 4".split()
    settings += "--eval-every 2 --batch-size 16 --quiet --width 8 --depth 1".split()
    assert cli.run(["compare", "--data", "mine.npz", *settings]) == 0
    saved = json.loads((tmp_path / "results" / "mine" / "sweep.json").read_text())
    assert saved["task"] == "data('mine.npz', depth=1, width=8, activation='relu')"

    chosen = []
    monkeypatch.setattr(
        "jaxinit.compare.sweep.compare.compare",
        lambda task, *_, out, **__: chosen.append((task, out)),
    )
    wine = ["--data", "sklearn:wine", "--target", "0.7"]
    assert cli.run(["compare", "--task", "linear(depth=1)", "--width", "9"]) == 0
    assert cli.run(["compare", *wine]) == 0
    (linear, first), (wine, second) = chosen
    assert linear.name == "linear(depth=1, width=9)" and first.name == "linear"
    assert wine.target == 0.7 and second.name == "sklearn-wine"

    for chosen, words in (
        (["--task", "linear", "--data", "mine.npz"], "exclude each other"),
        (["--task", "linear(heads=3)"], "option='heads' is unknown"),
        (["--data", "sklearn:iris"], "sklearn='iris' is unknown"),
    ):
        assert cli.run(["compare", *chosen]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
