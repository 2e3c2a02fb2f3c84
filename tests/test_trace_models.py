"""`jaxinit.trace` on the frameworks' own layers, proved by output variance.

A kernel drawn from N(0, 1 / fan_in) sends unit inputs to unit outputs if the fan is
right, and to none other. `check_variance` measures that over many draws of weights and
inputs: the mean square of the output against 1, within 6 standard errors of that very
sample (two-sided 2e-9 under normality), each at most 0.03, so that a fan wrong by a
quarter is caught. Positions at an edge are kept out by circular or no padding.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jaxinit.trace import kernels, layers

pytestmark = pytest.mark.usefixtures("users_broadcast")

KEY = jax.random.key(0)
DRAWS = 128


def shaped(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def ids(*shape):
    return shaped(*shape, dtype=jnp.int32)


def draw(rng, leaf, layer):
    """DRAWS times the leaf: LeCun-normal by use, ones for scales, zeros for biases."""
    shape = (DRAWS, *leaf.shape)
    if layer.kind in ("dense", "conv", "embedding"):
        return np.float32(rng.standard_normal(shape) / math.sqrt(layer.fan_in))
    return np.full(shape, layer.kind == "scale", leaf.dtype)


def unit(rng, x):
    """DRAWS times an input, standard normal or numbers below 4."""
    shape = (DRAWS, *x.shape)
    if jnp.issubdtype(x.dtype, jnp.floating):
        return np.float32(rng.standard_normal(shape))
    return rng.integers(4, size=shape, dtype=x.dtype)


def check_variance(apply, params, *inputs):
    """The mean square of the outputs is 1 for drawn parameters and unit inputs."""
    found = {layer.path: layer for layer in layers(apply, params, *inputs)}
    for layer in kernels(found.values()):
        axes = (*layer.in_axes, *layer.out_axes, *layer.batch_axes)
        axes += layer.receptive_axes
        assert sorted(axes) == list(range(len(layer.shape))), layer
    rng = np.random.default_rng(0)
    flat, tree = jax.tree_util.tree_flatten_with_path(params)
    drawn = {
        k: draw(rng, leaf, found[jax.tree_util.keystr(p, simple=True, separator="/")])
        for k, (p, leaf) in enumerate(flat)
        if hasattr(leaf, "shape")
    }

    def mean_square(given):
        drawn, data = given
        leaves = [drawn.get(k, leaf) for k, (_, leaf) in enumerate(flat)]
        out = apply(jax.tree_util.tree_unflatten(tree, leaves), *data)
        return jnp.mean(jnp.square(out))

    data = [unit(rng, x) for x in inputs]
    squares = np.asarray(jax.jit(lambda x: lax.map(mean_square, x))((drawn, data)))
    error = squares.std() / math.sqrt(DRAWS)
    assert error < 0.03, error
    assert abs(squares.mean() - 1) < 6 * error, (squares.mean(), error)
    return found


def linen(module, *inputs, method=None):
    """A Linen module as a function, with the shapes of its parameters."""
    empty = [jnp.zeros(x.shape, x.dtype) for x in inputs]
    variables = jax.eval_shape(lambda: module.init(KEY, *empty))
    return (lambda p, *x: module.apply(p, *x, method=method)), variables, *inputs


def split(make, *inputs):
    """An NNX module as a function, with the shapes of its parameters."""
    module = make(nnx.Rngs(0))
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    params = jax.tree.map(lambda x: shaped(*x.shape, dtype=x.dtype), params)

    def apply(params, *inputs):
        # Without a copy the variables of `rest` would stay outside of the trace.
        return nnx.merge(graph, params, rest, copy=True)(*inputs)

    return apply, params, *inputs


IMAGE = shaped(2, 8, 8, 32)
CIRCULAR = {"padding": "CIRCULAR", "use_bias": False}


class Stack(nn.Module):
    """Dense layers scanned over a stacked axis, each in `remat`."""

    @nn.compact
    def __call__(self, x):
        class Body(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                return nn.remat(nn.Dense)(x.shape[-1])(x), None

        scan = nn.scan(
            Body, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return scan()(x, None)[0]


def mixture(p, x):
    """Experts by einsum, each with its own tokens."""
    hidden = jnp.einsum("ecd,edf->ecf", x, p["up"])
    return jnp.einsum("ecf,efd->ecd", hidden, p["down"])


def keras_depthwise(w, x):
    w = w.reshape(3, 3, 1, 128)
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, w, (1, 1), "VALID", dimension_numbers=numbers, feature_group_count=128
    )


def torch_conv_transpose(w, x):
    """`ConvTranspose2d`, whose weight is (in, out, k, k)."""
    w = jnp.flip(w, (2, 3)).swapaxes(0, 1)
    return lax.conv_general_dilated(x, w, (1, 1), "VALID")


# The rows of "Where the fan is wrong today" first.
VARIANCE = {
    "DenseGeneral, batch_dims": lambda: linen(
        nn.DenseGeneral(8, axis=-1, batch_dims=(0,)), shaped(16, 5, 6)
    ),
    "Einsum hdf": lambda: linen(
        nn.Einsum((8, 16, 4), "bd,hdf->bhf", use_bias=False), shaped(4, 16)
    ),
    "ConvTranspose, transpose_kernel": lambda: linen(
        nn.ConvTranspose(8, (3, 3), transpose_kernel=True, **CIRCULAR), IMAGE
    ),
    "depthwise": lambda: linen(
        nn.Conv(32, (3, 3), feature_group_count=32, **CIRCULAR), IMAGE
    ),
    "keras depthwise": lambda: (
        keras_depthwise,
        shaped(3, 3, 128, 1),
        shaped(1, 5, 5, 128),
    ),
    "torch ConvTranspose2d": lambda: (
        torch_conv_transpose,
        shaped(64, 8, 3, 3),
        shaped(1, 64, 6, 6),
    ),
    "Dense": lambda: linen(nn.Dense(32), shaped(8, 16)),
    "Dense, one input": lambda: linen(nn.Dense(64), shaped(64, 1)),
    "DenseGeneral to heads": lambda: linen(nn.DenseGeneral((4, 8)), shaped(4, 16)),
    "DenseGeneral from heads": lambda: linen(
        nn.DenseGeneral(32, axis=(-2, -1)), shaped(8, 4, 4)
    ),
    "ConvTranspose, stride 2": lambda: linen(
        nn.ConvTranspose(8, (4, 4), strides=(2, 2), **CIRCULAR), IMAGE
    ),
    "ConvTranspose, stride 2, window 3, transpose_kernel": lambda: linen(
        nn.ConvTranspose(8, (3, 3), strides=(2, 2), transpose_kernel=True, **CIRCULAR),
        IMAGE,
    ),
    "grouped, dilated, strided": lambda: linen(
        nn.Conv(
            16, (3, 3), feature_group_count=4, kernel_dilation=2, strides=2, **CIRCULAR
        ),
        IMAGE,
    ),
    "ConvLocal, one dimension": lambda: linen(
        nn.ConvLocal(16, (3,), padding="VALID", use_bias=False), shaped(4, 10, 8)
    ),
    "Embed": lambda: linen(nn.Embed(40, 32), ids(4, 9)),
    "WeightNorm": lambda: linen(nn.WeightNorm(nn.Dense(32)), shaped(8, 16)),
    "remat and scan": lambda: linen(Stack(), shaped(4, 64)),
    "vmapped ensemble": lambda: (
        lambda p, x: jax.vmap(nn.Dense(16).apply)(p, x),
        {"params": {"kernel": shaped(5, 16, 16), "bias": shaped(5, 16)}},
        shaped(5, 4, 16),
    ),
    "mixture of experts": lambda: (
        mixture,
        {"up": shaped(4, 16, 32), "down": shaped(4, 32, 16)},
        shaped(4, 8, 16),
    ),
    "experts chosen by index": lambda: (
        lambda p, x, i: jnp.einsum("bd,bdf->bf", x, p[i]),
        shaped(7, 16, 32),
        shaped(8, 16),
        ids(8),
    ),
    "NNX Linear": lambda: split(lambda r: nnx.Linear(16, 32, rngs=r), shaped(8, 16)),
    "NNX LinearGeneral": lambda: split(
        lambda r: nnx.LinearGeneral((4, 4), (4, 8), axis=(-2, -1), rngs=r),
        shaped(8, 4, 4),
    ),
    "NNX Einsum": lambda: split(
        lambda r: nnx.Einsum("bd,hdf->bhf", (4, 16, 8), None, rngs=r), shaped(8, 16)
    ),
    "NNX Conv": lambda: split(
        lambda r: nnx.Conv(
            32, 16, (3, 3), padding="CIRCULAR", feature_group_count=2, rngs=r
        ),
        IMAGE,
    ),
    "NNX ConvTranspose": lambda: split(
        lambda r: nnx.ConvTranspose(
            32, 8, (4, 4), strides=2, padding="CIRCULAR", transpose_kernel=True, rngs=r
        ),
        IMAGE,
    ),
    "NNX WeightNorm": lambda: split(
        lambda r: nnx.WeightNorm(nnx.Linear(16, 32, rngs=r), rngs=r), shaped(8, 16)
    ),
}


@pytest.mark.parametrize("name", VARIANCE)
def test_output_variance(name):
    check_variance(*VARIANCE[name]())


def linear(x):
    return x


def ones(x):
    return x * 0.0 + 1.0


@pytest.mark.parametrize(
    "make", [nn.LSTMCell, nn.OptimizedLSTMCell, "nnx", "nnx fused"]
)
@pytest.mark.parametrize("side", ["input", "state"])
def test_lstm_variance(make, side):
    # From an empty cell, with nonlinearities taken out one kind at a time, the new
    # cell and state are the gates' own pre-activations.
    x, h = shaped(4, 16), shaped(4, 32)

    def build(**functions):
        if not isinstance(make, str):
            cell = make(32, **functions)
            params = jax.eval_shape(
                lambda: cell.init(KEY, (jnp.zeros(h.shape),) * 2, jnp.zeros(x.shape))
            )
            return cell.apply, params
        kind = nnx.LSTMCell if make == "nnx" else nnx.OptimizedLSTMCell
        apply, params = split(lambda r: kind(16, 32, **functions, rngs=r))
        return apply, params

    for functions in (
        {"gate_fn": linear, "activation_fn": ones},
        {"gate_fn": ones, "activation_fn": linear},
    ):
        apply, params = build(**functions)

        def gates(params, x, h, apply=apply, functions=functions):
            x, h = (x, 0.0 * h) if side == "input" else (0.0 * x, h)
            (cell, state), _ = apply(params, (jnp.zeros_like(h), h), x)
            if functions["gate_fn"] is linear:
                return jnp.stack([cell, state])
            return cell

        found = check_variance(gates, params, x, h)
        drawn = kernels(found.values())
        assert {layer.shape[0]: layer.fan_in for layer in drawn} == {16: 16, 32: 32}


@pytest.mark.parametrize("make", [nn.GRUCell, nn.MGUCell, nn.SimpleCell, "nnx"])
def test_gru_fans(make):
    x, h = shaped(4, 16), shaped(4, 32)
    if make == "nnx":
        apply, params = split(lambda r: nnx.GRUCell(16, 32, rngs=r))
    else:
        cell = make(32)
        apply, params, *_ = linen(cell, h, x)
    drawn = kernels(layers(apply, params, h, x))
    assert len(drawn) == {nn.GRUCell: 6, nn.MGUCell: 4}.get(make, 2)
    for layer in drawn:
        assert (layer.in_axes, layer.out_axes) == ((0,), (1,))
        assert layer.fan_in == layer.shape[0] and layer.fan_out == layer.shape[1]
        assert not layer.residual


@pytest.mark.parametrize(
    "cell", [nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell, nnx.LSTMCell]
)
def test_rnn_over_time(cell):
    x = shaped(2, 5, 16)
    if cell is nnx.LSTMCell:
        case = split(lambda r: nnx.RNN(nnx.LSTMCell(16, 8, rngs=r)), x)
    else:
        case = linen(nn.RNN(cell(8)), x)

    def gate_of(path):
        return path.removesuffix("/value").split("/")[-2].strip("_")

    found = {gate_of(layer.path): layer for layer in kernels(layers(*case))}
    gates = "rzn" if cell is nn.GRUCell else "ifgo"
    assert set(found) == {side + gate for side in "ih" for gate in gates}
    for gate in gates:
        after = "tanh" if gate in "gn" else "sigmoid"
        for side, fan_in in (("i", 16), ("h", 8)):
            layer = found[side + gate]
            assert (layer.kind, layer.fan_in, layer.fan_out) == ("dense", fan_in, 8)
            assert layer.activation_after == after and layer.uses == 1
            assert layer.activation_before == ("tanh" if side == "h" else None)
            assert {gate_of(path) for path in layer.feeds} == {"h" + g for g in gates}


@pytest.mark.parametrize("framework", ["linen", "nnx"])
@pytest.mark.parametrize("taken", ["query", "key", "value"])
def test_attention_variance(framework, taken):
    def chosen(query, key, value, **_):
        return {"query": query, "key": key, "value": value}[taken]

    x = shaped(4, 5, 32)
    if framework == "linen":
        case = linen(nn.MultiHeadDotProductAttention(4, attention_fn=chosen), x)
    else:
        case = split(
            lambda r: nnx.MultiHeadAttention(
                4, 32, attention_fn=chosen, decode=False, rngs=r
            ),
            x,
        )
    found = check_variance(*case)
    for path, layer in found.items():
        if "kernel" in path:
            out = "out" in path
            assert layer.in_axes == ((0, 1) if out else (0,)), layer
            assert layer.out_axes == ((2,) if out else (1, 2))
            assert layer.fan_in == layer.fan_out == 32


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_attention_activations(framework):
    x = shaped(2, 5, 16)
    if framework == "linen":
        case = linen(nn.MultiHeadDotProductAttention(4), x)
    else:
        case = split(lambda r: nnx.MultiHeadAttention(4, 16, decode=False, rngs=r), x)
    found = {layer.path.removeprefix("params/"): layer for layer in layers(*case)}
    found = {path.split("/")[0]: v for path, v in found.items() if "kernel" in path}
    after = {name: layer.activation_after for name, layer in found.items()}
    assert after == {"query": "softmax", "key": "softmax", "value": None, "out": None}
    assert found["out"].activation_before is None
    feeds = {name: [p.split("/")[-2 if framework == "linen" else 0] for p in v.feeds]
             for name, v in found.items()}  # fmt: skip
    assert feeds == {"query": ["out"], "key": ["out"], "value": ["out"], "out": []}


class Block(nn.Module):
    """A transformer block before normalisation."""

    @nn.compact
    def __call__(self, x, _=None):
        h = nn.LayerNorm()(x)
        mask = nn.make_causal_mask(jnp.ones(x.shape[:2]))
        x = x + nn.MultiHeadDotProductAttention(4, name="attention")(h, mask=mask)
        h = nn.RMSNorm()(x)
        h = nn.gelu(nn.Dense(4 * x.shape[-1], name="up")(h))
        return x + nn.Dense(x.shape[-1], name="down")(h), None


class GPT(nn.Module):
    """A language model with tied embeddings, its blocks in a loop or scanned."""

    scan: bool = False

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(50, 16, name="tokens")
        places = nn.Embed(8, 16, name="places")(jnp.arange(tokens.shape[1])[None])
        x = embed(tokens) + places
        if self.scan:
            blocks = nn.scan(
                nn.remat(Block),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=3,
            )
            x, _ = blocks(name="blocks")(x, None)
        else:
            for number in range(3):
                x, _ = Block(name=f"block_{number}")(x)
        return embed.attend(nn.LayerNorm(name="last")(x))


def test_gpt():
    apply, params, tokens = linen(GPT(), ids(2, 8))
    found = {layer.path[7:]: layer for layer in layers(apply, params, tokens)}
    assert len(found) == len(jax.tree.leaves(params))
    assert {layer.kind for layer in found.values()} == {
        "embedding", "scale", "bias", "dense",
    }  # fmt: skip
    tied = found["tokens/embedding"]
    assert (tied.kind, tied.uses, tied.other_uses[0].kind) == ("embedding", 2, "dense")
    ends = [path for path, layer in found.items() if layer.residual]
    assert ends == [
        f"block_{k}/{name}/kernel"
        for k in range(3)
        for name in ("attention/out", "down")
    ]
    order = [layer.path[7:] for layer in kernels(found.values())]
    names = [f"attention/{n}" for n in ("query", "key", "value", "out")] + [
        "up",
        "down",
    ]
    assert order == [f"block_{k}/{n}/kernel" for k in range(3) for n in names]
    assert found["block_1/up/kernel"].activation_after == "gelu"
    assert found["block_1/down/kernel"].activation_before == "gelu"
    assert found["block_1/up/kernel"].activation_before is None
    down = found["block_2/down/kernel"]
    assert down.feeds == ("params/tokens/embedding",) and down.activation_after is None


def test_scanned_gpt_is_the_loop_with_a_batch_axis():
    def read(scan):
        apply, params, tokens = linen(GPT(scan), ids(2, 8))
        return {layer.path[7:]: layer for layer in layers(apply, params, tokens)}

    looped, scanned = read(False), read(True)
    for path, layer in scanned.items():
        twin = looped[path.replace("blocks", "block_1")]
        inside = path.startswith("blocks")
        shift = int(inside)
        assert layer.batch_axes == ((0,) if inside else ())
        assert layer.shape == ((3,) if inside else ()) + twin.shape
        for name in ("in_axes", "out_axes"):
            moved = tuple(axis + shift for axis in getattr(twin, name))
            assert getattr(layer, name) == moved
        for name in (
            "kind", "fan_in", "fan_out", "uses", "residual",
            "activation_before", "activation_after",
        ):  # fmt: skip
            assert getattr(layer, name) == getattr(twin, name), (path, name)


def test_nnx_scanned_transformer():
    class Layer(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.LayerNorm(8, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
            self.up = nnx.Linear(8, 16, rngs=rngs)
            self.down = nnx.Linear(16, 8, rngs=rngs)
            self.drop = nnx.Dropout(0.1, deterministic=True, rngs=rngs)

        def __call__(self, x):
            x = x + self.attention(self.norm(x))
            return x + self.drop(self.down(nnx.gelu(self.up(x))))

    class Model(nnx.Module):
        def __init__(self, rngs):
            @nnx.split_rngs(splits=3)
            @nnx.vmap(in_axes=(0,), out_axes=0)
            def build(rngs):
                return Layer(rngs)

            self.layers = build(rngs)
            self.embed = nnx.Embed(10, 8, rngs=rngs)

        def __call__(self, tokens):
            @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
            def forward(layer, x):
                return layer(x)

            return self.embed.attend(forward(self.layers, self.embed(tokens)))

    case = split(Model, ids(2, 5))
    found = {layer.path.removesuffix("/value"): layer for layer in layers(*case)}
    assert not [layer for layer in found.values() if layer.kind == "unknown"]
    fans = {"up": (8, 16), "down": (16, 8)}
    for name, (fan_in, fan_out) in fans.items():
        layer = found[f"layers/{name}/kernel"]
        assert (layer.in_axes, layer.out_axes, layer.batch_axes) == ((1,), (2,), (0,))
        assert (layer.fan_in, layer.fan_out) == (fan_in, fan_out)
    out = found["layers/attention/out/kernel"]
    assert (out.in_axes, out.out_axes, out.batch_axes) == ((1, 2), (3,), (0,))
    ends = [path for path, layer in found.items() if layer.residual]
    assert ends == ["layers/attention/out/kernel", "layers/down/kernel"]
    assert found["embed/embedding"].uses == 2


def test_resnet():
    class ResNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            for width in (8, 16):
                y = nn.Conv(width, (3, 3), use_bias=False, name=f"a{width}")(x)
                y = nn.relu(nn.BatchNorm(use_running_average=False)(y))
                y = nn.Conv(width, (3, 3), strides=width // 8, name=f"b{width}")(y)
                y = nn.GroupNorm(4)(y)
                strides = width // 8
                skip = nn.Conv(width, (1, 1), strides=strides, name=f"skip{width}")(x)
                x = nn.relu(skip + y)
            return nn.Dense(10, name="head")(x.mean((1, 2)))

    module = ResNet()
    variables = jax.eval_shape(lambda: module.init(KEY, jnp.zeros((2, 8, 8, 3))))
    stats = {"batch_stats": variables["batch_stats"]}

    def apply(params, x, stats):
        return module.apply({"params": params, **stats}, x, mutable=["batch_stats"])[0]

    found = layers(apply, variables["params"], shaped(2, 8, 8, 3), stats)
    drawn = {layer.path.split("/")[0]: layer for layer in kernels(found)}
    assert list(drawn) == ["a8", "b8", "skip8", "a16", "b16", "skip16", "head"]
    assert [name for name, layer in drawn.items() if layer.residual] == ["b8", "b16"]
    assert all(
        layer.activation_after == "relu" for n, layer in drawn.items() if n != "head"
    )
    assert drawn["a8"].activation_before is None
    assert drawn["head"].activation_before == drawn["b16"].activation_before == "relu"
    assert drawn["b16"].fan_in == 9 * 16 and drawn["b16"].fan_out == 9 * 16 / 4
    assert drawn["b16"].stride == (2, 2) and drawn["skip16"].fan_out == 16


def test_vision_transformer_tokens():
    class ViT(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(16, (4, 4), strides=(4, 4), name="patches")(x)
            x = x.reshape(x.shape[0], -1, 16)
            token = self.param("token", nn.initializers.zeros, (1, 1, 16))
            x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, 16)), x], 1)
            x = x + self.param("places", nn.initializers.zeros, (1, x.shape[1], 16))
            return nn.Dense(3, name="head")(Block(name="block")(x)[0][:, 0])

    found = {la.path[7:]: la for la in layers(*linen(ViT(), shaped(2, 8, 8, 3)))}
    patches = found["patches/kernel"]
    assert (patches.kind, patches.fan_in, patches.fan_out) == ("conv", 48, 16)
    assert found["token"].kind == "embedding" and found["places"].kind == "bias"
    assert found["token"].feeds == patches.feeds
    assert found["block/down/kernel"].feeds == ("params/head/kernel",)


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_spectral_norm(framework):
    if framework == "linen":
        module = nn.SpectralNorm(nn.Dense(5))
        empty = jnp.zeros((2, 4))
        params = jax.eval_shape(lambda: module.init(KEY, empty, update_stats=False))
        apply = lambda p, x: module.apply(  # noqa: E731
            p, x, update_stats=True, mutable=["batch_stats"]
        )
    else:
        module = nnx.eval_shape(
            lambda: nnx.SpectralNorm(
                nnx.Linear(4, 5, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0)
            )
        )
        graph, params = nnx.split(module)
        apply = lambda p, x: nnx.merge(graph, p)(x, update_stats=True)  # noqa: E731
    (kernel,) = kernels(layers(apply, params, shaped(2, 4)))
    assert (kernel.in_axes, kernel.out_axes, kernel.fan_in) == ((0,), (1,), 4)


def test_lora_and_batch_norm_and_prelu():
    case = split(
        lambda r: nnx.LoRA(6, 2, 5, base_module=nnx.Linear(6, 5, rngs=r), rngs=r),
        shaped(3, 6),
    )
    lora = {layer.path.split("/")[0]: layer for layer in kernels(layers(*case))}
    assert (lora["lora_a"].fan_in, lora["lora_b"].fan_in) == (6, 2)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.PReLU()(nn.Dense(8)(x))
            return nn.Dense(4)(x)

    found = {la.path[7:]: la for la in layers(*linen(Net(), shaped(3, 6)))}
    assert found["PReLU_0/negative_slope"].kind == "scale"
    assert found["Dense_0/kernel"].activation_after == "leaky_relu"
    assert found["Dense_1/kernel"].activation_before == "leaky_relu"


def test_metadata_boxes_and_modules_as_parameters():
    init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
    boxed = {
        la.path: la
        for la in layers(*linen(nn.Dense(5, kernel_init=init), shaped(2, 6)))
    }
    assert boxed["params/kernel/value"].fan_in == 6
    module = nnx.Linear(6, 5, rngs=nnx.Rngs(0))
    found = {la.path: la for la in layers(lambda m, x: m(x), module, shaped(2, 6))}
    assert {path: layer.kind for path, layer in found.items()} == {
        "kernel/value": "dense", "bias/value": "bias",
    }  # fmt: skip


def test_vmapped_model_has_a_batch_axis_in_every_kernel():
    apply, params, tokens = linen(GPT(), ids(2, 8))
    stacked = jax.tree.map(lambda leaf: shaped(5, *leaf.shape), params)
    found = layers(jax.vmap(apply), stacked, ids(5, 2, 8))
    alone = {layer.path: layer for layer in layers(apply, params, tokens)}
    for layer in found:
        twin = alone[layer.path]
        assert layer.kind == twin.kind
        # Positions are looked up at constant places: their models stay unseparated.
        if layer.kind == "dense" or "tokens" in layer.path:
            assert layer.batch_axes == (0,) and layer.fan_in == twin.fan_in
            assert layer.in_axes == tuple(axis + 1 for axis in twin.in_axes)
            assert layer.fan_out == twin.fan_out and layer.feeds == twin.feeds


# --- Equinox -------------------------------------------------------------------------


def equinox_cases():
    import equinox as eqx

    return {
        "Linear": (eqx.nn.Linear(16, 32, use_bias=False, key=KEY), shaped(8, 16)),
        "Conv2d": (
            eqx.nn.Conv2d(32, 16, 3, groups=2, use_bias=False, key=KEY),
            shaped(2, 32, 8, 8),
        ),
        "WeightNorm": (
            eqx.nn.WeightNorm(eqx.nn.Linear(16, 32, use_bias=False, key=KEY)),
            shaped(8, 16),
        ),
        "Embedding": (eqx.nn.Embedding(40, 64, key=KEY), ids(8)),
    }


@pytest.mark.parametrize("name", ["Linear", "Conv2d", "WeightNorm", "Embedding"])
def test_equinox_variance(name):
    pytest.importorskip("equinox")
    module, x = equinox_cases()[name]
    check_variance(lambda m, x: jax.vmap(m)(x), module, x)


def test_equinox_models():
    eqx = pytest.importorskip("equinox")
    mlp = eqx.nn.MLP(6, 3, 8, 2, key=KEY)
    found = kernels(layers(lambda m, x: m(x), mlp, shaped(6)))
    assert [(la.path, la.in_axes, la.out_axes, la.fan_in) for la in found] == [
        (f"layers/{k}/weight", (1,), (0,), fan) for k, fan in enumerate((6, 8, 8))
    ]
    assert [la.activation_after for la in found] == ["relu", "relu", None]
    for cell, gates in ((eqx.nn.LSTMCell, 4), (eqx.nn.GRUCell, 3)):
        state = (shaped(8), shaped(8)) if gates == 4 else shaped(8)
        found = kernels(
            layers(lambda m, *x: m(*x), cell(6, 8, key=KEY), shaped(6), state)
        )
        assert [(la.fan_in, la.fan_out) for la in found] == [
            (6, 8 * gates),
            (8, 8 * gates),
        ]
        assert all(la.in_axes == (1,) for la in found)
    attention = eqx.nn.MultiheadAttention(2, 8, key=KEY)
    found = kernels(layers(lambda m, x: m(x, x, x), attention, shaped(5, 8)))
    assert all((la.in_axes, la.out_axes) == ((1,), (0,)) for la in found)
    assert [la.activation_after for la in found] == ["softmax", "softmax", None, None]
    up = eqx.nn.ConvTranspose2d(4, 8, 3, stride=2, key=KEY)
    (found,) = kernels(layers(lambda m, x: m(x), up, shaped(4, 8, 8)))
    assert (found.fan_in, found.in_axes, found.out_axes) == (9, (1,), (0,))
    assert found.upsample == (2, 2)


# --- Haiku ---------------------------------------------------------------------------


def haiku(function, *inputs):
    import haiku as hk

    net = hk.without_apply_rng(hk.transform(function))
    return net.apply, jax.eval_shape(net.init, KEY, *inputs), *inputs


@pytest.mark.parametrize("name", ["Linear", "DepthwiseConv2D", "Conv2DTranspose"])
def test_haiku_variance(name):
    hk = pytest.importorskip("haiku")
    options = {"padding": "VALID", "with_bias": False}
    function, x = {
        "Linear": (lambda x: hk.Linear(32)(x), shaped(8, 16)),
        "DepthwiseConv2D": (
            lambda x: hk.DepthwiseConv2D(2, 3, **options)(x),
            shaped(2, 8, 8, 16),
        ),
        "Conv2DTranspose": (
            # The edge meets fewer taps: it is cut off.
            lambda x: hk.Conv2DTranspose(16, 4, 2, **options)(x)[:, 2:-2, 2:-2],
            shaped(2, 8, 8, 16),
        ),
    }[name]
    check_variance(*haiku(function, x))


def test_haiku_models():
    hk = pytest.importorskip("haiku")

    def recurrent(x):
        core = hk.LSTM(6)
        return hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))[0]

    (kernel,) = kernels(layers(*haiku(recurrent, shaped(7, 2, 4))))
    assert (kernel.fan_in, kernel.fan_out, kernel.feeds) == (10, 24, (kernel.path,))

    def attention(x):
        init = hk.initializers.VarianceScaling()
        return hk.MultiHeadAttention(2, 4, w_init=init)(x, x, x)

    found = kernels(layers(*haiku(attention, shaped(2, 5, 8))))
    assert [la.path.split("/")[1] for la in found] == [
        "query",
        "key",
        "value",
        "linear",
    ]
    assert [la.activation_after for la in found] == ["softmax", "softmax", None, None]
    assert all(la.fan_in == 8 and la.in_axes == (0,) for la in found)
