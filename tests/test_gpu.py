"""What a GPU may do otherwise than a CPU; `pytest -m gpu` runs it on whatever is there.

Each test holds the default device against the CPU, or against what it made before.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxinit as ji
from jaxinit.compare import compare, digits_mlp

pytestmark = pytest.mark.gpu

KEY = jax.random.key(3)
SMALL = {"steps": 20, "eval_every": 10, "tuning_seeds": 0, "quiet": True}


@pytest.fixture(scope="module")
def task():
    return digits_mlp(2, 16)


def curves(result):
    runs = result.runs.sort_by([(name, "ascending") for name in ("scheme", "seed")])
    return np.array(runs["train_loss"].to_pylist())


@pytest.mark.parametrize(
    "text",
    "normal uniform truncated_normal he_normal glorot_uniform lecun_normal orthogonal "
    "delta_orthogonal sparse spectral identity siren hippo_legs".split(),
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_draws_are_those_of_a_cpu(text, dtype):
    init = ji.parse(text)
    shape = (3, 3, 24, 24) if "delta" in text else (48, 48)
    try:
        here = jax.jit(lambda: init(KEY, shape, dtype))()
    except (TypeError, ValueError) as error:
        assert "dtype" in str(error)
        return
    with jax.default_device(jax.devices("cpu")[0]):
        there = jax.jit(lambda: init(KEY, shape, dtype))()
    here, there = (np.asarray(x, np.float32) for x in (here, there))
    largest = np.abs(there).max()
    close = 2**-7 if dtype == jnp.bfloat16 else 3e-6
    np.testing.assert_allclose(here, there, rtol=0, atol=close * largest)
    assert largest > 0


@pytest.mark.parametrize("shape", [(512, 512), (300, 700), (1024, 64), (64, 3, 3)])
def test_orthogonal_is_orthogonal_to_float32(shape):
    drawn = np.asarray(ji.orthogonal()(KEY, shape), np.float64)
    rows = drawn.reshape(-1, shape[-1])
    gram = rows @ rows.T if rows.shape[0] < rows.shape[1] else rows.T @ rows
    # A product in TF32 would leave errors of 1e-3.
    np.testing.assert_allclose(gram, np.eye(len(gram)), rtol=0, atol=2e-5)


def test_a_sharded_draw_has_the_values_of_a_whole_one():
    devices = np.array(jax.devices())
    place = NamedSharding(Mesh(devices, ("x",)), PartitionSpec("x"))
    shape = (8 * len(devices), 16)
    for init in (ji.he_normal(), ji.orthogonal()):
        whole, parts = init(KEY, shape), init(KEY, shape, out_sharding=place)
        assert parts.sharding == place
        np.testing.assert_allclose(whole, parts, rtol=0, atol=1e-6)


def test_strategies_train_alike(task):
    made = {
        strategy: curves(
            compare(
                task, schemes=["he_normal"], learning_rates=[0.01], seeds=3,
                strategy=strategy, **SMALL,
            )
        )
        for strategy in ("map", "vmap", "loop")
    }  # fmt: skip
    for strategy in ("vmap", "loop"):
        np.testing.assert_allclose(made[strategy], made["map"], rtol=1e-3)


def test_training_computes_in_float32(task):
    with jax.default_device(jax.devices("cpu")[0]):
        x, y = (jnp.asarray(each[:64]) for each in (task.x_train, task.y_train))
        model, key = task.model, jax.random.key(0)
        params, state = model.init(key, x)
        on_cpu = task.loss(model.apply(params, state, x, key, False)[0], y)
    moved = jax.device_put((params, state, x, y), jax.devices()[0])
    with jax.default_matmul_precision("highest"):
        params, state, x, y = moved
        here = task.loss(model.apply(params, state, x, key, False)[0], y)
    np.testing.assert_allclose(here, on_cpu, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strategy", ["map", "vmap", "loop"])
def test_a_resumed_sweep_has_the_numbers_of_a_whole_one(task, tmp_path, strategy):
    given = {"learning_rates": [0.01], "strategy": strategy, **SMALL}
    schemes = ["he_normal", "normal"]
    compare(task, schemes=schemes[:1], seeds=1, out=tmp_path / "a", **given)
    added = compare(task, schemes=schemes, seeds=4, out=tmp_path / "a", **given)
    whole = compare(task, schemes=schemes, seeds=4, **given)
    np.testing.assert_array_equal(curves(added), curves(whole))


def test_a_report_is_that_of_a_cpu(task):
    x, y = (jnp.asarray(each[:64]) for each in (task.x_train, task.y_train))
    model, key = task.model, jax.random.key(0)
    params, state = model.init(key, x)

    def report(params, x, y):
        apply = lambda p, x: model.apply(p, state, x, key, False)[0]  # noqa: E731
        return ji.diagnose(apply, params, x, labels=y)

    here = report(params, x, y)
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        there = report(*jax.device_put((params, x, y), cpu))
    for name in ("rms", "mean"):
        a, b = ([getattr(row, name) for row in each.rows] for each in (here, there))
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)
