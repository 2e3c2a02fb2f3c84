"""Unit variance in every layer: with data, or with inputs sampled in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from jaxinit import _checks
from jaxinit._canonical import As
from jaxinit._types import Key
from jaxinit.calibrate._balance import Balance, Direction, Measured
from jaxinit.calibrate._sample import Sampler
from jaxinit.calibrate._scheme import Base, Made, Situation, calibrated
from jaxinit.calibrate._units import Targets
from jaxinit.trace import program


def _target(owner: str, name: str, value: Any) -> Any:
    """A positive number, or pairs of a glob and one."""
    if isinstance(value, dict):
        value = tuple(value.items())
    if not isinstance(value, (tuple, list)):
        _checks.number(owner, positive=True, **{name: value})
        return float(value)
    for pair in value:
        if not (
            isinstance(pair, (tuple, list))
            and len(pair) == 2
            and isinstance(pair[0], str)
            and isinstance(pair[1], (int, float))
        ):
            raise TypeError(
                f"{owner}: {name}={value!r} must be a number, or pairs of a glob over "
                "paths and a number."
            )
        _checks.number(owner, positive=True, **{name: pair[1]})
    return tuple((str(pattern), float(number)) for pattern, number in value)


def _branch(owner: str, name: str, value: Any) -> Any:
    if value is None or value == "depth":
        return value
    if isinstance(value, str):
        raise ValueError(f"{owner}: {name}={value!r} must be 'depth' or a number.")
    _checks.number(owner, positive=True, **{name: value})
    return float(value)


def _some(owner: str, name: str, value: Any) -> Any:
    if value is None:
        return None
    _checks.number(owner, positive=True, **{name: value})
    return float(value)


Target: TypeAlias = Annotated[Any, As(_target)]
BranchTarget: TypeAlias = Annotated[Any, As(_branch)]
SomeTarget: TypeAlias = Annotated[Any, As(_some)]


def _targets(target: Any, branch: Any, head: Any, logits: Any) -> Targets:
    if isinstance(target, tuple):
        return Targets(1.0, target, branch, head, logits)
    return Targets(target, (), branch, head, logits)


def _check(
    owner: str, direction: str, center: bool, branch: Any, head: Any, logits: Any
) -> None:
    _checks.choice(owner, "direction", direction, ("forward", "backward", "both"))
    if not isinstance(center, bool):
        raise TypeError(f"{owner}: center={center!r} must be True or False.")
    if direction != "forward" and (center or logits is not None):
        raise ValueError(
            f"{owner}: center and logits are of outputs, and direction={direction!r} "
            "looks at gradients too; leave them out, or take direction='forward'."
        )


@calibrated(cites=("mishkin2016",))
def lsuv(
    base: Base = "orthogonal()",
    target: Target = 1.0,
    *,
    branch: BranchTarget = None,
    head: SomeTarget = None,
    logits: SomeTarget = None,
    direction: Direction = "forward",
    center: bool = False,
):
    r"""Layer-sequential unit variance, for any model, in one pass.

    Each kernel $W$ is divided by the standard deviation that its outputs have on a
    batch, over examples and features, in order of execution:

    $W_l \leftarrow W_l\, t_l / \mathrm{std}(W_l * x_l)$,

    where $x_l$ comes through the layers before, which are scaled already. An output is
    linear in its kernel, so all of it is done while the program runs once, and a second
    run verifies it; the paper takes a run for every layer and try. Each layer of a
    stack that is scanned has its own scale; kernels of one product, such as experts or
    members of an ensemble, share one. A kernel that is used again, in a recurrence or
    at another place, gets the scale at which its outputs have the deviation over all
    uses, from further passes. Tables that are looked up count as layers. Whatever does
    not get its deviation is named in a warning: kernels that are zero, normalised
    before their product, or not linear in a parameter stay as they are. Biases are not
    part of outputs.

    Args:
        base: the scheme that draws first, whose scales make no difference; None keeps
            the parameters as they come.
        target: $t$, the deviation of outputs, dimensionless; or pairs of a glob over
            paths and a deviation, of which the first that matches counts, 1 for the
            rest.
        branch: $t$ for the last kernels of residual branches; "depth" for
            $1/\sqrt{N}$ with N branches, at which the stream, and not the branch,
            keeps its size.
        head: $t$ for kernels that feed no other, the last ones.
        logits: the deviation of attention's logits, over the keys of a query, which
            then sets the scales of query and key kernels, the root to each.
        direction: "forward" for outputs; "backward" for the gradients that kernels
            hand back, where the outputs of the model get normal noise of unit
            variance; "both" for the geometric mean of the scales of either.
        center: whether the bias behind each kernel is set to minus the mean of its
            outputs, feature by feature.

    Returns:
        A `CalibratedScheme`.

    Raises:
        TypeError: `base` is no scheme, or has learning rates of its own (`mup`).
        ValueError: a deviation is not positive, or `direction` is another.

    Example:
        >>> import jax, jax.numpy as jnp, jaxinit
        >>> params = {"w": jnp.ones((8, 16)), "v": jnp.ones((16, 4))}
        >>> apply = lambda p, x: jax.nn.gelu(x @ p["w"]) @ p["v"]
        >>> x = jax.random.normal(jax.random.key(1), (64, 8))
        >>> scheme = jaxinit.calibrate.lsuv()
        >>> new = scheme(jax.random.key(0), params, apply, (x,))
        >>> float(round(apply(new, x).std(), 3))
        1.0

    References:
        Mishkin and Matas 2016, arXiv:1511.06422, who stop within a tenth of 1.
    """
    _check("lsuv", direction, center, branch, head, logits)
    targets = _targets(target, branch, head, logits)

    def make(at: Situation) -> Made:
        traced = program(at.apply, at.params, *at.inputs)
        return Balance("lsuv", traced, at.params, targets, direction, center)

    return make


@calibrated(cites=("mishkin2016",), needs_inputs=lambda given: given["like"] == "data")
def autoinit(
    base: Base = "orthogonal()",
    target: Target = 1.0,
    *,
    branch: BranchTarget = None,
    head: SomeTarget = None,
    logits: SomeTarget = None,
    direction: Direction = "forward",
    center: bool = False,
    mean: float | tuple[float, ...] = 0.0,
    covariance: Any = 1.0,
    like: Literal["data"] | None = None,
    examples: int | None = None,
):
    r"""Unit variance in every layer of any model, without data.

    What `lsuv` does, on inputs that are sampled: real ones from
    $\mathcal{N}(\mu, \Sigma)$, integers uniformly over the rows of the table that they
    look up, masks of truth. So every layer of a network starts at unit variance,
    whatever its activations, pooling, gates and attention, from the shapes of its
    inputs alone.

    Args:
        base: the scheme that draws first; None keeps the parameters as they come.
        target: as for `lsuv`.
        branch: as for `lsuv`.
        head: as for `lsuv`.
        logits: as for `lsuv`.
        direction: as for `lsuv`.
        center: as for `lsuv`.
        mean: $\mu$, a number, or one for each entry of an example.
        covariance: $\Sigma$, a variance, or a matrix over the entries of an example.
        like: "data" takes $\mu$ and $\Sigma$ from the inputs that come, which are then
            data; None looks at their shapes alone.
        examples: how many are sampled at least, along the first axis of the inputs; by
            default 32 to 1,024, the more the smaller an example is. Where the model
            takes no other number than comes, so many as come.

    Returns:
        A `CalibratedScheme`.

    Raises:
        TypeError: as `lsuv`.
        ValueError: as `lsuv`; or `examples` is below 2.

    Example:
        >>> import jax, jax.numpy as jnp, jaxinit
        >>> from flax import linen as nn
        >>> model = nn.Sequential([nn.Dense(32), nn.swish, nn.Dense(8)])
        >>> x = jax.ShapeDtypeStruct((1, 16), jnp.float32)
        >>> variables = jaxinit.init(model, jax.random.key(0), x, scheme="autoinit()")
        >>> inputs = jax.random.normal(jax.random.key(1), (4096, 16))
        >>> float(round(model.apply(variables, inputs).std(), 1))
        1.0

    References:
        The passes are those of Mishkin and Matas 2016, arXiv:1511.06422.
    """
    _check("autoinit", direction, center, branch, head, logits)
    if like is not None:
        _checks.choice("autoinit", "like", like, ("data",))
    if examples is not None and not (isinstance(examples, int) and examples > 1):
        raise ValueError(f"autoinit: examples={examples!r} must be 2 or more.")
    targets = _targets(target, branch, head, logits)

    def make(at: Situation) -> Made:
        return _Sampled(
            at, targets, direction, center, (mean, covariance, like), examples
        )

    return make


class _Sampled:
    """A calibration on inputs that are sampled."""

    def __init__(
        self,
        at: Situation,
        targets: Targets,
        direction: Direction,
        center: bool,
        moments: tuple[Any, Any, str | None],
        examples: int | None,
    ) -> None:
        self._sampler = Sampler("autoinit", at.apply, at.params, at.inputs, examples)
        self._moments = moments
        made = self._sampler.program
        self._made = Balance("autoinit", made, at.params, targets, direction, center)

    def __call__(
        self, key: Key, params: Any, inputs: Sequence[Any]
    ) -> tuple[Any, Measured]:
        """Sample, and calibrate."""
        sampled = self._sampler(key, inputs, *self._moments)
        return self._made(key, params, sampled)

    def tell(self, measured: Measured) -> None:
        """Warn of what is not as it shall be."""
        self._made.tell(measured)

    @property
    def unmet(self) -> Callable[[Measured], dict[str, str]]:
        """What is not as it shall be, and why, by path."""
        return self._made.unmet
