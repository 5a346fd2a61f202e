"""Treat a run's files as untrusted data: which targets they may instantiate, and how the user allows more.

Run folders, checkpoints and the commands of sweeps may be downloaded or shared. A ``_target_`` in them is a name that
Hydra would import and call. So it must be at a place where this program expects one, and it must be a choice of the
packaged config or one of the few classes of Lightning and torch below. Anything else needs ``trust=module.prefix``,
which is accepted only on the command line. Overrides typed by the user, and configs in a folder of
``hydra.searchpath``, are not checked when a new training starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from s15erav3.cli.overrides import PATHS, literal
from s15erav3.errors import UserError, one_line
from s15erav3.files import load_yaml

MORE = {
    "balancing": {"s15erav3.balancing.DeepSeekV3"},  # of runs of version 0.2
    "callbacks": {
        f"lightning.pytorch.callbacks.{name}"
        for name in ("DeviceStatsMonitor", "EarlyStopping", "LearningRateMonitor", "ModelSummary", "RichProgressBar")
    },
    "logger": {"lightning.pytorch.loggers.CSVLogger", "lightning.pytorch.loggers.TensorBoardLogger"},
    "trainer": {f"lightning.pytorch.strategies.{name}" for name in ("DDPStrategy", "FSDPStrategy")},
}
"""Allowed classes besides the packaged choices and torch's optimizers. None of them executes its arguments, or writes
outside the run's folder."""

PLACES = re.compile(r"(balancing|optimizer|schedule)|(callbacks|logger|balancing\.loss)\.\w+|trainer\.strategy")
"""Places of a run's config that may hold a ``_target_``."""

RESOLVERS = ("hydra", "now", "either")
"""Resolvers allowed in a saved config; ``oc.env`` is not, as it would read the environment."""

CALLED = re.compile(r"\$\{\s*([^${}:]+?)\s*:")
"""Matches resolver names. An escaped ``\\${`` counts as well, since Hydra resolves twice what it instantiates."""

FOLDERS, NAMES = ("run_dir", "save_dir", "root_dir", "dirpath"), ("name", "version", "sub_dir", "filename")
"""Settings of callbacks and loggers that determine the folders they write to, and the names of files there."""

LAUNCHER = {"partition", "account", "qos", "constraint", "gpus_per_node", "cpus_per_task", "mem_gb", "timeout_min"}
LAUNCHER |= {"array_parallelism", "n_jobs", "gpus", "jobs_per_gpu", "cpu_slots", "threads_per_job", "name", "exclude"}
LAUNCHER |= {"num_cpus", "num_gpus", "max_retries", "node_timeout_s"}  # not Ray's address: jobs and keys are sent there
SWEEPER = {"n_trials", "n_jobs", "direction", "study_name", "max_failure_rate", "params", "sampler", "pruner"}
MOST_BYTES = 1_000_000

_trusted: list[str] = []


def take(arguments: Sequence[str]) -> list[str]:
    """Remove ``trust=PREFIX[,PREFIX...]`` from the arguments and store its prefixes for this process."""
    given = [a for a in arguments if re.match(r"\+{0,2}trust=", a)]
    _trusted[:] = [prefix for a in given for prefix in a.partition("=")[2].strip("[]'\"").split(",") if prefix]
    return [a for a in arguments if a not in given]


def is_trusted(name: str) -> bool:
    """Whether the command line trusts ``name`` or a module that contains it."""
    return any(name == prefix or name.startswith(prefix.rstrip(".") + ".") for prefix in _trusted)


