"""The expert-balance workspace and report of a Weights & Biases project, as code.

Both show the panels of panels.py: learning, balance, sweep, heatmaps, a section for each layer, speed. Each call saves
new ones, in addition to those that the project already has. ``--dry-run`` writes what would be sent as JSON, without an
account or a network; the same command always writes the same text.

    python -m s15erav3.dashboard --entity ME --run multirun/first [--group first]
    python -m s15erav3.dashboard --entity ME --project s15erav3 --layers 1 2 3 --x-axis tokens
    python -m s15erav3.dashboard --entity ME --layers 1 2 3 --dry-run [--out dashboard.json]

Only layers have to be specified: a panel includes all experts of its layer.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from s15erav3.errors import UserError
from s15erav3.runs.reader import find_runs, read_balance

try:
    from s15erav3.dashboard.views import report, save, specification, workspace
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] != "wandb_workspaces":
        raise
    print("error: wandb-workspaces is not installed; run: pip install 's15erav3[dashboard]'", file=sys.stderr)
    sys.exit(2)

X_AXES = ("trainer/global_step", "tokens")


def layers_of(folders: Sequence[Path]) -> list[int]:
    """Return the numbers of the MoE layers of all runs at or below the folders.

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
    """Validate names and numbers.

    Raises:
        UserError: with the option and its value.
    """
    for option, name in (("entity", args.entity), ("project", args.project), ("group", args.group)):
        if name is not None and (not name.strip() or ("/" in name and option != "group")):
            raise UserError(f"--{option} '{name}' must be a name, without slashes.")
    if args.layers and min(args.layers) < 0:
        raise UserError(f"--layers {min(args.layers)} must be at least 0, the number of the first layer.")
    if args.out and not args.dry_run:
        raise UserError(f"--out {args.out} is only for --dry-run; add --dry-run, or leave out --out.")


def write(text: str, file: Path | None) -> None:
    """Write text to the file, or to standard output.

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
    """Run the command; return the exit status: 0, or 2 for a user error."""
    parser = argparse.ArgumentParser(
        prog="python -m s15erav3.dashboard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entity", required=True, help="user or team that owns the project")
    parser.add_argument("--project", default="s15erav3")
    parser.add_argument("--group", help="only runs of this group, which is a sweep.name")
    parser.add_argument("--x-axis", choices=X_AXES, default=X_AXES[0])
    parser.add_argument("--dry-run", action="store_true", help="write the specification as JSON, without sending it")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file for --dry-run, instead of standard output")
    of_model = parser.add_mutually_exclusive_group(required=True)
    of_model.add_argument("--layers", type=int, nargs="+", metavar="N", help="numbers of the MoE layers")
    of_model.add_argument("--run", type=Path, nargs="+", metavar="DIR", help="runs or sweeps with recorded MoE layers")
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
    if status:  # W&B's process may retry a failing server, and a normal exit would wait for it forever
        sys.stderr.flush()
        os._exit(status)
