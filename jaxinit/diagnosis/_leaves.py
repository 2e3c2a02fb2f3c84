"""What the values of the leaves themselves show to be wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from jaxinit.diagnosis._deviations import MANY, Check, Subject, wrong_fan
from jaxinit.diagnosis._finding import Finding
from jaxinit.trace import KERNELS, Layer
from jaxinit.tree import Structure


def _unused(subject: Subject) -> Iterator[Finding]:
    for layer in subject.layers:
        if layer.uses == 0 and layer.reason == "It is never used.":
            yield Finding(
                "unused",
                False,
                layer.path,
                0.0,
                f"{layer.path} enters no computation, so it will never be trained.",
                "Remove it, or use it.",
            )


def _not_finite(subject: Subject) -> Iterator[Finding]:
    for path, value in subject.values.items():
        wrong = int(value.size - np.isfinite(value).sum())
        if wrong:
            yield Finding(
                "not finite",
                True,
                path,
                float(wrong),
                f"{path} has {wrong} entries of {value.size} that are not finite.",
                "Draw it in float32, and take logarithms of what is above zero.",
            )


def _equal_units(subject: Subject) -> Iterator[Finding]:
    layers = {layer.path: layer for layer in subject.layers}
    for layer in subject.layers:
        value = subject.values[layer.path]
        if layer.kind not in KERNELS or layer.fan_out < 2 or not layer.feeds:
            continue
        if not _alike(value, layer.out_axes):
            continue
        after = [layers[path] for path in layer.feeds if path != layer.path]
        # What a branch's end is added to tells its units apart.
        stuck = bool(after) and not layer.residual
        stuck = stuck and all(
            each.kind in KERNELS and _alike(subject.values[each.path], each.in_axes)
            for each in after
        )
        zero = not value.any()
        if stuck or not zero:
            what = "zero" if zero else "equal"
            rest = (
                ", and so are their weights further on: they stay equal for good."
                if stuck
                else ", so that its output has one direction at the start."
            )
            yield Finding(
                "equal units",
                stuck,
                layer.path,
                float(value.flat[0]),
                f"All units of {layer.path} have {what} weights{rest}",
                "Draw it from a distribution: `jaxinit.lecun_normal()`.",
            )


def _alike(value: np.ndarray, axes: Sequence[int]) -> bool:
    """Whether a leaf is the same all along some axes."""
    first = value[
        tuple(slice(0, 1) if k in axes else slice(None) for k in range(value.ndim))
    ]
    count = math.prod(value.shape[axis] for axis in axes)
    return count > 1 and bool((value == first).all())


def _same_values(subject: Subject) -> Iterator[Finding]:
    names: list[str] = []
    heads: list[np.ndarray] = []
    for layer, value in subject.drawn:
        if layer.kind not in (*KERNELS, "embedding", "unknown"):
            continue
        members = _members(layer, value)
        if len(members) > 1 and members.shape[1] >= MANY:
            pair = _first_pair(members[:, : 4 * MANY])
            if pair is not None:
                a, b, sign = pair
                what = f"Layers {a} and {b} of {layer.path} have the same values"
                yield _same(layer.path, True, sign, what, "split(key, count)")
                continue
        names.append(layer.path)
        heads.append(value.ravel()[:MANY])
    seen = set[str]()
    while len(heads) > 1 and (pair := _first_pair(np.stack(heads))) is not None:
        a, b, sign = pair
        one, other = (subject.values[names[k]].ravel() for k in (a, b))
        size = min(one.size, other.size, 4096)
        whole = _correlation(one[:size], other[:size])
        name, path = names[a], names[b]
        del names[b], heads[b]
        if abs(whole) > 0.999 and path not in seen:
            seen.add(path)
            what = f"{path} has the values of {name}, up to a factor"
            yield _same(path, False, sign, what, "fold_in(key, number)")


def _same(path: str, serious: bool, sign: float, what: str, how: str) -> Finding:
    return Finding(
        "same values",
        serious,
        path,
        sign,
        f"{what}: a key was used twice.",
        f"Give each its own key: `jax.random.{how}`, or draw all by `jaxinit.init`.",
    )


def _members(layer: Layer, value: np.ndarray) -> np.ndarray:
    """The separate layers of a leaf, (members, entries)."""
    axes = layer.batch_axes or layer.out_axes[:-1]
    rest = [k for k in range(value.ndim) if k not in axes]
    count = math.prod(value.shape[axis] for axis in axes)
    return value.transpose(*axes, *rest).reshape(count, -1)


def _first_pair(rows: np.ndarray) -> tuple[int, int, float] | None:
    """The first two rows that are the same up to a factor, and the factor's sign."""
    rows = rows.astype(float)
    norms = np.linalg.norm(rows, axis=1)
    rows = rows / np.where(norms > 0, norms, 1)[:, None]
    cosines = np.tril(rows @ rows.T, -1)
    places = np.argwhere(np.abs(cosines) > 0.999)
    if not len(places):
        return None
    b, a = places[0]
    return int(a), int(b), float(np.sign(cosines[b, a]))


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(float), other.astype(float)
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norms if norms > 0 else 0.0


