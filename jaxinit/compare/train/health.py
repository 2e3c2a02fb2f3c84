"""What is wrong with a task's initialization, before a step is trained."""

from __future__ import annotations

import jax

from jaxinit.compare.task.task import Task
from jaxinit.compare.train.initial import InitialParams, Scheme
from jaxinit.compare.train.trainer import Config
from jaxinit.diagnosis import Audit
from jaxinit.diagnosis._audit import audit


def health(
    task: Task,
    scheme: Scheme,
    seed: int = 0,
    learning_rate: float | None = None,
    spectra: bool = False,
) -> Audit:
    """The audit of a task under a scheme, with the report of its signal.

    The parameters are those with which the seed's runs of a sweep begin; the model is
    as in training, on its first examples.

    Args:
        task: what is learned.
        scheme: what draws its parameters.
        seed: of the initialization.
        learning_rate: of plain gradient descent; with one, updates are judged.
        spectra: as in `jaxinit.diagnose`.

    Returns:
        The `Audit`.

    Raises:
        ValueError: the model has no kernel, or the scheme does not fit it.

    Example:
        >>> import jaxinit
        >>> from jaxinit.compare import digits_mlp
        >>> found = health(digits_mlp(depth=1, width=16), jaxinit.he_normal())
        >>> [row.name for row in found.report.rows]
        ['Dense_0/kernel', 'Dense_1/kernel']
    """
    starts = InitialParams(task, Config(), {"": scheme}, seed + 1).one("", seed)
    key = jax.random.key(seed)
    options = {"learning_rate": learning_rate, "spectra": spectra}
    return audit(task, starts, key=key, **options)
