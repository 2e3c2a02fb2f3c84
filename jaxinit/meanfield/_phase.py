"""The phase diagram: ordered and chaotic networks, and how deep each trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxinit import _checks
from jaxinit._quadrature import Activation, Floats, evaluate, name_of, nodes
from jaxinit.meanfield._maps import second_moment

_SIZES = np.concatenate([[1e-9], np.logspace(-5, 2, 160)])
"""Variances q between which the moments are interpolated."""

_TERMS = 192
"""Of an activation's expansion in Hermite polynomials."""


@dataclasses.dataclass(frozen=True, eq=False)
class PhaseDiagram:
    r"""What a deep network does to a signal, over a grid of its variances.

    Attributes:
        activation: the activation's name.
        weight_variances: (w,) values of $\sigma_w^2$.
        bias_variances: (b,) values of $\sigma_b^2$.
        variance: (b, w) fixed points $q^*$; NaN where the variance grows without bound.
        slope: (b, w) values of $\chi$ there: below 1 ordered, above 1 chaotic.
        depth: (b, w) depth scales of the correlation, in layers.
        critical: (b,) weight variances at which $\chi = 1$; NaN where there is none.
    """

    activation: str
    weight_variances: Floats
    bias_variances: Floats
    variance: Floats
    slope: Floats
    depth: Floats
    critical: Floats

    def plot(self, ax: Any = None) -> Any:
        """Draw the depth scales as colours, and the critical line between the phases.

        Args:
            ax: axes of matplotlib, in a figure of their own by default.

        Returns:
            The axes.
        """
        from matplotlib.colors import LogNorm

        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(figsize=(6.2, 4.2), layout="constrained").subplots()
        shown = np.clip(self.depth, 1.0, 100.0)
        mesh = ax.pcolormesh(
            self.weight_variances,
            self.bias_variances,
            np.ma.masked_invalid(shown),
            norm=LogNorm(1, 100),
            cmap="viridis",
            shading="nearest",
            rasterized=True,
        )
        bar = ax.figure.colorbar(mesh, ax=ax, extend="max")
        bar.set_label("depth scale in layers; a network trains to about six")
        if np.isfinite(self.critical).any():
            ax.plot(self.critical, self.bias_variances, "w-", lw=2)
        for text, phase in (
            ("ordered", self.slope < 1),
            ("chaotic", self.slope > 1),
            ("grows without bound", np.isnan(self.variance)),
        ):
            if phase.mean() > 0.04:
                rows, columns = np.nonzero(phase)
                x = float(np.median(self.weight_variances[columns]))
                y = float(np.median(self.bias_variances[rows]))
                color = "black" if text.startswith("grows") else "white"
                ax.text(x, y, text, color=color, ha="center", va="center")
        ax.set(
            xlabel=r"weight variance $\sigma_w^2$",
            ylabel=r"bias variance $\sigma_b^2$",
            xlim=(self.weight_variances[0], self.weight_variances[-1]),
            ylim=(self.bias_variances[0], self.bias_variances[-1]),
        )
        ax.set_title(self.activation, loc="left", fontsize=10)
        return ax


def phase_diagram(
    activation: Activation,
    weight_variances: Sequence[float] | Floats | None = None,
    bias_variances: Sequence[float] | Floats | None = None,
) -> PhaseDiagram:
    r"""The phases of a deep network over a grid of weight and bias variances.

    At the fixed point $q^*$ of the variance map, $\chi = \sigma_w^2\,
    \mathbb{E}[\phi'^2]$ tells the ordered phase from the chaotic one, and the
    correlation of two inputs settles at $c^*$ over $\xi = -1 / \ln R$ layers, with
    $R = \chi$ in the ordered phase, $R = \sigma_w^2\, \mathbb{E}[\phi'(u_1)
    \phi'(u_2)]$ at $c^*$ in the chaotic one. Moments are interpolated, and those of
    pairs come from an expansion in Hermite polynomials: $q^*$ and $\chi$ are right to
    0.2 %, depth scales to a few per cent where they are shorter than 50 layers.
    `fixed_point` has each exactly. A $q^*$ above 100 counts as growth without bound.

    Args:
        activation: a name, or an elementwise function.
        weight_variances: (w,) values of $\sigma_w^2$, rising; by default 61 up to twice
            the critical one.
        bias_variances: (b,) values of $\sigma_b^2$, rising; by default 41 from 0 to
            0.5.

    Returns:
        The `PhaseDiagram`.

    Raises:
        ValueError: variances are negative or do not rise.

    Example:
        >>> found = phase_diagram("tanh", [1.0, 1.5, 2.5], [0.05])
        >>> found.slope.round(2).tolist(), found.depth.round(1).tolist()
        ([[0.76, 0.94, 1.13]], [[3.6, 15.8, 11.8]])
        >>> found.critical.round(2).tolist()
        [1.76]

    References:
        Poole et al. 2016, arXiv:1606.05340, figure 1; Schoenholz, Gilmer, Ganguli and
        Sohl-Dickstein 2017, arXiv:1611.01232, figure 2.
    """
    squares = np.array([second_moment(activation, q) for q in _SIZES])
    slopes = np.array([second_moment(activation, q, derivative=True) for q in _SIZES])
    biases = _grid("bias_variances", bias_variances, np.linspace(0, 0.5, 41))
    critical = np.array([_critical(squares, slopes, b) for b in biases])
    known = critical[np.isfinite(critical)]
    most = 2 * float(known.max()) if len(known) else 4.0
    weights = _grid("weight_variances", weight_variances, np.linspace(0, most, 61))
    sizes = np.array([[_settled(squares, w, b) for w in weights] for b in biases])
    chi = weights * np.interp(_log(sizes), np.log(_SIZES), slopes)
    chi = np.where(np.isfinite(sizes), chi, np.nan)
    rates = _rates(activation, weights, biases, sizes, chi, squares, slopes)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.where(rates > 0, -1 / np.log(np.minimum(rates, 1 - 1e-9)), 0.0)
    depth = np.where(np.isfinite(sizes), depth, np.nan)
    name = activation if isinstance(activation, str) else name_of(activation)
    return PhaseDiagram(name, weights, biases, sizes, chi, depth, critical)


