"""The maximal update parametrization: widths and depths that share a learning rate."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import jax

from jaxinit import _checks
from jaxinit._canonical import As
from jaxinit._initializer import Initializer
from jaxinit._types import Array, Key
from jaxinit.trace import Layer
from jaxinit.tree._layers import layers_of
from jaxinit.tree._leaves import leaves_of
from jaxinit.tree._module import opened
from jaxinit.tree._reinit import reinit
from jaxinit.tree._scheme import Assign, Finish, TreeScheme, tree_scheme
from jaxinit.tree._structure import Structure
from jaxinit.tree.schemes.mup_rules import DEPTH_POWER, Multipliers, Rules, numberless


def _is_multipliers(x: Any) -> bool:
    return isinstance(x, Multipliers)


class MuP(TreeScheme):
    """The parametrization of a model against a narrower one; see `mup`."""

    __slots__ = ()

    has_rates = True

    def init(
        self, key: Key, params: Any, apply: Callable[..., Any], inputs: Sequence[Any]
    ) -> tuple[Any, Any]:
        """Parameters, and an Optax transform with each leaf's learning rate.

        Args:
            key: one PRNG key.
            params: as in `jaxinit.reinit`.
            apply: `apply(params, *inputs)`.
            inputs: its inputs.

        Returns:
            The parameters; and a transform that multiplies each leaf's update, last in
            a chain: `optax.chain(optax.adam(1e-3), transform)`.
        """
        drawn = reinit(key, params, self, apply, inputs)
        return drawn, self.transform(params, apply, inputs)

    def multipliers(
        self, params: Any, apply: Callable[..., Any], inputs: Sequence[Any]
    ) -> Any:
        """The `Multipliers` of each leaf, a tree like the parameters."""
        params, apply, _ = opened(params, apply, inputs)
        leaves, rebuild = leaves_of(params)
        by_path = self.by_path(layers_of(leaves, params, apply, inputs))
        return rebuild([by_path[leaf.path] for leaf in leaves])

    def transform(
        self, params: Any, apply: Callable[..., Any], inputs: Sequence[Any]
    ) -> Any:
        """The Optax transform of `init` alone."""
        import optax

        tree = self.multipliers(params, apply, inputs)

        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            del params
            scale = lambda m, u: jax.tree.map(lambda x: m.learning_rate * x, u)  # noqa: E731
            return jax.tree.map(scale, tree, updates, is_leaf=_is_multipliers), state

        return optax.GradientTransformation(optax.init_empty_state, update)

    def adamw(
        self,
        learning_rate: Any,
        params: Any,
        apply: Callable[..., Any],
        inputs: Sequence[Any],
        *,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> Any:
        """AdamW with learning rate, epsilon and weight decay of each leaf.

        Args:
            learning_rate: of the base model, a number or an Optax schedule.
            params: as in `init`.
            apply: as in `init`.
            inputs: as in `init`.
            eps: Adam's epsilon of the base model.
            weight_decay: weight decay of the base model.
            **options: further keywords of `optax.adamw`.

        Returns:
            The Optax transform.

        Raises:
            ValueError: the scheme has the rates of SGD.
        """
        import optax

        if self.arguments["optimizer"] == "sgd":
            raise ValueError(
                "tree.mup: adamw needs the rates of Adam; leave optimizer='sgd' out."
            )
        tree = self.multipliers(params, apply, inputs)
        kinds = set(jax.tree.leaves(tree, is_leaf=_is_multipliers))

        def rate(m: Multipliers) -> Any:
            if callable(learning_rate):
                return lambda step: m.learning_rate * learning_rate(step)
            return m.learning_rate * learning_rate

        transforms: dict[Any, Any] = {
            repr(m): optax.adamw(
                rate(m),
                eps=eps * m.epsilon,
                weight_decay=weight_decay * m.weight_decay,
                **options,
            )
            for m in kinds
        }
        labels = jax.tree.map(repr, tree, is_leaf=_is_multipliers)
        return optax.multi_transform(transforms, labels)

    def by_path(self, found: Sequence[Layer]) -> dict[str, Multipliers]:
        """The `Multipliers` of each leaf by its path.

        Args:
            found: the model's layers, as `jaxinit.trace.layers` has them.

        Returns:
            From path to `Multipliers`.
        """
        return Rules(**self.arguments).multipliers(Structure(found))


def _shapes(owner: str, name: str, base: Any) -> tuple[Any, ...]:
    """The shapes of a base model by path, sorted; such pairs or a mapping will do, too.

    Paths that differ in numbers alone are one, with "*" for each number, where they
    have one shape: the layers of a stack, of any depth.
    """
    pairs = tuple(base.items()) if isinstance(base, Mapping) else base
    if not isinstance(pairs, (tuple, list)) or not all(map(_is_shape, pairs)):
        own, _, _ = opened(base)
        pairs = [(leaf.path, leaf.value.shape) for leaf in leaves_of(own)[0]]
    alike: dict[str, dict[str, tuple[int, ...]]] = {}
    for path, shape in pairs:
        alike.setdefault(numberless(path), {})[path] = tuple(map(int, shape))
    shapes: dict[str, tuple[int, ...]] = {}
    for path, own in alike.items():
        same = len(set(own.values())) == 1
        shapes.update({path: next(iter(own.values()))} if same else own)
    return tuple(sorted(shapes.items()))


def _is_shape(pair: Any) -> bool:
    """Whether it is a path with a shape."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        return False
    path, shape = pair
    sizes = shape if isinstance(shape, (tuple, list)) else [None]
    return isinstance(path, str) and all(
        isinstance(size, numbers.Integral) for size in sizes
    )


