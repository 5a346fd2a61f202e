"""A Slurm cluster of two nodes on this machine: munged, slurmctld and two slurmd, for the user who runs the tests."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
HOST = socket.gethostname().partition(".")[0]
NODES = (HOST, f"{HOST}z")
"""The first one's name must resolve, as ranks look for it."""

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdTimeout=20
KillWait=5
MpiDefault=none
JobRequeue=1
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=300 State=UP
"""


def missing() -> str:
    """Return why there can be no cluster here; empty if there can."""
    lacks = [name for name in NEEDED if found(name) is None]
    return f"no {', '.join(lacks)} here (Debian: slurmctld slurmd slurm-client munge)" if lacks else ""


def found(name: str) -> str | None:
    """Return the path of a program; daemons are in /usr/sbin, which may not be on the PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


class Slurm:
    """The cluster; ``SLURM_CONF`` is set while it runs.

    Args:
        folder: for its files; the path must be short, as it has to hold a socket.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.conf = folder, str(folder / "slurm.conf")
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the daemons and wait until both nodes are idle."""
        (self.folder / "state").mkdir()
        user = getpass.getuser()
        with ExitStack() as held:
            controller, *ports = [held.enter_context(free_port()).getsockname()[1] for _ in range(1 + len(NODES))]
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={HOST} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=4000 State=UNKNOWN"
            for name, port in zip(NODES, ports, strict=True)
        )
        Path(self.conf).write_text(
            CONF.format(folder=self.folder, host=HOST, user=user, controller=controller, nodes=nodes)
        )
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        os.environ["SLURM_CONF"] = self.conf
        places = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
        munge = [f"--{option}={self.folder}/munge.{end}" for option, end in places.items()]
        self._run("munge", "munged", "--foreground", "--force", *munge)
        until(lambda: (self.folder / "munge.socket").exists(), 10)
        self.start_controller()
        for name in NODES:
            self.start_node(name)
        until(lambda: self.states() == ["idle"] * len(NODES), 60)

    def start_controller(self) -> None:
        """Start the scheduler's daemon."""
        self._run("controller", "slurmctld", "-D")

    def kill_controller(self) -> None:
        """Kill the scheduler's daemon; jobs and nodes stay."""
        daemon = self.daemons.pop("controller")
        daemon.kill()
        daemon.wait()

    def start_node(self, name: str) -> None:
        """Start the daemon of a node."""
        self._run(name, "slurmd", "-D", "-N", name)

    def kill_node(self, name: str) -> None:
        """Kill a node as a power cut does: its daemon, and what it has started."""
        daemon = self.daemons.pop(name)
        daemon.kill()
        daemon.wait()
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if {"SLURM_CONF": self.conf, "SLURMD_NODENAME": name}.items() <= process.environ().items():
                    parents = [parent for parent in process.parents() if "slurmstepd" in parent.name()]
                    for one in (*parents, process):
                        one.kill()

    def _run(self, name: str, program: str, *words: str) -> None:
        path = found(program)
        assert path
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen([path, *words], stdout=out, stderr=out, start_new_session=True)

    def states(self) -> list[str]:
        """Return the state of each node."""
        return ask("sinfo", "--Node", "--noheader", "--format=%T").split()

    def stop(self) -> None:
        """Cancel all jobs and stop the daemons."""
        subprocess.run(["scancel", "--user", getpass.getuser()], capture_output=True)
        until(lambda: not ask("squeue", "--noheader"), 20, or_not=True)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        del os.environ["SLURM_CONF"]


def free_port() -> socket.socket:
    """Return a socket bound to a port that no one uses."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    return taken


def ask(*words: str) -> str:
    """Run a command and return its output; empty if it fails."""
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()


def until(holds: Callable[[], bool], seconds: float, or_not: bool = False) -> None:
    """Wait for a condition, at most so long."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            assert or_not, f"still not so after {seconds:g} s"
            return
        time.sleep(0.2)
