"""The report: what a function does to a signal, as numbers, a table and a figure."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxinit import meanfield
from jaxinit._checks import is_traced
from jaxinit._types import Array
from jaxinit.diagnosis._numbers import Growth, Label, PointLabel, PointRow, Row, growth
from jaxinit.diagnosis._signal import Signal, findings
from jaxinit.diagnosis._spectra import Spectra


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["columns", "marks", "leaves", "loss"],
    meta_fields=[
        *("labels", "points", "ignorance", "examples", "missed", "notes", "spectra")
    ],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """The signal in a function; what `jaxinit.diagnose` returns.

    Under `jax.jit` or `jax.vmap` its numbers are traced and it is a pytree of them;
    rows, words and figures need a concrete one.

    Attributes:
        labels: of the layers, in order of execution.
        columns: by name of a number of `Row` one for each layer.
        points: labels of the points, in order of execution.
        marks: by name of a number of `PointRow` one for each point.
        leaves: by path the norm of the mean loss's gradient by a leaf.
        loss: the mean loss; NaN without one.
        ignorance: the loss of equal probabilities, ln(classes), for labels that are
            integers; None otherwise.
        examples: how many there were.
        missed: kernels that are not measured, by path, with the operation that hides
            them.
        notes: what else a reader has to know, sentences.
        spectra: what was asked for by `spectra=True`; None otherwise.
    """

    labels: tuple[Label, ...]
    columns: Mapping[str, Array]
    points: tuple[PointLabel, ...]
    marks: Mapping[str, Array]
    leaves: Mapping[str, Array]
    loss: Array
    ignorance: float | None
    examples: int
    missed: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    spectra: Spectra | None = None

    @functools.cached_property
    def rows(self) -> tuple[Row, ...]:
        """The layers, in order of execution."""
        columns = _concrete(self.columns)
        return tuple(
            Row(
                name=label.name,
                kind=label.kind,
                fan_in=label.fan_in,
                fan_out=label.fan_out,
                before=label.before,
                after=label.after,
                reason=label.reason,
                **{name: float(values[k]) for name, values in columns.items()},
            )
            for k, label in enumerate(self.labels)
        )

    @functools.cached_property
    def point_rows(self) -> tuple[PointRow, ...]:
        """The points, in order of execution."""
        marks = _concrete(self.marks)
        return tuple(
            PointRow(
                *label, **{name: float(values[k]) for name, values in marks.items()}
            )
            for k, label in enumerate(self.points)
        )

    @functools.cached_property
    def forward(self) -> Growth:
        """How outputs grow from layer to layer."""
        return growth((row.name, row.rms) for row in self.rows)

    @functools.cached_property
    def backward(self) -> Growth:
        """How gradients grow from layer to layer, from the last to the first."""
        return growth((row.name, row.gradient) for row in self.rows[::-1])

    @functools.cached_property
    def stream(self) -> Growth:
        """How the residual stream grows from one addition to the next."""
        found = [row for row in self.point_rows if row.kind == "stream"]
        return growth(("stream", row.rms) for row in found)

    def theory(self) -> np.ndarray | None:
        r"""The outputs' root mean squares as mean-field theory has them.

        $q_{l+1} = \sigma_w^2\, \mathbb{E}[\phi(\sqrt{q_l}\, z)^2]$ from the first
        layer's measured $q_1$ on, with the kernels' measured variances.

        Returns:
            (rows,) numbers; None for a function that is no plain chain of layers, or
            with a nonlinearity that has no name.

        References:
            Poole et al. 2016, arXiv:1606.05340, equation 3.
        """
        rows = self.rows
        known = all(
            (row.before or "linear") in meanfield.ACTIVATIONS for row in rows[1:]
        )
        once = len({row.name.split(" (")[0] for row in rows}) == len(rows)
        if self.points and any(point.kind != "tanh" for point in self.points):
            return None
        if not rows or not known or not once or not rows[0].rms < math.inf:
            return None
        sizes = [rows[0].rms]
        for row in rows[1:]:
            weight = row.fan_in * row.kernel_std**2
            square = sizes[-1] ** 2
            if not (math.isfinite(square) and math.isfinite(weight)):
                return None
            after = meanfield.variance_map(
                row.before or "linear", square, weight_variance=weight
            )
            sizes.append(math.sqrt(after))
        return np.array(sizes)

    @property
    def signal(self) -> Signal:
        """What a verdict and an audit judge."""
        growth = (self.forward, self.backward, self.stream)
        rest = (float(self.loss), self.ignorance, self.examples)
        return Signal(self.rows, self.point_rows, *growth, *rest)

    @property
    def verdict(self) -> str:
        """What stands out, in plain words, each with the remedy as code."""
        said = [
            f"{each.sentence} {each.remedy}".strip() for each in findings(self.signal)
        ]
        return "\n".join(said) if said else f"Nothing stands out. {_summary(self)}"

    def to_json(self) -> str:
        """The report as JSON: a number that is not finite is null.

        Returns:
            An object of `layers` and `points`, lists with an object a row; `growth`,
            `loss`, `ignorance`, `examples`, `missed`, `notes`, `spectra` and
            `verdict`.
        """
        content = {
            "layers": [row._asdict() for row in self.rows],
            "points": [row._asdict() for row in self.point_rows],
            "growth": {
                way: getattr(self, way)._asdict()
                for way in ("forward", "backward", "stream")
            },
            "loss": float(self.loss),
            "ignorance": self.ignorance,
            "examples": self.examples,
            "missed": dict(self.missed),
            "notes": list(self.notes),
            "spectra": None if self.spectra is None else self.spectra._asdict(),
            "verdict": self.verdict.split("\n"),
        }
        return json.dumps(_finite(content), allow_nan=False)

    def to_pandas(self) -> Any:
        """The layers as a pandas DataFrame, a row each, with the layer as the index."""
        import pandas

        return pandas.DataFrame(self.rows, columns=Row._fields).set_index("name")

    def plot(self, ax: Any = None) -> Any:
        """Outputs and gradients over the layers, with theory beside them.

        Args:
            ax: two axes of matplotlib, in a figure of their own by default.

        Returns:
            The two axes, forward and backward, with logarithmic scales.
        """
        if ax is None:
            from matplotlib.figure import Figure

            figure = Figure(figsize=(9, 3.6), layout="constrained")
            ax = figure.subplots(1, 2)
        forward, backward = ax
        layers = np.arange(1, len(self.rows) + 1)
        for axes, name, title in (
            (forward, "rms", "forward: outputs of layers"),
            (backward, "gradient", "backward: gradient by outputs of layers"),
        ):
            values = np.array([getattr(row, name) for row in self.rows], float)
            shown = np.isfinite(values) & (values > 0)
            axes.plot(
                layers, np.where(shown, values, np.nan), "o-", ms=3, label="measured"
            )
            if shown.any():
                axes.set_yscale("log")
            axes.set(xlabel="layer, in order of execution", ylabel="root mean square")
            axes.set_title(title, loc="left", fontsize=10)
            axes.grid(alpha=0.25, lw=0.6)
        theory = self.theory()
        if theory is not None and (theory > 0).all():
            forward.plot(layers, theory, "--", lw=1, label="mean-field theory")
            forward.legend(frameon=False, fontsize=8)
        return ax

    def __str__(self) -> str:
        """The table, a line a layer, then the points and the verdict."""
        if any(map(is_traced, jax.tree.leaves(self))):
            return repr(self)
        table = _text(_HEADS, map(_cells, self.rows), _WORDS)
        return "\n\n".join([table, *self._rest()])

    def __repr__(self) -> str:
        """How many layers and points it has."""
        return f"Report({len(self.labels)} layers, {len(self.points)} points)"

    def _repr_html_(self) -> str:
        return f"<pre>{self!s}</pre>"

    def table(self) -> Any:
        """The layers as a table of rich, with what is told of none left out."""
        from rich.table import Table

        table = Table(box=None)
        cells = list(map(_cells, self.rows))
        told = [k for k in range(len(_HEADS)) if any(row[k] for row in cells)]
        for k in told:
            left = _HEADS[k] in _WORDS
            side = "left" if left else "right"
            table.add_column(_HEADS[k], justify=side, no_wrap=left)
        for row in cells:
            table.add_row(*(row[k] for k in told))
        return table

    def __rich__(self) -> Any:
        """The table, the points and the verdict, for a console of rich."""
        from rich.console import Group
        from rich.text import Text

        return Group(self.table(), *map(Text, self._rest()))

    def sentences(self) -> list[str]:
        """What was asked for by `spectra=True`, in words."""
        return [] if self.spectra is None else self.spectra.sentences()

    def _rest(self) -> list[str]:
        """What is said after the table."""
        said: list[str] = []
        if self.points:
            cells = map(_point_cells, self.point_rows)
            said.append(_text(_POINT_HEADS, cells, {"point", "of"}))
        for path, name in self.missed:
            said.append(f"{path} is not measured: it is used within `{name}`.")
        return [*said, *self.notes, *self.sentences(), self.verdict]


def _concrete(columns: Mapping[str, Array]) -> dict[str, np.ndarray]:
    if any(map(is_traced, columns.values())):
        raise TypeError(
            "Report: its numbers are traced; return the report from the compiled "
            "function, and read rows, words and figures outside of it."
        )
    return {name: np.asarray(values, float) for name, values in columns.items()}


def _finite(content: Any) -> Any:
    """The same with None for numbers that JSON has not."""
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return content


_HEADS = (
    *("layer", "fan in", "after", "kernel std", "norm", "mean", "std", "kurtosis"),
    *("cosine", "gradient", "dead", "|kernel grad|", "update"),
)
_WORDS = {"layer", "after"}
_POINT_HEADS = ("point", "of", "rms", "logit std", "entropy", "saturated")


def _number(value: float) -> str:
    return "" if value != value else f"{value:.3g}"


def _cells(row: Row) -> tuple[str, ...]:
    numbers = (row.kernel_std, row.spectral_norm, row.mean, row.std, row.kurtosis)
    backward = (row.gradient, row.dead, row.kernel_gradient, row.update)
    told = map(_number, (*numbers, row.cosine, *backward))
    return (row.name, f"{row.fan_in:g}", row.before or "", *told)


def _point_cells(row: PointRow) -> tuple[str, ...]:
    numbers = (row.rms, row.logit_std, row.entropy, row.saturated)
    return (row.kind, row.name, *map(_number, numbers))


def _text(heads: Sequence[str], rows: Iterable[Sequence[str]], left: set[str]) -> str:
    lines = [tuple(heads), *map(tuple, rows)]
    # What is told of no row is left out.
    told = [k for k in range(len(heads)) if any(line[k] for line in lines[1:])]
    heads = [heads[k] for k in told]
    lines = [tuple(line[k] for k in told) for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    put: Callable[[str, str, int], str] = lambda head, cell, width: (  # noqa: E731
        cell.ljust(width) if head in left else cell.rjust(width)
    )
    return "\n".join(
        "  ".join(map(put, heads, line, widths)).rstrip() for line in lines
    )


def _summary(report: Report) -> str:
    """One sentence on growth."""
    said = [
        f"{what} by {of.factor:.3g} a layer"
        for what, of in (
            ("outputs change", report.forward),
            ("gradients, backwards,", report.backward),
        )
        if of.factor == of.factor
    ]
    return f"{' and '.join(said).capitalize()}." if said else ""
