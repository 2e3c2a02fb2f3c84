"""Compare how fast initialization schemes converge; needs the extra `compare`."""

from importlib.util import find_spec as _find_spec

_NEEDED = "flax optax rich tyro matplotlib sklearn pyarrow scipy".split()
_missing = [package for package in _NEEDED if _find_spec(package) is None]
if _missing:
    raise ModuleNotFoundError(
        f"jaxinit.compare needs {', '.join(_missing)}; run: "
        "pip install 'jaxinit[compare]'",
        name=_missing[0],
    )

from jaxinit._models import Model as Model  # noqa: E402
from jaxinit._models import as_model as as_model  # noqa: E402
from jaxinit.compare.machine import use_all_cores as use_all_cores  # noqa: E402
from jaxinit.compare.report.result import Result as Result  # noqa: E402
from jaxinit.compare.report.result import load_result as load_result  # noqa: E402
from jaxinit.compare.report.study import Study as Study  # noqa: E402
from jaxinit.compare.report.study import load_results as load_results  # noqa: E402
from jaxinit.compare.stats.summary import SchemeSummary as SchemeSummary  # noqa: E402
from jaxinit.compare.store.folder import read_runs as read_runs  # noqa: E402
from jaxinit.compare.sweep.compare import compare as compare  # noqa: E402
from jaxinit.compare.task.builtin import autoencoder as autoencoder  # noqa: E402
from jaxinit.compare.task.builtin import data_task as data_task  # noqa: E402
from jaxinit.compare.task.builtin import digits_cnn as digits_cnn  # noqa: E402
from jaxinit.compare.task.builtin import digits_mlp as digits_mlp  # noqa: E402
from jaxinit.compare.task.builtin import digits_resnet as digits_resnet  # noqa: E402
from jaxinit.compare.task.builtin import linear as linear  # noqa: E402
from jaxinit.compare.task.builtin import mnist1d_cnn as mnist1d_cnn  # noqa: E402
from jaxinit.compare.task.builtin import mnist1d_mlp as mnist1d_mlp  # noqa: E402
from jaxinit.compare.task.builtin import parse_task as parse_task  # noqa: E402
from jaxinit.compare.task.builtin import regression_mlp as regression_mlp  # noqa: E402
from jaxinit.compare.task.builtin import text_transformer as text_transformer  # noqa: E402
from jaxinit.compare.task.task import Task as Task  # noqa: E402
from jaxinit.compare.task.task import make_task as make_task  # noqa: E402
from jaxinit.compare.train.trainer import Config as Config  # noqa: E402
from jaxinit.compare.train.trainer import Hparams as Hparams  # noqa: E402
from jaxinit.compare.train.trainer import Metrics as Metrics  # noqa: E402
from jaxinit.compare.train.trainer import make_train as make_train  # noqa: E402
