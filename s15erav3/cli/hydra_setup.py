"""Run a verb through Hydra: handle flags and free text on the command line, and report mistakes in one sentence."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from s15erav3.cli.flags import Line, split
from s15erav3.cli.overrides import as_typed, key_of, literal, quote
from s15erav3.cli.plugins import own_plugins
from s15erav3.cli.schema.describe import overview
from s15erav3.cli.schema.tree import keys
from s15erav3.cli.settings import check_settings, read_interpolated
from s15erav3.cli.trust import conf_dir
from s15erav3.errors import UserError, nearest, one_line

# The worker processes of a sweep need this too; they import this module when they unpickle their job.
OmegaConf.register_new_resolver("either", lambda a, b: b if a is None else a, replace=True)
# For the help templates, in which Hydra treats $ as the start of a name.
OmegaConf.register_new_resolver("told", lambda verb: overview(verb, conf_dir()).replace("$", "$$"), replace=True)

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
"""Hydra's own path settings, in which ``${...}`` is an interpolation."""


def run(
    verb: str,
    job: Callable[[DictConfig], Any],
    arguments: list[str],
    *,
    conf: Path | None = None,
    name: str | None = None,
) -> Any:
    """Compose the config and run ``job`` on it, once or, with ``-m``, many times.

    Args:
        verb: names the config and, in messages, the program.
        arguments: the arguments after the verb.
        conf, name: another config folder and the config's name in it.

    Returns:
        The job's return value, for a single run.

    Raises:
        UserError: the command line or the config is wrong, or the job raised it.
    """
    kept = call(verb, job, arguments, conf=conf, name=name)
    if kept.failures and not kept.multirun:
        raise kept.failures[0]
    if kept.failures:
        summary = (
            f"{len(kept.failures)} of {len(kept.failures) + len(kept.returned)} jobs failed; see their errors above."
        )
        if all(isinstance(error, UserError) for error in kept.failures):
            raise UserError(summary)
        raise SystemExit(f"error: {summary}")
    return kept.returned[-1] if kept.returned else None


class Job:
    """The function that Hydra calls for each job; it stores return values and failures.

    A failure is reported here, because Hydra would print its own summary; the other jobs of a sweep continue.
    The object can be pickled to other processes, where it sets up what Hydra needs. Results stored there stay there.

    Args:
        verb: the verb that the config belongs to.
        work: the function to call with a config.
        argv: the command line as typed, with which Lightning starts the other ranks.
        multirun: whether there are other jobs.
        conf: the config folder, used to list choices in messages.
    """

    def __init__(
        self, verb: str, work: Callable[[DictConfig], Any], argv: list[str], multirun: bool, conf: Path
    ) -> None:
        self.verb, self.work, self.argv, self.multirun, self.conf = verb, work, argv, multirun, conf
        self.returned: list[Any] = []
        self.failures: list[Exception] = []
        self.__module__ = "s15erav3"  # Hydra derives the job name from this

    def __call__(self, cfg: DictConfig) -> Any:
        sys.argv = self.argv
        try:
            keep_folder()
            read_interpolated(cfg, self.verb)
            if self.verb != "train":  # train checks by itself, once the run has its folder
                check_settings(cfg, self.verb)
            self.returned.append(self.work(cfg))
            return self.returned[-1]
        except Exception as failure:
            error: Exception = failure
            if isinstance(error, HydraException | OmegaConfBaseException):
                error = UserError(explain(error, self.conf, self.verb))
            self.failures.append(error)
            if self.multirun:
                _tell_failure(error)
            return None


