"""A connection to a Ray cluster, and what its nodes have."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from s15erav3.errors import UserError, one_line

PATIENCE = 30.0
"""Seconds within which a cluster must answer."""
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
PROBE = """
import logging, sys, ray
try:
    ray.init(sys.argv[1], log_to_driver=False, logging_level=logging.CRITICAL)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
"""


def package() -> Any:
    """Return the package ray; it is imported only by a sweep that uses it."""
    return import_module("ray")


def require_ray() -> None:
    """Check that the package is installed.

    Raises:
        UserError: it is not.
    """
    if find_spec("ray") is None:
        raise UserError("hydra/launcher=ray needs the package ray: pip install 's15erav3[ray]'.")


def check_address(address: str) -> None:
    """Check that a cluster answers, in another process: ray.init would try for minutes, and cannot be stopped.

    Raises:
        UserError: none does; nothing was started.
    """
    if address == "local":
        return
    remedy = (
        "give HOST:PORT of a running head node, and type it on a node of its cluster, with that one's RAY_AUTH_MODE "
        "(ray start --head starts a cluster)"
    )
    if address.startswith("ray://"):  # of machines outside the cluster: not tested
        raise UserError(f"hydra.launcher.address={address} is that of Ray's client, which cannot be used; {remedy}.")
    command = [sys.executable, "-P", "-c", PROBE, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"hydra.launcher.address={address}: no Ray cluster answers there within {PATIENCE:g} s; {remedy}."
        ) from error
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise UserError(f"hydra.launcher.address={address} cannot be used ({told[-1].rstrip('.')}); {remedy}.")


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be connected within the block; ``local`` starts a cluster for it.

    Raises:
        UserError: Ray refuses.
    """
    ray = package()
    private = vars(import_module("ray._private.worker"))
    private["_worker_logs_enabled"] = False  # raylets' long reports on lost processes, which no setting stops
    before = signal.getsignal(signal.SIGTERM)
    more = {"include_dashboard": False} if address == "local" else {}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours sends nothing to Ray's makers
    try:
        ray.init(address, **QUIET, **more)
    except Exception as error:
        raise UserError(f"hydra.launcher.address={address}: Ray refuses to connect: {one_line(error)}.") from error
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray's own handler would exit at once
    try:
        yield
    finally:
        ray.shutdown()


def nodes() -> list[dict[str, float]]:
    """Return what each living node has in all, by Ray's names: CPU, GPU, memory (bytes), and others."""
    return [node["Resources"] for node in package().nodes() if node["Alive"]]


def needs(num_cpus: float, num_gpus: float, options: Mapping[str, Any]) -> dict[str, float]:
    """Return what a job takes of its node, by the same names."""
    kind = {f"accelerator_type:{options['accelerator_type']}": 0.001} if options.get("accelerator_type") else {}
    given = {"CPU": num_cpus, "GPU": num_gpus, "memory": options.get("memory") or 0, **(options.get("resources") or {})}
    return {name: amount for name, amount in (given | kind).items() if amount}


def places(need: Mapping[str, float], offered: list[dict[str, float]]) -> int:
    """Return the number of jobs that nodes have room for at one time."""
    return sum(int(min(node.get(name, 0) / amount for name, amount in need.items())) for node in offered)


def shortage(need: Mapping[str, float], offered: list[dict[str, float]]) -> str:
    """Return a sentence, without its full stop, on jobs that no node has room for."""
    wanted = ", ".join(f"{name} {amount:g}" for name, amount in need.items())
    largest = ", ".join(f"{name} {max((n.get(name, 0) for n in offered), default=0):g}" for name in need)
    return (
        f"no node of the Ray cluster has what a job asks for ({wanted}; {len(offered)} nodes, the most of one is "
        f"{largest})"
    )
