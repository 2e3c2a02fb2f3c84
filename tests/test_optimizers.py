"""Optimizers: values with a text, each the loop one writes with Optax, and an axis."""

from __future__ import annotations

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sweeps import FAST, SLOW, Page, of_rows, run, settings, sweep, task

from jaxinit import tree
from jaxinit.compare import Config, Hparams, compare, load_result, load_results
from jaxinit.compare import optimizers as opt
from jaxinit.compare.report import protocol
from jaxinit.compare.store.agreement import difference
from jaxinit.compare.store.limit import Limit
from jaxinit.compare.train.batches import shuffled
from jaxinit.compare.train.optimizer import REGISTRY, evaluated, in_training
from jaxinit.compare.train.trainer import Run, RunState, make_trainer, source_of

STEPS, RATE = 8, 0.03


@pytest.fixture(scope="module", autouse=True)
def promotion_as_by_default():
    # Optax's Adam needs it, in the engine's threads too.
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


def kernels(params):
    return {name: value.ndim == 2 for name, value in params.items()}


def wsd(rate):
    pieces = optax.constant_schedule(rate), optax.linear_schedule(rate, 0.0, 2)
    return optax.join_schedules(
        [optax.linear_schedule(0.0, rate, 1), *pieces], [1, STEPS - 2]
    )


PLAIN = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "nesterov(momentum=0.8)": lambda rate: optax.sgd(rate, 0.8, nesterov=True),
    "rmsprop": optax.rmsprop,
    "adam": optax.adam,
    "adam(b2=0.95, eps=1e-6)": lambda rate: optax.adam(rate, b2=0.95, eps=1e-6),
    "adamw(decays='all')": optax.adamw,
    "nadam": optax.nadam,
    "lion(decays='all')": optax.lion,
    "adafactor": optax.adafactor,
    "lamb": optax.lamb,
    "muon": optax.contrib.muon,
    "adamw(weight_decay=0.1, schedule='cosine', warmup=0.25, clip=1)": (
        lambda rate: optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.adamw(
                optax.join_schedules(
                    [
                        optax.linear_schedule(0.0, rate, 2),
                        optax.cosine_decay_schedule(rate, STEPS - 2),
                    ],
                    [2],
                ),
                weight_decay=0.1,
                mask=kernels,
            ),
        )
    ),
    "momentum(weight_decay=0.1, schedule='linear')": lambda rate: optax.chain(
        optax.add_decayed_weights(0.1, kernels),
        optax.sgd(optax.linear_schedule(rate, 0.0, STEPS), momentum=0.9),
    ),
    "muon(weight_decay=0.1, schedule='wsd', warmup=1, cooldown=2)": (
        lambda rate: optax.contrib.muon(wsd(rate), weight_decay=0.1)
    ),
    "adafactor(weight_decay=0.01)": lambda rate: optax.adafactor(
        rate, weight_decay_rate=0.01, weight_decay_mask=kernels
    ),
}
"""Text to what one writes with Optax."""


class Tiny:
    """A model as functions, which begins where the seed says."""

    @staticmethod
    def init(key, x):
        keys = jax.random.split(key)
        first = {"a": jax.random.normal(keys[0], (5, 8)), "c": jnp.full(8, 0.1)}
        return first | {"b": jax.random.normal(keys[1], (8, 3))}

    @staticmethod
    def apply(params, x):
        return jax.nn.relu(x @ params["a"] + params["c"][None]) @ params["b"]


@pytest.fixture(scope="module")
def tiny():
    from sweeps import TRAIN, VALID

    from jaxinit.compare import make_task

    return make_task((Tiny.init, Tiny.apply), TRAIN, VALID, target=0.9)