@cache
def conf_dir() -> Path:
    """The packaged config folder: inside an installed package, next to the package in a source tree."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


@cache
def choices(group: str) -> frozenset[str]:
    """Every ``_target_`` allowed in ``group`` of a saved config."""
    found = {name for file in (conf_dir() / group).glob("*.yaml") for name in _names(yaml.safe_load(file.read_text()))}
    return frozenset(found | (optimizers() if group == "optimizer" else MORE.get(group, set())))


def optimizers() -> set[str]:
    """Every optimizer of torch. torch is imported only here: it takes seconds, and ``--help`` does not need it."""
    import torch

    return {
        f"torch.optim.{name}"
        for name, found in vars(torch.optim).items()
        if isinstance(found, type) and issubclass(found, torch.optim.Optimizer) and name != "Optimizer"
    }


def _names(node: Any) -> Iterator[str]:
    return (str(name) for _, name in targets(node))


def targets(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every ``_target_`` in plain containers, with the dotted path of its node."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "_target_":
                yield place, value
            yield from targets(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            yield from targets(value, f"{place}[{i}]")


def check_targets(config: Mapping[Any, Any], where: object) -> None:
    """Refuse a config from a file if it has a ``_target_`` that is not allowed.

    Args:
        config: plain containers, interpolations resolved.
        where: names the file in the message.

    Raises:
        UserError: names the first such target; nothing has been imported or called.
    """
    for place, name in targets(config):
        group = place.partition(".")[0]
        known = isinstance(name, str) and PLACES.fullmatch(place) and name in choices(group)
        if not known and not is_trusted(str(name)):
            raise UserError(
                f"{where} would use {str(name)[:200]!r} as {place or 'the config'}, which is not a choice of "
                f"this program; nothing was executed. If you trust that code, add trust={_prefix(name)} to the command."
            )


def _prefix(name: Any) -> str:
    text = str(name)
    return text.partition(".")[0] if re.fullmatch(r"[\w.]+", text) else "MODULE"


def read_config(file: Path) -> DictConfig:
    """Read a run's saved config: plain YAML that uses only this program's resolvers and does not configure Hydra.

    Raises:
        UserError: the file is not such a config.
    """
    try:
        with file.open("rb") as stream:
            raw = stream.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES:,} bytes")
        found = load_yaml(raw.decode())
        if not isinstance(found, dict) or not found:
            raise ValueError("it holds no settings")
        config = OmegaConf.create(found)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{file} is damaged: {one_line(error)[:200]}; choose another run.") from error
    except Exception as error:  # OmegaConf's errors for keys or interpolations that it cannot parse
        raise UserError(f"{file} is damaged: {one_line(error)[:200]}; choose another run.") from error
    for key in ("hydra", "defaults"):
        if key in found:
            raise UserError(f"{file} has the key '{key}', which no run of this program saves; nothing was executed.")
    for resolver in calls(found):
        if resolver not in RESOLVERS and not is_trusted(resolver):
            raise UserError(
                f"{file} uses the resolver ${{{resolver}:...}}; if you trust it, add trust={resolver} to the command."
            )
    return config


def calls(node: Any, place: str = "") -> Iterator[str]:
    """The resolvers that a saved config calls. Paths are resolved once, so an escaped ``${`` in them does not count."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from calls(value, f"{place}.{key}" if place else str(key))
            yield from calls(key)
    elif isinstance(node, list):
        for value in node:
            yield from calls(value)
    elif isinstance(node, str):
        yield from CALLED.findall(re.sub(r"(?<!\\)(?:\\\\)*\\\$", "", node) if place in PATHS else node)


def keep_inside(cfg: DictConfig, run_dir: Path) -> None:
    """Set all output folders of a resumed run to the current location of its folder.

    Raises:
        UserError: the name setting of a logger or callback would make it write elsewhere.
    """
    cfg.run_dir = literal(str(run_dir))
    for group in ("callbacks", "logger"):
        nodes: Any = cfg.get(group)
        for name, settings in nodes.items() if OmegaConf.is_dict(nodes) else ():
            for key in list(settings) if OmegaConf.is_dict(settings) else ():
                if key in FOLDERS:
                    settings[key] = "${run_dir}"
                elif key in NAMES and set(str(settings.get(key)).split("/")) & {"..", ""} - {settings.get(key)}:
                    raise UserError(
                        f"{group}.{name}.{key}={settings.get(key)} points outside the run's folder; give a plain name."
                    )


def check_arguments(arguments: Sequence[str], where: object) -> None:
    """Refuse a command from a file if it does more than choose settings of this program.

    Raises:
        UserError: names the first such argument.
    """
    for argument in arguments:
        key, _, value = argument.lstrip("+~").partition("=")
        hydra = key.partition("@")[0]
        allowed = argument in ("-m", "--multirun") or not argument.startswith("-")
        if hydra.startswith("hydra"):
            group, _, name = hydra.removeprefix("hydra").lstrip("./").replace("/", ".").partition(".")
            if "/" in hydra:
                there = {f.stem for f in (conf_dir() / hydra).glob("*.yaml")} | {"basic", "null"}
                allowed = hydra.split("/")[1] in ("launcher", "sweeper") and set(value.split(",")) <= there
            else:
                first = name.partition(".")[0]
                allowed = (group == "launcher" and first in LAUNCHER) or (group == "sweeper" and first in SWEEPER)
                allowed = allowed or hydra == "hydra.sweep.dir"
            allowed = allowed or is_trusted(hydra)
        named = re.findall(r"_target_['\"]?\s*[:=]\s*['\"]?([\w.]*)", argument)
        if argument.count("_target_") != len(named):
            allowed = False
        for name in named:
            allowed = allowed and (
                is_trusted(name)
                or any(name in choices(group) for group in ("optimizer", "balancing", "schedule", *MORE))
            )
        called = CALLED.findall(argument)
        allowed = allowed and all(name in RESOLVERS or is_trusted(name) for name in called)
        if not allowed:
            raise UserError(
                f"{where} holds {argument[:200]!r}, which does more than choose settings, and nothing was executed; "
                "type the sweep's command yourself if you know it."
            )
