"""Run the checks one after another, and describe the machine and their results."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypedDict

import torch

from s15erav3.machine.checks import CHECKS, Figures
from s15erav3.machine.inventory import inventory
from s15erav3.machine.programs import NotRun

NO_GPU = "no GPU: these checks did not run"


class Report(TypedDict):
    """What ``doctor`` writes as JSON."""

    time: str
    machine: dict[str, Any]
    checks: dict[str, dict[str, Any]]
    """By name: ``status`` (passed, failed, not run), ``seconds``, ``figures``, and ``why`` unless it passed."""


def examine(names: Iterable[str] | None, say: Callable[[str], None]) -> Report:
    """Describe this machine and, if it has a GPU, run the checks of these names (all by default)."""
    chosen = CHECKS if names is None else {name: CHECKS[name] for name in names}
    there = torch.cuda.is_available()
    checks = {}
    for name, check in chosen.items():
        if there:
            say(f"{name} ...")
        checks[name] = run_one(check, "cuda") if there else {"status": "not run", "why": NO_GPU}
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), "machine": inventory(), "checks": checks}


def run_one(check: Callable[[str], Figures], device: str) -> dict[str, Any]:
    """The result of one check, whatever it raises."""
    start = time.perf_counter()
    result: dict[str, Any]
    try:
        result = {"status": "passed", "figures": check(device)}
    except NotRun as error:
        result = {"status": "not run", "why": str(error)}
    except Exception as error:  # one broken check must not hide the others
        why = f"{type(error).__name__}: {error}"
        result = {"status": "failed", "why": why, "traceback": traceback.format_exc()}
    return result | {"seconds": round(time.perf_counter() - start, 1)}


def in_markdown(report: Report) -> str:
    """The report as text that can be pasted into an issue."""
    machine = report["machine"]
    gpu = machine["gpu"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    environment = ", ".join(f"{name}={value}" for name, value in machine["environment"].items() if value is not None)
    cuda = f"CUDA {machine['cuda_build']}" if machine["cuda_build"] else "no CUDA"
    lines = [
        f"# s15erav3 {machine['s15erav3']} on this machine",
        "",
        f"- Python {machine['python']}, torch {machine['torch']} ({cuda}), {packages}",
        f"- {machine['system']}",
        f"- {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{'fast' if machine['cpu_bf16'] else 'no fast'} bf16",
        f"- torch threads: {machine['torch_threads']}" + (f"; {environment}" if environment else ""),
        "- GPU: " + (", ".join(f"{key} {value}" for key, value in gpu.items()) if gpu else "none"),
        "",
    ]
    if gpu is None:
        return "\n".join([*lines, f"{NO_GPU}: {', '.join(report['checks'])}"])
    lines += ["| check | result | seconds | figures |", "| --- | --- | --- | --- |"]
    outputs = []
    for name, check in report["checks"].items():
        figures = dict(check.get("figures", {}))
        if output := figures.pop("output", ""):
            outputs += ["", f"{name}:", "", "```text", output.strip(), "```"]
        told = check.get("why") or ", ".join(f"{key} {_short(value)}" for key, value in figures.items())
        told = " ".join(str(told).split()).replace("|", "\\|")
        lines.append(f"| {name} | {check['status']} | {check.get('seconds', '')} | {told} |")
    return "\n".join([*lines, *outputs])


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_short(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return " ".join(_short(inner) for inner in value)
    return str(value)
