# What `jaxinit.compare` offers and where it stands.
from jaxinit._models import Model as Model
from jaxinit._models import as_model as as_model
from jaxinit.compare.machine import use_all_cores as use_all_cores
from jaxinit.compare.report.ladder import Ladder as Ladder
from jaxinit.compare.report.result import Result as Result
from jaxinit.compare.report.result import load_result as load_result
from jaxinit.compare.report.study import Study as Study
from jaxinit.compare.report.study import load_results as load_results
from jaxinit.compare.stats.summary import SchemeSummary as SchemeSummary
from jaxinit.compare.stats.verdict import Verdict as Verdict
from jaxinit.compare.store.folder import read_runs as read_runs
from jaxinit.compare.store.settings import Settings as Settings
from jaxinit.compare.store.sweep import Sweep as Sweep
from jaxinit.compare.sweep.compare import compare as compare
from jaxinit.compare.sweep.ladder import ladder as ladder
from jaxinit.compare.task.builtin import autoencoder as autoencoder
from jaxinit.compare.task.builtin import data_task as data_task
from jaxinit.compare.task.builtin import digits_cnn as digits_cnn
from jaxinit.compare.task.builtin import digits_mlp as digits_mlp
from jaxinit.compare.task.builtin import digits_resnet as digits_resnet
from jaxinit.compare.task.builtin import linear as linear
from jaxinit.compare.task.builtin import mnist1d_cnn as mnist1d_cnn
from jaxinit.compare.task.builtin import mnist1d_mlp as mnist1d_mlp
from jaxinit.compare.task.builtin import parse_task as parse_task
from jaxinit.compare.task.builtin import regression_mlp as regression_mlp
from jaxinit.compare.task.builtin import text_transformer as text_transformer
from jaxinit.compare.task.make import make_task as make_task
from jaxinit.compare.task.make import training_task as training_task
from jaxinit.compare.task.task import Task as Task
from jaxinit.compare.task.training import Hparams as Hparams
from jaxinit.compare.task.training import Training as Training
from jaxinit.compare.train import optimizers as optimizers
from jaxinit.compare.train.trainer import Config as Config
from jaxinit.compare.train.trainer import Metrics as Metrics
from jaxinit.compare.train.trainer import make_train as make_train

__all__: list[str]
