"""For each scheme for whole models, a built-in task that shows what it is for."""

from collections.abc import Mapping

_PLAIN = "digits-mlp(depth=50, activation='tanh')"
_RESIDUAL = "digits-resnet"
_SCALED = "digits-scaled-resnet"
_GATED = "adding-lstm"
_TRANSFORMER = "text-transformer"

MADE_FOR: Mapping[str, str] = {
    "tree.by_kind": "regression-mlp",
    "tree.chrono": _GATED,
    "tree.combined": _SCALED,
    "tree.deepnorm": "text-transformer(norm='deep')",
    "tree.delta_conv": "digits-cnn(activation='tanh')",
    "tree.edge_of_chaos": _PLAIN,
    "tree.fixup": _SCALED,
    "tree.gpt2": _TRANSFORMER,
    "tree.gpt_neox": _TRANSFORMER,
    "tree.hadamard_identity": _RESIDUAL,
    "tree.idinit": _RESIDUAL,
    "tree.layerscale": "text-transformer(norm='scaled')",
    "tree.looks_linear": "digits-mlp",
    "tree.mimetic": _TRANSFORMER,
    "tree.mitchell": _TRANSFORMER,
    "tree.mup": "digits-mlp(depth=2)",
    "tree.rezero": _SCALED,
    "tree.rules": "regression-mlp",
    "tree.siren": "picture-siren",
    "tree.skipinit": _SCALED,
    "tree.spectral": "digits-mlp(depth=2)",
    "tree.t_fixup": "text-transformer(norm='none')",
    "tree.uniform_gate": _GATED,
    "tree.with_gain": _PLAIN,
}
"""A task for each scheme for whole models that has what the scheme is made for."""
