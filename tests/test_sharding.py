"""Same key, same values, on one device or eight, wherever the array lives."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from cases import CASES
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxinit as ji

by_products = [c for c in CASES if "qr" not in repr(c) and len(c.shape) > 1]
kinds = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])


def mesh_of(kind):
    return jax.make_mesh((2, 4), ("x", "y"), (kind, kind))


def fit(case):
    """A shape whose last two axes divide over the mesh."""
    return (*(min(size, 4) for size in case.shape[:-2]), 64, 64)


def close(case, a, b):
    if case.tolerance:
        np.testing.assert_allclose(a, b, atol=case.tolerance)
    else:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("case", "kind"),
    # Alternately: the kinds of mesh differ in the mechanism, not in the schemes.
    [
        (case, (AxisType.Auto, AxisType.Explicit)[i % 2])
        for i, case in enumerate(by_products)
    ],
    ids=repr,
)
def test_out_sharding(case, kind, key):
    init = case.init.replace(groups=1) if "groups" in repr(case) else case.init
    shape = fit(case)
    if init.name == "delta_orthogonal":
        shape = (1, 1, 64, 64)
    expected = init(key, shape)
    spec = P(*[None] * (len(shape) - 2), "x", "y")
    mesh = mesh_of(kind)
    sharding = NamedSharding(mesh, spec)
    with jax.set_mesh(mesh):
        if kind == AxisType.Auto:
            drawn = init(key, shape, None, sharding)
        else:
            drawn = jax.jit(lambda k: init(k, shape, None, spec))(key)
    assert drawn.sharding.is_equivalent_to(sharding, len(shape))
    close(case, expected, drawn)


@kinds
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("init", [ji.he_normal(), ji.orthogonal()], ids=repr)
def test_eager_and_jitted_on_either_mesh(init, jit, kind, key):
    draw = lambda k: init(k, (16, 32), None, P("x", "y"))  # noqa: E731
    with jax.set_mesh(mesh_of(kind)):
        drawn = jax.jit(draw)(key) if jit else draw(key)
    assert drawn.sharding.spec == P("x", "y")
    np.testing.assert_allclose(init(key, (16, 32)), drawn, atol=1e-6)


def test_named_sharding_without_a_context_mesh(key):
    sharding = NamedSharding(mesh_of(AxisType.Auto), P("x"))
    drawn = ji.he_normal()(key, (8, 8), None, sharding)
    assert drawn.sharding.is_equivalent_to(sharding, 2)
    traced = jax.jit(lambda g: ji.he_normal(gain=g)(key, (8, 8), None, sharding))(2.0)
    np.testing.assert_allclose(traced, ji.he_normal(gain=2.0)(key, (8, 8)), rtol=1e-6)


def test_a_traced_parameter_within_another_scheme_does_not_leak(key):
    sharding = NamedSharding(mesh_of(AxisType.Auto), P("x"))

    def draw(stddev):
        return ji.scaled(ji.normal(stddev), 0.5)(key, (8, 8), None, sharding)

    with jax.check_tracer_leaks():
        traced = jax.jit(draw)(2.0)
    np.testing.assert_allclose(traced, ji.normal(1.0)(key, (8, 8)), rtol=1e-6)


def test_one_sentence(key):
    with pytest.raises(ValueError, match="needs a mesh"):
        ji.normal()(key, (8, 8), None, P("x"))
    with pytest.raises(TypeError, match="must be a NamedSharding or a PartitionSpec"):
        ji.normal()(key, (8, 8), None, "x")
    sharding = NamedSharding(mesh_of(AxisType.Auto), P("x", None, "y"))
    with pytest.raises(ValueError, match="more entries"):
        ji.normal()(key, (8, 8), None, sharding)


def test_elementwise_draws_need_no_communication(key):
    sharding = NamedSharding(mesh_of(AxisType.Auto), P("x", "y"))
    for init in (ji.normal(), ji.he_normal(), ji.glorot_uniform()):
        program = jax.jit(lambda k, init=init: init(k, (64, 64), None, sharding))
        text = program.lower(key).compile().as_text()
        assert "all-gather" not in text and "all-reduce" not in text


@pytest.mark.parametrize("count", [2, 7, 40])
@pytest.mark.parametrize(
    "base", [ji.he_normal(), ji.uniform(minval=-1, maxval=1)], ids=repr
)
def test_sums_of_draws_have_one_order_wherever_they_are(base, count, key):
    init = ji.sum_of(base, count)
    draw = lambda k: init(k, (16, 64))  # noqa: E731
    eager = draw(key)
    for other in (
        jax.jit(draw)(key),
        jax.vmap(draw)(key[None])[0],
        jax.jit(jax.vmap(draw))(key[None])[0],
        init(key, (16, 64), None, NamedSharding(mesh_of(AxisType.Auto), P("x", "y"))),
    ):
        np.testing.assert_array_equal(eager, other)
    each = [base(k, (16, 64)) for k in jax.random.split(key, count)]
    np.testing.assert_array_equal(eager, sum(each[1:], each[0]))
