"""What is trained: trees of inputs, objectives, and training loops of one's own."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxinit as ji
from jaxinit.compare import (
    Config,
    Hparams,
    Training,
    as_model,
    compare,
    load_result,
    make_task,
    make_train,
    training_task,
)
from jaxinit.compare.store.identity import identity
from jaxinit.compare.train.health import health
from jaxinit.compare.train.signal import signal

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 5)).astype(np.float32)
MASK = RNG.random((48, 5)) > 0.3
Y = RNG.integers(3, size=48)
KEY = jax.random.key(3)
CONFIG = Config(steps=4, eval_every=2, batch_size=16, optimizer="sgd")
RATE = Hparams(jnp.float32(0.1))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        return nn.Dense(3)(nn.tanh(nn.Dense(4)(x * mask.astype(x.dtype))))


class Of(nn.Module):
    """The same of one argument that has both."""

    @nn.compact
    def __call__(self, both):
        return nn.Dense(3)(
            nn.tanh(nn.Dense(4)(both.x * both.mask.astype(both.x.dtype)))
        )


class Pair(NamedTuple):
    x: object
    mask: object


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Record:
    x: object
    mask: object


FORMS = {
    "tuple": (Net(), (X, MASK)),
    "dict": (Net(), {"mask": MASK, "x": X}),
    "named tuple": (Of(), Pair(X, MASK)),
    "dataclass": (Of(), Record(X, MASK)),
}


def task_of(form="tuple", train=None, **options):
    model, x = FORMS[form]
    options = {"target": 0.9, **options}
    return make_task(model, (x, Y) if train is None else train, (x, Y), **options)


def curves(task, config=CONFIG):
    params = task.model.init(KEY, jax.tree.map(lambda leaf: leaf[:1], task.x_train))[0]
    found = jax.jit(make_train(task, config))(params, KEY, RATE)
    return np.stack(found[:3])


@pytest.fixture(scope="module", autouse=True)
def two_devices():
    two = jax.devices()[:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: two)
        yield


@pytest.fixture(scope="module")
def plain():
    """The curves of one array and a mask that is closed over: what all others are."""

    class Whole(nn.Module):
        @nn.compact
        def __call__(self, both):
            x, mask = both[..., :5], both[..., 5:]
            return nn.Dense(3)(nn.tanh(nn.Dense(4)(x * mask.astype(x.dtype))))

    both = np.concatenate([X, MASK], axis=1).astype(np.float32)
    return curves(make_task(Whole(), (both, Y), (both, Y), target=0.9))


@pytest.mark.parametrize("form", FORMS)
def test_inputs_are_any_tree(form, plain):
    np.testing.assert_allclose(curves(task_of(form)), plain, rtol=1e-6)


def batches():
    for at in (0, 16, 32):
        rows = slice(at, at + 16)
        yield {"x": X[rows], "mask": MASK[rows], "label": Y[rows]}


def test_a_stream_of_trees():
    found = curves(task_of("dict", batches))
    again = curves(
        task_of("tuple", lambda: (((b["x"], b["mask"]), b["label"]) for b in batches()))
    )
    assert np.isfinite(found).all() and (found == again).all()


def test_labels_are_any_tree():
    def loss(outputs, y):
        return optax.softmax_cross_entropy_with_integer_labels(outputs, y["class"])

    def metric(outputs, y):
        return y["weight"] * (outputs.argmax(-1) == y["class"]).astype(jnp.float32)

    y = {"class": Y, "weight": np.ones(48, np.float32)}
    task = make_task(
        Net(), ((X, MASK), y), ((X, MASK), y), target=0.9, loss=loss, metric=metric,
        direction="max",
    )  # fmt: skip
    np.testing.assert_allclose(curves(task), curves(task_of()), rtol=1e-6)


MODEL = as_model(Net())


def by_hand(params, state, batch, key, train):
    inputs, y = batch
    outputs, state = MODEL.apply(params, state, inputs, key, train)
    loss = optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()
    hits = (outputs.argmax(-1) == y).mean()
    return loss, (state, {"hits": hits, "count": jnp.int32(len(y))})


HITS = {"objective": by_hand, "metric": "hits", "direction": "max"}


def test_an_objective_is_all_of_it(plain):
    task = task_of(**HITS)
    assert (task.loss_name, task.metric_name) == ("by_hand", "hits")
    np.testing.assert_allclose(curves(task), plain, rtol=1e-6)
    other = task_of(**{**HITS, "metric": "count"})
    np.testing.assert_array_equal(curves(other)[2], 48)
    assert task_of(objective=by_hand).direction == "min"
    # Layers and gradients as of the loss of outputs, by the page and by an audit.
    params, state = task.model.init(KEY, (X[:1], MASK[:1]))
    mine, theirs = (signal(t, params, state) for t in (task, task_of()))
    for one, two in zip(mine, theirs, strict=True):
        assert one.path == two.path
        np.testing.assert_allclose(one[1:3], two[1:3], rtol=1e-4)
    rows = health(task, ji.he_normal()).report.rows
    assert [row.name for row in rows] == [row.path for row in mine]
    assert all(0 < row.gradient < 1 for row in rows)


class Noisy(nn.Module):
    """Batch statistics, and a loss that draws: state and key reach an objective."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(5)(nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x)))