def _piled_up(subject: Subject) -> Iterator[Finding]:
    for layer, value in subject.drawn:
        if value.size < 1024 or layer.kind not in (*KERNELS, "embedding"):
            continue
        most = np.abs(value).max()
        share = float((np.abs(value) == most).mean())
        if share > 2e-3:
            yield Finding(
                "piled up",
                False,
                layer.path,
                share,
                f"{share:.1%} of {layer.path} lie exactly at its bound {most:.3g}: it "
                "was cut off in place of being drawn within bounds.",
                "Draw it by `jaxinit.truncated_normal(stddev)`, which computes in "
                "float32.",
            )
        elif value.dtype == np.float32:
            some = value.ravel()[:4096]
            if (
                np.asarray(jnp.asarray(some).astype(jnp.bfloat16), float) == some
            ).all():
                yield Finding(
                    "low precision",
                    False,
                    layer.path,
                    float(len(np.unique(some))),
                    f"{layer.path} is float32, but all its values are of bfloat16: it "
                    "was drawn in low precision.",
                    "Draw in float32 and cast what is kept in low precision.",
                )


def _tied_head(subject: Subject) -> Iterator[Finding]:
    tables = {
        layer.path
        for layer in subject.layers
        if layer.kind == "embedding"
        and any(use.kind in KERNELS for use in layer.other_uses)
    }
    labels = subject.report.labels
    for row, label in zip(subject.report.rows, labels, strict=True):
        if label.path in tables and row.std > 3:
            yield Finding(
                "tied head",
                row.std > 10,
                label.path,
                row.std,
                f"{label.path} is embedding and head in one: with a deviation of "
                f"{row.kernel_std:.3g} its logits have one of {row.std:.3g}.",
                "Draw it smaller, `jaxinit.normal(0.02)`, or divide the logits by the "
                "root of the width.",
            )


def _wrong_matrix(subject: Subject) -> Iterator[Finding]:
    structure = Structure(subject.layers)
    depth = structure.depth
    if depth < 4:
        return
    size = {
        layer.path: float(subject.values[layer.path].astype(float).std())
        * math.sqrt(layer.fan_in)
        for layer in structure.kernels
    }
    for branch in structure.branches:
        end = size[branch.end.path]
        for layer in branch.kernels[:-1]:
            twins = [
                other
                for other in branch.kernels[:-1]
                if other.path != layer.path and other.shape == layer.shape
            ]
            for twin in twins:
                for count in (depth, depth / 2):
                    ratio = size[layer.path] / max(size[twin.path], 1e-37)
                    scaled = abs(ratio * math.sqrt(count) - 1) < 0.05
                    if scaled and end > 0.7 * size[twin.path]:
                        yield Finding(
                            "wrong matrix",
                            False,
                            layer.path,
                            ratio,
                            f"{layer.path} is {1 / ratio:.3g} times smaller than its "
                            f"twin {twin.path}, as ends of branches are among {depth}, "
                            f"but {branch.end.path} is the end and is not.",
                            "Scale the end: `jaxinit.tree.gpt2()` finds it by its use.",
                        )


