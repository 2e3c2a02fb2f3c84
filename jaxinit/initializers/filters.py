"""Kernels that are known filters: interpolation, sub-pixel, Fourier."""

from __future__ import annotations

import math
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxinit import _checks
from jaxinit._initializer import Initializer, base_draw, initializer
from jaxinit._types import Array, Draw, DType, Key
from jaxinit.initializers.structured import grouped_eye


@initializer(random=False, cites=("long2015",))
def bilinear(groups: int = 1, dtype: DType = None) -> Draw:
    r"""Linear interpolation, as the kernel of a transposed convolution.

    The outer product of triangles $1 - |i / f - c|$ with $f = \lceil k / 2 \rceil$ and
    $c = (2 f - 1 - f \bmod 2) / (2 f)$ over the taps i of each spatial axis, between
    input i and output i of each group: a stride of f then upsamples f times, in one,
    two or three dimensions.

    Args:
        groups: feature groups of the convolution.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer of kernels (*spatial, in / groups, out), of sizes 2 f - f mod 2.

    Raises:
        ValueError: a rank below three, or groups that do not divide the outputs.

    Example:
        >>> bilinear()(None, (4, 1, 1)).ravel().tolist()
        [0.25, 0.75, 0.75, 0.25]

    References:
        Long, Shelhamer and Darrell 2015, arXiv:1411.4038, section 3.3.
    """
    _checks.integer("bilinear", groups=groups)

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        _checks.rank("bilinear", shape, minimum=3)
        kernel = grouped_eye("bilinear", shape, groups, dtype)
        for size in reversed(shape[:-2]):
            f = math.ceil(size / 2)
            center = (2 * f - 1 - f % 2) / (2 * f)
            triangle = 1 - np.abs(np.arange(size) / f - center)
            taps = jnp.asarray(triangle, dtype).reshape(-1, *[1] * kernel.ndim)
            kernel = taps * kernel[None]
        return kernel

    return draw


@initializer(cites=("aitken2017",))
def icnr(
    scheme: Initializer,
    factor: int = 2,
    order: Literal["depth_to_space", "pixel_shuffle"] = "depth_to_space",
    dtype: DType = None,
) -> Draw:
    r"""Sub-pixel convolution initialized to nearest-neighbour upsampling.

    The kernel of $\text{out} / r^d$ outputs is drawn by another scheme and repeated for
    the $r^d$ sub-pixels of each, so that the initial output has no checkerboard.

    Args:
        scheme: the scheme of the smaller kernel.
        factor: r, the upsampling of each of the d spatial axes.
        order: how the outputs are rearranged: "depth_to_space", block by block as in
            TensorFlow, or "pixel_shuffle", channel by channel as in torch.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer of kernels (*spatial, in, out).

    Raises:
        TypeError: `scheme` is no initializer. ValueError: $r^d$ does not divide the
            outputs, or a rank below three.

    Example:
        >>> import jax, jaxinit
        >>> w = icnr(jaxinit.he_normal())(jax.random.key(0), (3, 3, 8, 16))
        >>> bool((w[..., :4] == w[..., 12:]).all())
        True

    References:
        Aitken et al. 2017, arXiv:1707.02937, section 2.
    """
    base = base_draw(scheme)
    _checks.integer("icnr", factor=factor)
    _checks.choice("icnr", "order", order, ("depth_to_space", "pixel_shuffle"))

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        _checks.rank("icnr", shape, minimum=3)
        copies = factor ** (len(shape) - 2)
        if shape[-1] % copies:
            raise ValueError(
                f"icnr: factor={factor} makes {copies} sub-pixels, which do not divide "
                f"the {shape[-1]} outputs of shape {shape}."
            )
        small = base(key, (*shape[:-1], shape[-1] // copies), dtype)
        if order == "pixel_shuffle":
            return jnp.repeat(small, copies, axis=-1)
        return jnp.tile(small, copies)

    return draw


@initializer(random=False, cites=("chollet2015",))
def stft(
    side: Literal["real", "imaginary"] = "real",
    window: Literal["hann", "hamming", "none"] = "hann",
    scaling: Literal["density", "spectrum", "none"] = "density",
    periodic: bool = False,
    dtype: DType = None,
) -> Draw:
    r"""Windowed cosines or sines: a short-time Fourier transform as a convolution.

    $K_{t f} = s\, w_t \cos(2 \pi f t / N)$, or $-\sin$, with N = 2 (frequencies - 1);
    s is $(\sum w^2)^{-1/2}$ for "density" and $(\sum w)^{-1}$ for "spectrum".

    Args:
        side: the real or the imaginary part.
        window: the window w over the frame.
        scaling: the factor s; "none" is 1, as is any without a window.
        periodic: whether the window is periodic, for analysis and synthesis, rather
            than symmetric.
        dtype: dtype of the array; JAX's default float if None.

    Returns:
        An initializer of kernels (frame, in, frequencies).

    Raises:
        ValueError: an unknown side, window or scaling, a rank other than three, or a
            window that is zero throughout.

    Example:
        >>> w = stft(window="none")(None, (4, 1, 3))
        >>> w[:, 0, 1].round(3).tolist()
        [1.0, 0.0, -1.0, -0.0]

    References:
        The kernel of Keras' `STFTSpectrogram` layer.
    """
    _checks.choice("stft", "side", side, ("real", "imaginary"))
    _checks.choice("stft", "window", window, ("hann", "hamming", "none"))
    _checks.choice("stft", "scaling", scaling, ("density", "spectrum", "none"))

    def draw(key: Key, shape: tuple[int, ...], dtype: DType) -> Array:
        if len(shape) != 3:
            raise ValueError(
                f"stft: shape {shape} has rank {len(shape)}; a kernel (frame, in, "
                "frequencies) of rank 3 is needed."
            )
        frame, _, frequencies = shape
        w = _window(window, frame, periodic)
        if not w.any():
            raise ValueError(
                f"stft: a symmetric {window} window of {frame} samples is zero "
                "throughout; pass periodic=True or a longer frame."
            )
        turns = np.outer(np.arange(frame), np.arange(frequencies))
        angle = np.pi * turns / max(frequencies - 1, 1)
        waves = np.cos(angle) if side == "real" else -np.sin(angle)
        total = {"density": (w**2).sum() ** 0.5, "spectrum": w.sum(), "none": 1.0}
        if window == "none":
            total = dict.fromkeys(total, 1.0)
        kernel = w[:, None] * waves / total[scaling]
        return jnp.broadcast_to(jnp.asarray(kernel[:, None], dtype), shape)

    return draw


def _window(name: str, frame: int, periodic: bool) -> np.ndarray[Any, Any]:
    if name == "none" or frame == 1:
        return np.ones(frame)
    symmetric = {"hann": np.hanning, "hamming": np.hamming}[name]
    return symmetric(frame + 1)[:-1] if periodic else symmetric(frame)