def test_an_objective_has_state_key_and_no_labels():
    model = as_model(Noisy())

    def denoising(params, state, x, key, train):
        assert x.shape[1:] == (5,)
        noise = jax.random.normal(key, x.shape)
        outputs, state = model.apply(params, state, x + noise, key, train)
        mean = jax.tree.leaves(state)[0].mean()
        return jnp.square(outputs - noise).mean(), (state, {"mean": mean})

    how = {"target": 0.1, "objective": denoising, "metric": "mean", "direction": "max"}
    alone = make_task(Noisy(), X, X, **how)
    assert alone.y_train is None and alone.examples == 48
    found = curves(alone)
    assert found[2][0] == 0 and found[2][-1] != 0  # running statistics moved
    for train in ((X, None), lambda: iter([X[:16], X[16:32], X[32:]])):
        other = curves(make_task(Noisy(), train, X, **how))
        assert np.isfinite(other).all()
        assert (other == found).all() == (type(train) is tuple)
    # The key differs from step to step and from run to run.
    params, state = alone.model.init(KEY, X[:1])
    losses = {
        float(denoising(params, state, X[:4], jax.random.key(k), True)[0])
        for k in (1, 2)
    }
    assert len(losses) == 2


class State(NamedTuple):
    params: object
    key: object
    rate: object


DENSE = nn.Dense(3)


def init(key):
    return DENSE.init(key, X[:1])["params"]


def loss_of(params, rows=slice(None)):
    x, y = jnp.asarray(X)[rows], jnp.asarray(Y)[rows]
    outputs = DENSE.apply({"params": params}, x)
    return optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()


def begin(params, key, hparams):
    return State(params, key, hparams.learning_rate)


def step(state):
    key, own = jax.random.split(state.key)
    rows = jax.random.randint(own, (16,), 0, 48)
    loss, grads = jax.value_and_grad(lambda p: loss_of(p, rows))(state.params)
    params = jax.tree.map(lambda p, g: p - state.rate * g, state.params, grads)
    return State(params, key, state.rate), loss


def evaluate(state):
    outputs = DENSE.apply({"params": state.params}, X)
    size = jnp.abs(outputs).max()
    return {"hits": (outputs.argmax(-1) == Y).mean(), "size": size}


def train(params, key, hparams):
    state = begin(params, key, hparams)

    def segment(state, _):
        state, losses = jax.lax.scan(lambda s, _: step(s), state, length=2)
        return state, {"loss": losses.mean(), **evaluate(state)}

    first = {"loss": step(state)[1], **evaluate(state)}
    _, rest = jax.lax.scan(segment, state, length=2)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)


STEPS = Training(init, begin, step, evaluate)
MINE = {"metric": "hits", "direction": "max", "target": 0.4, "eval_every": 2}
SEEN = {"apply": lambda params, x: DENSE.apply({"params": params}, x), "inputs": X[:4]}
SHORT = {"steps": 4, "eval_every": 2, "tuning_seeds": 0, "quiet": True}
RATES = [0.1, 1e38]


def swept(training, strategy="map", **options):
    task = training_task(training, **{**MINE, **options}, name="mine")
    result = compare(task, ["he_normal", "zeros"], RATES, 2, strategy=strategy, **SHORT)
    columns = (
        "scheme",
        "learning_rate",
        "seed",
        "train_loss",
        "valid_metric",
        "status",
    )
    rows = result.runs.to_pylist()
    return result, [[row[name] for name in columns] for row in rows]


@pytest.fixture(scope="module")
def stepped():
    return swept(STEPS)


