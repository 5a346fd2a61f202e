"""A run's folder: what is written at its start, and what it must not contain."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from s15erav3.errors import UserError
from s15erav3.files import replace_text
from s15erav3.runs.records import RECORDS, RESUMES


def claim(run_dir: Path) -> None:
    """Check that ``run_dir`` does not contain a run yet.

    Raises:
        UserError: it does, or links in it point elsewhere.
    """
    for name in ("result.json", "metrics.csv", "checkpoints"):
        if (run_dir / name).exists():
            place = shlex.quote(str(run_dir))
            raise UserError(f"{place} already holds a run ({name}); use resume={place}, or choose another folder.")
    if run_dir.is_dir():
        refuse_links(run_dir)


def write_config(run_dir: Path, cfg: DictConfig, hydra: DictConfig) -> None:
    """Write ``.hydra/``, as Hydra itself would have at the start; the config comes last, as it marks a run's folder.

    Args:
        cfg: the composed config of the run.
        hydra: Hydra's own composed config, under its key ``hydra``.

    Raises:
        UserError: the folder cannot be written.
    """
    parts = {"overrides": hydra.hydra.overrides.task, "hydra": hydra, "config": cfg}
    try:
        (run_dir / ".hydra").mkdir(parents=True, exist_ok=True)
        for name, part in parts.items():
            replace_text(run_dir / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(part))
    except OSError as error:
        raise UserError(
            f"cannot write the run's folder: {error.strerror}: {error.filename}; choose a writable place."
        ) from error


def discard(run_dir: Path) -> None:
    """Remove the folder of a run that never started, if it contains nothing but its config."""
    hydra = run_dir / ".hydra"
    (run_dir / "progress.json").unlink(missing_ok=True)
    if {p.name for p in run_dir.iterdir()} <= {".hydra"}:
        for file in hydra.glob("*"):
            file.unlink()
        if hydra.exists():
            hydra.rmdir()
        run_dir.rmdir()


def refuse_links(run_dir: Path) -> None:
    """Refuse to write into a run's folder where links point elsewhere, or where a file to be replaced is not a file.

    Text appended to a linked file would end up outside the folder.

    Raises:
        UserError: with the first such path.
    """
    here = os.path.realpath(run_dir)
    for file in (*run_dir.iterdir(), *(run_dir / "checkpoints").glob("*"), *(run_dir / ".hydra").glob("*")):
        if file.is_symlink() and not Path(os.path.realpath(file)).is_relative_to(here):
            raise UserError(
                f"{file} is a link out of the run's folder, and training would write there; put the file itself in its "
                "place, or remove the link."
            )
    written = [f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides")]
    written += ["progress.json", "result.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt", RESUMES]
    records = [run_dir / name for name in (*RECORDS, "metrics.csv") if not (run_dir / name).is_dir()]
    for file in (*(run_dir / name for name in written), *records):
        if os.path.lexists(file) and not file.is_file():
            raise UserError(f"{file} must be a regular file to resume the run; remove it.")
