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

from jaxinit.compare.devices import use_all_cores as use_all_cores  # noqa: E402
from jaxinit.compare.models import Model as Model  # noqa: E402
from jaxinit.compare.models import as_model as as_model  # noqa: E402
from jaxinit.compare.report import Result as Result  # noqa: E402
from jaxinit.compare.report import load_result as load_result  # noqa: E402
from jaxinit.compare.results import Results as Results  # noqa: E402
from jaxinit.compare.results import load_results as load_results  # noqa: E402
from jaxinit.compare.stats import SchemeSummary as SchemeSummary  # noqa: E402
from jaxinit.compare.store import read_runs as read_runs  # noqa: E402
from jaxinit.compare.sweep import compare as compare  # noqa: E402
from jaxinit.compare.task import Task as Task  # noqa: E402
from jaxinit.compare.task import make_task as make_task  # noqa: E402
from jaxinit.compare.tasks import autoencoder as autoencoder  # noqa: E402
from jaxinit.compare.tasks import data_task as data_task  # noqa: E402
from jaxinit.compare.tasks import digits_cnn as digits_cnn  # noqa: E402
from jaxinit.compare.tasks import digits_mlp as digits_mlp  # noqa: E402
from jaxinit.compare.tasks import digits_resnet as digits_resnet  # noqa: E402
from jaxinit.compare.tasks import linear as linear  # noqa: E402
from jaxinit.compare.tasks import mnist1d_cnn as mnist1d_cnn  # noqa: E402
from jaxinit.compare.tasks import mnist1d_mlp as mnist1d_mlp  # noqa: E402
from jaxinit.compare.tasks import parse_task as parse_task  # noqa: E402
from jaxinit.compare.tasks import regression_mlp as regression_mlp  # noqa: E402
from jaxinit.compare.tasks import text_transformer as text_transformer  # noqa: E402
from jaxinit.compare.train import Config as Config  # noqa: E402
from jaxinit.compare.train import Hparams as Hparams  # noqa: E402
from jaxinit.compare.train import Metrics as Metrics  # noqa: E402
from jaxinit.compare.train import make_train as make_train  # noqa: E402