def test_a_training_of_ones_own_is_a_plain_loop(stepped):
    result, rows = stepped
    assert {row[-1] for row in rows} == {"finished", "diverged"}
    scheme, rate, seed, losses, hits, _ = rows[0]
    assert (scheme, rate, seed) == ("he_normal()", 0.1, 0)
    keys = jax.random.split(jax.random.key(0))
    params = ji.reinit(keys[0], init(keys[0]), ji.he_normal())
    state = begin(params, keys[1], RATE)
    expected, seen = [step(state)[1]], [evaluate(state)["hits"]]
    for _ in range(2):
        (state, first), (state, second) = (lambda one: (one, step(one[0])))(step(state))
        expected.append((first + second) / 2)
        seen.append(evaluate(state)["hits"])
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(hits, seen, rtol=1e-5)
    assert result.settings.optimizers == ("its own optimizer",)
    assert result.settings.own_optimizers == {}
    assert result.sweep.signals == {"he_normal()": [], "zeros()": []}


@pytest.mark.parametrize(
    ("training", "strategy", "options"),
    [((init, train), "map", {}), ((init, train), "vmap", SEEN), (STEPS, "loop", SEEN)],
)
def test_whole_trainings_and_steps_alike(training, strategy, options, stepped):
    result, rows = swept(training, strategy, **options)
    for one, two in zip(rows, stepped[1], strict=True):
        assert one[:3] == two[:3] and one[-1] == two[-1]
        np.testing.assert_allclose(one[3], two[3], rtol=1e-5)
    kernels = [row.path for row in result.sweep.signals["zeros()"]]
    assert kernels == (["kernel"] if options else [])


def test_a_training_is_kept_and_told(tmp_path):
    task = training_task(STEPS, **MINE, name="mine")
    compare(task, ["he_normal"], [0.1], 3, out=tmp_path / "out", **SHORT)
    again = load_result(tmp_path / "out")
    assert again.settings.task == "mine" and again.runs.num_rows == 3
    names, (size, *_) = zip(*again.runs["other_metrics"].to_pylist()[0], strict=True)
    assert names == ("size",) and len(size) == 3 and size[0] != size[2]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "with the optimizer and batches of the task" in page
    changed = Training(
        init, begin, lambda s: step(s._replace(rate=s.rate / 2)), evaluate
    )
    with pytest.raises(FileExistsError, match="loss"):
        task = training_task(changed, **MINE, name="mine")
        compare(task, ["he_normal"], [0.1], 3, out=tmp_path / "out", **SHORT)


def test_what_decides_a_training_is_in_its_name():
    def parts(training, **options):
        task = training_task(training, **{**MINE, **options})
        return identity(task, Config(steps=4, eval_every=2), {}, {}).parts

    same = parts(Training(init, begin, lambda s: step(s), evaluate))
    assert same == parts(STEPS)
    wider = lambda key: jax.tree.map(lambda x: 2 * x, init(key))  # noqa: E731
    other = parts(STEPS._replace(init=wider))
    assert {part for part in same if same[part] != other[part]} == {"model"}
    assert same["loss"] != parts((init, train))["loss"]


def sweep_of(training=STEPS, schemes=("he_normal",), task=None, **options):
    task = {**MINE, **(task or {})}
    return compare(
        training_task(training, **task), schemes, [0.1], 2, **SHORT | options
    )


def own(key, params, apply, batch):
    return params


def objective(returns):
    def f(params, state, batch, key, train):
        return returns(params["Dense_0"]["kernel"], state)

    return f


def given(returns, **options):
    return lambda: task_of(**{"objective": objective(returns), **options})


def training(**parts):
    return lambda: training_task(STEPS._replace(**parts), **MINE)


def inputs(x, y=Y, **options):
    return lambda: make_task(Net(), (x, y), ((X, MASK), Y), target=0.9, **options)


BASE = jax.eval_shape(init, KEY)
HOLES = np.where(MASK, X, np.nan)
HIT = {"metric": "hits", "direction": "max"}

