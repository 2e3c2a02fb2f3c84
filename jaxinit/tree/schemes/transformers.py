"""Schemes for transformers, with or without normalisation."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import _checks
from jaxinit._initializer import Initializer
from jaxinit._types import Array, Key
from jaxinit.initializers import (
    glorot_normal,
    glorot_uniform,
    normal,
    scaled,
    truncated_normal,
)
from jaxinit.trace import Layer
from jaxinit.tree._draw import path_key
from jaxinit.tree._scheme import tree_scheme
from jaxinit.tree._structure import Branch, Structure, additions, copies, over_layers
from jaxinit.tree.schemes.residual import branches_of


def _tables(model: Structure) -> list[Layer]:
    """Embeddings, learned positions among them, which are added to others."""
    return [
        layer
        for layer in model.layers
        if layer.kind == "embedding" or (layer.kind == "bias" and layer.place_axes)
    ]


def _width(owner: str, model: Structure) -> float:
    """Width of the trunk, which every branch adds to."""
    return branches_of(owner, model)[0].end.fan_out


@tree_scheme(cites=("radford2019",))
def gpt2(stddev: float = 0.02, branches: int | None = None):
    r"""GPT-2: one standard deviation for all, less where branches end.

    Kernels and embeddings $N(0, \sigma^2)$; the last kernel of each residual branch
    has standard deviation $\sigma / \sqrt{L}$ with L branches, two per block.

    Args:
        stddev: $\sigma$.
        branches: L; as many as the trace finds if None.

    Returns:
        A `TreeScheme`.

    Raises:
        ValueError: the model has no residual branch.

    Example:
        >>> gpt2()
        tree.gpt2()

    References:
        Radford et al. 2019, Language models are unsupervised multitask learners,
        section 2.3. Positions have half of $\sigma$ in the released code, not here.
    """
    _checks.number("tree.gpt2", positive=True, stddev=stddev)

    def assign(model: Structure) -> Mapping[str, Initializer]:
        ends = branches_of("tree.gpt2", model)
        init = normal(stddev)
        chosen = {layer.path: init for layer in (*model.kernels, *_tables(model))}
        last = normal(stddev / math.sqrt(branches or model.depth))
        chosen.update((branch.end.path, last) for branch in ends)
        return chosen

    return assign


@tree_scheme(cites=("groeneveld2024",))
def mitchell():
    r"""Mitchell's initialization, of OLMo: fan-in, and the depth of each block.

    Normal truncated at three standard deviations, $\sigma = 1 / \sqrt{\text{fan\_in}}$,
    and $1 / \sqrt{2\, \text{fan\_in}\, (l + 1)}$ for the last kernel of a branch of the
    l-th block, from 0; embeddings $1 / \sqrt{d}$.

    Returns:
        A `TreeScheme`.

    Raises:
        ValueError: the model has no residual branch.

    Example:
        >>> mitchell()
        tree.mitchell()

    References:
        Groeneveld et al. 2024, arXiv:2402.00838, whose code has it.
    """

    def truncated(stddev: float) -> Initializer:
        return truncated_normal(stddev, lower=-3.0, upper=3.0)

    def assign(model: Structure) -> Mapping[str, Initializer]:
        chosen = {k.path: truncated(k.fan_in**-0.5) for k in model.kernels}
        chosen.update((t.path, truncated(t.shape[-1] ** -0.5)) for t in _tables(model))
        for branch in branches_of("tree.mitchell", model):
            end = branch.end
            blocks = branch.index + np.arange(copies(end)) + 1
            shallow = truncated((2 * end.fan_in * blocks[0]) ** -0.5)
            chosen[end.path] = shallow
            if len(blocks) > 1:
                factors = over_layers(end, (blocks / blocks[0]) ** -0.5)
                chosen[end.path] = scaled(shallow, factors)  # type: ignore[arg-type]
        return chosen

    return assign


@tree_scheme(cites=("nguyen2019", "wang2021gptj", "black2022"))
def gpt_neox(blocks: int | None = None):
    r"""GPT-NeoX-20B: small initialization, and Wang's where branches end.

    $\sigma = \sqrt{2 / 5d}$ with d the width of the trunk, and $2 / (N \sqrt{d})$ for
    the last kernel of each branch, with N blocks of two branches.

    Args:
        blocks: N; half of the branches that the trace finds if None.

    Returns:
        A `TreeScheme`.

    Raises:
        ValueError: the model has no residual branch.

    Example:
        >>> gpt_neox()
        tree.gpt_neox()

    References:
        Nguyen and Salazar 2019, arXiv:1910.05895, section 2.2; Black et al. 2022,
        arXiv:2204.06745, section 2.1.
    """

    def assign(model: Structure) -> Mapping[str, Initializer]:
        width = _width("tree.gpt_neox", model)
        init = normal(math.sqrt(2 / (5 * width)))
        chosen = {layer.path: init for layer in (*model.kernels, *_tables(model))}
        count = blocks or model.depth / 2
        last = normal(2 / (count * math.sqrt(width)))
        chosen.update((branch.end.path, last) for branch in model.branches)
        return chosen

    return assign


class _Stack(NamedTuple):
    """The encoder or the decoder: its branches and its blocks."""

    branches: list[Branch]
    blocks: int


def _stacks(owner: str, model: Structure, decoder: str) -> tuple[_Stack, _Stack]:
    """Encoder and decoder, told apart by a glob on paths; a block has one MLP."""
    pair: list[_Stack] = []
    found = branches_of(owner, model)
    for wanted in (False, True):
        own = [
            branch
            for branch in found
            if bool(decoder and fnmatch.fnmatchcase(branch.end.path, decoder)) == wanted
        ]
        plain = [branch for branch in own if not branch.attention]
        pair.append(_Stack(own, additions(plain or own)))
    if decoder and not pair[1].branches:
        raise ValueError(
            f"{owner}: decoder={decoder!r} matches no branch; they end in such as "
            f"{found[0].end.path}."
        )
    return pair[0], pair[1]


def _scaled_kernels(branches: Sequence[Branch]) -> list[Layer]:
    """Value, output and feed-forward kernels: all but queries and keys."""
    return [
        kernel
        for branch in branches
        for kernel in branch.kernels
        if kernel not in branch.queries_and_keys
    ]


@tree_scheme(cites=("huang2020",))
def t_fixup(decoder: str = "", stack: Literal["encoder", "decoder"] = "encoder"):
    r"""T-Fixup: transformers without layer normalisation or warm-up.

    Kernels Xavier uniform, embeddings $N(0, 1/d)$; value, output and feed-forward
    kernels times $0.67 N^{-1/4}$ in an encoder of N blocks, those of a decoder and the
    embeddings times $(9 N)^{-1/4}$.

    Args:
        decoder: a glob on the paths of the decoder's leaves, if there are both; the
            embeddings then have the factor of the decoder.
        stack: which of the two it is, if there is one alone.

    Returns:
        A `TreeScheme`.

    Raises:
        ValueError: the model has no residual branch, or the glob matches none.

    Example:
        >>> t_fixup(decoder="*/decoder/*")
        tree.t_fixup(decoder='*/decoder/*')

    References:
        Huang, Perez, Ba and Volkovs 2020, Improving transformer optimization through
        better initialization, ICML, section 3.
    """
    _checks.choice("tree.t_fixup", "stack", stack, ("encoder", "decoder"))

    def assign(model: Structure) -> Mapping[str, Initializer]:
        first, second = _stacks("tree.t_fixup", model, decoder)
        if not decoder and stack == "decoder":
            first, second = second, first
        chosen = {kernel.path: glorot_uniform() for kernel in model.kernels}
        for own, factor in (
            (first, 0.67 * max(first.blocks, 1) ** -0.25),
            (second, (9 * max(second.blocks, 1)) ** -0.25),
        ):
            for kernel in _scaled_kernels(own.branches):
                chosen[kernel.path] = scaled(glorot_uniform(), factor)
        blocks = second.blocks or first.blocks
        for table in _tables(model):
            init = normal(table.shape[-1] ** -0.5)
            chosen[table.path] = scaled(init, (9 * blocks) ** -0.25)
        return chosen

    return assign


class DeepNorm(NamedTuple):
    """DeepNorm's constants: x becomes LN(alpha x + f(x)), kernels have gain beta."""

    alpha: float
    beta: float


