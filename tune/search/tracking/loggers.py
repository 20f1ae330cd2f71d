"""--log: Ray Tune's own callbacks for TensorBoard, MLflow and Weights & Biases, with the run's names.

A trial is named by its id and its backbone, as in `0007-resnet10t`, and lies under its run: TensorBoard's files in
`experiment/<part>/<trial>` (Ray writes them in its session's folder and copies them when the search ends), MLflow's
runs below a parent run of the search's name, W&B's runs in a group of that name. The driver calls these callbacks, not
the workers. One that fails is switched off, and the search goes on.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from maskcls.errors import RunError
from maskcls.text import printable
from tune.runs.folder import SearchRun
from tune.runs.local_ray.place import temp_folder

PROJECT = "maskcls"
"""Name of MLflow's experiment, and of W&B's project unless WANDB_PROJECT says another."""
LIVE_FILES = "session_latest/artifacts"
"""Where Ray keeps TensorBoard's files while a search runs, in the folder of its files."""
_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
_HOOKS = ("setup", "on_trial_start", "on_trial_result", "on_trial_complete", "on_trial_error", "on_experiment_end")
_MLFLOW_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


def trial_name(trial: Trial) -> str:
    """Return a trial's id and backbone, fit for a folder: `0007-resnet10t`."""
    backbone = str(trial.config.get("recipe", {}).get("backbone", ""))
    return "-".join(filter(None, (trial.config["trial"], re.sub(r"[^\w.-]+", "_", backbone))))


def check_installed(names: Sequence[str]) -> None:
    """Raise RunError, with what to do, if the package of a logger is not installed."""
    for name in names:
        try:
            import_module(_PACKAGES[name])
        except ModuleNotFoundError as error:
            if error.name != _PACKAGES[name]:
                raise
            raise RunError(
                f"--log {name} needs the package {_PACKAGES[name]}, which is not installed. "
                f"Install it with: pip install 'maskcls[{name}]'"
            ) from None


def create(names: Sequence[str], run: SearchRun) -> list[Callback]:
    """Return Ray's callbacks for these loggers. Raises RunError where MLflow's server does not answer."""
    make = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}
    return [_SwitchedOffByErrors(name, callback) for name in names for callback in make[name](run)]


def where(name: str, run: SearchRun) -> str:
    """Say where a logger's pages are to be seen."""
    if name == "tensorboard":
        live = temp_folder() / LIVE_FILES
        return f"TensorBoard: tensorboard --logdir {live}, and after the search --logdir {run.experiment}"
    if name == "mlflow":
        uri = _mlflow_uri(run)
        return f"MLflow: {uri}" if uri.startswith("http") else f"MLflow: mlflow server --backend-store-uri {uri}"
    if os.environ.get("WANDB_MODE") == "offline":
        return f"W&B, offline: wandb sync {run.experiment}/wandb/offline-run-*"
    return f"W&B: project {os.environ.get('WANDB_PROJECT') or PROJECT}, group {run.name}"


class _SwitchedOffByErrors(Callback):  # type: ignore[misc]
    """Passes what happens on to a callback until that raises an error, and then no more."""

    def __init__(self, name: str, callback: Callback) -> None:
        self._name, self._callback = name, callback
        for hook in _HOOKS:
            setattr(self, hook, self._passing_on(hook))

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray pickles callbacks into its experiment folder, from which nothing is ever restored."""
        return {}

    def _passing_on(self, hook: str) -> Any:
        def called(*arguments: Any, **named: Any) -> None:
            if self._callback is None:
                return
            try:
                getattr(self._callback, hook)(*arguments, **named)
            except Exception as error:
                self._callback = None
                said = " ".join(str(error).split()) or type(error).__name__
                print(
                    f"--log {self._name} failed and is switched off; the search goes on: {printable(said)}",
                    file=sys.stderr,
                )

        return called


class _MlflowParent(Callback):  # type: ignore[misc]
    """Keeps the state of the search's own run in MLflow."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self._run_id = client, run_id

    def setup(self, **info: Any) -> None:
        self._client.update_run(self._run_id, status="RUNNING")

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        self._client.set_terminated(self._run_id)


def _tensorboard(run: SearchRun) -> list[Callback]:
    from ray.tune.logger import TBXLoggerCallback

    return [TBXLoggerCallback()]


def _wandb(run: SearchRun) -> list[Callback]:
    from ray.air.integrations.wandb import WandbLoggerCallback

    # A worker of Ray that began before this variable was set does not have it.
    mode = {"mode": os.environ["WANDB_MODE"]} if "WANDB_MODE" in os.environ else {}
    # Ray would let W&B write in the session's folder, and copy the files of the last trial before they are whole.
    place = {} if "WANDB_DIR" in os.environ else {"dir": str(run.experiment)}
    project = os.environ.get("WANDB_PROJECT") or PROJECT
    return [WandbLoggerCallback(project=project, group=run.name, **mode, **place)]


def _mlflow_uri(run: SearchRun) -> str:
    """MLflow's own variable, or a file beside the runs, which all of them share."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.path.parent / 'mlflow.db'}"


def _mlflow(run: SearchRun) -> list[Callback]:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    os.environ.setdefault(_MLFLOW_RETRIES, "2")  # by default it tries for minutes
    uri = _mlflow_uri(run)
    client = MlflowClient(tracking_uri=uri)
    try:
        experiment = client.get_experiment_by_name(PROJECT)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(PROJECT)
        # A resumed search goes on under the parent that it had.
        same = client.search_runs([experiment_id], f"tags.`maskcls.run` = '{run.path}'", max_results=1)
        tags = {"maskcls.run": str(run.path), "mlflow.runName": run.name}
        parent = same[0] if same else client.create_run(experiment_id, tags=tags, run_name=run.name)
    except MlflowException as error:
        said = " ".join(str(error).split())
        raise RunError(f"--log mlflow: {uri} does not answer: {said} Start it, or set MLFLOW_TRACKING_URI.") from None
    parent_id = parent.info.run_id
    tags = {"mlflow.parentRunId": parent_id}
    return [
        MLflowLoggerCallback(tracking_uri=uri, experiment_name=PROJECT, tags=tags),
        _MlflowParent(client, parent_id),
    ]