BAD = [
    # Trees.
    (inputs((X, MASK[:40])), "train inputs[0] have 48 examples and inputs[1] 40;"),
    (inputs({"x": X, "mask": MASK[:40]}), "inputs['mask'] have 40 examples"),
    (inputs(Pair(X, MASK[:40]), Y), "inputs.x have 48 examples and inputs.mask 40"),
    (inputs((X, MASK), Y[:7]), "train inputs[0] have 48 examples and labels 7"),
    (inputs((X, HOLES)), "train inputs[1] hold NaN or infinity in"),
    (inputs({"x": X, "mask": "x"}), "train inputs['mask'] have shape ()"),
    (inputs({}), "train inputs of type dict hold no array"),
    (inputs((X,)), "inputs are arrays at [0] and valid inputs arrays at [0], [1]"),
    (inputs((X, MASK.astype(np.float32))), "inputs[1] have dtype float32 and valid"),
    (inputs((X, MASK[:, :4])), "train inputs[1] have shape (4,) each and valid inputs"),
    (inputs((X, MASK), {"a": Y}), "labels are arrays at labels['a']; classes are one"),
    (inputs((X, MASK), None), "train labels of type NoneType hold no array"),
    (lambda: make_task(Net(), {"x": X}, (X, Y), target=1), "type dict must be a pair"),
    (inputs((MASK, X, X)), "are arrays at [0], [1], [2] and valid inputs arrays"),
    # Objectives.
    (given(lambda w, s: (w.sum(0), (s, {}))), "gives 'loss' of shape (3,); one number"),
    (given(lambda w, s: ((w > 0).sum(), (s, {}))), "'loss' of dtype int32; real"),
    (given(lambda w, s: w.sum()), "; (loss, (state, {name: value})) is needed."),
    (given(lambda w, s: (w.sum(), s)), "(loss, (state, {name: value})) is needed."),
    (given(lambda w, s: (w.sum(), (s, [w]))), "measures a list; a mapping from names"),
    (given(lambda w, s: (w.sum(), (s, {"loss": w.sum()}))), "a value named 'loss'"),
    (given(lambda w, s: (w.sum(), (s, {})), **HIT), "no value named 'hits', but none"),
    (
        given(lambda w, s: (w.sum(), (s, {"a": w.sum(), "b": w.sum()})), **HIT),
        "gives no value named 'hits', but 'a', 'b'; return it, or name another",
    ),
    (given(lambda w, s: (w.sum(), (s, {"hits": w})), **HIT), "'hits' of shape (4, 3)"),
    (given(lambda w, s: (w.sum(), ({"n": w}, {}))), "a state of other structure"),
    (given(lambda w, s: w.nothing), "the objective f in evaluation, given batch[0][0]"),
    (lambda: task_of(objective=by_hand, metric="hits"), "must be 'max' if greater"),
    (lambda: task_of(objective=by_hand, direction="max"), "direction is 'min'"),
    (lambda: task_of(objective=by_hand, metric=by_hand), "must be the name of one"),
    (lambda: task_of(objective="elbo"), "objective of type str must be a function"),
    (lambda: task_of(objective=by_hand, loss="squared_error"), "are both given"),
    (
        lambda: compare(task_of(**HITS), "zeros", dtype="bfloat16", batch_size=8),
        "dtype='bfloat16' is for a task with a loss of outputs and labels",
    ),
    # Trainings.
    (lambda: training_task(step, **MINE), "training of type function must be a Train"),
    (training(step=lambda s: (s, s.params["kernel"])), "gives 'loss' of shape (5, 3)"),
    (training(step=lambda s: s.params["bias"]), "a pair (state, loss) is needed"),
    (training(step=lambda s: ((s, s), s.rate)), "step returns a state of other struct"),
    (training(evaluate=lambda s: {}), "no value named 'hits', but none"),
    (training(evaluate=lambda s: s.rate), "a mapping from names to values is needed"),
    (training(begin=lambda p, k: p), "the training's begin raised TypeError"),
    (training(init=lambda key: {}), "the training has no parameters"),
    (lambda: training_task(STEPS, **MINE, inputs=X), "apply and inputs go together"),
    (
        lambda: training_task((init, lambda p, k, h: {"hits": jnp.ones(3)}), **MINE),
        "train gives no value named 'loss', but 'hits'",
    ),
    (
        lambda: training_task(
            (init, lambda p, k, h: {"hits": jnp.ones(3), "loss": jnp.ones(4)}), **MINE
        ),
        "'loss' of shape (4,); all must have one shape (points,)",
    ),
    (lambda: sweep_of((init, train), steps=8), "have 3 points, that is steps=4 with"),
    (lambda: sweep_of(optimizers="adam"), "optimizers=('adam()',), but the"),
    (lambda: sweep_of(batch_size=16), "batch_size=16, but the training of task"),
    (lambda: sweep_of(schemes=["tree.fixup"]), "fixup() needs to know what the layers"),
    (lambda: sweep_of(schemes=[own]), "scheme own needs to know what the layers"),
    (
        lambda: sweep_of(schemes=[ji.tree.mup(BASE)], task=SEEN),
        "has learning rates of its own for each leaf",
    ),
    (lambda: ji.diagnose(training_task(STEPS, **MINE)), "is known of the layers of"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "words"), BAD, ids=[words for _, words in BAD])
def test_one_sentence_before_anything_is_trained(call, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    message = str(caught.value)
    assert words in message and "\n" not in message and message.endswith(".")
