"""The expert-balance workspace and report of a Weights & Biases project, as code.

Both show the panels of wandb_panels.py: learning, balance, sweep, heatmaps, a section for each layer, speed. They are
saved anew each time, beside what the project has already. ``--dry-run`` writes what would be sent as JSON, without an
account or a network; the same command always writes the same text.

    python scripts/wandb_dashboard.py --entity ME --run multirun/first [--group first]
    python scripts/wandb_dashboard.py --entity ME --project s15erav3 --layers 1 2 3 --x-axis tokens
    python scripts/wandb_dashboard.py --entity ME --layers 1 2 3 --dry-run [--out dashboard.json]

Only layers are to be named: a panel takes all the experts that its layer has.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s15erav3.errors import UserError
from s15erav3.runs.reader import find_runs, read_balance

try:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces._graphql import execute_graphql
    from wandb_workspaces.reports.v2 import gql
except ImportError:
    print("error: wandb-workspaces is not installed; run: pip install 's15erav3[dashboard]'", file=sys.stderr)
    sys.exit(2)

import wandb
from wandb.sdk.lib.service.service_connection import WandbApiFailedError
from wandb_panels import BPB, MAXVIO, MOST_RUNS, Panels, Part, parts

Spec = dict[str, Any]
X_AXES = ("trainer/global_step", "tokens")
GRID, HEIGHT = 24, 8  # columns of a report's grid, and rows that a panel takes of it
WIDTHS = {wr.ParallelCoordinatesPlot: GRID, wr.WeavePanelSummaryTable: 2 * GRID // 3}


def workspace(entity: str, project: str, group: str | None, layers: Sequence[int], x_axis: str) -> ws.Workspace:
    """The workspace, not saved. Its runs are not grouped, or each panel would take means over runs' experts."""
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
    """The report, not saved."""
    blocks: list[Any] = [wr.TableOfContents()]
    for part in parts(layers, x_axis):
        # A run set that names no project is of the report's own; one that does would ask the server about it here.
        runs = wr.Runset(name=group or "All runs", filters=in_group(group))
        runs._id = stable_id(part.title)
        grid = wr.PanelGrid(runsets=[runs], panels=sized(numbered(part)))
        blocks += [wr.H2(part.title), wr.P(part.text), grid]
    about = "How evenly experts are used, and what that does to learning."
    return wr.Report(
        entity=entity, project=project, title=title(group), description=about, blocks=blocks, width="fluid"
    )


def title(group: str | None) -> str:
    """Of workspace and report: at most 128 characters, and no symbols, ``=`` among them, which W&B refuses there."""
    if group is None:
        return "Expert balance"
    plain = "".join("-" if unicodedata.category(c)[0] in "SC" else c for c in group)
    return f"Expert balance: {plain}"[:128]


def in_group(group: str | None) -> str:
    """A filter of runs. All of the name is escaped: within it, too, the library takes ``=`` or ``<`` for operators."""
    return "" if group is None else 'Metric("Group") == "' + "".join(f"\\U{ord(c):08x}" for c in group) + '"'


def numbered(part: Part) -> Panels:
    """The part's panels, with ids that are the same each time in place of random ones."""
    for i, panel in enumerate(part.panels):
        panel._id = stable_id(f"{part.title}/{i}")
    return part.panels


def stable_id(name: str) -> str:
    """Twelve characters."""
    return hashlib.blake2b(name.encode(), digest_size=6).hexdigest()


