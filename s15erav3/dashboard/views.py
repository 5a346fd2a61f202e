"""The workspace and the report on a project's expert balance: as W&B's objects, as JSON, and saved."""

from __future__ import annotations

import hashlib
import json
import math
import os
import unicodedata
from collections.abc import Sequence
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb.sdk.lib.service.service_connection import WandbApiFailedError
from wandb_workspaces._graphql import execute_graphql
from wandb_workspaces.reports.v2 import gql

from s15erav3.dashboard.panels import BPB, MAXVIO, MOST_RUNS, Panels, Part, parts
from s15erav3.errors import UserError, one_line

Spec = dict[str, Any]
GRID, HEIGHT = 24, 8  # columns of a report's grid, and rows of it per panel
WIDTHS = {wr.ParallelCoordinatesPlot: GRID, wr.WeavePanelSummaryTable: 2 * GRID // 3}


def workspace(entity: str, project: str, group: str | None, layers: Sequence[int], x_axis: str) -> ws.Workspace:
    """Return the workspace, unsaved. Its runs are not grouped, as panels would otherwise average over runs' experts."""
    sections = [
        ws.Section(
            name=part.title,
            panels=numbered(part),
            is_open=part.is_open,
            layout_settings=ws.SectionLayoutSettings(columns=3, rows=math.ceil(len(part.panels) / 3)),
            panel_settings=ws.SectionPanelSettings(x_axis=x_axis),
        )
        for part in parts(layers, x_axis)
    ]
    columns = [f"summary:{metric}" for metric in (BPB, MAXVIO)]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=title(group),
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis=x_axis, max_runs=MOST_RUNS),
        runset_settings=ws.RunsetSettings(filters=in_group(group), pinned_columns=columns),
    )


def report(entity: str, project: str, group: str | None, layers: Sequence[int], x_axis: str) -> wr.Report:
    """Return the report, unsaved."""
    blocks: list[Any] = [wr.TableOfContents()]
    for part in parts(layers, x_axis):
        # A run set without a project belongs to the report's own; one with a project would query the server here.
        runs = wr.Runset(name=group or "All runs", filters=in_group(group))
        runs._id = stable_id(part.title)
        grid = wr.PanelGrid(runsets=[runs], panels=sized(numbered(part)))
        blocks += [wr.H2(part.title), wr.P(part.text), grid]
    about = "How evenly experts are used, and what that does to learning."
    return wr.Report(
        entity=entity, project=project, title=title(group), description=about, blocks=blocks, width="fluid"
    )


def title(group: str | None) -> str:
    """Return the title of both pages: at most 128 characters, without symbols such as ``=``, which W&B refuses."""
    if group is None:
        return "Expert balance"
    plain = "".join("-" if unicodedata.category(c)[0] in "SC" else c for c in group)
    return f"Expert balance: {plain}"[:128]


def in_group(group: str | None) -> str:
    """Return a filter of runs. The whole name is escaped: the library parses ``=`` or ``<`` in it as operators."""
    return "" if group is None else 'Metric("Group") == "' + "".join(f"\\U{ord(c):08x}" for c in group) + '"'


def numbered(part: Part) -> Panels:
    """Return the part's panels, with deterministic ids in place of random ones."""
    for i, panel in enumerate(part.panels):
        panel._id = stable_id(f"{part.title}/{i}")
    return part.panels


def stable_id(name: str) -> str:
    """Return a deterministic id of twelve characters."""
    return hashlib.blake2b(name.encode(), digest_size=6).hexdigest()


def sized(panels: Panels) -> Panels:
    """Set the panels' widths; the grid places as many side by side as fit."""
    for panel in panels:
        panel.layout = wr.Layout(w=WIDTHS.get(type(panel), GRID // 3), h=HEIGHT)
    return panels


def specification(view: ws.Workspace, page: wr.Report) -> Spec:
    """Return what saving both sends; specs, which are sent as JSON text, are parsed into objects."""
    place = {"entityName": view.entity, "projectName": view.project}
    return {
        "workspace": place | {"displayName": view.name, "spec": dump(view)},
        "report": place | {"displayName": page.title, "description": page.description, "spec": dump(page)},
    }


def dump(made: ws.Workspace | wr.Report) -> Spec:
    """Return the spec, serialised by the library itself."""
    found: Spec = json.loads(made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    return found


def save(view: ws.Workspace, page: wr.Report) -> None:
    """Save both and print their addresses.

    Raises:
        UserError: there is no account or no such project, or the server fails.
    """
    mode = os.environ.get("WANDB_MODE") or "online"
    if mode != "online":
        raise UserError(f"WANDB_MODE={mode}, but a dashboard lives on the server; unset it, or use --dry-run.")
    os.environ["WANDB_SILENT"] = "true"  # otherwise it prints the addresses, too
    if not wandb.login(prompt=False, verify=False):
        raise UserError("this machine is not logged in to W&B; run: wandb login, or use --dry-run.")
    try:
        if not is_there(view.entity, view.project):
            raise UserError(
                f"--project {view.project} does not exist in --entity {view.entity}, or you have no access to it; "
                "train with logger=wandb first, or correct the names."
            )
        print(f"workspace  {view.save().url}", flush=True)
        print(f"report     {page.save().url}")
    except (wandb.Error, WandbApiFailedError, OSError) as error:
        told = one_line(error).rstrip(".")
        raise UserError(f"W&B did not save it ({told}); try again later, or use --dry-run.") from error


def is_there(entity: str, project: str) -> bool:
    """Return whether the server has the project: saving a report would create it, and so hide a misspelt name."""
    answer = execute_graphql(wandb.Api(), gql.projectInternalId, {"entityName": entity, "projectName": project})
    return answer.get("project") is not None
