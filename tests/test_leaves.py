"""What every leaf of every model in `networks` is, in one table.

A leaf that the trace passes over in silence changes a line of `leaves.txt`: its kind,
its fan-in, and whether a scheme for kernels draws it, or why not. After a change that
is meant, `python tests/test_leaves.py` writes the table anew; read the difference.
"""

import pathlib

import jax
import jax.numpy as jnp
import networks as nets
import pytest
from flax import nnx

from jaxinit.trace import KERNELS, Layer, layers

pytestmark = pytest.mark.usefixtures("users_broadcast")

TABLE = pathlib.Path(__file__).with_name("leaves.txt")
KEY = jax.random.key(0)


def shaped(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


TOKENS, SERIES = shaped(2, 8, dtype=jnp.int32), shaped(2, 6, 16)
IMAGES, X, Y = shaped(2, 8, 8, 3), shaped(6, 8), shaped(6, 3)


def linen(module, *inputs):
    """A Linen module as a function; its other variables are inputs too."""
    variables = dict(jax.eval_shape(module.init, KEY, *inputs))
    params = variables.pop("params")

    def apply(params, rest, *inputs):
        return module.apply({"params": params, **rest}, *inputs)

    return apply, params, variables, *inputs


def of_nnx(make, x):
    """A module of NNX as a function."""
    graph, params, rest = nnx.split(
        nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param, ...
    )

    def apply(params, rest, x):
        return nnx.merge(graph, params, rest, copy=True)(x)

    return apply, params, rest, x


MAML = {"w": shaped(8, 16), "b": shaped(16), "v": shaped(16, 3)}
POST = nets.Block(norm="post", alpha=2.0)
SCALED = nets.Block(norm="none", multipliers=True)

MODELS = {
    "GPT": lambda: linen(nets.GPT(layers=1), TOKENS),
    "GPT, scanned": lambda: linen(nets.GPT(scan=True, tied=False), TOKENS),
    "GPT, post-normalised": lambda: linen(nets.GPT(layers=1, block=POST), TOKENS),
    "GPT, multipliers": lambda: linen(nets.GPT(layers=1, block=SCALED), TOKENS),
    "EncoderDecoder": lambda: linen(nets.EncoderDecoder(1, 1, 32), TOKENS, TOKENS),
    "Mamba": lambda: linen(nets.Mamba(), SERIES),
    "Experts, dispatched": lambda: linen(nets.Experts("dispatched"), SERIES),
    "Experts, gathered": lambda: linen(nets.Experts("gathered"), SERIES),
    "Experts, switched": lambda: linen(nets.Experts("switched"), SERIES),
    "Experts, scanned": lambda: linen(nets.Experts("scanned"), SERIES),
    "Experts, listed": lambda: linen(nets.Experts("listed", experts=2), SERIES),
    "Critic": lambda: linen(nets.Critic(), X, X),
    "Twins": lambda: linen(nets.Twins(), X, X),
    "Quantised": lambda: linen(nets.Quantised(), X),
    "Quantised, straight through": lambda: linen(nets.Quantised(straight=True), X),
    "Modulated": lambda: linen(nets.Modulated(), IMAGES, shaped(2, 16)),
    "Albert": lambda: linen(nets.Albert(), TOKENS),
    "Albert, scan": lambda: linen(nets.Albert(how="scan"), TOKENS),
    "Albert, fori": lambda: linen(nets.Albert(how="fori"), TOKENS),
    "maml": lambda: (nets.maml, MAML, X, Y),
    "maml, listed": lambda: (lambda *a: nets.maml(*a, how="list"), MAML, X, Y),
    "ResNet": lambda: linen(nets.ResNet(), IMAGES),
    "ViT": lambda: linen(nets.ViT(layers=1), IMAGES),
    "LSTM": lambda: linen(nets.LSTM(), shaped(2, 5, 8)),
    "CNN": lambda: linen(nets.CNN(depth=2), IMAGES),
    "NNXLSTM": lambda: of_nnx(lambda r: nets.NNXLSTM(r), shaped(2, 5, 8)),
    "NNXTransformer": lambda: of_nnx(lambda r: nets.NNXTransformer(r), shaped(2, 5, 8)),
    "NNXScanned": lambda: of_nnx(lambda r: nets.NNXScanned(r), TOKENS),
}


def words(layer: Layer) -> str:
    """One line on a leaf: path, shape, kind, fan-in, what it adds, what is drawn."""
    letters = ["-"] * len(layer.shape)
    groups = (layer.in_axes, layer.out_axes, layer.batch_axes, layer.receptive_axes)
    for letter, axes in zip("iobw", groups, strict=True):
        for axis in axes:
            letters[axis] = letter
    shape = "x".join(map(str, layer.shape)) or "()"
    fan = f"{layer.fan_in:g}" if layer.kind in KERNELS else "-"
    adds = f"adds {layer.additions:g}" if layer.residual else ""
    if layer.kind in KERNELS:
        drawn = "drawn"
    else:
        drawn = f"kept: {layer.reason or 'it is no kernel'}"
    path = layer.path.removesuffix("/value")
    cells = (f"{path:<36}", f"{shape:<11}", f"{''.join(letters):<5}")
    return "  ".join((*cells, f"{layer.kind:<9}", f"{fan:>4}", f"{adds:<8}", drawn))


def table(name: str) -> list[str]:
    apply, params, *inputs = MODELS[name]()
    found = layers(apply, params, *inputs)
    assert len(found) == len(jax.tree.leaves(params))
    return [words(layer).rstrip() for layer in sorted(found, key=lambda x: x.path)]


def stored() -> dict[str, list[str]]:
    """The table that is expected, by model."""
    tables: dict[str, list[str]] = {}
    for block in TABLE.read_text().strip().split("\n\n"):
        name, *lines = block.split("\n")
        tables[name] = lines
    return tables


@pytest.mark.parametrize("name", MODELS)
def test_what_each_leaf_is(name):
    assert table(name) == stored()[name]


def test_the_table_has_every_model():
    assert list(stored()) == list(MODELS)
    made = {type_.__name__ for type_ in vars(nets).values() if isinstance(type_, type)}
    inner = {"Any", "Block", "DecoderBlock"}  # parts of the others
    named = {name.split(",")[0] for name in MODELS}
    assert made - inner <= named


def test_nothing_is_passed_over_without_a_reason():
    for lines in stored().values():
        assert all(" drawn" in line or "kept: " in line for line in lines)
        unknown = [line for line in lines if "unknown" in line]
        assert not any(line.endswith("no kernel") for line in unknown)


if __name__ == "__main__":
    blocks = ("\n".join([name, *table(name)]) for name in MODELS)
    TABLE.write_text("\n\n".join(blocks) + "\n")
