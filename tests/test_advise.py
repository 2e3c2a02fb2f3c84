"""Advice: a sick start is mended, a healthy one is kept, and nothing is hidden."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxinit
from jaxinit.compare import advise, make_task
from jaxinit.compare.report.advice import PRESENT

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 8)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] > 0).astype(np.int32)
QUICK = {"learning_rates": [0.03, 0.3], "steps": 60, "quiet": True}


class MLP(nn.Module):
    """A perceptron with normal kernels of one standard deviation."""

    stddev: float | None

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.lecun_normal()
        if self.stddev is not None:
            init = nn.initializers.normal(self.stddev)
        for width in (16, 16):
            x = nn.relu(nn.Dense(width, kernel_init=init)(x))
        return nn.Dense(2, kernel_init=init)(x)


def advice(stddev, budget="90 runs", **options):
    model = MLP(stddev)
    task = make_task(model, (X, Y), (X, Y), target=0.8, eval_every=5)
    return model, advise(task, budget, **{**QUICK, **options})


@pytest.fixture(scope="module")
def sick(tmp_path_factory):
    out = tmp_path_factory.mktemp("advice")
    return out, *advice(1e-3, out=out)


def test_a_sick_start_is_mended_by_code_that_runs(sick):
    out, model, found = sick
    assert found.scheme is not None and found.pair.slower == PRESENT
    assert found.pair.p_value <= found.level
    assert found.sentence().startswith(f"Use {found.scheme}: it reaches the target")
    assert found.code.startswith("variables = jaxinit.init(model, key, x, scheme=")
    names = {"jaxinit": jaxinit, "model": model, "key": jax.random.key(0), "x": X[:2]}
    exec(found.code, names)
    kernel = names["variables"]["params"]["Dense_0"]["kernel"]
    assert float(jnp.std(kernel)) > 0.1
    assert (out / "report.html").exists() and (out / "sweep.json").exists()
    assert found.code in str(found)


def test_what_the_budget_leaves_out_is_named(sick):
    _, _, found = sick
    schemes = found.result.settings.schemes
    assert PRESENT in schemes and found.result.runs.num_rows <= 90
    assert not set(schemes) & set(found.left_out)
    _, least = advice(1e-3, "1 runs")
    assert len(least.result.settings.schemes) == 2
    assert all("budget" in why for why in least.left_out.values()) and least.left_out
    assert f"Not run: {next(iter(least.left_out))}, which the budget" in str(least)


def test_a_start_as_good_as_any_is_kept():
    _, found = advice(None, "40 runs")
    assert found.scheme is None and found.code == ""
    assert found.sentence().startswith("Keep what you have")
    _, never = advice(None, "40 runs", learning_rates=[1e-6], steps=5)
    assert never.pair is None and "no candidate reaches the target" in str(never)


BAD = {
    "soon": "must be seconds, or a text such as '60s'",
    "-3s": "must be seconds",
    "0": "must be seconds",
}


@pytest.mark.parametrize(("budget", "words"), BAD.items())
def test_bad_budgets_in_one_sentence(budget, words):
    with pytest.raises(ValueError, match="advise: budget=") as caught:
        advise("digits-mlp(depth=1, width=8)", budget, quiet=True)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_advise_decides_is_not_given():
    with pytest.raises(ValueError, match="seeds is for advise to choose"):
        advise("digits-mlp(depth=1, width=8)", seeds=3)
