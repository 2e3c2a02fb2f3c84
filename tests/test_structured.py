"""What structured kernels are for: to hand on, upsample, transform, remember."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax import lax

import jaxinit as ji


def convolve(x, kernel, groups=1, padding="SAME"):
    spatial = "XYZ"[: kernel.ndim - 2]
    layout = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    return lax.conv_general_dilated(
        x,
        kernel,
        (1,) * len(spatial),
        padding,
        dimension_numbers=layout,
        feature_group_count=groups,
    )


@pytest.mark.parametrize("spatial", [(3,), (4,), (3, 3), (2, 5), (3, 4, 1)])
@pytest.mark.parametrize(
    ("inputs", "outputs", "groups"), [(4, 4, 1), (4, 6, 1), (6, 4, 1), (6, 12, 3)]
)
def test_dirac_hands_its_input_on(spatial, inputs, outputs, groups, key):
    kernel = ji.dirac(groups, gain=2.0)(key, (*spatial, inputs // groups, outputs))
    x = jax.random.normal(key, (2, *[7] * len(spatial), inputs))
    y = convolve(x, kernel, groups).reshape(*x.shape[:-1], groups, -1)
    x = x.reshape(*x.shape[:-1], groups, -1)
    shared = min(x.shape[-1], y.shape[-1])
    np.testing.assert_allclose(y[..., :shared], 2 * x[..., :shared], rtol=1e-6)
    assert not y[..., shared:].any()


@pytest.mark.parametrize("spatial", [(3,), (2, 2), (3, 3), (2, 2, 2)])
@pytest.mark.parametrize(("inputs", "outputs"), [(6, 6), (4, 7), (7, 4), (1, 1)])
def test_convolution_orthogonal_is_an_isometry(spatial, inputs, outputs, key):
    kernel = ji.convolution_orthogonal(2.0)(key, (*spatial, inputs, outputs))
    sizes = [5] * len(spatial)
    # At every frequency of a circular signal the channels meet a matrix K(f).
    axes = tuple(range(len(spatial)))
    matrices = np.fft.fftn(np.asarray(kernel, np.float64), sizes, axes)
    matrices = matrices.reshape(-1, inputs, outputs)
    if inputs <= outputs:
        gram = matrices @ matrices.conj().swapaxes(1, 2)
    else:
        gram = matrices.conj().swapaxes(1, 2) @ matrices
    np.testing.assert_allclose(
        gram, np.tile(4 * np.eye(min(inputs, outputs)), (len(gram), 1, 1)), atol=1e-4
    )
    if max(inputs, outputs) > 1:  # it mixes pixels, unlike delta-orthogonal
        assert (jnp.abs(kernel).sum(axis=(-1, -2)) > 1e-3).all()


def test_scaled_orthogonal_keeps_the_mean_square(key):
    x = jax.random.normal(key, (64, 32))
    for outputs in (32, 128):
        y = x @ ji.scaled_orthogonal()(key, (32, outputs))
        np.testing.assert_allclose((y**2).mean(1), (x**2).mean(1), rtol=1e-4)


def test_zero_has_orthogonal_rows_or_is_a_partial_identity(key):
    wide = ji.hadamard_identity()(key, (48, 64))
    np.testing.assert_allclose(wide @ wide.T, 2 * np.eye(48), atol=1e-5)
    tall = ji.hadamard_identity()(key, (64, 48))
    np.testing.assert_array_equal(tall, np.eye(64, 48))
    kernel = ji.hadamard_identity()(key, (3, 3, 8, 8))
    x = jax.random.normal(key, (1, 6, 6, 8))
    np.testing.assert_allclose(convolve(x, kernel), x, rtol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "outputs"), [(8, 8), (12, 5), (5, 12), (1, 2), (48, 64), (3, 1000)]
)
def test_zero_is_the_authors_codes_times_the_root_of_two_where_it_widens(
    key, inputs, outputs
):
    # jiaweizzhao/ZerO-initialization, `ZerO_Init_on_matrix`, for weights (out, in).
    code = np.eye(outputs, inputs)
    if outputs > inputs:
        m = math.ceil(math.log2(outputs))
        wide = scipy.linalg.hadamard(2**m) / 2 ** (m / 2)
        code = np.eye(outputs, 2**m) @ wide @ np.eye(2**m, inputs)
        code = code * 2**0.5
    ours = ji.hadamard_identity()(key, (inputs, outputs))
    np.testing.assert_allclose(ours, code.T, rtol=1e-6)


def test_sparse_counts_exactly(key):
    w = ji.sparse(7, stddev=2.0)(key, (3, 3, 20, 50)).reshape(-1, 50)
    assert ((w != 0).sum(axis=0) == 7).all()
    assert abs(float(w[w != 0].std()) / 2 - 1) < 0.1
    w = ji.sparse(sparsity=0.33)(key, (100, 40))
    assert ((w == 0).sum(axis=0) == 33).all()
    assert not ji.sparse(sparsity=1.0)(key, (100, 40)).any()
    rows = (ji.sparse(1)(key, (10, 2000)) != 0).mean(axis=1)  # every input alike
    assert (abs(rows - 0.1) < 6 * (0.09 / 2000) ** 0.5).all()


@pytest.mark.parametrize("factor", [2, 3])
def test_bilinear_upsamples_ramps_exactly(factor, key):
    size = 2 * factor - factor % 2
    kernel = ji.bilinear()(key, (size, size, 1, 1))
    ramp = jnp.arange(8.0)
    image = (ramp[:, None] + 10 * ramp[None])[None, :, :, None]
    up = lax.conv_transpose(image, kernel, (factor, factor), "SAME")[0, :, :, 0]
    inner = up[factor * 2 : -factor * 2, factor * 2 : -factor * 2]
    for axis, step in ((0, 1), (1, 10)):
        slope = jnp.diff(inner, axis=axis) * factor / step
        np.testing.assert_allclose(slope, 1, rtol=1e-4)
    depthwise = ji.bilinear(groups=3)(key, (4, 4, 1, 3))
    np.testing.assert_array_equal(depthwise[..., 0, 0], depthwise[..., 0, 2])


@pytest.mark.parametrize("order", ["depth_to_space", "pixel_shuffle"])
def test_icnr_starts_without_a_checkerboard(order, key):
    kernel = ji.icnr(ji.he_normal(), 2, order)(key, (3, 3, 5, 4 * 6))
    x = jax.random.normal(key, (1, 8, 8, 5))
    y = convolve(x, kernel)[0]
    if order == "depth_to_space":
        blocks = y.reshape(8, 8, 2, 2, 6)
    else:
        blocks = y.reshape(8, 8, 6, 2, 2).transpose(0, 1, 3, 4, 2)
    pixels = blocks.transpose(0, 2, 1, 3, 4).reshape(16, 16, 6)
    nearest = pixels[::2, ::2].repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_allclose(pixels, nearest, atol=1e-5)
    # The fan is that of the small kernel.
    assert abs(float(kernel.std()) * (45 / 2) ** 0.5 - 1) < 0.1


@pytest.mark.parametrize("window", ["hann", "hamming", "none"])
def test_stft_is_the_fourier_transform_of_windowed_frames(window, key):
    frame, bins = 32, 17
    x = np.asarray(jax.random.normal(key, (100,)))
    real, imaginary = (
        np.asarray(
            convolve(
                x[None, :, None],
                ji.stft(side, window, "none", periodic=True)(key, (frame, 1, bins)),
                padding="VALID",
            )[0]
        )
        for side in ("real", "imaginary")
    )
    w = {"hann": np.hanning(33), "hamming": np.hamming(33), "none": np.ones(33)}
    frames = np.lib.stride_tricks.sliding_window_view(x, frame) * w[window][:-1]
    expected = np.fft.rfft(frames, axis=1)
    np.testing.assert_allclose(real + 1j * imaginary, expected, atol=1e-4)


def test_stft_scaling(key):
    kernel = ji.stft(scaling="spectrum")(key, (16, 1, 9))
    assert float(kernel[:, 0, 0].sum()) == pytest.approx(1, rel=1e-5)
    kernel = ji.stft(scaling="density")(key, (16, 1, 9))
    assert float((kernel[:, 0, 0] ** 2).sum()) == pytest.approx(1, rel=1e-5)


def test_looks_linear_is_linear_and_isometric_at_any_depth(key):
    base = ji.orthogonal()
    keys = jax.random.split(key, 12)
    x = jax.random.normal(key, (16, 32))
    h = x @ ji.looks_linear(base, "first")(keys[0], (32, 64))
    for k in keys[1:-1]:
        h = jax.nn.relu(h) @ ji.looks_linear(base)(k, (64, 64))
    y = jax.nn.relu(h) @ ji.looks_linear(base, "last")(keys[-1], (64, 32))
    np.testing.assert_allclose((y**2).sum(1), (x**2).sum(1), rtol=1e-4)


def test_idinit_repeats_the_identity(key):
    w = ji.idinit()(key, (4, 10))
    x = jnp.arange(4.0)
    np.testing.assert_array_equal(x @ w, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1])


def test_chrono_pairs_forget_and_input_gates(key):
    forget = ji.chrono(100.0)(key, (64,))
    np.testing.assert_array_equal(ji.chrono(100.0, "input")(key, (64,)), -forget)
    packed = ji.chrono(100.0, "packed")(key, (4 * 64,))
    i, f, g, o = packed.reshape(4, 64)
    np.testing.assert_array_equal(f, forget)
    np.testing.assert_array_equal(i, -forget)
    assert not g.any() and not o.any()
    # A cell that only forgets loses half of its state in about u steps.
    assert (jax.nn.sigmoid(forget) > 0.5).all()
    spread = ji.uniform_gate("packed")(key, (4 * 64,)).reshape(4, 64)
    np.testing.assert_array_equal(spread[0], -spread[1])


def test_hippo_legs_projects_a_history_on_legendre_polynomials(key):
    # d/dt c = (A c + B u) / t keeps the coefficients of the history scaled to [0, 1].
    n = 6
    a = np.asarray(ji.hippo_legs()(key, (n, n)), np.float64)
    b = np.asarray(ji.hippo_legs_input()(key, (n,)), np.float64)
    # For u = t: c solves t c' = A c + B t, so c = t (I - A)^-1 B.
    c = np.linalg.solve(np.eye(n) - a, b)
    # The history on [0, 1] is x, which is P0/2 + P1/2 of the shifted polynomials.
    expected = np.zeros(n)
    expected[:2] = 1 / 2, 1 / (2 * 3**0.5)
    np.testing.assert_allclose(c, expected, atol=1e-6)


def test_state_space_spectra(key):
    value = ji.s4d_lin()(key, (8,), jnp.complex64)
    decay = np.asarray(ji.s4d_lin("log_decay")(key, (8,)))
    frequency = np.asarray(ji.s4d_lin("frequency")(key, (8,)))
    np.testing.assert_allclose(value, -np.exp(decay) + 1j * frequency, rtol=1e-6)
    nu = ji.lru_nu_log(0.4, 0.8)(key, (2**16,))
    modulus = np.asarray(jnp.exp(-jnp.exp(nu)), np.float64)
    area = (modulus**2 - 0.16) / (0.64 - 0.16)  # uniform on the ring's area
    assert abs(area.mean() - 0.5) < 6 / (12 * 2**16) ** 0.5
    gamma = np.exp(ji.lru_gamma_log(0.4, 0.8)(key, (2**16,)))
    np.testing.assert_allclose(gamma**2 + modulus**2, 1, rtol=1e-5)


def test_siren_settles_at_any_depth_where_theory_says(key):
    keys = jax.random.split(key, 6)
    x = jax.random.uniform(key, (2048, 2), minval=-1, maxval=1)
    h = jnp.sin(30 * (x @ ji.siren(first=True)(keys[0], (2, 512))))
    for k in keys[1:]:
        z = 30 * (h @ ji.siren()(k, (512, 512)))
        h = jnp.sin(z)
    # A variance v is followed by 1 - exp(-2 v), whose fixed point is 0.797.
    assert abs(float(z.var()) - 0.797) < 0.05 and abs(float(z.mean())) < 0.05


def test_hyperfan_gives_the_main_network_its_variance(key):
    keys = jax.random.split(key, 3)
    embedding = 0.5 * jax.random.normal(keys[0], (64, 32))
    head = ji.hyperfan(128, 0.25, activation="relu")
    w = embedding @ head(keys[1], (32, 128 * 16))
    assert abs(float((w**2).mean()) * 128 / 2 - 1) < 0.1


def test_random_walk_keeps_the_log_norm_of_narrow_networks(key):
    # 200 layers of width 20: He's gain loses the signal, the random walk does not.
    depth, width, nets = 200, 20, 256

    def log_norm(init):
        def one(key):
            def layer(h, k):
                return jax.nn.relu(h @ init(k, (width, width))), None

            first, key = jax.random.split(key)
            h = jax.random.normal(first, (width,))
            h, _ = lax.scan(layer, h, jax.random.split(key, depth))
            return jnp.log((h**2).mean() * 2)

        return jax.jit(jax.vmap(one))(jax.random.split(key, nets))

    walk = log_norm(ji.random_walk())
    he = log_norm(ji.he_normal(distribution="normal"))
    error = float(walk.std()) / nets**0.5
    assert abs(float(walk.mean())) < 6 * error + 4 < abs(float(he.mean()))


@pytest.mark.parametrize(
    ("activation", "bias"), [("relu6", 0.0), ("elu", 0.0), ("gelu", 0.3), ("silu", 0.7)]
)
def test_edge_of_chaos_accepts_what_the_variance_settles_at(activation, bias):
    kernel, _ = ji.edge_of_chaos(activation, bias)
    weight = kernel.arguments["scale"]
    q = ji.meanfield.edge_of_chaos(activation, bias).variance * 1.2 + 0.1
    settings = {"weight_variance": weight, "bias_variance": bias}
    for _ in range(100):
        q, before = ji.meanfield.variance_map(activation, q, **settings), q
        assert q <= before * (1 + 1e-9)


def test_edge_of_chaos_carries_a_signal_and_its_gradient(key):
    kernel, bias = ji.edge_of_chaos("tanh", 0.05)
    width, depth = 1024, 30

    def network(h, keys):
        for k in keys:
            a, b = jax.random.split(k)
            h = jnp.tanh(h) @ kernel(a, (width, width)) + bias(b, (width,))
        return h

    keys = jax.random.split(key, depth)
    x = jax.random.normal(key, (width,)) * 0.57**0.5
    y, pullback = jax.vjp(lambda h: network(h, keys), x)
    (gradient,) = pullback(jax.random.normal(key, (width,)))
    assert 0.4 < float((y**2).mean()) < 0.8
    assert 0.2 < float((gradient**2).mean()) < 5


def test_combinators(key):
    keys = jax.random.split(key, 4)
    he = ji.he_normal()
    gates = ji.per_gate(he, 4)(key, (16, 4 * 8)).reshape(16, 4, 8)
    stack = ji.stacked(he)(key, (4, 16, 8))
    for g, k in enumerate(keys):
        np.testing.assert_array_equal(gates[:, g], he(k, (16, 8)))
        np.testing.assert_array_equal(stack[g], he(k, (16, 8)))
    np.testing.assert_array_equal(
        ji.stacked(he, axis=-1)(key, (16, 8, 4)), stack.transpose(1, 2, 0)
    )
    np.testing.assert_array_equal(
        ji.scaled(he, 0.5)(key, (16, 8)), 0.5 * he(key, (16, 8))
    )
    mask = np.tri(8)
    init = ji.masked(he, mask)
    np.testing.assert_array_equal(init(key, (8, 8)), jnp.tril(he(key, (8, 8))))
    assert ji.parse(repr(init)) == init and hash(ji.parse(repr(init))) == hash(init)
    nested = ji.parse("scaled(per_gate(orthogonal(scale=1.5), gates=3), factor=0.1)")
    assert ji.parse(repr(nested)) == nested
    w = nested(key, (8, 24))
    np.testing.assert_allclose(w[:, :8].T @ w[:, :8], 0.0225 * np.eye(8), atol=1e-6)
    inner = ji.scaled(ji.stacked(ji.normal(dtype="float16")), 2.0)
    assert inner(key, (2, 4)).dtype == jnp.float16
    assert inner(key, (2, 4), jnp.float32).dtype == jnp.float32
    factors = jnp.array([0.5, 2.0])
    draws = jax.vmap(lambda f: ji.scaled(he, f)(key, (4, 4)))(factors)
    np.testing.assert_allclose(draws[1], 4 * draws[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("init", "shape", "fan"),
    [
        (ji.random_walk(), (64, 4096), 64),
        (ji.random_walk("linear"), (4, 65536), 4),
        (ji.siren(first=True), (2, 65536), 2),
        (ji.siren(), (64, 4096), 64),
        (ji.small_init(), (64, 4096), 64),
        (ji.wang_init(8), (64, 4096), 64),
        (ji.hyperfan(16), (64, 4096), 64),
    ],
    ids=repr,
)
def test_a_given_fan_is_the_fan_of_the_formula(init, shape, fan, key):
    given = init.replace(fan=fan)
    np.testing.assert_array_equal(given(key, shape), init(key, shape))
    traced = jax.jit(lambda n: init.replace(fan=n)(key, shape))(float(fan))
    np.testing.assert_allclose(traced, init(key, shape), rtol=1e-5)


BAD = [
    (lambda key: ji.spectral(fan=64), ValueError, "but two are needed"),
    (lambda key: ji.stft()(key, (2, 1, 3)), ValueError, "zero throughout"),
    (lambda key: ji.sparse(sparsity="a"), TypeError, "sparsity='a'"),
    (
        lambda key: jax.jit(lambda s: ji.sparse(sparsity=s)(key, (4, 4)))(0.5),
        TypeError,
        "known when the program",
    ),
    (lambda key: ji.scaled("he_normal", 2.0), TypeError, "must be an initializer"),
    (lambda key: ji.per_gate(ji.normal(), 3)(key, (4, 8)), ValueError, "gates=3 does"),
    (lambda key: ji.stacked(ji.normal(), 5)(key, (4, 8)), ValueError, "axis=5"),
    (
        lambda key: ji.masked(ji.normal(), np.ones((3, 3)))(key, (2, 2)),
        ValueError,
        "mask of shape (3, 3) does not broadcast",
    ),
    (lambda key: ji.dirac(3)(key, (3, 4, 4)), ValueError, "groups=3 does not divide"),
    (lambda key: ji.dirac()(key, (4, 4)), ValueError, "rank 2"),
    (lambda key: ji.identity()(key, (4,)), ValueError, "rank 1"),
    (lambda key: ji.sparse(5)(key, (4, 4)), ValueError, "nonzeros=5 exceeds the 4"),
    (lambda key: ji.sparse(5, 0.5), ValueError, "both given"),
    (lambda key: ji.sparse(sparsity=1.5), ValueError, "sparsity=1.5"),
    (lambda key: ji.looks_linear(ji.normal())(key, (3, 4)), ValueError, "must be even"),
    (lambda key: ji.icnr(ji.normal(), 2)(key, (3, 3, 4, 6)), ValueError, "4 sub-pixel"),
    (lambda key: ji.stft()(key, (4, 4)), ValueError, "rank 3 is needed"),
    (lambda key: ji.stft(window="kaiser"), ValueError, "window='kaiser'"),
    (
        lambda key: ji.convolution_orthogonal()(key, (3, 5, 4, 4)),
        ValueError,
        "equal spatial sizes",
    ),
    (lambda key: ji.chrono(1.5), ValueError, "must exceed 2"),
    (lambda key: ji.chrono(10.0, "packed")(key, (6,)), ValueError, "4 gates"),
    (lambda key: ji.chrono(10.0)(key, (4,), "complex64"), TypeError, "complex"),
    (lambda key: ji.uniform_gate()(key, (2,)), ValueError, "three or more"),
    (lambda key: ji.forget_bias(index=4), ValueError, "beyond the gates=4"),
    (lambda key: ji.hippo_legs()(key, (3, 4)), ValueError, "square"),
    (lambda key: ji.s4d_lin()(key, (3,)), TypeError, "pass dtype=complex64"),
    (lambda key: ji.lru_nu_log(0.9, 0.5), ValueError, "r_min=0.9"),
    (lambda key: ji.lru_nu_log(0.5, 1.5), ValueError, "at most 1"),
    (lambda key: ji.log_step(0.1, 0.01), ValueError, "minimum=0.1"),
    (lambda key: ji.random_walk("tanh"), ValueError, "activation='tanh'"),
    (lambda key: ji.siren(0.0), ValueError, "greater than zero"),
    (lambda key: ji.wang_init(0), ValueError, "layers=0"),
    (lambda key: ji.hyperfan(0), ValueError, "main_fan=0.0"),
    (lambda key: ji.edge_of_chaos("relu", 0.1), ValueError, "no critical point"),
    (lambda key: ji.edge_of_chaos("gelu"), ValueError, "leaves the critical point"),
    (lambda key: ji.edge_of_chaos("silu", 0.05), ValueError, "grows without bound"),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD, ids=[b[2] for b in BAD])
def test_bad_input_in_one_sentence(call, error, words, key):
    with pytest.raises(error) as caught:
        call(key)
    message = str(caught.value)
    assert words in message and message.endswith(".") and "\n" not in message
