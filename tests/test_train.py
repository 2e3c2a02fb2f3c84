"""The training of a run: against a plain loop, a closed form, and in a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from scipy import stats

from jaxinit.compare import Config, Hparams, as_model, make_task, make_train
from jaxinit.compare.train.batches import shuffled
from jaxinit.compare.train.engine import Engine
from jaxinit.compare.train.trainer import make_trainer, source_of


def data(examples=48, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=examples)
    x = rng.normal(size=(examples, 5)) + 2 * np.eye(5)[y]
    return x.astype(np.float32), y


def task_of(model, target=0.9, **kwargs):
    return make_task(model, data(), data(seed=1), target=target, **kwargs)


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.tanh(nn.Dense(8)(x)))


class Regularised(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        return nn.Dense(3)(x)


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(5, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


def linear_init(key, x):
    return {"w": 0.1 * jax.random.normal(key, (x.shape[1], 3)), "b": jnp.zeros(3)}


def linear_apply(params, x):
    return x @ params["w"] + params["b"][None]


MODELS = {
    "linen": MLP(),
    "linen with batch statistics and dropout": Regularised(),
    "nnx factory": NNX,
    "nnx module": NNX(nnx.Rngs(0)),
    "pair": (linear_init, linear_apply),
}
each_model = pytest.mark.parametrize("name", MODELS)


def model_of(name):
    model = MODELS[name]
    return (lambda rngs: NNX(rngs)) if model is NNX else model


def start(task, key):
    return task.model.init(key, task.x_train[:1])[0]


@each_model
def test_scan_is_a_plain_loop(name, key):
    task = task_of(model_of(name))
    config = Config(steps=8, eval_every=4, batch_size=16)
    params = start(task, key)
    curves = make_train(task, config)(params, key, Hparams(jnp.float32(0.05)))

    # Plainly: 48 examples are 3 batches an epoch, in an order from the key.
    opt = optax.sgd(0.05, momentum=0.9)
    state, opt_state = task.model.init(key, task.x_train[:1])[1], opt.init(params)
    order_key, dropout_key = jax.random.split(key)
    losses, evaluations = [], []

    def loss_of(params, state, x, y, key):
        logits, state = task.model.apply(params, state, x, key, True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), state

    def evaluate():
        logits, _ = task.model.apply(params, state, task.x_valid, key, False)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, task.y_valid)
        return float(loss.mean()), float((logits.argmax(1) == task.y_valid).mean())

    evaluations.append(evaluate())
    for step in range(8):
        order = shuffled(jax.random.fold_in(order_key, step // 3), 48)
        batch = order[16 * (step % 3) : 16 * (step % 3 + 1)]
        (loss, state), grads = jax.value_and_grad(loss_of, has_aux=True)(
            params,
            state,
            task.x_train[batch],
            task.y_train[batch],
            jax.random.fold_in(dropout_key, step),
        )
        losses.append(float(loss))
        updates, opt_state = opt.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        if step % 4 == 3:
            evaluations.append(evaluate())

    expected = [losses[0], np.mean(losses[:4]), np.mean(losses[4:])]
    np.testing.assert_allclose(curves.train_loss, expected, rtol=1e-5)
    valid_loss, accuracy = np.array(evaluations).T
    np.testing.assert_allclose(curves.valid_loss, valid_loss, rtol=1e-5)
    np.testing.assert_allclose(curves.valid_metric, accuracy, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 1437, 5000])
def test_shuffled_is_a_permutation(count, key):
    order = jax.jit(shuffled, static_argnums=1)(key, count)
    assert order.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(count))


def test_shuffled_has_every_order_alike(key):
    orders = jax.vmap(lambda key: shuffled(key, 4))(jax.random.split(key, 24_000))
    counts = np.unique(orders @ 4 ** np.arange(4), return_counts=True)[1]
    assert len(counts) == 24 and stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("count", [1437, 5000])  # sorted once, and twice
def test_shuffled_puts_each_number_anywhere(count, key):
    orders = jax.vmap(lambda key: shuffled(key, count))(jax.random.split(key, 400))
    for column in np.asarray(orders)[:, [0, 1, count // 2, count - 1]].T:
        assert stats.kstest(column / count, "uniform").pvalue > 1e-4


def test_full_batch_linear_model_follows_its_closed_form(key):
    # With one all-zero weight matrix, the gradient of the first step is
    # x^T (1/3 - onehot) / n, and one SGD step follows it exactly.
    zero = (lambda key, x: {"w": jnp.zeros((5, 3)), "b": jnp.zeros(3)}, linear_apply)
    task = task_of(zero)
    config = Config(steps=1, eval_every=1, batch_size=48, optimizer="sgd")
    curves = make_train(task, config)(start(task, key), key, Hparams(jnp.float32(0.7)))
    np.testing.assert_allclose(curves.train_loss, np.log(3), rtol=1e-6)
    residual = 1 / 3 - np.eye(3)[task.y_train]
    w = -0.7 * task.x_train.T @ residual / 48
    logits = task.x_valid @ w - 0.7 * residual.mean(axis=0)
    logits = logits - logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -log_p[np.arange(48), task.y_valid].mean()
    np.testing.assert_allclose(curves.valid_loss[1], expected, rtol=1e-5)


@each_model
def test_a_run_among_many_is_the_run_alone(name, key):
    task = task_of(model_of(name))
    config = Config(steps=8, eval_every=4, batch_size=16)
    rates = jnp.array([0.01, 0.02, 0.05, 0.1, 0.2])
    keys = jax.random.split(key, 5)
    params, states = jax.vmap(lambda k: task.model.init(k, task.x_train[:1]))(keys)
    engine = Engine(make_trainer(task, config), config, source_of(task, config))
    steps, points = zip(
        *engine.train(params, states, keys, Hparams(rates)), strict=True
    )
    assert steps == (0, 4, 8)
    together = jax.tree.map(lambda *curve: np.stack(curve, axis=1), *points)
    assert together.train_loss.shape == (5, 3)
    train = jax.jit(make_train(task, config))
    for run in range(5):
        alone = train(
            jax.tree.map(lambda leaf, i=run: leaf[i], params),
            keys[run],
            Hparams(rates[run]),
        )
        np.testing.assert_allclose(
            together.train_loss[run], alone.train_loss, rtol=1e-5
        )
        np.testing.assert_allclose(
            together.valid_loss[run], alone.valid_loss, rtol=1e-5
        )


def test_dropout_and_batch_statistics_only_where_they_belong(key):
    for name in ("linen with batch statistics and dropout", "nnx factory"):
        model = as_model(model_of(name))
        x = jnp.asarray(data()[0])
        params, state = model.init(key, x)
        other = jax.random.key(1)
        trained, after = model.apply(params, state, x, key, True)
        assert not np.allclose(trained, model.apply(params, state, x, other, True)[0])
        evaluated, kept = model.apply(params, state, x, key, False)
        np.testing.assert_array_equal(
            evaluated, model.apply(params, state, x, other, False)[0]
        )
        means = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (8,)]
        moved = [leaf for leaf in jax.tree.leaves(after) if leaf.shape == (8,)]
        still = [leaf for leaf in jax.tree.leaves(kept) if leaf.shape == (8,)]
        assert not np.allclose(means, moved)
        np.testing.assert_array_equal(means, still)


def test_bad_models_in_one_sentence():
    with pytest.raises(TypeError, match="must be a Flax Linen or NNX module"):
        as_model(3)
    with pytest.raises(TypeError, match="not an nnx.Module"):
        as_model(lambda rngs: 3)
