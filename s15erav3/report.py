"""``s15erav3 report``: write a run's page anew, also while it trains."""

from __future__ import annotations

from omegaconf import DictConfig

from s15erav3.cli import hydra_setup
from s15erav3.cli.flags import split
from s15erav3.cli.overrides import given, is_place, key_of
from s15erav3.errors import UserError
from s15erav3.files import at_home
from s15erav3.session.report import write_report
from s15erav3.terminal import say


def main(arguments: list[str]) -> int:
    """Entry point of the verb; see ``s15erav3 report --help``."""
    hydra_setup.run("report", report, with_run(arguments))
    return 0


def with_run(arguments: list[str]) -> list[str]:
    """Turn the leading ``RUN_DIR`` of ``s15erav3 report RUN_DIR ...`` into the setting ``run_dir=RUN_DIR``.

    Raises:
        UserError: it is not given.
    """
    line = split(arguments)
    place, rest = line.words[:1], line.words[1:]
    if any("=" in word and key_of(word) == "run_dir" for word in line.words):
        return arguments
    if not place or not is_place(place[0]):
        if line.only_tells:
            return arguments
        raise UserError("report needs a run's folder first: s15erav3 report RUN_DIR [SETTING=VALUE ...]")
    return [*line.flags, given("run_dir", place[0], line.multirun), *rest]


def report(cfg: DictConfig) -> None:
    """Write the page that ``cfg`` asks for and say where it is.

    Raises:
        UserError: the folder is no run, or a setting is unusable.
    """
    file = write_report(
        at_home(str(cfg.run_dir)),
        at_home(str(cfg.output)) if cfg.output else None,
        max_tokens=cfg.max_tokens,
        accelerator=cfg.trainer.accelerator,
        precision=cfg.trainer.precision,
    )
    say(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")
