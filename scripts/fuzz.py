"""Try what no user should have to try: odd settings, texts, corpora, damaged folders, folders with code in them.

Hypothesis draws a fixed number of cases of each part. Each is run as a command of its own, and must end by itself, with
exit status 0, or 2 (1 where a run had begun) and one sentence: no traceback, no hang, and no code of a file run.

    python scripts/fuzz.py [--overrides 500] [--corpora 200] [--prompts 200] [--folders 120] [--payloads 120] [--seed 0]

What fails stays in FOLDER, a folder each, with ``command.json`` and ``log.txt``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from forks import Ended, fork
from fuzz_cases import SMALL, World, corpora, folders, overrides, payloads, prompts
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

PARTS: dict[str, tuple[int, Callable[[DataObject, Path, World], list[str]]]] = {
    "overrides": (500, overrides),
    "corpora": (200, corpora),
    "prompts": (200, prompts),
    "folders": (120, folders),
    "payloads": (120, payloads),
}
LONG = 15
"""Seconds until a run that was made long is asked to stop by SIGTERM."""


def build_world(place: Path) -> World:
    """Train a run and a sweep, export a folder, write a corpus."""
    world = World(place / "run", place / "sweep", place / "hf", place / "text.txt")
    world.text.write_text("\n\n".join(f"Paragraph {i} says {i * i}, in chapter {i % 7}." for i in range(400)))
    for command in (
        ["train", *SMALL, f"hydra.run.dir={world.run}"],
        ["train", "-m", *SMALL, "seed=1,2", f"hydra.sweep.dir={world.sweep}"],
        ["export", str(world.run), str(world.folder)],
    ):
        if fork(command, place / "log.txt", wait=300).status != 0:
            raise SystemExit(f"{' '.join(command)} failed; see {place / 'log.txt'}")
    return world


def fault(ended: Ended, log: str, place: Path) -> str:
    """What is wrong with how a command ended; empty if nothing is."""
    lines = [line for line in log.splitlines() if line.strip()]
    if (place / "mark").exists():
        return "code of a file was run"
    if ended.hung:
        return "it hung"
    if "Traceback (most recent call last)" in log or "Error executing job" in log:
        return "a traceback"
    if ended.asked and ended.status == 143:
        return ""
    if ended.status not in (0, 1, 2):
        return f"exit status {ended.status}"
    if ended.status and not any(line.startswith(("error: ", "usage: ")) for line in lines):
        return f"exit status {ended.status} without a sentence"
    if ended.status == 1 and not any((place / name).exists() for name in ("run", "runs", "next", "sweep")):
        return "exit status 1, and no run had begun"
    return ""


def fuzz(part: str, count: int, world: World, folder: Path, first: int) -> tuple[Counter[int], list[str]]:
    """Run the cases of a part.

    Returns:
        how often which exit status was seen, and the faults.
    """
    draw = PARTS[part][1]
    seen: Counter[int] = Counter()
    faults: list[str] = []

    @seed(first)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def attempt(data: DataObject) -> None:
        place = folder / part / f"{seen.total():04d}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        command = draw(data, place, world)
        (place / "command.json").write_text(json.dumps(command))
        here = Path.cwd()
        os.chdir(place)
        try:
            ended = fork(command, place / "log.txt", wait=LONG, patience=60)
        finally:
            os.chdir(here)
        seen[ended.status] += 1
        wrong = fault(ended, (place / "log.txt").read_text(errors="replace"), place)
        if wrong:
            faults.append(f"{place}: {wrong}")
            print(f"{place}: {wrong}", flush=True)
        else:
            shutil.rmtree(place)

    attempt()
    return seen, faults


def main() -> int:
    """Try all parts, and print what was found; 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for part, (count, _) in PARTS.items():
        parser.add_argument(f"--{part}", type=int, default=count)
    parser.add_argument("--folder", type=Path, default=Path("fuzz"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ["WANDB_MODE"] = "offline"
    torch.set_num_threads(1)
    folder = args.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "world").mkdir(parents=True)
    os.environ.setdefault("S15ERAV3_CACHE", str(folder / "cache"))
    world = build_world(folder / "world")
    table, faults = [], []
    for part in PARTS:
        if count := getattr(args, part):
            began = time.monotonic()
            seen, found = fuzz(part, count, world, folder, args.seed)
            faults += found
            told = ", ".join(f"{number} with {status}" for status, number in sorted(seen.items()))
            table.append(f"| {part} | {seen.total()} | {told} | {len(found)} | {time.monotonic() - began:.0f} |")
    print("\n| part | cases | exit status | faults | seconds |\n| --- | --- | --- | --- | --- |")
    print("\n".join(table))
    print("\n".join(faults) if faults else "nothing found")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