def deepnorm_constants(
    encoder: int = 0, decoder: int = 0
) -> tuple[DeepNorm | None, DeepNorm | None]:
    r"""DeepNorm's $\alpha$ and $\beta$ for stacks of so many blocks.

    One stack of N: $(2N)^{1/4}$, $(8N)^{-1/4}$. Both, N and M: encoder
    $0.81 (N^4 M)^{1/16}$, $0.87 (N^4 M)^{-1/16}$; decoder $(3M)^{1/4}$,
    $(12M)^{-1/4}$.

    Args:
        encoder: N, blocks of the encoder.
        decoder: M, blocks of the decoder.

    Returns:
        The constants of encoder and decoder; None for one that is not there.

    Raises:
        ValueError: neither is there.

    Example:
        >>> round(deepnorm_constants(encoder=8)[0].alpha, 6)
        2.0

    References:
        Wang et al. 2022, arXiv:2203.00555, figure 2.
    """
    _checks.integer("deepnorm_constants", minimum=0, encoder=encoder, decoder=decoder)
    if encoder and decoder:
        size = encoder**4 * decoder
        return (
            DeepNorm(0.81 * size ** (1 / 16), 0.87 * size ** (-1 / 16)),
            DeepNorm((3 * decoder) ** 0.25, (12 * decoder) ** -0.25),
        )
    blocks = encoder or decoder
    if not blocks:
        raise ValueError("deepnorm_constants: give the blocks of encoder or decoder.")
    alone = DeepNorm((2 * blocks) ** 0.25, (8 * blocks) ** -0.25)
    return (alone, None) if encoder else (None, alone)


