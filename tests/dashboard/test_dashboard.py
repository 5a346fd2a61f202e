"""The dashboard as code: every panel, by names that a real run logs, and what saving it sends to the server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s15erav3.dashboard import __main__ as dashboard
from tests.loggers.wandb_stub import KEY, Server
from tests.tiny import train

ROOT = Path(__file__).resolve().parents[2]

LINES = "Run History Line Plot"
SECTIONS = ["Learning", "Balance", "Sweep", "All experts", "Layer 1", "Layer 12", "Speed"]
SCALARS = {
    "train/loss", "val/loss", "train/bpb", "val/bpb", "train/learning_rate",
    "balance/maxvio_batch", "balance/maxvio_floor", "balance/maxvio_global", "balance/maxvio_floor_global",
    "balance/entropy", "balance/dead_experts", "balance/churn",
    "balance/step_churn", "balance/weight_churn",
    "perf/tokens_per_second", "perf/mfu", "perf/memory_gb",
}  # fmt: skip
MEDIA = {
    "media/load_heatmap": "plotly-file",
    "media/bias_heatmap": "plotly-file",
    "media/samples": "html-file",
    "media/load_histogram": "histogram",
    "samples": "table-file",
}
"""Keys, and what each must be for the panel that shows it."""
CONFIG = {"choices.experts", "choices.balancing", "choices.optimizer", "optimizer.lr", "seed"}


def spec(*options: str, layers: tuple[str, ...] = ("1", "12"), out: Path) -> dict[str, Any]:
    """What ``--dry-run`` writes."""
    file = out / "dashboard.json"
    assert dashboard.main(["--entity", "me", "--layers", *layers, *options, "--dry-run", "--out", str(file)]) == 0
    return json.loads(file.read_text())


def sections(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Panels of the workspace by section."""
    bank = found["workspace"]["spec"]["section"]["panelBankConfig"]
    return {section["name"]: section["panels"] for section in bank["sections"]}


