"""Schemes for residual networks, and for networks of any shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from jaxinit import _checks, initializers
from jaxinit._initializer import Initializer
from jaxinit.trace import Layer
from jaxinit.tree._scheme import Assign, tree_scheme
from jaxinit.tree._structure import Branch, Structure


def branches_of(owner: str, model: Structure) -> tuple[Branch, ...]:
    """The residual branches, or one sentence if there are none."""
    if not model.branches:
        raise ValueError(
            f"{owner}: the model has no residual branch, a sum of something and what "
            "kernels made of it; use a scheme for plain networks, such as "
            "tree.delta_conv() or an initializer."
        )
    return model.branches


def _scalars(owner: str, model: Structure) -> list[Layer]:
    scalars = [s for branch in branches_of(owner, model) for s in branch.scalars]
    if not scalars:
        raise ValueError(
            f"{owner}: no residual branch has a multiplier, a parameter that scales "
            "what the branch adds; give the model one, as in x + scale * branch(x)."
        )
    return scalars


@tree_scheme(cites=("zhang2019fixup",))
def fixup(branches: int | None = None, mode: Literal["fan_in", "fan_out"] = "fan_in"):
    r"""Fixup: residual networks without normalisation, trained at any depth.

    Kernels of a branch of m layers are He's times $L^{-1/(2m - 2)}$ with L branches,
    the last of a branch and the head are 0, multipliers of branches 1; all other
    kernels are He's. The model should have scalar biases, which stay as they are.

    Args:
        branches: L; as many as the trace finds if None.
        mode: the fan of He's variance; the authors' code has "fan_out".

    Returns:
        A `TreeScheme`.

    Raises:
        ValueError: the model has no residual branch, or a branch is one layer alone.

    Example:
        >>> fixup()
        tree.fixup()

    References:
        Zhang, Dauphin and Ma 2019, arXiv:1901.09321, section 3.
    """
    _checks.choice("tree.fixup", "mode", mode, ("fan_in", "fan_out"))
    he = initializers.variance_scaling(2.0, mode, "normal")

    def assign(model: Structure) -> Mapping[str, Initializer]:
        found = branches_of("tree.fixup", model)
        count = branches or model.depth
        chosen: dict[str, Initializer] = {k.path: he for k in model.kernels}
        for branch in found:
            if branch.depth < 2:
                raise ValueError(
                    f"tree.fixup: the branch that ends in {branch.end.path} is one "
                    "layer alone, but the rule asks for two or more."
                )
            factor = count ** (-1 / (2 * branch.depth - 2))
            for kernel in branch.kernels:
                chosen[kernel.path] = initializers.scaled(he, factor)
            chosen[branch.end.path] = initializers.zeros
            chosen.update((s.path, initializers.ones) for s in branch.scalars)
        chosen.update((head.path, initializers.zeros) for head in model.heads)
        return chosen

    return assign


@tree_scheme(cites=("de2020",))
def skipinit(value: float = 0.0):
    r"""SkipInit: the multiplier at the end of each residual branch initialized to 0.

    Kernels stay as they are.

    Args:
        value: initial value of the multipliers; at most $1 / \sqrt{L}$.

    Returns:
        A `TreeScheme`.

    Raises:
        ValueError: no residual branch has a multiplier.

    Example:
        >>> skipinit(0.1)
        tree.skipinit(value=0.1)

    References:
        De and Smith 2020, arXiv:2002.10444, section 4.
    """
    return _multipliers("tree.skipinit", value)


@tree_scheme(cites=("bachlechner2021",))
def rezero():
    """ReZero: the multiplier of each residual branch initialized to 0.

    Kernels stay as they are.

    Returns:
        A `TreeScheme`.

    Raises:
        ValueError: no residual branch has a multiplier.

    Example:
        >>> rezero()
        tree.rezero()

    References:
        Bachlechner et al. 2021, arXiv:2003.04887, equation 4.
    """
    return _multipliers("tree.rezero", 0.0)


@tree_scheme(cites=("touvron2021",))
def layerscale(value: float | None = None):
    """LayerScale: a small multiplier per channel at the end of each residual branch.

    Kernels stay as they are.

    Args:
        value: initial value of the multipliers; if None 0.1 for up to 18 blocks, 1e-5
            for up to 24, 1e-6 beyond, a block being an attention and a feed-forward
            layer.

    Returns:
        A `TreeScheme`.

    Raises:
        ValueError: no residual branch has a multiplier.

    Example:
        >>> layerscale()
        tree.layerscale()

    References:
        Touvron et al. 2021, arXiv:2103.17239, section 2.
    """
    return _multipliers("tree.layerscale", value)


def _multipliers(owner: str, value: float | None) -> Assign:
    _checks.number(owner, value=value)

    def assign(model: Structure) -> Mapping[str, Initializer]:
        scalars = _scalars(owner, model)
        initial = value
        if initial is None:
            blocks = model.depth / 2
            initial = 0.1 if blocks <= 18 else 1e-5 if blocks <= 24 else 1e-6
        return {scalar.path: initializers.constant(initial) for scalar in scalars}

    return assign


@tree_scheme(cites=("zhao2022",))
def hadamard_identity():
    """ZerO: identities and Hadamard matrices, zeros at the end of each branch.

    Nothing in it is random. See `jaxinit.hadamard_identity` for one kernel.

    Returns:
        A `TreeScheme`.

    Example:
        >>> hadamard_identity()
        tree.hadamard_identity()

    References:
        Zhao, Schaefer and Anandkumar 2022, arXiv:2110.12661, algorithms 1 and 2, with
        the paper's constant; in the authors' code Hadamard matrices are smaller by
        1 / sqrt(2).
    """
    return _with_ends(initializers.hadamard_identity(), initializers.zeros)


@tree_scheme(cites=("pan2025",))
def idinit(last: float = 1e-6):
    r"""IDInit: repeated identities, nearly zero at the end of each branch.

    Kernels are `jaxinit.idinit`; the last of a branch is the same matrix with
    $\epsilon$ for the ones (IDIZ in the paper): the branch adds next to nothing, yet
    passes gradients on, which zeros would not.

    Args:
        last: $\epsilon$, the value of the ones in the last kernel of a branch.

    Returns:
        A `TreeScheme`.

    Example:
        >>> idinit()
        tree.idinit()

    References:
        Pan et al. 2025, arXiv:2503.04626, section 3.
    """
    return _with_ends(initializers.idinit(), initializers.idinit(last))


def _with_ends(kernel: Initializer, end: Initializer) -> Assign:
    def assign(model: Structure) -> Mapping[str, Initializer]:
        chosen = {k.path: kernel for k in model.kernels}
        chosen.update((branch.end.path, end) for branch in model.branches)
        return chosen

    return assign


@tree_scheme(cites=("yang2023spectral",))
def spectral():
    r"""Spectral norms of $\sqrt{\text{out} / \text{in}}$ everywhere.

    Kernels by `jaxinit.spectral`, embeddings N(0, 1): an entry looked up is a row,
    of norm $\sqrt{\text{out}}$. What the program multiplies a table with is taken off.

    Returns:
        A `TreeScheme`.

    Example:
        >>> spectral()
        tree.spectral()

    References:
        Yang, Simon and Bernstein 2023, arXiv:2310.17813, parametrization 1.
    """

    def assign(model: Structure) -> Mapping[str, Initializer]:
        chosen = {kernel.path: initializers.spectral() for kernel in model.kernels}
        for layer in model.layers:
            if layer.kind == "embedding":
                stddev = 1 / abs(layer.multiplier)
                chosen[layer.path] = initializers.normal(stddev)
        return chosen

    return assign
