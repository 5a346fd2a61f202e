"""Time how long commands take to start: help, the config, the first training step, the first generated token.

Each command runs in a process of its own, one CPU thread, medians over rounds; the files are in the system's cache
after the first round, which does not count. CPU time is the process's user and system time.

    python scripts/bench_startup.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import lightning as L

VERBS = ("train", "evaluate", "sample", "report", "compare", "export")


class FirstStep(L.Callback):
    """End the process after the first training step."""

    def on_train_batch_end(self, *args: Any) -> NoReturn:
        os._exit(0)


def spent(arguments: list[str], folder: str) -> tuple[float, float]:
    """Run a command and return its wall time and CPU time in seconds."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-m", "s15erav3", *arguments]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        run = ["train", "model=pico", "trainer.max_steps=1", "report=false", "hydra.run.dir=run"]
        spent(run, folder)  # also tokenizes the text
        commands = {f"{verb} --help": [verb, "--help"] for verb in VERBS} | {
            "train --help experts": ["train", "--help", "experts"],
            "train --cfg job": ["train", "--cfg", "job"],
            "train to the first step, nano": ["train", "+callbacks.first._target_=bench_startup.FirstStep"],
            "sample run prompt=x max_new_tokens=1": ["sample", "run", "prompt=x", "max_new_tokens=1"],
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for round_ in range(rounds + 1):
            for name, arguments in commands.items():
                took = spent(arguments, folder)
                if round_:
                    times[name].append(took)
    print("| command | wall, s | CPU, s |\n| --- | --- | --- |")
    for name, pairs in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"| `{name}` | {wall:.2f} | {cpu:.2f} |")


if __name__ == "__main__":
    main()