def sized(panels: Panels) -> Panels:
    """Panels as wide as they need to be; the grid puts them side by side, as many as fit."""
    for panel in panels:
        panel.layout = wr.Layout(w=WIDTHS.get(type(panel), GRID // 3), h=HEIGHT)
    return panels


def specification(view: ws.Workspace, page: wr.Report) -> Spec:
    """What saving the two sends; the specs, which travel as JSON text, as objects."""
    place = {"entityName": view.entity, "projectName": view.project}
    return {
        "workspace": place | {"displayName": view.name, "spec": dump(view)},
        "report": place | {"displayName": page.title, "description": page.description, "spec": dump(page)},
    }


def dump(made: ws.Workspace | wr.Report) -> Spec:
    """Its spec, by the library's own words."""
    found: Spec = json.loads(made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    return found


def save(view: ws.Workspace, page: wr.Report) -> None:
    """Save both and print their addresses.

    Raises:
        UserError: there is no account or no such project, or the server fails.
    """
    mode = os.environ.get("WANDB_MODE") or "online"
    if mode != "online":
        raise UserError(f"WANDB_MODE={mode}, but a dashboard lives on the server; unset it, or take --dry-run.")
    os.environ["WANDB_SILENT"] = "true"  # it would print the addresses, too
    if not wandb.login(prompt=False, verify=False):
        raise UserError("no W&B account is known to this machine; run: wandb login, or take --dry-run.")
    try:
        if not is_there(view.entity, view.project):
            raise UserError(
                f"--project {view.project} is not there in --entity {view.entity}, or not yours to see; train with "
                "logger=wandb first, or mend the names."
            )
        print(f"workspace  {view.save().url}", flush=True)
        print(f"report     {page.save().url}")
    except (wandb.Error, WandbApiFailedError, OSError) as error:
        told = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"W&B did not save it ({told}); try again later, or take --dry-run.") from error


def is_there(entity: str, project: str) -> bool:
    """Whether the server knows the project: saving a report would create it, and so hide a misspelt name."""
    answer = execute_graphql(wandb.Api(), gql.projectInternalId, {"entityName": entity, "projectName": project})
    return answer.get("project") is not None


def layers_of(folders: Sequence[Path]) -> list[int]:
    """Numbers of the MoE layers of all runs at or below the folders.

    Raises:
        UserError: there is no run, or none that recorded loads.
    """
    found: set[int] = set()
    for folder in folders:
        if not (runs := find_runs(folder)):
            raise UserError(f"--run {folder} holds no run (no .hydra/config.yaml); name a run or a sweep.")
        recorded = [balance.layers for run in runs if (balance := read_balance(run, at_most=1))]
        if not recorded:
            raise UserError(
                f"--run {folder} has no loads recorded (balance.jsonl), in {len(runs)} runs; name a run with experts "
                "that has logged, or the MoE layers with --layers."
            )
        found.update(*recorded)
    return sorted(found)


def check(args: argparse.Namespace) -> None:
    """Refuse names and numbers that cannot be right.

    Raises:
        UserError: with the option and its value.
    """
    for option, name in (("entity", args.entity), ("project", args.project), ("group", args.group)):
        if name is not None and (not name.strip() or ("/" in name and option != "group")):
            raise UserError(f"--{option} '{name}' must be a name, without slashes.")
    if args.layers and min(args.layers) < 0:
        raise UserError(f"--layers {min(args.layers)} must be at least 0, the number of the first layer.")
    if args.out and not args.dry_run:
        raise UserError(f"--out {args.out} is where --dry-run writes to; add --dry-run, or leave --out away.")


def write(text: str, file: Path | None) -> None:
    """To the file, or to standard output.

    Raises:
        UserError: the file cannot be written.
    """
    if file is None:
        sys.stdout.write(text)
        return
    try:
        file.write_text(text)
    except OSError as error:
        raise UserError(f"--out {file} cannot be written: {error.strerror}; choose another file.") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entity", required=True, help="user or team that has the project")
    parser.add_argument("--project", default="s15erav3")
    parser.add_argument("--group", help="only runs of this group, which is a sweep.name")
    parser.add_argument("--x-axis", choices=X_AXES, default=X_AXES[0])
    parser.add_argument("--dry-run", action="store_true", help="write the specification as JSON; nothing is sent")
    parser.add_argument("--out", type=Path, metavar="FILE", help="of --dry-run, in place of standard output")
    of_model = parser.add_mutually_exclusive_group(required=True)
    of_model.add_argument("--layers", type=int, nargs="+", metavar="N", help="numbers of the MoE layers")
    of_model.add_argument("--run", type=Path, nargs="+", metavar="DIR", help="runs or sweeps that have them recorded")
    args = parser.parse_args(arguments)
    try:
        check(args)
        layers = sorted(set(args.layers)) if args.layers else layers_of(args.run)
        settings = (args.entity, args.project, args.group, layers, args.x_axis)
        view, page = workspace(*settings), report(*settings)
        if args.dry_run:
            write(json.dumps(specification(view, page), indent=2) + "\n", args.out)
        else:
            save(view, page)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    status = main()
    if status:  # W&B's process may go on asking a server that fails, and at a usual exit it is waited for without end
        sys.stderr.flush()
        os._exit(status)
