"""`jaxinit diagnose` and `jaxinit theory`: why a network does not train.

What a command needs is imported in it, so that `jaxinit --help` needs not even JAX.
"""

from __future__ import annotations

import json as jsonlib
import pathlib
from typing import Annotated

import tyro

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
