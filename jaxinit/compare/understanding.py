"""What one looks at before a sweep: schemes, theory, the signal in a network.

What a command needs is imported in it, so that `jaxinit --help` needs not even JAX.
"""

from __future__ import annotations

import inspect
import json as jsonlib
import math
import pathlib
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from jaxinit._initializer import Initializer

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def diagnose(
    *,
    task: str = "digits-mlp",
    scheme: str = "he_normal",
    seed: int = 0,
    learning_rate: float | None = None,
    spectra: Flag = False,
    json: Flag = False,
    plot: pathlib.Path | None = None,
) -> None:
    """Say why a network does not train: its signal at step 0, and what is wrong.

    Args:
        task: a built-in task or one's own, as for jaxinit compare.
        scheme: the scheme that draws the parameters, likewise.
        seed: of the initialization.
        learning_rate: of plain gradient descent; with one, updates are judged.
        spectra: measure the norms of kernels and the spectra of Jacobian and tangent
            kernel, too, which takes many gradients.
        json: print the report as JSON, and nothing else.
        plot: file of a figure of the signal, such as signal.png.
    """
    from jaxinit.compare import code, machine
    from jaxinit.compare.report import terminal
    from jaxinit.compare.train.health import health

    machine.use_all_cores()
    machine.keep_programs()
    given = code.task(task), code.scheme(scheme), seed, learning_rate
    found = health(*given, spectra=spectra)
    if plot is not None:
        found.report.plot()[0].figure.savefig(plot)
    if json:
        print(found.report.to_json())
        return
    terminal.console().print(found.report.table())
    for sentence in (*found.report.notes, *found.report.sentences()):
        print(sentence)
    print(found)


def theory(
    activation: Annotated[str, tyro.conf.Positional] = "tanh",
    /,
    *,
    bias_variance: float = 0.05,
    weight_variances: tuple[float, ...] = (),
    json: Flag = False,
    plot: pathlib.Path | None = None,
) -> None:
    """Say what mean-field theory knows of an activation: gains, phases, depth scales.

    Args:
        activation: its name, such as tanh, relu or gelu.
        bias_variance: variance of the biases.
        weight_variances: fan-in times the variance of a weight; by default around the
            critical one.
        json: print everything as JSON, and nothing else.
        plot: file of a figure of the phase diagram, such as phase.png.
    """
    from jaxinit import meanfield
    from jaxinit.compare import phases

    content = phases.content(activation, bias_variance, weight_variances)
    if plot is not None:
        meanfield.phase_diagram(activation).plot().figure.savefig(plot)
    if json:
        print(jsonlib.dumps(content, indent=2, allow_nan=False))
    else:
        phases.show(content)


def list_schemes(*, family: str | None = None, json: Flag = False) -> None:
    """List the schemes: name, what they are, formula, source.

    Args:
        family: only the schemes of one family, such as orthogonal or gates.
        json: print everything that is known of each, as JSON.
    """
    import rich.box
    import rich.markup
    import rich.table

    from jaxinit import _catalogue, _checks
    from jaxinit.compare.report import terminal

    entries = list(_catalogue.catalogue().values())
    if family is not None:
        _checks.choice("list", "family", family, sorted({e.family for e in entries}))
        entries = [each for each in entries if each.family == family]
    if json:
        print(jsonlib.dumps([each._asdict() for each in entries], indent=2))
        return
    table = rich.table.Table(box=rich.box.SIMPLE)
    for column in ("scheme", "what it is", "formula", "from", "family"):
        table.add_column(column, overflow="fold")
    for each in entries:
        names = ", ".join((each.name, *each.aliases))
        source = each.references[0] if each.references else ""
        texts = (names, each.summary, each.formula, source)
        table.add_row(*map(rich.markup.escape, texts), each.family)
    terminal.console().print(table)


def show(
    scheme: Annotated[str, tyro.conf.Positional],
    /,
    *,
    shape: tuple[int, ...] = (256, 256),
    cite: Flag = False,
) -> None:
    """Show what a scheme is and what it draws.

    Args:
        scheme: its text, such as 'he_normal(gain=2)'.
        shape: shape of the array to draw, of an initializer.
        cite: print the sources as BibTeX, and nothing else.
    """
    from jaxinit import _catalogue
    from jaxinit._initializer import Initializer
    from jaxinit._text import parse
    from jaxinit.compare.task.made_for import MADE_FOR

    entries = _catalogue.catalogue()
    if cite:
        entry = entries[scheme if scheme in entries else parse(scheme).name]
        print(entry.bibtex() or f"{entry.name} names no source.")
        return
    init = parse(scheme)
    entry = entries[init.name]
    print(f"{init!r}: {entry.summary}\n\n{entry.description}")
    if isinstance(init, Initializer):
        _show_draw(init, shape)
    for reference in entry.references:
        print(f"\n{reference}.")
    if entry.name in MADE_FOR:
        print(f"\nA task that it is made for: {MADE_FOR[entry.name]}.")


def _show_draw(init: Initializer, shape: tuple[int, ...]) -> None:
    """Fans, moments and histogram of a draw."""
    import jax
    import numpy as np

    from jaxinit._fans import compute_fans
    from jaxinit.compare import machine
    from jaxinit.compare.sweep.progress import histogram

    machine.keep_programs()
    needed = 16.0 * math.prod(shape)  # float32, and as float64 with what sorts it
    machine.check_room(f"show: an array of shape {shape}", needed, "take a smaller one")
    x = np.asarray(init(jax.random.key(0), shape), np.float64)
    print(f"\nshape  {shape}")
    if "in_axis" in init.arguments and init.arguments.get("fan") is None:
        names = inspect.signature(compute_fans).parameters
        layout = {k: v for k, v in init.arguments.items() if k in names}
        fan_in, fan_out = compute_fans(shape, **layout)
        print(f"fans   in {fan_in:g}, out {fan_out:g}")
    print(f"mean   {x.mean():.4g}\nstd    {x.std():.4g}\n\n{histogram(x)}")


COMMANDS = {"diagnose": diagnose, "theory": theory, "list": list_schemes, "show": show}
"""By name, as the command line has them."""