def _grid(name: str, given: Sequence[float] | Floats | None, default: Floats) -> Floats:
    if given is None:
        return default
    values = np.asarray(given, np.float64)
    if values.ndim != 1 or not len(values) or not (np.diff(values) > 0).all():
        raise ValueError(
            f"phase_diagram: {name} must be numbers that rise, and here are none, or "
            "some that do not; sort them."
        )
    first: dict[str, Any] = {name: float(values[0])}
    _checks.number("phase_diagram", minimum=0.0, **first)
    return values


def _critical(squares: Floats, slopes: Floats, bias: float) -> float:
    """The weight variance of the edge of chaos; NaN where there is none."""
    with np.errstate(divide="ignore"):
        weights = 1 / slopes
    q = _crossing(squares * weights + bias)
    return float(np.interp(_log(q), np.log(_SIZES), weights))


def _log(q: Any) -> Any:
    return np.log(np.maximum(q, _SIZES[0]))


def _settled(squares: Floats, weight: float, bias: float) -> float:
    """The fixed point that a small signal comes to; NaN if it grows without bound."""
    return _crossing(weight * squares + bias)


def _crossing(after: Floats) -> float:
    """Where what becomes of each of `_SIZES` falls below it; NaN if it never does."""
    excess = after / _SIZES - 1
    excess[np.abs(excess) < 1e-9] = 0.0  # a fixed line falls by rounding only
    if excess[0] < 0 or (excess == 0).all():
        return 0.0
    falls = np.flatnonzero((excess[:-1] >= 0) & (excess[1:] < 0))
    if not len(falls):
        return np.nan
    k = falls[0]
    share = excess[k] / (excess[k] - excess[k + 1])
    low, high = np.log(_SIZES[k : k + 2])
    return float(np.exp(low + share * (high - low)))


def _rates(
    activation: Activation,
    weights: Floats,
    biases: Floats,
    sizes: Floats,
    chi: Floats,
    squares: Floats,
    slopes: Floats,
) -> Floats:
    """By what a small deviation of the correlation shrinks from layer to layer."""
    chaotic = (chi > 1) & (sizes > 0)
    rates = np.where(chaotic, 1.0, chi)
    if not chaotic.any():
        return rates
    rows, columns = np.nonzero(chaotic)
    places = np.interp(_log(sizes[chaotic]), np.log(_SIZES), np.arange(len(_SIZES)))
    needed = np.unique(np.r_[np.floor(places), np.ceil(places)].astype(int))
    known = np.zeros((len(_SIZES), _TERMS))
    known[needed] = [_hermite(activation, float(_SIZES[k])) ** 2 for k in needed]
    low = np.floor(places).astype(int)
    high, part = np.ceil(places).astype(int), (places - low)[:, None]
    terms = (1 - part) * known[low] + part * known[high]
    q, weight, bias = sizes[chaotic], weights[columns], biases[rows]
    # What the series lacks is one term more, which has both moments right at c = 1.
    order = np.arange(_TERMS)
    logs = _log(sizes[chaotic])
    lacks = np.interp(logs, np.log(_SIZES), squares) - terms.sum(1)
    steep = np.interp(logs, np.log(_SIZES), slopes) * q - terms @ order
    last = np.clip(steep / np.maximum(lacks, 1e-12), _TERMS, 1e6)
    lacks = np.maximum(lacks, 0.0)
    exact = (q - bias) / weight / (terms.sum(1) + lacks)
    terms, lacks = terms * exact[:, None], lacks * exact
    c, rate = np.zeros(len(q)), np.zeros(len(q))
    for _ in range(60):
        powers = c[:, None] ** order
        more = lacks * c**last
        value = (weight * ((terms * powers).sum(1) + more) + bias) / q - c
        slope = (terms[:, 1:] * order[1:] * powers[:, :-1]).sum(1)
        rate = weight * (slope + last * lacks * c ** (last - 1)) / q
        step = np.where((rate < 1) & (value > 1e-12), value / (1 - rate), 0.0)
        c = np.minimum(c + step, 1.0)
    rates[chaotic] = np.minimum(rate, 1.0)
    return rates


def _hermite(activation: Activation, variance: float) -> Floats:
    """The coefficients of phi(sqrt(q) z) in normalized Hermite polynomials of z."""
    z, masses = nodes(activation, variance)
    weighted = masses * evaluate(activation, np.sqrt(variance) * z, False)
    before, now = np.zeros_like(z), np.ones_like(z)
    found = np.zeros(_TERMS)
    for k in range(_TERMS):
        found[k] = weighted @ now
        before, now = now, (z * now - np.sqrt(k) * before) / np.sqrt(k + 1)
    return found
