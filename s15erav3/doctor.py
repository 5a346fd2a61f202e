"""``s15erav3 doctor``: what is installed, and checks of the GPU."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig

from s15erav3.cli import hydra_setup
from s15erav3.cli.flags import split
from s15erav3.errors import UserError
from s15erav3.files import at_home, replace_text
from s15erav3.machine.examine import Report, examine, in_markdown
from s15erav3.terminal import results, say


def main(arguments: list[str]) -> int:
    """Entry point of the verb; see ``s15erav3 doctor --help``."""
    line = split(arguments)
    report: Report | None = hydra_setup.run("doctor", doctor, [*line.flags, *line.words])
    return 1 if report and any(check["status"] == "failed" for check in report["checks"].values()) else 0


def doctor(cfg: DictConfig) -> Report:
    """Run the checks, print them and write the report that ``cfg`` asks for.

    Raises:
        UserError: a GPU is required and there is none, or the report cannot be written.
    """
    output = at_home(str(cfg.output)) if cfg.output else None
    report = examine(list(cfg.checks) if cfg.checks is not None else None, say)
    text = in_markdown(report)
    results.print(text, soft_wrap=True)
    if output is not None:
        _write(output, report, text)
    if cfg.require_gpu and report["machine"]["gpu"] is None:
        raise UserError("require_gpu=true, but torch sees no GPU: these checks did not run.")
    return report


def _write(output: Path, report: Report, text: str) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        replace_text(output, json.dumps(report, indent=2) + "\n")
        replace_text(output.with_suffix(".md"), text + "\n")
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror}; name another file.") from error
    say(f"wrote {output} and {output.with_suffix('.md')}")
