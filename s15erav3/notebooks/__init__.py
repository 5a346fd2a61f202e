"""The notebooks that come with the package: ``python -m s15erav3.notebooks FOLDER`` copies them."""

from __future__ import annotations

from pathlib import Path


def stored() -> list[Path]:
    """Return the notebooks: inside an installed package, or in the folder ``notebooks/`` of a source tree."""
    package = Path(__file__).parent
    found = sorted(package.glob("*.ipynb")) or sorted((package.parents[1] / "notebooks").glob("*.ipynb"))
    assert found, "the wheel carries them"
    return found
