"""What is learned: a model, its data, and when it counts as learned."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxinit._models import Model
from jaxinit.compare.task import check, own, trees
from jaxinit.compare.task.objective import Aim, Direction, Objective, Scores
from jaxinit.compare.task.programs import Fingerprint
from jaxinit.compare.task.training import Training, Whole
from jaxinit.compare.task.values import Digests

EXAMPLES = 64
"""In a step, where nothing else is asked for."""

EVAL_EVERY = 10
"""Steps between two evaluations, where nothing else is asked for."""


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A model, its data, what training lowers, and what counts as learned.

    Attributes:
        name: the task's text, by which results name it.
        model: the model; see `as_model`. It takes a tree of inputs: a plain tuple is
            its arguments by position, a mapping those by name.
        x_train: training inputs, shape (n, ...), an array or a tree of arrays; None
            for a training of one's own, which has its data itself.
        y_train: training labels, shape (n, ...), likewise, int32 or float32; None
            without any.
        x_valid: validation inputs, shape (m, ...), as those for training.
        y_valid: validation labels, shape (m, ...).
        target: value of the metric at which a run has converged.
        loss: `loss(outputs, y) -> values` of shape (batch, ...); training lowers
            their mean. None with an objective or a training of one's own.
        metric: the same form; its mean over the validation data is held against the
            target.
        loss_name: the loss's name in results.
        metric_name: the metric's.
        direction: "max" if a run has converged once the metric is at least the
            target, "min" once it is at most the target.
        eval_every: steps between two evaluations, where a sweep does not say.
        batches: where training data come as a stream, `batches()` iterates without
            end over (inputs, labels); `x_train` and `y_train` are then its first batch.
        objective: in place of loss and metric, see `make_task`.
        inputs: of the model, where an objective or a training calls it with others
            than `x_train`; a few examples.
        training: in place of data, loss and metric, see `training_task`.
    """

    name: str
    model: Model
    x_train: trees.Tree
    y_train: trees.Tree
    x_valid: trees.Tree
    y_valid: trees.Tree
    target: float
    loss: Scores | None
    metric: Scores | None
    loss_name: str
    metric_name: str
    direction: Direction
    eval_every: int = EVAL_EVERY
    batches: Callable[[], Iterator[tuple[Any, Any]]] | None = None
    objective: Objective | None = None
    inputs: trees.Tree = None
    training: Training | Whole | None = None

    @property
    def aim(self) -> Aim:
        """Loss and metric, with their names."""
        named = self.loss_name, self.metric_name
        return Aim(self.loss, self.metric, *named, self.direction, self.objective)

    @property
    def split(self) -> check.Split:
        """The arrays of the data."""
        return check.Split(self.x_train, self.y_train, self.x_valid, self.y_valid)

    @property
    def seen(self) -> trees.Tree:
        """Inputs of the model, by which schemes see it; None where there are none."""
        return self.x_train if self.inputs is None else self.inputs

    @property
    def examples(self) -> int:
        """How many there are for training, or in a batch of a stream; 0 without any."""
        return 0 if self.x_train is None else trees.count(self.x_train)

    def to_diagnose(self, own: tuple[Any, Any] | None, key: Any) -> dict[str, Any]:
        """What `jaxinit.diagnose` is given of a task, by the names of its arguments.

        Args:
            own: parameters and state of the model; None for those that it draws.
            key: for that, and for dropout.

        Returns:
            A function of parameters, their values, its other arguments, loss and
            labels; and whether there is a loss to go back from.
        """
        if self.seen is None:
            raise ValueError(
                f"diagnose: nothing is known of the layers of task {self.name}; give "
                "training_task apply= and inputs=."
            )
        objective, model = self.objective, self.model
        whole = objective is not None  # an objective is the loss
        seen, x, y = trees.on_device((self.seen, self.x_train, self.y_train), EXAMPLES)
        params, state = jax.jit(model.init)(key, seen) if own is None else own

        def apply(params: Any, batch: Any, state: Any, key: Any) -> Any:
            of = model.apply if objective is None else objective
            return of(params, state, batch, key, True)[0]

        return {
            "apply": apply,
            "params": params,
            "inputs": (trees.batch_of(x, y) if whole else seen, state, key),
            "loss": (lambda out: out) if whole else self.loss,
            "labels": None if whole else y,
            "backward": self.training is None,
        }

    def traced(
        self,
        examples: int | None = None,
        apply: Callable[..., Any] | None = None,
        named: str = "the model",
    ) -> check.Traced:
        """What the task's functions compute, part by part.

        They are traced anew only where they, or what they close over, are no longer
        what they were.

        Args:
            examples: in a training step; by default 64, or all if there are fewer. A
                training of one's own has its own.
            apply: the model's `apply` as a sweep computes it, if not as it is.
            named: what errors call the model.

        Raises:
            ValueError: the task cannot be trained, in one sentence.
        """
        examples = min(EXAMPLES, self.examples) if examples is None else examples
        apply = self.model.apply if apply is None else apply
        functions = (self.model.init, apply, self.loss, self.metric)
        functions += (self.objective, self.training)
        made_of = (examples, Digests().of((functions, self.inputs)))
        if made_of not in self._known:
            self._known[made_of] = self._traced(examples, apply, named)
        return self._known[made_of]

    def _traced(
        self, examples: int, apply: Callable[..., Any], named: str
    ) -> check.Traced:
        if self.training is not None:
            measured = self.metric_name, self.direction
            return own.traced_training(self.training, apply, self.inputs, *measured)
        parts = self.model.init, apply, self.aim, self.split, examples, named
        if self.objective is not None:
            return own.traced_objective(*parts, self.inputs)
        return check.traced(*parts)

    def data(self) -> Fingerprint:
        """The fingerprint of the data, arrays and stream."""
        return check.data_of(self.split, self._stream, self.inputs)

    @property
    def fingerprint(self) -> str:
        """A text that differs where the data or the programs of two tasks differ."""
        return Digests().of((self.data(), self.traced().parts)).hex()[:16]

    @functools.cached_property
    def _known(self) -> dict[Any, check.Traced]:
        return {}

    @functools.cached_property
    def _stream(self) -> Fingerprint | None:
        return None if self.batches is None else check.stream_of(self.batches)

    def reached(self, metric: np.ndarray) -> np.ndarray:
        """Where the metric is at the target or better, which NaN never is."""
        at_least = self.direction == "max"
        return metric >= self.target if at_least else metric <= self.target