def _large_biases(subject: Subject) -> Iterator[Finding]:
    kinds = {layer.path: layer for layer in subject.layers}
    stds: dict[str, float] = {}
    for row, label in zip(subject.report.rows, subject.report.labels, strict=True):
        stds[label.path] = max(row.std, stds.get(label.path, 0.0))
    for layer in subject.layers:
        value = subject.values[layer.path]
        if layer.kind != "bias" or layer.place_axes or not layer.acts_on:
            continue
        if not value.size or not np.isfinite(value).all():
            continue
        size = float(np.sqrt(np.mean(np.square(value.astype(float)))))
        met = [kinds[path] for path in layer.acts_on if path in kinds]
        # Gates and heads begin with biases that say what is likely.
        plain = all(each.feeds and each.activation_after not in _GATES for each in met)
        most = max((stds.get(each.path, math.nan) for each in met), default=math.nan)
        if size > 10 or (plain and size > 1 and size > 4 * most):
            beside = f", beside {most:.3g} of what it is added to," if most > 0 else ""
            yield Finding(
                "large bias",
                False,
                layer.path,
                size,
                f"The bias {layer.path} has a size of {size:.3g}{beside} and decides "
                "what its units put out whatever comes in.",
                "Begin it at zero: `jaxinit.zeros`.",
            )


_GATES = ("sigmoid", "softplus", "softmax")
"""Nonlinearities whose biases begin at what is likely, or at a time scale."""


def _odd_scales(subject: Subject) -> Iterator[Finding]:
    for layer in subject.layers:
        value = subject.values[layer.path]
        if layer.kind != "scale" or value.ndim != 1 or value.size < 8:
            continue
        if not np.isfinite(value).all() or not layer.acts_on:
            continue
        value = value.astype(float)
        if len(np.unique(value)) > value.size / 2 and value.min() < 0 < value.max():
            share = min(float((value < 0).mean()), float((value > 0).mean()))
            if share > 0.2:
                yield Finding(
                    "drawn scale",
                    False,
                    layer.path,
                    float(value.std()),
                    f"The scale {layer.path} is drawn around {value.mean():.2g} with a "
                    f"deviation of {value.std():.3g}: it turns features over and "
                    "takes others away, as the kernel's law given to a norm does.",
                    "Begin it at one: `jaxinit.ones`.",
                )


def _cuts_nothing(subject: Subject) -> Iterator[Finding]:
    for path, bound in subject.uncut.items():
        yield Finding(
            "cuts nothing",
            False,
            path,
            bound,
            f"The truncation of {path} lies {bound:.3g} deviations out, and cuts "
            "nothing: its bounds are absolute numbers.",
            "Give the bounds in deviations: `jaxinit.truncated_normal(stddev, "
            "lower=-2, upper=2)`.",
        )


def _off_scheme(subject: Subject) -> Iterator[Finding]:
    for path, expected in subject.expected.items():
        value = subject.values[path].astype(float)
        if value.size < MANY:
            continue
        found = float(value.std())
        error = 5 / math.sqrt(2 * value.size) + 0.02
        if abs(found - expected) > error * max(expected, 1e-30):
            yield Finding(
                "off the scheme",
                False,
                path,
                found,
                f"{path} has a deviation of {found:.3g}, where the scheme gives "
                f"{expected:.3g}.",
                "Draw it by the scheme: `jaxinit.reinit(key, params, scheme, apply, "
                "inputs)`.",
            )


CHECKS: tuple[Check, ...] = (
    _not_finite,
    _equal_units,
    _same_values,
    wrong_fan,
    _piled_up,
    _tied_head,
    _wrong_matrix,
    _large_biases,
    _odd_scales,
    _cuts_nothing,
    _off_scheme,
    _unused,
)
"""All checks of leaves, in the order of what they tell."""


def findings(subject: Subject) -> list[Finding]:
    """What is wrong with the leaves."""
    return [finding for check in CHECKS for finding in check(subject)]