@tree_scheme(cites=("wang2022deepnet",))
def deepnorm(decoder: str = ""):
    r"""DeepNorm: post-normalised transformers of a thousand layers.

    Xavier normal; value, output and feed-forward kernels with gain $\beta$. The model
    itself must compute $\mathrm{LN}(\alpha x + f(x))$; `deepnorm_constants` gives both
    numbers.

    Args:
        decoder: a glob on the paths of the decoder's leaves, if there are both stacks.

    Returns:
        A `TreeScheme`.

    Raises:
        ValueError: the model has no residual branch, or the glob matches none.

    Example:
        >>> deepnorm()
        tree.deepnorm()

    References:
        Wang et al. 2022, arXiv:2203.00555, figure 2.
    """

    def assign(model: Structure) -> Mapping[str, Initializer]:
        stacks = _stacks("tree.deepnorm", model, decoder)
        constants = deepnorm_constants(*(stack.blocks for stack in stacks))
        chosen = {kernel.path: glorot_normal() for kernel in model.kernels}
        for stack, constant in zip(stacks, constants, strict=True):
            for kernel in _scaled_kernels(stack.branches):
                assert constant is not None
                chosen[kernel.path] = glorot_normal(gain=constant.beta)
        return chosen

    return assign


@tree_scheme(cites=("trockman2023",))
def mimetic(
    query_noise: float = 0.7,
    query_identity: float = 0.7,
    value_noise: float = 0.4,
    value_identity: float = 0.4,
):
    r"""Mimetic initialization: attention that is like a trained one from step 0.

    In every head $W_Q W_K^\top \approx \alpha_1 Z + \beta_1 I$, and over all heads
    $W_V W_O \approx \alpha_2 Z - \beta_2 I$, with $Z_{ij} \sim N(0, 1/d)$, each
    factorised by its singular values; all other leaves stay as they are.

    Args:
        query_noise: $\alpha_1$.
        query_identity: $\beta_1$.
        value_noise: $\alpha_2$.
        value_identity: $\beta_2$.

    Returns:
        A `TreeScheme`.

    Raises:
        ValueError: there is no attention with separate kernels for query, key, value
            and output, of shapes (d, heads, size) and (heads, size, d).

    Example:
        >>> mimetic()
        tree.mimetic()

    References:
        Trockman and Kolter 2023, arXiv:2305.09828, section 3.
    """
    _checks.number(
        "tree.mimetic",
        query_noise=query_noise,
        query_identity=query_identity,
        value_noise=value_noise,
        value_identity=value_identity,
    )

    def finish(
        key: Key, values: Mapping[str, Array], model: Structure
    ) -> Mapping[str, Array]:
        made: dict[str, Array] = {}
        for branch in _attentions(model):
            q, k, v, out = branch
            count, heads, size = copies(q), *(q.shape[axis] for axis in q.out_axes)
            width = int(q.fan_in)
            pair_key, value_key = jax.random.split(path_key(key, q.path))
            shape = (count, heads, width, width)
            noise = jax.random.normal(pair_key, shape) / width**0.5
            left, right = _factors(
                query_noise * noise + query_identity * jnp.eye(width)[None, None], size
            )
            made[q.path] = _to_leaf(jnp.moveaxis(left, 1, 2), q)
            made[k.path] = _to_leaf(jnp.transpose(right, (0, 3, 1, 2)), k)
            noise = jax.random.normal(value_key, (count, width, width)) / width**0.5
            left, right = _factors(
                value_noise * noise - value_identity * jnp.eye(width)[None],
                heads * size,
            )
            made[v.path] = _to_leaf(left, v)
            made[out.path] = _to_leaf(right, out)
        return made

    def assign(model: Structure) -> Mapping[str, None]:
        _attentions(model)
        return {}

    return assign, finish


