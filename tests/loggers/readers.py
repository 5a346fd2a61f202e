"""What TensorBoard, MLflow and Trackio have of a run, by each library's own reader, in one form."""

from __future__ import annotations

import io
import json
import os
import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.tiny import rows

Series = dict[str, list[tuple[int, float]]]


class Record(NamedTuple):
    """A run as a logger keeps it."""

    scalars: Series
    images: dict[tuple[str, int], list[NDArray[np.uint8]]]
    """By name and step: all that are there, so that one that was told twice shows."""
    texts: dict[int, list[str]]
    """Sample texts by step."""
    settings: dict[str, str]
    """The flat config, as text."""
    status: str = ""
    histograms: dict[int, int] | None = None
    """Values counted, by step."""


def written(run_dir: Path) -> Series:
    """The scalars of metrics.csv, which other tests hold to the run itself; without speed and the clock."""
    found: Series = defaultdict(list)
    lines = (run_dir / "metrics.csv").read_text().splitlines()
    columns = lines[0].split(",")
    for line in lines[1:]:
        cells = dict(zip(columns, line.split(","), strict=True))
        for name, value in cells.items():
            if value and name != "step":
                found[name].append((int(cells["step"]), float(value)))
    return comparable(found)


def comparable(found: Series) -> Series:
    """Without speed; ``tokens``, which a step's training row and its validation row both have, once for each step."""
    kept = {name: sorted(values) for name, values in found.items() if not name.startswith(("perf/", "epoch"))}
    return kept | {name: sorted(set(kept[name])) for name in kept.keys() & {"tokens"}}


def picture(data: bytes) -> NDArray[np.uint8]:
    """Its pixels."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def tensorboard(run_dir: Path) -> Record:
    """By TensorBoard's own accumulator, as its pages see the folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    reader = EventAccumulator(str(run_dir / "tensorboard"), size_guidance=dict.fromkeys(
        ("scalars", "images", "tensors", "histograms", "compressedHistograms"), 0
    )).Reload()  # fmt: skip
    tags = reader.Tags()
    scalars = {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in tags["scalars"]}
    images: dict[tuple[str, int], list[NDArray[np.uint8]]] = defaultdict(list)
    for tag in tags["images"]:
        for event in reader.Images(tag):
            images[tag.removeprefix("media/"), event.step].append(picture(event.encoded_image_string))
    texts: dict[int, list[str]] = defaultdict(list)
    for event in reader.Tensors("media/samples/text_summary") if tags["histograms"] else ():
        texts[event.step] += [text.decode() for text in event.tensor_proto.string_val]
    begun = HParamsPluginData.FromString(
        reader.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    ).session_start_info.hparams
    settings = {key: str(getattr(value, value.WhichOneof("kind"))) for key, value in begun.items()}
    ended = "_hparams_/session_end_info" in reader.summary_metadata
    counts = {
        e.step: round(sum(e.histogram_value.bucket)) for tag in tags["histograms"] for e in reader.Histograms(tag)
    }
    return Record(comparable(scalars), images, texts, settings, "ended" if ended else "", counts)


def mlflow(run_dir: Path) -> Record:
    """By MLflow's own client."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    run = client.get_run((run_dir / "mlflow" / "run-id.txt").read_text().strip())
    scalars = {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics
    }
    images: dict[tuple[str, int], list[NDArray[np.uint8]]] = defaultdict(list)
    texts: dict[int, list[str]] = defaultdict(list)
    for file in client.list_artifacts(run.info.run_id, "images"):
        if file.path.endswith(".png"):
            name, _, step, *_ = Path(file.path).name.split("+")
            images[name, int(step)].append(picture(Path(fetched(run, file.path)).read_bytes()))
    for file in client.list_artifacts(run.info.run_id, "samples"):
        texts[int(Path(file.path).stem.removeprefix("step_"))].append(Path(fetched(run, file.path)).read_text())
    return Record(comparable(scalars), images, texts, run.data.params, run.info.status)


def fetched(run: Any, path: str) -> str:
    """A copy of an artifact."""
    from mlflow.artifacts import download_artifacts

    return str(download_artifacts(run_id=run.info.run_id, artifact_path=path))


def trackio(run_dir: Path) -> Record:
    """By Trackio's own Api, and its database, whose tables it documents."""
    import trackio as library

    name = (run_dir / "trackio" / "run-name.txt").read_text().strip()
    (run,) = [found for found in library.Api().runs("s15erav3") if found.name == name]
    folder = Path(os.environ["TRACKIO_DIR"])
    with sqlite3.connect(folder / "s15erav3.db") as base:
        told = base.execute(
            "SELECT step, metrics FROM metrics WHERE run_id = ? ORDER BY step, id", (run.id,)
        ).fetchall()
    scalars: Series = defaultdict(list)
    images: dict[tuple[str, int], list[NDArray[np.uint8]]] = defaultdict(list)
    texts: dict[int, list[str]] = defaultdict(list)
    counts: dict[int, int] = {}
    for step, metrics in told:
        for key, value in json.loads(metrics).items():
            if not isinstance(value, dict):
                scalars[key].append((step, value))
            elif value["_type"] == "trackio.image":
                file = folder / "media" / value["file_path"]
                images[key.removeprefix("media/"), step].append(picture(file.read_bytes()))
            elif value["_type"] == "trackio.table":
                texts[step] += [row["text"] for row in value["_value"]]
            elif value["_type"] == "trackio.histogram":
                counts[step] = sum(value["values"])
    settings = {key: str(value) for key, value in (run.config or {}).items() if not key.startswith("_")}
    return Record(comparable(scalars), images, texts, settings, "", counts)


def check_pictures(record: Record, run_dir: Path, steps: list[int]) -> None:
    """One of each kind for each step; and a bias above 0 is orange, one below blue, as balance.jsonl has them."""
    assert set(record.images) == {(kind, step) for kind in ("load_heatmap", "bias_heatmap") for step in steps}
    lines = {line["step"]: line for line in rows(run_dir / "balance.jsonl")}
    for step in steps:
        (load,), (bias,) = record.images["load_heatmap", step], record.images["bias_heatmap", step]
        biases = np.array(lines[step]["bias"])
        assert load.shape == bias.shape == (16 * biases.shape[0], 16 * biases.shape[1], 3)
        shown = bias[8::16, 8::16].astype(int)
        clear = np.abs(biases) > 0.2 * np.abs(biases).max()
        assert clear.any()
        assert ((shown[..., 0] > shown[..., 2]) == (biases > 0))[clear].all()