def call(
    verb: str,
    job: Callable[[DictConfig], Any],
    arguments: list[str],
    *,
    conf: Path | None = None,
    name: str | None = None,
) -> Job:
    """Do the work of :func:`run`, without checking how the jobs ended.

    Raises:
        UserError: the command line or the config is wrong.
    """
    line = split(arguments)
    ours = {"hydra/launcher=gpu_queue", "hydra/launcher=ray"} & set(line.words)
    if verb != "train" and ours:
        raise UserError(f"{ours.pop()} works only with train -m; leave it out.")
    folder = conf or conf_dir()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions propagate to this module instead of being printed by Hydra
    own_plugins(conf_dir())
    before, sys.argv = sys.argv, [program(line, verb), *line.flags, *(_override(w, line.multirun) for w in line.words)]
    kept = Job(verb, job, before, line.multirun, folder)
    try:
        hydra.main(version_base="1.3", config_path=str(folder), config_name=name or verb)(kept)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, folder, verb)) from error
    except ValueError as error:  # raised by Hydra's composition; errors of a job are stored in failures
        raise UserError(f"the settings {' '.join(arguments)} cannot be composed: {one_line(error)}.") from error
    except OSError as error:
        if error.filename is None:
            raise
        raise UserError(
            f"cannot write the run's folder: {error.strerror}: {error.filename}; choose a writable place with "
            "hydra.run.dir=FOLDER (hydra.sweep.dir=FOLDER for a sweep)."
        ) from error
    finally:
        sys.argv = before
    return kept


def _tell_failure(error: Exception) -> None:
    """Report the failed job of a sweep; the others continue. Tracebacks are shown for bugs only."""
    job = HydraConfig.get()
    told = f"error: job {job.job.num} ({' '.join(typed(job))})"
    if isinstance(error, UserError):
        print(f"{told}: {error}", file=sys.stderr)
    else:
        print(f"{told}:", file=sys.stderr)
        traceback.print_exception(error)


def program(line: Line, verb: str) -> str:
    """The program name passed to Hydra: the shell completes the words after it."""
    return "s15erav3" if line.has("--shell-completion") else f"s15erav3 {verb}"


def _override(word: str, multirun: bool) -> str:
    """The override passed to Hydra for a word.

    Free text is taken literally. A folder that Hydra's grammar cannot parse is quoted.
    """
    if key_of(word) not in FOLDERS:
        return as_typed(word, multirun)
    key, _, value = word.partition("=")
    try:
        if isinstance(OverridesParser.create().parse_override(word).value(), str | int | float | None):
            return word
    except HydraException:
        pass
    return f"{key}={quote(value, interpolate=True)}"


def typed(hydra: Any) -> list[str]:
    """The overrides of a job as given, without Hydra's own and without resolving interpolations."""
    return [str(override) for override in OmegaConf.to_container(hydra.overrides.task) or ()]


def keep_folder() -> None:
    """Escape the job's folder in ``${hydra:runtime.output_dir}``, since Hydra stores the name unescaped."""
    runtime: DictConfig = HydraConfig.instance().cfg.hydra.runtime  # type: ignore[union-attr]
    folder: Any = OmegaConf.to_container(runtime)["output_dir"]  # type: ignore[call-overload,index]
    with read_write(runtime), open_dict(runtime):
        runtime.output_dir = literal(str(folder))


def explain(error: BaseException, folder: Path, verb: str) -> str:
    """Describe Hydra's error in one sentence."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = error.options or [file.stem for file in (folder / group).glob("*.yaml")]  # None for one of a list
        return f"{group}={choice} is not a choice of the group '{group}': {nearest(choice, options)}"
    cause = error.__cause__
    if isinstance(error, InstantiationException):
        if isinstance(cause, UserError):
            return str(cause)
        return f"a setting does not fit what it configures: {one_line(cause or error)}"
    if isinstance(error, OverrideParseException):
        return f"the setting {str(error.override)!r} cannot be read: {one_line(error).split('See https')[0].strip()}"
    if isinstance(error, ConfigCompositionException):
        override = _failing_override(str(error))
        if override:
            key = key_of(override)
            return f"'{key}' is not a setting or group: {nearest(key, _settings(folder, verb))}"
    return one_line(cause if isinstance(cause, OmegaConfBaseException) else error)


def _failing_override(message: str) -> str | None:
    for before, after in (("Could not override '", "'"), ("Could not append to config. An item is already at '", "'")):
        if before in message:
            return message.split(before, 1)[1].split(after, 1)[0]
    return None


def _settings(folder: Path, verb: str) -> set[str]:
    """Every group of the config folder and every dotted key of the verb."""
    return {p.parent.relative_to(folder).as_posix() for p in folder.rglob("*.yaml")} - {"."} | keys(verb)