def _attentions(model: Structure) -> list[tuple[Layer, Layer, Layer, Layer]]:
    """Query, key, value and output kernels of each attention."""
    found = []
    for branch in branches_of("tree.mimetic", model):
        if not branch.attention:
            continue
        pair = branch.queries_and_keys
        value = [k for k in branch.kernels if k not in (*pair, branch.end)]
        if (
            len(pair) != 2
            or len(value) != 1
            or pair[0].shape != pair[1].shape
            or len(pair[0].out_axes) != 2
            or len(branch.end.in_axes) != 2
        ):
            raise ValueError(
                f"tree.mimetic: the attention that ends in {branch.end.path} has not "
                "one kernel each for query, key and value, of shape (width, heads, "
                "size) and as many heads."
            )
        found.append((*pair, value[0], branch.end))
    if not found:
        raise ValueError("tree.mimetic: the model has no attention.")
    return found


def _factors(product: Array, rank: int) -> tuple[Array, Array]:
    """Factors (..., n, rank) and (..., rank, n) of the nearest matrix of that rank."""
    u, s, v = jnp.linalg.svd(product, full_matrices=False)
    root = jnp.sqrt(s[..., :rank])
    return u[..., :rank] * root[..., None, :], root[..., None] * v[..., :rank, :]


def _to_leaf(kernel: Array, layer: Layer) -> Array:
    """A kernel of shape (layers, in, out), its axes split, in the leaf's own order."""
    order = (*layer.layer_axes, *layer.in_axes, *layer.out_axes)
    sizes = [layer.shape[axis] for axis in order]
    return kernel.reshape(sizes).transpose(np.argsort(order)).astype(layer.dtype)