def grids(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The report's panel grids."""
    return [block["metadata"] for block in found["report"]["spec"]["blocks"] if block["type"] == "panel-grid"]


def headings(found: dict[str, Any]) -> list[str]:
    """The report's."""
    return [block["children"][0]["text"] for block in found["report"]["spec"]["blocks"] if block["type"] == "heading"]


def panels(found: dict[str, Any]) -> list[dict[str, Any]]:
    """All panels of the workspace."""
    return [panel for several in sections(found).values() for panel in several]


def in_report(grid: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels of a grid."""
    return grid["panelBankSectionConfig"]["panels"]


def configs(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Of the workspace's panels of a kind."""
    return [panel["config"] for panel in panels(found) if panel["viewType"] == kind]


def table_of(panel: dict[str, Any]) -> str | None:
    """The key whose table a panel shows."""
    match = re.search(r'"key": \{.*?"val": "(\w+)"', json.dumps(panel)) if panel["viewType"] == "Weave" else None
    return match and match[1]


def named(found: dict[str, Any]) -> set[str]:
    """Keys of the history that the panels name, without those that only match."""
    lines = {name for config in configs(found, LINES) for name in config["metrics"]}
    media = {name for config in configs(found, "Media Browser") for name in config["mediaKeys"]}
    return lines | media | {key for panel in panels(found) if (key := table_of(panel))}


def patterns(found: dict[str, Any]) -> list[str]:
    """Regular expressions of the panels."""
    return [config["metricRegex"] for config in configs(found, LINES) if config.get("useMetricRegex")]


def settings(found: dict[str, Any]) -> set[str]:
    """Config keys that the panels name, as in ``wandb.config``."""
    (columns,) = [config["columns"] for config in configs(found, "Parallel Coordinates Plot")]
    accessors = [column["accessor"] for column in columns if column["accessor"].startswith("config:")]
    grouped = [config["groupBy"] for config in configs(found, LINES) if config.get("groupBy")]
    return {name.removeprefix("config:").replace(".value", "", 1) for name in accessors + grouped}


def test_every_figure_has_its_panel_in_the_workspace(tmp_path: Path) -> None:
    """A metric that falls out of the dashboard is not looked at any more."""
    found = spec(out=tmp_path)
    assert list(sections(found)) == SECTIONS
    assert named(found) == SCALARS | set(MEDIA)
    assert settings(found) == CONFIG
    together = [config["metrics"] for config in configs(found, LINES)]
    assert ["balance/maxvio_batch", "balance/maxvio_floor"] in together, "MaxVio means little without its floor"
    assert [config["targetKey"] for config in configs(found, "Parameter Importance")] == ["val/bpb"]
    (scatter,) = configs(found, "Scatter Plot")
    assert (scatter["xAxis"], scatter["yAxis"]) == ("summary:balance/maxvio_global", "summary:val/bpb")


def test_curves_by_a_setting_show_more_groups_than_there_are_strategies(tmp_path: Path) -> None:
    """W&B leaves out what comes after the tenth without a word."""
    grouped = [config for config in configs(spec(out=tmp_path), LINES) if config.get("groupBy")]
    assert {(config["groupBy"], *config["metrics"]) for config in grouped} == {
        (f"choices.value.{choice}", metric)
        for choice in ("experts", "balancing")
        for metric in ("val/bpb", "balance/maxvio_global")
    }
    strategies = len(list((ROOT / "conf" / "balancing").glob("*.yaml")))
    for config in grouped:
        assert (config["groupAgg"], config["groupArea"], config["aggregate"]) == ("median", "minmax", True)
        assert config["limit"] >= strategies


def test_the_experts_of_a_layer_share_a_panel_however_many_they_are(tmp_path: Path) -> None:
    """A loose pattern would put the experts of layer 12 among those of layer 1, or updates among biases."""
    found = spec(out=tmp_path)
    told = ["E00", "E07", "E63", "E100", "top1", "bottom4", "q000", "q100"]
    names = [
        f"{kind}_L{layer:02d}/{name}"
        for kind in ("load", "bias", "bias_update", "expert")
        for layer in (1, 2, 11, 12, 112)
        for name in told
    ]
    names += [
        "upload_L01/E00",
        "load_L01/E00/sum",
        "player_01/maxvio",
        *(f"layer_{n:02d}/maxvio" for n in (1, 12)),
    ]
    for layer, section in ((1, "Layer 1"), (12, "Layer 12")):
        for panel, kind in zip(sections(found)[section], ("load", "bias", "bias_update"), strict=True):
            matched = [name for name in names if re.search(panel["config"]["metricRegex"], name)]
            assert matched == [f"{kind}_L{layer:02d}/{name}" for name in told]
            assert panel["config"]["limit"] == 1, "lines of several runs cannot be told apart"
    (by_layer,) = [p for p in sections(found)["Balance"] if p["config"].get("metricRegex")]
    assert [n for n in names if re.search(by_layer["config"]["metricRegex"], n)] == names[-2:]


def test_the_report_shows_the_same_with_words(tmp_path: Path) -> None:
    """Workspace and report must not drift apart."""
    found = spec(out=tmp_path)
    assert headings(found) == SECTIONS
    drawn = [[{**p, "layout": None} for p in in_report(grid)] for grid in grids(found)]
    assert drawn == [[{**p, "layout": None} for p in several] for several in sections(found).values()]
    text = json.dumps(found["report"]["spec"]["blocks"])
    assert all(word in text for word in ("MaxVio is (largest load - mean load) / mean load", "the floor is", "bias"))
    assert {run_set.get("project") for grid in grids(found) for run_set in grid["runSets"]} == {None}


def test_the_report_fills_its_rows(tmp_path: Path) -> None:
    """Overlapping panels are moved by W&B, to where nobody meant them."""
    sweep = grids(spec(out=tmp_path))[SECTIONS.index("Sweep")]
    places = [panel["layout"] for panel in in_report(sweep)]
    assert [(place["x"], place["y"], place["w"]) for place in places] == [
        (0, 0, 24),
        (0, 8, 8), (8, 8, 8), (16, 8, 8),
        (0, 16, 8), (8, 16, 8), (16, 16, 8),
    ]  # fmt: skip
    assert {place["h"] for place in places} == {8}


def test_the_same_command_writes_the_same_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random ids would make every version of a specification differ from the last."""
    written = spec(out=tmp_path)
    assert dashboard.main(["--entity", "me", "--layers", "12", "1", "1", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out) == written
    ids = [panel["__id__"] for panel in panels(written)]
    assert len(set(ids)) == len(ids)


def test_the_library_reads_what_it_wrote(tmp_path: Path) -> None:
    """A field that W&B's own models do not know would be lost, or refused, at the server."""
    from wandb_workspaces.reports.v2.internal import Spec
    from wandb_workspaces.workspaces.internal import WorkspaceViewspec

    found = spec("--group", "first", out=tmp_path)
    for kind, model in (("workspace", WorkspaceViewspec), ("report", Spec)):
        read = model.model_validate_json(json.dumps(found[kind]["spec"])).model_dump_json(
            by_alias=True, exclude_none=True
        )
        assert (
            json.loads(read.replace(',"inlineComments":[]', "")) == found[kind]["spec"]
        )  # it says that there are none


@pytest.mark.parametrize("axis", ["trainer/global_step", "tokens"])
def test_all_curves_have_the_axis_that_is_asked_for(axis: str, tmp_path: Path) -> None:
    """W&B's own _step counts rows: after a resumed run it says nothing."""
    found = spec("--x-axis", axis, out=tmp_path)
    section = found["workspace"]["spec"]["section"]
    assert {config["xAxis"] for config in configs(found, LINES)} == {axis}
    assert {s["localPanelSettings"]["xAxis"] for s in section["panelBankConfig"]["sections"]} == {axis}
    assert section["settings"]["xAxis"] == axis


@pytest.mark.parametrize("group", ["first", "it's", 'say "so"', "lr=1e-3", "a<b and c", "a\\b", "größe", "x" * 128])
def test_a_group_of_any_name_filters_the_runs(group: str, tmp_path: Path) -> None:
    """W&B's filters are a small language: a name with = in it came out as ==, one with a quote broke it."""
    found = spec("--group", group, out=tmp_path)
    run_sets = found["workspace"]["spec"]["section"]["runSets"] + [r for g in grids(found) for r in g["runSets"]]
    for run_set in run_sets:
        (rule,) = run_set["filters"]["filters"]
        assert (rule["key"], rule["op"], rule["value"]) == ({"section": "run", "name": "group"}, "=", group)
    assert found["workspace"]["displayName"] == found["report"]["displayName"]
    assert len(found["report"]["displayName"]) <= 128


def test_without_a_group_all_runs_are_shown(tmp_path: Path) -> None:
    """An empty filter must not be one that matches nothing."""
    found = spec(out=tmp_path)
    for run_set in found["workspace"]["spec"]["section"]["runSets"] + [r for g in grids(found) for r in g["runSets"]]:
        assert run_set["filters"]["filters"] == []


def fake_run(folder: Path, layers: list[int] | None) -> Path:
    """A run's folder; ``None`` is a dense model."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text("{}\n")
    if layers is not None:
        table = [[1, 1]] * len(layers)
        line = {"step": 1, "tokens": 8, "layers": layers, "load": table, "bias": table, "update": table}
        (folder / "balance.jsonl").write_text(json.dumps(line) + "\n")
    return folder


def test_layers_are_those_of_all_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep over depths has layers that its first run lacks, and a dense control that has none."""
    for name, layers in {"0": [1, 2], "1": None, "2": [2, 3]}.items():
        fake_run(tmp_path / name, layers)
    assert dashboard.main(["--entity", "me", "--run", str(tmp_path), "--dry-run"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [name for name in sections(found) if name.startswith("Layer")] == ["Layer 1", "Layer 2", "Layer 3"]


def mistakes() -> Iterator[Any]:
    """Options, and what must be said about them."""
    yield pytest.param(["--layers", "1", "--project", "me/mine"], "--project 'me/mine' must be a name", id="slash")
    yield pytest.param(["--layers", "1", "--group", " "], "--group ' ' must be a name", id="blank")
    yield pytest.param(["--layers", "2", "-1"], "--layers -1 must be at least 0", id="negative")
    yield pytest.param(["--layers", "1", "--out", "x.json"], "--out x.json is only for --dry-run", id="out")
    yield pytest.param(["--run", "nowhere"], "--run nowhere holds no run", id="no run")
    yield pytest.param(["--run", "dense"], "--run dense has no loads recorded", id="dense")
    yield pytest.param(["--layers", "1", "--dry-run", "--out", "no/x.json"], "--out no/x.json cannot be", id="no place")
    yield pytest.param(["--layers", "1"], "WANDB_MODE=offline", id="offline")


@pytest.mark.parametrize(("options", "said"), mistakes())
def test_a_mistake_is_one_sentence(
    options: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Tracebacks are for bugs; and nothing may be written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    fake_run(tmp_path / "dense", None)
    assert dashboard.main(["--entity", "me", *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {said}")
    assert printed.err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"dense"}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run with experts, in metrics.csv and offline in W&B."""
    folder = tmp_path_factory.mktemp("logged") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setenv("WANDB_SILENT", "true")
        assert train("logger=both", "trainer.max_steps=8", run_dir=folder) == 0
    return folder


def records(folder: Path) -> list[dict[str, Any]]:
    """Of an offline run, by W&B's own reader."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", file]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_a_real_run_logs_all_that_the_dashboard_names(logged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A metric renamed in training would leave its panel empty, without a word."""
    capsys.readouterr()
    assert dashboard.main(["--entity", "me", "--run", str(logged), "--dry-run"]) == 0
    found = json.loads(capsys.readouterr().out)
    columns = (logged / "metrics.csv").read_text().partition("\n")[0].split(",")
    assert named(found) - set(MEDIA) <= set(columns)
    for pattern in patterns(found):
        matched = [column for column in columns if re.search(pattern, column)]
        layers_and_floor, experts = 2 + 1, 8
        assert len(matched) == (layers_and_floor if "maxvio" in pattern else experts), pattern
    sent: dict[str, Any] = {}
    for record in records(logged):
        sent |= record["history"]["item"] if record["type"] == "history" else {}
    assert {key: sent.get(f"{key}._type") for key in MEDIA} == MEDIA
    assert named(found) - set(MEDIA) | set(dashboard.X_AXES) <= set(sent)


@pytest.mark.slow
def test_a_real_run_has_the_settings_that_the_sweep_section_names(logged: Path, tmp_path: Path) -> None:
    """Parallel coordinates of a key that no run has are empty."""
    config: dict[str, Any] = {}
    for record in records(logged):
        config |= record.get("run", {}).get("config", {}).get("update", {}) if record["type"] == "run" else {}
        config |= record.get("config", {}).get("update", {}) if record["type"] == "config" else {}
    for key in settings(spec(out=tmp_path)):
        value: Any = config
        for part in key.split("."):
            assert part in value, f"{key} is not in the run's W&B config"
            value = value[part]


class Views(Server):
    """W&B's server, as far as saving views asks it."""

    def __init__(self, project: str | None = "s15erav3") -> None:
        super().__init__()
        self.project, self.asked, self.saved = project, list[str](), list[dict[str, Any]]()

    def answer(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Keep the views."""
        self.asked.append(operation)
        if operation == "ProjectInternalId":
            known = (asked["entityName"], asked["projectName"]) == ("me", self.project)
            return {"project": {"id": "p", "internalId": "7"} if known else None}
        if operation == "GetProjects":
            node = {"id": "p", "name": self.project, "entityName": "me", "createdAt": "2026-01-01T00:00:00"}
            edges = [{"node": {**node, "isBenchmark": False, "user": None}}]
            return {"models": {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": edges}}
        if operation.lower().startswith("upsertview"):
            self.saved.append(asked)
            view = {"id": f"view{len(self.saved)}", **{k: asked[k] for k in ("name", "displayName", "spec")}}
            place = {"id": "p", "name": asked["projectName"], "entityName": asked["entityName"]}
            view |= {"type": asked["type"], "description": asked["description"], "project": place, "updatedAt": None}
            return {"upsertView": {"view": view, "inserted": True}}
        return super().answer(operation, asked)


def run_script(url: str, home: Path, *options: str, key: str | None = KEY) -> subprocess.CompletedProcess[str]:
    """The script in a process and a home of its own; W&B waits two seconds for an answer."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment |= {"HOME": str(home), "NETRC": str(home / "none"), "XDG_CONFIG_HOME": str(home)}
    environment |= {"WANDB_BASE_URL": url, "WANDB_HTTP_TIMEOUT": "2"} | ({"WANDB_API_KEY": key} if key else {})
    return subprocess.run(
        [sys.executable, "-m", "s15erav3.dashboard", "--entity", "me", "--layers", "1", "12", *options],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, cwd=home,
    )  # fmt: skip


@pytest.mark.slow
def test_what_is_sent_is_what_the_dry_run_wrote(tmp_path: Path) -> None:
    """A dry run that shows something else is worth nothing; and it must not speak to the server."""
    options = ["--group", "lr=1 it's", "--x-axis", "tokens"]
    with Views() as server:
        dry = run_script(server.url, tmp_path, *options, "--dry-run", key=None)
        assert (dry.returncode, dry.stderr, server.asked) == (0, "", [])
        done = run_script(server.url, tmp_path, *options)
        assert (done.returncode, done.stderr) == (0, "")
        sent = dict(zip(("workspace", "report"), server.saved, strict=True))
    for kind, wrote in json.loads(dry.stdout).items():
        assert json.loads(sent[kind]["spec"]) == wrote.pop("spec")
        assert {key: sent[kind][key] for key in wrote} == wrote
    assert [sent[kind]["type"] for kind in ("workspace", "report")] == ["project-view", "runs"]
    first, second = done.stdout.splitlines()
    assert re.fullmatch(rf"workspace  {server.url}/me/s15erav3\?nw=\w+", first)
    assert re.fullmatch(rf"report     {server.url}/me/s15erav3/reports/Expert-balance.*--view2", second)


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["broken", "hanging", "refusing", "no project", "no account"])
def test_a_server_in_trouble_is_one_sentence(trouble: str, tmp_path: Path) -> None:
    """Neither a traceback nor an endless wait, nor a project made of a misspelt name."""
    with Views(project=None if trouble == "no project" else "s15erav3") as server:
        if trouble in ("broken", "hanging"):
            server.mood = trouble  # type: ignore[assignment]
        url = "http://127.0.0.1:9" if trouble == "refusing" else server.url
        done = run_script(url, tmp_path, key=None if trouble == "no account" else KEY)
        assert server.saved == []
    said = {"no project": "--project s15erav3 does not exist", "no account": "this machine is not logged in to W&B"}
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {said.get(trouble, 'W&B did not save it')}")
    assert done.stderr.count("\n") == 1
