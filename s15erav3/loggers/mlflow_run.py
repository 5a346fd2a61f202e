"""The MLflow run that belongs to a run's folder, and what MLflow has already stored of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s15erav3.errors import UserError, one_line
from s15erav3.loggers.wandb_server import tell

NOTE = "mlflow/run-id.txt"
"""File with the run's id, within the run's folder."""
IMAGE = re.compile(r"images/(?P<key>.+)\+step\+(?P<step>\d+)\+timestamp\+")
"""Pattern of MLflow's file names for images with a step."""


def place() -> str:
    """Return ``MLFLOW_TRACKING_URI``, or MLflow's default, ``mlflow.db`` in the working directory."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # otherwise it reports every table that it creates
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # an unreachable server must not delay training
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def begin(client: Any, folder: Path, experiment: str, name: str | None, tags: Mapping[str, str]) -> tuple[str, str]:
    """Start a run, or resume the one stored in the folder.

    Args:
        client: MLflow's client.
        folder: the run's folder.
        experiment: name of the experiment, which is created if it is missing.
        name, tags: for a new run.

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
            tell(f"MLflow does not know this run ({known}) in {client.tracking_uri}; a new run is created there")
        if run is None:
            from mlflow.tracking.context.registry import resolve_tags

            run = client.create_run(_experiment(client, experiment), run_name=name, tags=resolve_tags(dict(tags)))
        else:
            client.update_run(run.info.run_id, status="RUNNING")
    except Exception as error:  # database and network errors, of any type that MLflow or its libraries raise
        told = f"{client.tracking_uri}: {one_line(error)[:300]}"
        raise UserError(
            f"logger=mlflow cannot start at {told}; correct MLFLOW_TRACKING_URI, or use logger=csv."
        ) from error
    note.parent.mkdir(exist_ok=True)
    note.write_text(run.info.run_id + "\n")
    return run.info.run_id, run.info.experiment_id


def _found(client: Any, run_id: str) -> Any:
    """Return the run; ``None`` if it does not exist or was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _experiment(client: Any, name: str) -> str:
    """Return the id of an experiment, which another job may be creating concurrently."""
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
    """Return ``mlruns/`` beside a local database, wherever the program is started; ``None`` for a server."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlruns").as_uri()


def steps_known(client: Any, run_id: str, metric: str) -> set[int]:
    """Return the steps for which MLflow has a metric."""
    return {found.step for found in client.get_metric_history(run_id, metric)}


def images_known(client: Any, run_id: str) -> set[tuple[str, int]]:
    """Return names and steps of the images that MLflow has."""
    found = (IMAGE.match(file.path) for file in client.list_artifacts(run_id, "images"))
    return {(match["key"], int(match["step"])) for match in found if match}
