"""Compare how fast initialization schemes converge; needs the extra `compare`.

Data flow down the rooms: `task`, `train`, `store`, `stats`, `report`, `sweep`, then
`cli`; each imports only from those above it, and all from `machine` and `cluster`. A
name that begins with an underscore is for its own module alone; what stands in
`__all__` is for users.
"""

from jaxinit._models import Model, as_model
from jaxinit.compare import extra as _extra  # noqa: F401, says what is missing
from jaxinit.compare.machine import use_all_cores
from jaxinit.compare.report.result import Result, load_result
from jaxinit.compare.report.study import Study, load_results
from jaxinit.compare.stats.summary import SchemeSummary
from jaxinit.compare.stats.verdict import Verdict
from jaxinit.compare.store.folder import read_runs
from jaxinit.compare.store.settings import Settings
from jaxinit.compare.store.sweep import Sweep
from jaxinit.compare.sweep.compare import compare
from jaxinit.compare.task.builtin import (
    autoencoder,
    data_task,
    digits_cnn,
    digits_mlp,
    digits_resnet,
    linear,
    mnist1d_cnn,
    mnist1d_mlp,
    parse_task,
    regression_mlp,
    text_transformer,
)
from jaxinit.compare.task.task import Task, make_task
from jaxinit.compare.train import optimizers
from jaxinit.compare.train.trainer import Config, Hparams, Metrics, make_train

__all__ = [
    "Config",
    "Hparams",
    "Metrics",
    "Model",
    "Result",
    "SchemeSummary",
    "Settings",
    "Study",
    "Sweep",
    "Task",
    "Verdict",
    "as_model",
    "autoencoder",
    "compare",
    "data_task",
    "digits_cnn",
    "digits_mlp",
    "digits_resnet",
    "linear",
    "load_result",
    "load_results",
    "make_task",
    "make_train",
    "optimizers",
    "mnist1d_cnn",
    "mnist1d_mlp",
    "parse_task",
    "read_runs",
    "regression_mlp",
    "text_transformer",
    "use_all_cores",
]