def plain_loop(tiny, make, params, key, scales, ema=None):
    """The parameters after a loop as one writes it; with `ema`, their average."""

    def loss_of(params, x, y):
        logits = tiny.model.apply(params, {}, x, key, True)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def step(params, state, x, y, rate, scales):
        grads = jax.grad(loss_of)(params, x, y)
        updates, state = make(rate).update(grads, state, params)
        if scales is not None:
            updates = jax.tree.map(jnp.multiply, updates, scales)
        return optax.apply_updates(params, updates), state

    rate = jnp.float32(RATE)
    state, order_key = make(rate).init(params), jax.random.split(key)[0]
    average, weight = jax.tree.map(jnp.zeros_like, params), 0.0
    for i in range(STEPS):
        order = shuffled(jax.random.fold_in(order_key, i // 4), 64)
        batch = order[16 * (i % 4) : 16 * (i % 4 + 1)]
        x, y = tiny.x_train[batch], tiny.y_train[batch]
        params, state = step(params, state, x, y, rate, scales)
        if ema is not None:
            average = jax.tree.map(
                lambda mean, new: ema * mean + (1 - ema) * new, average, params
            )
            weight = ema * weight + 1 - ema
    return params if ema is None else jax.tree.map(lambda m: m / weight, average)


def trained(tiny, text, params, key, scales=None):
    """The state after a run, step by step as the strategy "loop" goes."""
    config = Config(STEPS, STEPS, 16, optimizer=text)
    data = next(source_of(tiny, config)(0))
    how, rate = opt.parse(text), jnp.float32(RATE)
    begun = in_training(how, rate, scales, STEPS).init(params)
    hparams = Hparams(rate, scales)
    state = RunState(params, {}, begun, key, jnp.int32(0), hparams, jnp.float32(0))
    trainer = make_trainer(tiny, config)
    step, batches = jax.jit(trainer.step), trainer.plan(data, state)
    for i in range(STEPS):
        state = step(data, state, batches, i)
    return state, trainer.finish(data, state)[1]


@pytest.mark.parametrize("text", PLAIN)
def test_a_run_is_the_loop_one_writes_with_optax(text, tiny, key):
    params = Tiny.init(jax.random.key(3), None)
    scaled = "weight_decay" in text  # as by muP, decay included
    scales = {"a": 0.5, "b": 2.0, "c": 1.0} if scaled else None
    scales = jax.tree.map(jnp.float32, scales)
    expected = plain_loop(tiny, PLAIN[text], params, key, scales)
    found, _ = trained(tiny, text, params, key, scales)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected)
    assert {each.partition("(")[0] for each in PLAIN} == set(REGISTRY)


def test_the_moving_average_is_evaluated_and_not_trained(tiny, key):
    params = Tiny.init(jax.random.key(3), None)
    scales = {"a": jnp.float32(0.5), "b": jnp.float32(2), "c": jnp.float32(1)}
    how, make = opt.momentum(ema=0.8), PLAIN["momentum"]
    found, metrics = trained(tiny, repr(how), params, key, scales)
    expected = plain_loop(tiny, make, params, key, scales)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected)
    average = plain_loop(tiny, make, params, key, scales, ema=0.8)
    logits = Tiny.apply(average, tiny.x_valid)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, tiny.y_valid).mean()
    np.testing.assert_allclose(metrics.valid_loss, loss, rtol=1e-5)
    begun = in_training(how, 0.1, scales, STEPS).init(params)
    # Before the first step there is nothing to average.
    first = evaluated(how, params, begun)
    jax.tree.map(np.testing.assert_array_equal, first, params)


@pytest.mark.parametrize("text", PLAIN)
def test_an_optimizer_is_a_value_with_a_text(text):
    value = opt.parse(text)
    assert opt.parse(repr(value)) == value == pickle.loads(pickle.dumps(value))
    assert hash(opt.parse(repr(value))) == hash(value)
    assert value.replace(clip=3) == opt.parse(repr(value.replace(clip=3.0))) != value
    assert value.rates == tuple(sorted(value.rates)) and len(value.rates) == 6


def no_transformation(rate):
    return {"rate": rate}


def concrete(rate):
    return optax.sgd(float(rate) if rate < 1 else 1.0)


def failing(rate):
    raise KeyError("beta")


def dropping(rate):
    return optax.GradientTransformation(lambda params: (), lambda g, s, p: ({}, s))


BAD = {
    "lyon": "optimizer='lyon' is unknown; use one of sgd, momentum, nesterov",
    "adam(b1=f(2))": "is no optimizer; use a name or a call with",
    "adam(b1=.9, b1=.8)": "is no optimizer; use a name or a call with",
    "adam(beta=0.9)": "unexpected keyword argument 'beta'; its parameters are b1, b2",
    "adam(b1=1.0)": "adam: b1=1 must lie in [0, 1)",
    "adam(schedule='cosin')": "schedule='cosin' is unknown; use one of 'constant'",
    "adam(warmup=2.5)": "warmup=2.5 must be a fraction of the run below 1",
    "adam(warmup=-1)": "warmup=-1.0 must be at least 0",
    "adam(warmup=20)": "a warm-up of 20 steps leaves nothing of a run of 20 steps",
    "adam(schedule='wsd', warmup=0.5, cooldown=0.5)": "and a cool-down of 10 leaves",
    "adam(clip=0)": "clip=0.0 must be greater than zero",
    "adam(weight_decay=-1)": "weight_decay=-1.0 must be at least 0",
    "adam(decays='biases')": "decays='biases' is unknown; use one of 'kernels', 'all'",
    "adam(ema=1)": "adam: ema=1 must lie in [0, 1)",
    no_transformation: "no_transformation gives a dict; it must be a function of a",
    failing: "the optimizer failing fails at the learning rate 0.1 (KeyError: 'beta')",
    concrete: "the optimizer concrete does not train the parameters of this task (",
    dropping: "the optimizer dropping gives updates of another form than it takes",
    3: "optimizer '3' must be one of jaxinit.compare.optimizers, its text, or a",
    optax.GradientTransformation: "must be one of jaxinit.compare.optimizers, its text",
    (): "no optimizer is given; name at least one",
    ("adam", opt.adam()): "optimizer adam() is given twice",
}


