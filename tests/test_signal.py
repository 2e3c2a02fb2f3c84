"""The signal at step 0, against closed forms and against gradients by hand."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxinit as ji
from jaxinit.compare import Config, digits_mlp, make_task, parse_task
from jaxinit.compare.report import signal_figure
from jaxinit.compare.task.task import EXAMPLES
from jaxinit.compare.train import signal
from jaxinit.compare.train.initial import InitialParams

pytestmark = pytest.mark.usefixtures("users_broadcast")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 6)).astype(np.float32)
Y = RNG.normal(size=(80, 3)).astype(np.float32)
KEY = jax.random.key(0)


def rms(x):
    return np.sqrt(np.mean(np.square(np.asarray(x, np.float64))))


def regression(model, x=X):
    return make_task(model, (x, Y), (x, Y), target=0.1, loss="squared_error")


def pair(apply, **params):
    return (lambda key: jax.tree.map(jnp.asarray, params)), apply


def signal_of(task, params=None):
    own, state = jax.jit(task.model.init)(KEY, task.x_train[:4])
    return signal.signal(task, own if params is None else params, state)


def kernels(*shapes, scale=1.0):
    return {
        f"w{k}": (scale * RNG.normal(size=shape)).astype(np.float32)
        for k, shape in enumerate(shapes)
    }


def check(task, params, taps):
    """Against `taps(params, zeros, x) -> (outputs, {path: product})`, by hand."""
    x, y = task.x_train[:EXAMPLES], task.y_train[:EXAMPLES]
    shapes = jax.eval_shape(lambda: taps(params, {}, x)[1])
    zeros = {path: jnp.zeros(out.shape) for path, out in shapes.items()}

    def loss(zeros):
        outputs, products = taps(params, zeros, x)
        each = task.loss(outputs, y)
        return each.reshape(len(x), -1).mean(axis=1).sum(), products

    grads, products = jax.jit(jax.grad(loss, has_aux=True))(zeros)
    rows = signal_of(task, params)
    assert [row.path for row in rows] == list(taps(params, {}, x)[1])
    for row in rows:
        np.testing.assert_allclose(row.forward, rms(products[row.path]), rtol=1e-4)
        np.testing.assert_allclose(row.backward, rms(grads[row.path]), rtol=1e-4)


def test_a_linear_network_has_its_closed_form():
    params = kernels((6, 5), (5, 3))
    task = regression(pair(lambda p, x: x @ p["w0"] @ p["w1"], **params))
    one, two = signal_of(task, params)
    x, y = X[:64].astype(np.float64), Y[:64]
    hidden = x @ params["w0"]
    outputs = hidden @ params["w1"]
    error = 2 * (outputs - y) / 3  # of the mean over three outputs
    assert (one.path, two.path) == ("w0", "w1")
    np.testing.assert_allclose(one.forward, rms(hidden), rtol=1e-5)
    np.testing.assert_allclose(two.forward, rms(outputs), rtol=1e-5)
    np.testing.assert_allclose(two.backward, rms(error), rtol=1e-5)
    np.testing.assert_allclose(one.backward, rms(error @ params["w1"].T), rtol=1e-5)


def test_digits_mlp_layer_by_layer():
    task = digits_mlp(depth=10, width=16)  # Dense_10 comes after Dense_9, not Dense_1
    params, _ = jax.jit(task.model.init)(KEY, task.x_train[:1])

    def taps(params, zeros, x):
        seen = {}
        for k in range(11):
            name = f"Dense_{k}/kernel"
            seen[name] = x @ params[f"Dense_{k}"]["kernel"] + zeros.get(name, 0.0)
            x = seen[name] + params[f"Dense_{k}"]["bias"]
            x = jax.nn.relu(x) if k < 10 else x
        return x, seen

    with jax.default_matmul_precision("highest"):
        check(task, params, taps)


def test_convolutions():
    images = RNG.normal(size=(80, 6, 6, 2)).astype(np.float32)

    def taps(params, zeros, x):
        seen = {}
        for name in ("w0", "w1"):
            x = jax.lax.conv_general_dilated(
                x,
                params[name],
                (2, 2),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            seen[name] = x + zeros.get(name, 0.0)
            x = jnp.tanh(seen[name])
        seen["w2"] = x.mean(axis=(1, 2)) @ params["w2"] + zeros.get("w2", 0.0)
        return seen["w2"], seen

    params = kernels((3, 3, 2, 4), (3, 3, 4, 5), (5, 3))
    task = regression(pair(lambda p, x: taps(p, {}, x)[0], **params), images)
    check(task, params, taps)


def test_kernels_within_calls_and_a_kernel_used_twice():
    inner = jax.jit(lambda w, x: jnp.tanh(x @ w))
    kept = jax.checkpoint(lambda w, x: jnp.sin(x @ w))

    def apply(p, x):
        x = inner(p["w0"], x)
        return kept(p["w1"], inner(p["w0"], x)) @ p["w2"]

    def taps(p, zeros, x):
        seen = {"w0": x @ p["w0"] + zeros.get("w0", 0.0)}
        x = jnp.tanh(jnp.tanh(seen["w0"]) @ p["w0"])
        seen["w1"] = x @ p["w1"] + zeros.get("w1", 0.0)
        seen["w2"] = jnp.sin(seen["w1"]) @ p["w2"] + zeros.get("w2", 0.0)
        return seen["w2"], seen

    params = kernels((6, 6), (6, 5), (5, 3), scale=0.5)
    check(regression(pair(apply, **params)), params, taps)


def test_a_function_keeps_the_derivative_it_was_given():
    # ReLU's is 0 at 0, where that of a maximum would be a half.
    params = {"w0": np.zeros((6, 5), np.float32), "w1": kernels((5, 3))["w0"]}
    apply = lambda p, x: jax.nn.relu(x @ p["w0"]) @ p["w1"]  # noqa: E731
    one, two = signal_of(regression(pair(apply, **params)), params)
    assert one.forward == one.backward == two.forward == 0 and two.backward > 0


@pytest.mark.parametrize("scale", [1e-22, 1e22])
def test_squares_neither_vanish_nor_overflow(scale):
    params = {"w0": kernels((6, 5))["w0"] * np.float32(scale)}
    params["w1"] = kernels((5, 3))["w0"] / np.float32(scale)
    task = regression(pair(lambda p, x: x @ p["w0"] @ p["w1"], **params))
    one, two = signal_of(task, params)
    np.testing.assert_allclose(one.forward, rms(X[:64] @ params["w0"]), rtol=1e-4)
    assert 0.1 < one.backward * scale < 1e3 and 0.1 < two.forward < 1e3


def test_what_is_not_finite(tmp_path):
    params = kernels((6, 5), (5, 5), (5, 3))
    params["w1"] *= np.float32(1e38)
    params["w2"] *= np.float32(1e38)
    apply = lambda p, x: x @ p["w0"] @ p["w1"] @ p["w2"]  # noqa: E731
    task = regression(pair(apply, **params))
    rows = signal_of(task, params)
    assert np.isfinite(rows[0].forward) and not np.isfinite(rows[2].forward)
    both = {"he": signal_of(task), "huge": rows}
    file = tmp_path / "signal.json"
    file.write_text(json.dumps(signal.to_json(both), allow_nan=False))
    content = json.loads(file.read_text())
    assert content["paths"] == ["w0", "w1", "w2"]
    assert content["forward"]["huge"][2] is None
    again = signal.from_json(content)
    assert again["huge"][0].forward == rows[0].forward
    assert np.isnan(again["huge"][2].forward) and again.keys() == both.keys()
    panels = signal_figure.plot(again, "a title", medium="page")
    panels[0].figure.savefig(tmp_path / "signal.svg")
    (_, huge), (_, back) = ([x for x in a.lines if not x.get_gid()] for a in panels)
    assert huge.get_label() == "huge" and list(huge.get_xdata()) == [1, 2, 3]
    assert np.isnan(huge.get_ydata()[2]) and huge.get_ydata()[0] == rows[0].forward
    assert np.isnan(back.get_ydata()).any()
    marks = [line.get_gid() for line in panels[0].lines if line.get_gid()]
    assert marks[-1].startswith("hover:huge, w") and len(marks) < 6


def test_the_figure(tmp_path):
    rows = [signal.LayerSignal(f"layer_{k}", 10.0**-k, 10.0**k) for k in range(12)]
    schemes = {f"normal(stddev={k})": rows for k in range(9)}
    forward, backward = signal_figure.plot(schemes, "digits")
    forward.figure.savefig(tmp_path / "signal.svg")
    assert forward.get_yscale() == backward.get_yscale() == "log"
    assert [line.get_label() for line in forward.lines] == list(schemes)
    looks = {(x.get_color(), x.get_marker(), x.get_linestyle()) for x in forward.lines}
    assert len(looks) == 9
    np.testing.assert_array_equal(backward.lines[0].get_ydata(), 10.0 ** np.arange(12))
    dead = {"dead": [signal.LayerSignal("a", 0.0, float("nan"))]}
    for name, odd in {"0.svg": dead, "1.svg": {"none": []}}.items():
        (axes,) = signal_figure.plot(odd, ways=["backward"])
        axes.figure.savefig(tmp_path / name)
    signal_figure.plot(schemes, ax=[forward, backward])
    assert len(forward.lines) == 18
    with pytest.raises(ValueError, match="1 axes for 2 ways"):
        signal_figure.plot(schemes, ax=forward)


def test_schemes_side_by_side():
    task = digits_mlp(depth=4, width=32)
    schemes = {"he": ji.he_normal(), "small": ji.normal(0.01), "large": ji.normal(1.0)}
    starts = InitialParams(task, Config(), schemes, 1)
    found = {}
    for name in schemes:
        params, states = starts.of([(name, 0)])
        found[name] = jax.tree.map(lambda leaf: leaf[0], (params, states))
    rows = signal.signals(task, found)
    assert rows["he"] == signal.signal(task, *found["he"])
    forward = {name: [row.forward for row in rows[name]] for name in schemes}
    assert len(forward["he"]) == 5
    assert 0.3 < forward["he"][-1] / forward["he"][0] < 3  # He's law keeps it
    assert forward["small"][-1] / forward["small"][0] < 1e-4
    assert forward["large"][-1] / forward["large"][0] > 1e2
    assert signal.signals(task, {}) == {}
    says = {name: signal.explanation(rows[name]) for name in schemes}
    assert says["he"] == "" and says["small"].startswith("The outputs of layers shrink")
    assert "from Dense_0/kernel on" in says["small"]
    assert "logits of deviation" in says["large"]
    assert signal.from_json(json.loads(json.dumps(signal.to_json(rows)))) == rows


class Odd(nn.Module):
    """Layers in a scan, a normalisation by the batch, and dropout."""

    scanned: bool

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(8)(x)
        if self.scanned:
            scan = nn.scan(
                lambda layer, x, _: (nn.tanh(layer(x)), None),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=3,
            )
            x, _ = scan(nn.Dense(8), x, None)
        x = nn.BatchNorm(use_running_average=not train)(100 * x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(3)(x)


@pytest.mark.parametrize("scanned", [False, True])
def test_layers_of_a_scan_have_a_row_each(scanned):
    rows = signal_of(regression(Odd(scanned)))
    paths = [row.path for row in rows]
    middle = [f"Dense_1/kernel[{k}]" for k in range(3)] if scanned else []
    last = "Dense_2/kernel" if scanned else "Dense_1/kernel"
    assert paths == ["Dense_0/kernel", *middle, last]
    # Normalised by the batch, as in training: 100 times as large otherwise.
    assert all(0 < row.forward < 5 and 0 < row.backward < 50 for row in rows)


STACK = RNG.normal(size=(4, 5, 5)).astype(np.float32) / 2


def scanned(stack, x, **options):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stack, **options)[0]


def in_pairs(stack, x):
    def two(x, pair):
        return scanned(pair, x), None

    return jax.lax.scan(two, x, stack.reshape(2, 2, 5, 5))[0]


def separate(p, x):
    for k in range(4):
        x = jnp.tanh(x @ p[f"s{k}"])
    return x


SCANS = {
    "scan": scanned,
    "kept": lambda stack, x: scanned(stack, x, unroll=2),
    "recomputed": lambda stack, x: jax.lax.scan(
        jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None)), x, stack
    )[0],
    "nested": in_pairs,
}


@pytest.mark.parametrize("name", SCANS)
def test_rows_of_a_scan_are_those_of_its_layers_unrolled(name):
    params = {"first": kernels((6, 5))["w0"], **kernels((5, 3))}
    params |= {f"s{k}": w for k, w in enumerate(STACK)}
    apply = lambda p, x: separate(p, x @ p["first"]) @ p["w0"]  # noqa: E731
    expected = signal_of(regression(pair(apply, **params)), params)
    stacked = {**params, "stack": STACK}
    for k in range(4):
        del stacked[f"s{k}"]
    apply = lambda p, x: SCANS[name](p["stack"], x @ p["first"]) @ p["w0"]  # noqa: E731
    rows = signal_of(regression(pair(apply, **stacked)), stacked)
    places = ["0, 0", "0, 1", "1, 0", "1, 1"] if name == "nested" else range(4)
    stack = [f"stack[{place}]" for place in places]
    assert [row.path for row in rows] == ["first", *stack, "w0"]
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row[1:3], other[1:3], rtol=2e-5)


def test_a_reversed_scan_lists_its_layers_as_they_run():
    params = {"stack": STACK, "last": kernels((5, 3))["w0"], **kernels((6, 5))}

    def apply(p, x):
        return scanned(p["stack"], x @ p["w0"], reverse=True) @ p["last"]

    rows = signal_of(regression(pair(apply, **params)), params)
    stack = [f"stack[{place}]" for place in (3, 2, 1, 0)]
    assert [row.path for row in rows] == ["w0", *stack, "last"]


def test_a_kernel_of_every_iteration_has_one_row():
    params = {"in": kernels((2, 5))["w0"], "hidden": STACK[0], **kernels((5, 3))}
    x = RNG.normal(size=(80, 4, 2)).astype(np.float32)

    def taps(p, zeros, x):
        state, seen = jnp.zeros((len(x), 5)), {"in": [], "hidden": []}
        for k in range(4):
            for name, of in (("in", x[:, k]), ("hidden", state)):
                tap = zeros[name][k] if name in zeros else 0.0
                seen[name].append(of @ p[name] + tap)
            state = jnp.tanh(seen["in"][-1] + seen["hidden"][-1])
        seen = {name: jnp.stack(each) for name, each in seen.items()}
        seen["w0"] = state @ p["w0"] + zeros.get("w0", 0.0)
        return seen["w0"], seen

    def apply(p, x):
        step = lambda h, x: (jnp.tanh(x @ p["in"] + h @ p["hidden"]), None)  # noqa: E731
        start = jnp.zeros((len(x), 5))
        return jax.lax.scan(step, start, x.swapaxes(0, 1))[0] @ p["w0"]

    check(regression(pair(apply, **params), x), params, taps)


def test_no_gradient_is_seen_within_a_function_with_its_own_derivative():
    @jax.custom_vjp
    def product(w, x):
        return x @ w

    product.defvjp(
        lambda w, x: (product(w, x), (w, x)),
        lambda kept, g: (2 * kept[1].T @ g, g @ kept[0].T),
    )
    params = kernels((6, 5), (5, 3))
    apply = lambda p, x: product(p["w0"], x) @ p["w1"]  # noqa: E731
    one, two = signal_of(regression(pair(apply, **params)), params)
    np.testing.assert_allclose(one.forward, rms(X[:64] @ params["w0"]), rtol=1e-4)
    assert np.isnan(one.backward) and two.backward > 0


def test_concatenated_kernels_have_each_their_own_share():
    params = kernels((6, 5), (6, 4), (9, 3))
    params["w1"] *= np.float32(10)

    def taps(p, zeros, x):
        seen = {name: x @ p[name] + zeros.get(name, 0.0) for name in ("w0", "w1")}
        hidden = jnp.tanh(jnp.concatenate([seen["w0"], seen["w1"]], axis=1))
        seen["w2"] = hidden @ p["w2"] + zeros.get("w2", 0.0)
        return seen["w2"], seen

    def apply(p, x):
        return jnp.tanh(x @ jnp.concatenate([p["w0"], p["w1"]], axis=1)) @ p["w2"]

    check(regression(pair(apply, **params)), params, taps)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("text-transformer(depth=1, width=16, heads=2)", 7),
        ("digits-resnet(depth=1, width=8)", 4),
    ],
)
def test_every_kernel_of_a_task_has_a_row(text, count):
    rows = signal_of(parse_task(text))
    assert len(rows) == len({row.path for row in rows}) == count
    assert all(row.forward > 0 and row.backward > 0 for row in rows)


def test_a_module_of_equinox():
    eqx = pytest.importorskip("equinox")
    task = regression(lambda key: eqx.nn.MLP(6, 3, 8, 2, key=key))
    rows = signal_of(task)
    assert [row.path for row in rows] == [f"layers/{k}/weight" for k in range(3)]
    module = eqx.nn.MLP(6, 3, 8, 2, key=KEY)
    first = X[:64] @ np.asarray(module.layers[0].weight).T
    np.testing.assert_allclose(rows[0].forward, rms(first), rtol=1e-5)
