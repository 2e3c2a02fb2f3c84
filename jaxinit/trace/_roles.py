"""From the role of each dimension to the role of each leaf axis, and the fans."""

import math
from collections.abc import Sequence

from ._layer import Use
from ._view import Dim, View, only_repeats

MULTIPLIED = (
    "It is multiplied with another parameter before it meets activations, so that its "
    "use does not tell input from output."
)
IN, OUT, BATCH, RECEPTIVE = "in", "out", "batch", "receptive"


def _axis_roles(view: View, roles: Sequence[str], rank: int) -> list[dict[str, int]]:
    """For each leaf axis the roles of its pieces, with their sizes."""
    found: list[dict[str, int]] = [{} for _ in range(rank)]
    for dim, role in zip(view.dims, roles, strict=True):
        for factor in dim.factors:
            for axis in factor.axes:
                found[axis][role] = found[axis].get(role, 1) * factor.size
    return found


def _one_role(pieces: dict[str, int]) -> str | None:
    """The role of an axis whose pieces have these roles; None if there is none."""
    if pieces.get(IN, 1) > 1 and pieces.get(OUT, 1) > 1:
        return None
    # An axis that holds the group as well as the feature counts as the feature's, as
    # in a grouped convolution; so does one that holds window and feature.
    large = {role for role, size in pieces.items() if size > 1} - {BATCH}
    return next(r for r in (IN, OUT, RECEPTIVE, BATCH) if r in (large or pieces))


def _repeated_along(view: View, roles: Sequence[str]) -> str:
    """What holds one entry over and over: "summed over", "kept", or nothing."""
    for wanted, said in ((IN, "summed over"), (OUT, "kept")):
        pairs = zip(view.dims, roles, strict=True)
        repeats = only_repeats(dim for dim, role in pairs if role == wanted)
        # Rows that an index picked repeat no row.
        if repeats and not view.looked:
            return said
    return ""


def _told_apart(view: View, roles: Sequence[str]) -> list[str]:
    """The roles, where kernels that an index picked are not parts of one."""
    pairs = [*zip(view.dims, roles, strict=True)]
    own = {role for dim, role in pairs if view.looked and dim.own > 1}
    return [
        BATCH if role in own & {IN, OUT} and only_repeats([dim]) else role
        for dim, role in pairs
    ]


def _fan(dims: Sequence[Dim], roles: Sequence[str], wanted: str) -> int:
    """How many terms the dimensions of one role hold, repeated ones included."""
    chosen = (dim for dim, role in zip(dims, roles, strict=True) if role == wanted)
    return math.prod(dim.length for dim in chosen)


def _shards(view: View, axes: Sequence[int]) -> int:
    """How many times longer the axes are than this device's part of them."""
    return math.prod(n for axis, n in view.shards if axis in axes)


def kernel_use(
    view: View,
    shape: Sequence[int],
    kind: str,
    roles: Sequence[str],
    *,
    window: Sequence[int] = (),
    stride: tuple[int, ...] = (),
    upsample: tuple[int, ...] = (),
    dilation: tuple[int, ...] = (),
    before: str | None = None,
) -> Use:
    """The use of a leaf as (a part of) a kernel.

    Args:
        view: the kernel's view of the leaf.
        shape: the leaf's shape.
        kind: "dense" or "conv".
        roles: for each dimension of the kernel its role.
        window: sizes of the receptive field.
        stride: window strides.
        upsample: input dilation.
        dilation: kernel dilation.
        before: the nonlinearity before the kernel.

    Returns:
        The use; of kind "unknown" where one leaf axis is both input and output, or
        where a fan counts the same entries over and over.
    """
    if view.multiplied:
        return Use("unknown", activation_before=before, reason=MULTIPLIED)
    roles = _told_apart(view, roles)
    said = _repeated_along(view, roles)
    if said:
        reason = f"It is repeated along what is {said}."
        return Use("unknown", activation_before=before, reason=reason)
    pieces = _axis_roles(view, roles, len(shape))
    role_of = [_one_role(found) if found else "" for found in pieces]
    for axis, role in enumerate(role_of):
        if role is None and axis in view.tied and {IN, OUT} <= {*role_of}:
            # Places of a symmetry: their index is the difference of two sites.
            role_of[axis], kind = RECEPTIVE, "conv"
        elif role is None:
            reason = f"Axis {axis} is summed over in part and kept in part."
            return Use("unknown", activation_before=before, reason=reason)
    pairs = zip(pieces, role_of, strict=True)
    groups = math.prod(found.get(BATCH, 1) for found, role in pairs if role != BATCH)
    left_out = [axis for axis, found in enumerate(pieces) if not found]
    for axis in left_out:
        # A loop, an index or a slice took one place of a longer axis. An axis of size
        # 1 was squeezed away: it can be whatever is missing.
        spare = [role for role in (IN, OUT) if role not in role_of]
        role_of[axis] = spare[0] if spare and shape[axis] == 1 else BATCH
    every = (IN, OUT, BATCH, RECEPTIVE)
    axes = {r: tuple(a for a, its in enumerate(role_of) if its == r) for r in every}
    field, fan_in, fan_out = (
        _fan(view.dims, roles, role) * _shards(view, axes[role])
        for role in (RECEPTIVE, IN, OUT)
    )
    # Where an index out of the activations chooses, one place is used.
    one_of = {axis for axis in left_out if shape[axis] == 1} | {*view.looked}
    return Use(
        kind,
        in_axes=axes[IN],
        out_axes=axes[OUT],
        batch_axes=axes[BATCH],
        layer_axes=tuple(a for a in left_out if a in axes[BATCH] and a not in one_of),
        receptive_axes=axes[RECEPTIVE],
        fan_in=fan_in * field / _thinning(window, upsample),
        fan_out=fan_out * field / _thinning(window, stride),
        groups=groups,
        stride=stride,
        upsample=upsample,
        dilation=dilation,
        activation_before=before,
        multiplier=view.factor,
    )


def _thinning(sizes: Sequence[int], strides: Sequence[int]) -> float:
    """By how much strides thin out the places that a window meets."""
    pairs = zip(sizes, strides, strict=False)
    return math.prod(max(1.0, min(float(s), float(k))) for k, s in pairs)


def entry_use(view: View, shape: Sequence[int], kind: str, reason: str = "") -> Use:
    """The use of a leaf whose entries meet, or become, activations one by one."""
    seen = {axis for dim in view.dims for f in dim.factors for axis in f.axes}
    if kind == "unknown":
        return Use(kind, reason=reason)
    looked = set(view.looked) if kind == "embedding" else set[int]()
    batch = [a for a, n in enumerate(shape) if a not in seen | looked and n > 1]
    in_turn = tuple(axis for axis in batch if axis not in view.stacked)
    batch = sorted({*batch, *view.stacked} - looked)
    out = [a for a in range(len(shape)) if a not in looked and a not in batch]
    fan_out = math.prod(
        factor.size
        for dim in view.dims
        for factor in dim.factors
        if factor.axes and not set(factor.axes) <= {*batch, *looked}
    )
    return Use(
        kind,
        in_axes=tuple(sorted(looked)),
        out_axes=tuple(out),
        batch_axes=tuple(batch),
        layer_axes=in_turn,
        fan_in=1.0,
        fan_out=float(fan_out * _shards(view, out)) if kind == "embedding" else 1.0,
        place_axes=view.places if kind == "bias" else (),
        multiplier=view.factor if kind == "embedding" else 1.0,
    )