@tree_scheme(kind=MuP, cites=("yang2022mup", "yang2024depth", "dey2025"))
def mup(
    base: Annotated[Any, As(_shapes)],
    *,
    scheme: Initializer | None = None,
    optimizer: Literal["adam", "sgd"] = "adam",
    depth: Literal["sqrt", "complete"] | None = None,
    base_depth: int | None = None,
    zero_readout: bool = True,
    zero_query: bool = True,
    tied: bool = False,
    attention: bool | None = None,
) -> tuple[Assign, Finish]:
    r"""The maximal update parametrization: learning rates that hold at any width.

    With $r_i$ and $r_o$ the growth of a leaf's fan-in and fan-out against the base
    model (1 at the base, where all is as `scheme` has it):

    | leaf | standard deviation | Adam's rate | SGD's rate | weight decay |
    |---|---|---|---|---|
    | hidden: both grow | base's $/ \sqrt{r_i}$ | $1 / r_i$ | $r_o / r_i$ | 1 / rate |
    | output: fan-in grows | base's $/ r_i$, or 0 | $1 / r_i$ | $1 / r_i$ | 1 / rate |
    | all others: fan-out grows | base's | 1 | $r_o$ | 1 / rate |

    A scheme of whole matrices, such as `orthogonal`, draws hidden and input kernels as
    it does at their own width. Embeddings, biases and scales are the model's own, and
    brought to the base's size where they shrink with the width: embeddings of mean
    square 1 / features (Flax's), and biases spread within 1 / sqrt(fan-in) (those of
    torch and Equinox). Biases go with their kernels in what follows.

    Where heads grow, query kernels are also multiplied by the root of the base head
    size over the head size, which turns the model's $1/\sqrt{d}$ attention into 1/d;
    of the two kernels of a score, that is the one called query, or else the first. With
    `depth`, residual branches of a model $m_L$ times as deep as the base are multiplied
    through their last kernels by $m_L^{-1/2}$ ("sqrt", depth-muP, with Adam's rate of
    what is inside, norms included, times $m_L^{-1/2}$) or $m_L^{-1}$ ("complete",
    CompleteP, rates unchanged); `MuP.adamw` also follows CompleteP's rules for epsilon
    and weight decay.

    What these kernels are multiplied with goes to the scale of a normalization that is
    right behind one, if it begins at 1, since the kernel's size makes no difference
    there; a normalized query is not drawn zero. Other random biases than those named
    stay as they are, as do embeddings that the program multiplies by the root of their
    features, whose rates have $1 / \sqrt{r_o}$ for it.

    Args:
        base: the parameters of the same model at the base width, concrete or abstract;
            or their shapes by path, in which "*" may stand for the numbers of layers.
        scheme: the initializer of kernels at the base; `lecun_normal()` if None.
        optimizer: whose rates: "adam" (any that normalises gradients) or "sgd".
        depth: None, "sqrt" or "complete".
        base_depth: residual branches of the base model for `depth`, two per block of a
            transformer.
        zero_readout: whether output kernels are initialized to zero.
        zero_query: whether query kernels are, where they hold queries alone.
        tied: whether the model itself multiplies the logits of a tied embedding by
            base width over width.
        attention: whether queries turn $1/\sqrt{d}$ attention into 1/d: False if the
            model does, or keeps the size of heads as their number grows. None reads
            the size from kernels of shape (d, heads, size); True is needed where heads
            of fixed number grow and kernels are (d, heads x size).

    Returns:
        A `MuP`: a scheme for whole models whose `init` returns the parameters and the
        Optax transform, and whose `multipliers` returns the factors.

    Raises:
        ValueError: the base has other leaves, a readout is tied, heads may grow but
            cannot be told or have no query kernel of their own, or `depth` comes
            without `base_depth` or with SGD.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> base = {"w": jnp.ones((4, 8)), "v": jnp.ones((8, 8)), "u": jnp.ones((8, 2))}
        >>> wide = {"w": jnp.ones((4, 16)), "v": jnp.ones((16, 16)),
        ...         "u": jnp.ones((16, 2))}
        >>> apply = lambda p, x: x @ p["w"] @ p["v"] @ p["u"]
        >>> rates = mup(base).multipliers(wide, apply, (jnp.ones((1, 4)),))
        >>> {name: m.learning_rate for name, m in rates.items()}
        {'u': 0.5, 'v': 0.5, 'w': 1.0}

    References:
        Yang et al. 2022, arXiv:2203.03466, table 3; Yang, Yu, Zhu and Hayou 2023,
        arXiv:2310.02244, for depth; Dey et al. 2025, arXiv:2505.01618, table 1.
    """
    if scheme is not None and not isinstance(scheme, Initializer):
        raise TypeError(f"tree.mup: scheme={scheme!r} must be an initializer.")
    _checks.choice("tree.mup", "optimizer", optimizer, ("adam", "sgd"))
    if depth not in DEPTH_POWER:
        raise ValueError(
            f"tree.mup: depth={depth!r} must be None, 'sqrt' or 'complete'."
        )
    if depth is not None and (base_depth is None or optimizer == "sgd"):
        raise ValueError(
            f"tree.mup: depth={depth!r} needs base_depth=, the residual branches of "
            "the base model, and Adam, for which its rules were found."
        )
    if attention not in (None, True, False):
        raise ValueError(f"tree.mup: attention={attention!r} must be a bool or None.")
    rules = Rules(
        base,
        scheme,
        optimizer,
        depth,
        base_depth,
        zero_readout,
        zero_query,
        tied,
        attention,
    )

    def finish(
        key: Key, values: Mapping[str, Array], model: Structure
    ) -> Mapping[str, Array]:
        return rules.finish(key, values, model)

    return rules.initializers, finish