@pytest.mark.parametrize("given", BAD, ids=BAD.values())
def test_bad_optimizers_in_one_sentence(given):
    given = [given] if given == 3 else given
    with pytest.raises((ValueError, TypeError)) as caught:
        sweep(optimizers=given, rates=[0.1], seeds=1)
    message = str(caught.value)
    assert BAD[3 if given == [3] else given] in message, message
    assert "\n" not in message and message.endswith(".")
    with pytest.raises(TypeError, match="of type int must be a str, such as"):
        opt.parse(3)
    with pytest.raises(ValueError, match="needs to know how long it is; give steps="):
        opt.adam(schedule="linear")(0.1)


# --- The axis ------------------------------------------------------------------------


def mine(rate):
    return optax.chain(optax.clip(0.5), optax.sgd(rate))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A sweep of two schemes with two optimizers, made in two parts."""
    out = tmp_path_factory.mktemp("several") / "out"
    options = {"rates": [0.1, 0.3], "seeds": 3, "tuning_seeds": 1, "runoff_seeds": 1}
    first = sweep(optimizers=opt.momentum, out=out, **options)
    whole = sweep(optimizers=["momentum", mine], out=out, **options)
    alone = sweep(optimizers=mine, **options)
    return first, whole, alone, out


def rows_of(result, optimizer):
    return {
        row["run_id"]: {k: v for k, v in row.items() if not k.endswith("_seconds")}
        for row in result.runs.to_pylist()
        if row["optimizer"] == optimizer
    }


def test_an_optimizer_changes_no_other_runs(several):
    first, whole, alone, _ = several
    assert whole.settings.optimizers == ("momentum()", "mine")
    assert rows_of(whole, "momentum()") == rows_of(first, "momentum()")
    found, expected = rows_of(whole, "mine"), rows_of(alone, "mine")
    assert found.keys() == expected.keys() and len(found) in (10, 11)
    for name, row in found.items():
        np.testing.assert_allclose(
            row["train_loss"], expected[name]["train_loss"], rtol=1e-5
        )


def test_each_pair_is_tuned_and_ranked(several):
    _, whole, alone, out = several
    pairs = whole.ranking()
    assert {each.scheme for each in pairs} == set(whole.settings.contestants) == {
        f"{scheme} under {how}"
        for scheme in ("he_normal()", "normal(stddev=1.0)")
        for how in ("momentum", "mine")
    }  # fmt: skip
    under = whole.under(mine)
    assert [s._replace(seconds_to_target=None) for s in under.ranking()] == [
        s._replace(seconds_to_target=None) for s in alone.ranking()
    ]
    assert under.sentence() == alone.sentence()
    again = load_result(out)
    assert again.sentence() == whole.sentence()
    data = json.loads((out / "summary.json").read_text())
    assert data["verdict"] == whole.sentence() and len(data["ranking"]) == 4
    assert data["optimizers"]["mine"]["verdict"] == alone.sentence()
    page = (out / "report.html").read_text("utf-8")
    assert Page(page).open == [] and "Scheme x optimizer" in page
    assert "<h2>Under mine</h2>" in page and "family of" not in page
    assert (out / "optimizers.png").stat().st_size > 1000
    assert protocol.command(whole.settings) is None  # mine is no text
    command = protocol.command(made_up({"sgd()": "a b", "adam()": "a b"}).settings)
    assert command is None or "--optimizers 'sgd()' 'adam()'" in command


def test_a_function_that_does_otherwise_is_another(several):
    *_, out = several

    def mine(rate):
        return optax.sgd(2 * rate)

    with pytest.raises(FileExistsError, match=r"the optimizer mine differs; choose"):
        sweep(optimizers=mine, seeds=1, out=out, tuning_seeds=1, runoff_seeds=1)


def made_up(orders, seeds=6):
    """A sweep in which "a" is fast and "b" slow under an optimizer, or otherwise."""
    times = {"a": FAST * 2, "b": SLOW * 2}
    rows = []
    for optimizer, how in orders.items():
        for scheme, as_scheme in zip("ab", how[::2], strict=False):
            rows += [
                run(scheme, seed, times[as_scheme][seed], optimizer=optimizer)
                for seed in range(seeds)
            ]
    return of_rows(rows, settings("ab", seeds=seeds, optimizers=tuple(orders)))


SAID = {
    "the winner stays": (
        {"sgd()": "a b", "adam()": "a b"},
        "Under sgd a wins, 2.87 times sooner at the target than b; under adam a wins, "
        "2.87 times sooner at the target than b. The winner is the same under each of "
        "them.",
    ),
    "the winner changes": (
        {"sgd()": "a b", "adam()": "b a"},
        "than a. The order changes: a is faster than b under sgd and slower under "
        "adam.",
    ),
    "nothing is shown under one": (
        {"sgd()": "a b", "muon()": "a a"},
        "; under muon no difference is shown between a and b. No two schemes are shown "
        "to change their order.",
    ),
}


@pytest.mark.parametrize("kind", SAID)
def test_whether_the_winner_changes_is_said(kind, capsys):
    orders, said = SAID[kind]
    found = made_up(orders)
    assert said in found.sentence()
    found.show()
    out = " ".join(capsys.readouterr().out.split())
    assert (
        said in out and "a under sgd" in out and "linear(depth=2, width=4), sgd:" in out
    )


def test_a_change_needs_both_orders_at_the_level_of_all():
    found = made_up({"sgd()": "a b", "adam()": "b a"}).across_optimizers()
    (turn,) = found.turned
    assert turn == ("a", "b", "sgd()", "adam()")
    # Holm over the two comparisons: each p-value is doubled, or stays.
    assert found.winners == {"sgd()": "a", "adam()": "b"}
    few = made_up({"sgd()": "a b", "adam()": "b a"}, seeds=3).across_optimizers()
    p_values = [v.pairs[0].p_value for v in few.verdicts.values()]
    assert bool(few.turned) == (2 * min(p_values) <= 0.05 and max(p_values) <= 0.05)


def test_grids_are_each_optimizers_own_and_grow_apart():
    options = {"seeds": 1, "tuning_seeds": 1, "runoff_seeds": 0, "rates": None}
    found = sweep(optimizers=["sgd", "lion"], schemes="he_normal", **options)
    assert found.settings.learning_rates is None
    assert found.settings.rates("sgd()") == opt.sgd().rates
    assert found.settings.rates("lion()") == opt.lion().rates != opt.sgd().rates
    assert not found.judge().missing  # each has all of its own
    assert found.judge().planned == found.judge().tuning_runs == 12


def test_one_optimizer_is_a_sweep_as_before():
    found = sweep(optimizers=["sgd"], rates=[0.1], seeds=2)
    assert found.settings.contestants == {
        name: (name, "sgd()") for name in found.settings.schemes
    }
    assert found.across_optimizers() is None
    with pytest.raises(ValueError, match=r"has one optimizer, sgd\(\); run it with"):
        found.plot_optimizers()
    with pytest.raises(ValueError, match="optimizer='adam..' is unknown"):
        found.under("adam")


def test_mup_goes_with_what_it_is_made_for():
    params = jax.eval_shape(task().model.init, jax.random.key(0), task().x_train[:1])[0]
    mup = tree.mup(params)
    with pytest.raises(ValueError, match=r"rates of adam, but the optimizer is nester"):
        sweep([mup], [0.1], 1, optimizers=["muon", "nesterov"])
    found = compare(
        task(), [mup], [0.01], 1, steps=5, eval_every=5, batch_size=16, quiet=True,
        optimizers=["muon(weight_decay=0.1)", "lion"], tuning_seeds=0,
    )  # fmt: skip
    assert found.runs.num_rows == 2 and not found.sweep.diverged.any()


def test_sweeps_with_other_optimizers_go_side_by_side(tmp_path):
    for name, how in (("x", "sgd()"), ("y", "adam()")):
        made_up({how: "a b"}).save(tmp_path / name)
    joined = load_results(tmp_path / "x", tmp_path / "y")
    assert joined.settings.optimizers == ("sgd()", "adam()")
    assert "The winner is the same under each of them." in joined.sentence()


# --- No work for a lost race ----------------------------------------------------------


@pytest.fixture(scope="module")
def ended():
    """The same sweep with and without an end at twice the fastest time."""
    options = {"rates": [0.03, 0.3], "seeds": 3, "tuning_seeds": 2, "runoff_seeds": 1}
    options |= {"steps": 60, "target": 0.8, "schemes": ["he_normal", "zeros"]}
    return sweep(**options), sweep(stop_at=2, **options)


def test_no_run_goes_on_after_the_race_is_lost(ended):
    whole, short = ended
    budget = short.contestants.settings.budget
    best = min(
        max(
            row["steps_to_target"] or np.inf
            for row in whole.sweep.tuning.at(scheme, rate).runs.to_pylist()
        )
        for scheme in whole.settings.schemes
        for rate in (0.03, 0.3)
    )
    assert budget == 2 * max(best, 5) < 60
    assert {row["eval_steps"][-1] for row in short.runs.to_pylist()} == {budget}
    # To there the runs are the same, under names of their own.
    cut = whole.sweep._until
    expected = {
        tuple(row[name] for name in ("scheme", "learning_rate", "seed")): cut(
            budget, row
        )
        for row in whole.runs.to_pylist()
    }
    for row in short.runs.to_pylist():
        other = expected[row["scheme"], row["learning_rate"], row["seed"]]
        assert difference(row, other) is None and row["status"] == other["status"]
        assert row["run_id"] != other["run_id"]


def test_a_run_that_ended_is_a_miss_at_the_end(ended):
    _, short = ended
    budget = short.contestants.settings.budget
    first, second = short.judge().rows
    assert first.summary.scheme == "he_normal()" and first.summary.reached == 3
    assert second.summary.reached == 0 and second.mean == budget
    (pair,) = short.judge().pairs
    assert pair.could_show
    ratio = budget / np.exp(np.log(first.times).mean())
    assert pair.ratio.ratio == pytest.approx(ratio)
    assert f"within {budget} steps" in short.sentence()
    assert f"No run is seen beyond step {budget}, 2 times the fastest" in " ".join(
        short.notes()
    )
    with pytest.raises(ValueError, match="nothing is known of the harder 0.9"):
        short.with_target(0.9)
    assert short.with_target(0.5).ranking()[0].reached == 3


def seen(*runs):
    """The limit of a sweep with two seeds that tune, after these runs."""
    limit = Limit(settings("ab", tuning_seeds=2, stop_at=1.5))
    for (scheme, rate, seed), reached, gone in runs:
        one = Run(scheme, "sgd()", rate, seed)
        for step in range(0, STEPS_OF_ALL + 1, EVERY):
            limit.saw(step, [one], [step >= reached], [step >= gone])
    return limit.steps("sgd()")


NEVER, STEPS_OF_ALL, EVERY = 1000, 100, 10
LIMITS = {
    "of the slower seed, up to an evaluation": (
        [(("a", 0.1, 0), 10, NEVER), (("a", 0.1, 1), 30, NEVER)], 50,
    ),
    "not of one seed alone": ([(("a", 0.1, 0), 10, NEVER)], 100),
    "not of two rates": (
        [(("a", 0.1, 0), 10, NEVER), (("a", 0.2, 1), 30, NEVER)], 100,
    ),
    "of the fastest scheme": (
        [(("a", 0.1, k), 40, NEVER) for k in (0, 1)]
        + [(("b", 0.1, k), 20, NEVER) for k in (0, 1)], 30,
    ),
    "not of one that diverges by then": (
        [(("a", 0.1, k), 40, NEVER) for k in (0, 1)]
        + [(("b", 0.1, 0), 20, NEVER), (("b", 0.1, 1), 20, 30)], 60,
    ),
    "of one that diverges later": (
        [(("b", 0.1, 0), 20, NEVER), (("b", 0.1, 1), 20, 40)], 30,
    ),
    "not of seeds that score": (
        [(("a", 0.1, k), 20, NEVER) for k in (2, 3)], 100,
    ),
    "all steps at most": ([(("a", 0.1, k), 80, NEVER) for k in (0, 1)], 100),
    "a target met before the first step": (
        [(("a", 0.1, k), 0, NEVER) for k in (0, 1)], 20,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LIMITS)
def test_how_far_runs_go_does_not_depend_on_their_order(kind):
    runs, expected = LIMITS[kind]
    assert seen(*runs) == seen(*reversed(runs)) == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stop_at": 0.5}, "stop_at=0.5 must be at least 1"),
        (
            {"stop_at": 2, "tuning_seeds": 0},
            "stop_at is a multiple of the fastest time",
        ),
        ({"stop_at": 2, "tuning_seeds": 1, "shard": (0, 2)}, "extend_grid, until_sure"),
    ],
)
def test_stop_at_that_cannot_be(options, said):
    with pytest.raises(ValueError, match=said):
        sweep(**options)
