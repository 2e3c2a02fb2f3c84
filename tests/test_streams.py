"""Training data as a stream: whatever gives batches, read anew as often as needed."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from flax import linen as nn

from jaxinit.compare import compare, make_task

RNG = np.random.default_rng(0)
Y = RNG.integers(3, size=80)
X = (RNG.normal(size=(80, 5)) + 2 * np.eye(5)[Y]).astype(np.float32)
VALID = X[64:], Y[64:]


def pairs():
    for i in range(0, 64, 12):  # the last is smaller
        yield X[i : min(i + 12, 64)], Y[i : min(i + 12, 64)]


class Loader:
    """As those of other libraries: to iterate over again and again."""

    def __iter__(self):
        return iter([[x, y] for x, y in pairs()])


def mappings():
    return ({"image": x.astype(np.float64), "label": y} for x, y in pairs())


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
    two = jax.devices()[:2]
    monkeypatch.setattr(jax, "local_devices", lambda: two)


def task_of(train, **options):
    return make_task(nn.Dense(3), train, VALID, target=0.8, **options)


def test_every_form_of_a_stream_is_the_same_stream():
    batches = task_of(pairs).batches
    found = list(itertools.islice(batches(), 12))
    assert {x.shape for x, _ in found} == {(12, 5)}
    np.testing.assert_array_equal(found[5][0], X[:12])  # the next epoch
    for other in (Loader(), mappings):
        again = itertools.islice(task_of(other).batches(), 12)
        for (x, y), (x_other, y_other) in zip(found, again, strict=True):
            np.testing.assert_array_equal(x, x_other)
            np.testing.assert_array_equal(y, y_other)
            assert (x_other.dtype, y_other.dtype) == (np.float32, np.int32)


def test_a_sweep_over_a_stream():
    run = lambda **options: compare(  # noqa: E731
        task_of(Loader()), ["he_normal", "zeros"], [0.1, 0.3], 2, steps=20,
        eval_every=5, tuning_seeds=0, quiet=True, **options,
    )  # fmt: skip
    result = run()
    assert result.settings.batch_size == 12
    assert {row["status"] for row in result.runs.to_pylist()} == {"finished"}
    assert min(row["final_train_loss"] for row in result.runs.to_pylist()) < 0.8
    # Zeros see no key, and all runs share the batches: both seeds are one run.
    zeros = [row for row in result.runs.to_pylist() if row["scheme"] == "zeros()"]
    np.testing.assert_allclose(zeros[0]["train_loss"], zeros[1]["train_loss"])
    with pytest.raises(ValueError, match="batch_size=8, but the batches .* have 12"):
        run(batch_size=8)


def test_the_loader_of_torch():
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.tensor(X[:64]), torch.tensor(Y[:64])), 12
    )
    x, y = next(task_of(loader).batches())
    np.testing.assert_array_equal(x, X[:12])
    np.testing.assert_array_equal(y, Y[:12])


BAD = [
    (pairs(), TypeError, "can be read only once"),
    (lambda: iter(()), ValueError, "gives no batch"),
    (lambda: iter([X[:12]]), TypeError, "a pair .inputs, labels."),
    (lambda: iter([{"a": X[:12], "b": Y[:12]}]), TypeError, "with a, b; a pair"),
    (lambda: iter([(X[:12], Y[:12] * 0.5)]), ValueError, "integer classes"),
    (lambda: iter([(X[:12] * np.nan, Y[:12])]), ValueError, "hold NaN or infinity"),
    (3, TypeError, "must be a pair"),
]


@pytest.mark.parametrize(("train", "error", "words"), BAD)
def test_one_sentence(train, error, words):
    with pytest.raises(error, match=words):
        task_of(train)


def test_a_batch_unlike_the_first():
    odd = lambda: iter([(X[:12], Y[:12]), (X[:12, :4], Y[:12])])  # noqa: E731
    with pytest.raises(
        ValueError, match=r"inputs have shape \(5,\) each and .* \(4,\)"
    ):
        compare(
            task_of(odd), ["he_normal"], [0.1], 1, steps=20, eval_every=5, quiet=True
        )
