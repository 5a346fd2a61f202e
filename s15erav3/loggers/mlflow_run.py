"""Which MLflow run a folder's run is, and what MLflow has of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s15erav3.errors import UserError
from s15erav3.loggers.wandb_server import tell

NOTE = "mlflow/run-id.txt"
"""In the run's folder."""
IMAGE = re.compile(r"images/(?P<key>.+)\+step\+(?P<step>\d+)\+timestamp\+")
"""How MLflow names the files of images with a step."""


def place() -> str:
    """Where MLflow keeps its runs: ``MLFLOW_TRACKING_URI``, else its own default, ``mlflow.db`` in this folder."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # it tells of every table that it makes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that is gone must not hold training up
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def begin(client: Any, folder: Path, experiment: str, name: str | None, tags: Mapping[str, str]) -> tuple[str, str]:
    """Begin a run, or go on with the one that the folder knows.

    Args:
        client: MLflow's.
        folder: the run's.
        experiment: its name; it is made where there is none.
        name, tags: of a new run.

    Returns:
        ids of the run and of its experiment.

    Raises:
        UserError: MLflow refuses.
    """
    note = folder / NOTE
    try:
        known = note.read_text().strip() if note.exists() else ""
        run = _found(client, known) if known else None
        if known and run is None:
            tell(f"MLflow does not know this run ({known}) in {client.tracking_uri}; it begins another there")
        if run is None:
            from mlflow.tracking.context.registry import resolve_tags

            run = client.create_run(_experiment(client, experiment), run_name=name, tags=resolve_tags(dict(tags)))
        else:
            client.update_run(run.info.run_id, status="RUNNING")
    except Exception as error:  # of the database or of the network, as MLflow or a library below it calls it
        told = f"{client.tracking_uri}: {' '.join(str(error).split())[:300]}"
        raise UserError(
            f"logger=mlflow cannot begin at {told}; mend MLFLOW_TRACKING_URI, or take logger=csv."
        ) from error
    note.parent.mkdir(exist_ok=True)
    note.write_text(run.info.run_id + "\n")
    return run.info.run_id, run.info.experiment_id


def _found(client: Any, run_id: str) -> Any:
    """The run, unless there is none or it was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _experiment(client: Any, name: str) -> str:
    """The id of an experiment, which another job may be making at this moment."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=_artifacts(client.tracking_uri)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    return str(found.experiment_id)


def _artifacts(uri: str) -> str | None:
    """``mlruns/`` beside a local database, wherever the program is started; a server has a place of its own."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlruns").as_uri()


def steps_known(client: Any, run_id: str, metric: str) -> set[int]:
    """Steps of which MLflow has a metric."""
    return {found.step for found in client.get_metric_history(run_id, metric)}


def images_known(client: Any, run_id: str) -> set[tuple[str, int]]:
    """Names and steps of the images that MLflow has."""
    found = (IMAGE.match(file.path) for file in client.list_artifacts(run_id, "images"))
    return {(match["key"], int(match["step"])) for match in found if match}
