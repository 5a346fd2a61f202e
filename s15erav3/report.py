"""``s15erav3 report``: rewrite the page of a run, also during training."""

from __future__ import annotations

from omegaconf import DictConfig

from s15erav3.cli import hydra_setup
from s15erav3.cli.flags import by_place
from s15erav3.files import at_home
from s15erav3.session.report import write_report
from s15erav3.terminal import say


def main(arguments: list[str]) -> int:
    """Entry point of the verb; see ``s15erav3 report --help``."""
    hydra_setup.run("report", report, by_place("report", arguments, "run_dir"))
    return 0


def report(cfg: DictConfig) -> None:
    """Write the page that ``cfg`` describes and print its path.

    Raises:
        UserError: the folder is not a run, or a setting is unusable.
    """
    file = write_report(
        at_home(str(cfg.run_dir)),
        at_home(str(cfg.output)) if cfg.output else None,
        max_tokens=cfg.max_tokens,
        accelerator=cfg.trainer.accelerator,
        precision=cfg.trainer.precision,
    )
    say(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")
