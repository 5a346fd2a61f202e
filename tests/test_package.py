"""What is installed: the wheel, its versions, and what describes the project to others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.docs import ROOT
from tests.tiny import TINY, result

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked() -> dict[str, str]:
    """Versions in requirements.lock by the name of the package."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def required() -> list[Requirement]:
    """Everything that pyproject.toml names, in any extra, but the package itself."""
    extras = PROJECT["optional-dependencies"].values()
    every = [Requirement(text) for group in (PROJECT["dependencies"], *extras) for text in group]
    return [requirement for requirement in every if requirement.name != "s15erav3"]


def test_the_lock_has_an_allowed_version_of_each_dependency() -> None:
    """Else ``make lock`` was forgotten after a change of pyproject.toml."""
    versions = locked()
    for requirement in required():
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), (
            f"make lock: {requirement}"
        )


def test_the_lock_is_good_for_any_machine() -> None:
    """No path, index, hash or build of one device, and not the project itself."""
    for line in (ROOT / "requirements.lock").read_text().splitlines()[1:]:
        assert re.fullmatch(r"[\w.-]+==[\w.]+", line), line
    assert "s15erav3" not in locked()


def test_one_version_and_one_license_everywhere() -> None:
    """pyproject.toml, CITATION.cff and the changelog."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    heads = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[:2] == [("Unreleased", ""), (PROJECT["version"], citation["date-released"])]


def test_the_files_of_github_are_read_as_meant() -> None:
    """YAML that parses, with every Python of the classifiers, and forms whose fields have names."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["test"]
    pythons = {name.rpartition(" ")[2] for name in PROJECT["classifiers"] if "Python :: 3." in name}
    assert set(job["strategy"]["matrix"]["python"]) == pythons
    assert any(".ci/run" in step.get("run", "") for step in job["steps"])
    for form in ("bug_report", "feature_request"):
        body = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml").read_text())["body"]
        assert all("label" in field["attributes"] for field in body if field["type"] != "markdown")
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"pip", "github-actions", "docker"}


def test_the_image_is_made_by_the_makefile() -> None:
    """Its steps cannot drift away from those of a user."""
    image = (ROOT / "Dockerfile").read_text()
    assert "make setup" in image
    assert "pip install" not in image


@pytest.mark.slow
def test_the_wheel_carries_config_and_text_and_runs_elsewhere(tmp_path: Path) -> None:
    """An installed package finds its conf/ and its bundled commentary without the source tree."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert "s15erav3/py.typed" in names
    assert "s15erav3/conf/train.yaml" in names
    assert "s15erav3/conf/model/nano.yaml" in names
    assert "s15erav3/data/sample/commentary.txt" in names
    assert "s15erav3/notebooks/01_expert_balance.ipynb" in names
    assert not any(name.startswith("tests") for name in names)
    done = subprocess.run(
        [sys.executable, "-m", "s15erav3", "train", *TINY, "trainer.max_steps=2", "hydra.run.dir=run"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    where = subprocess.run(
        [sys.executable, "-c", "import s15erav3.cli.trust as t; print(t.conf_dir())"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")}, capture_output=True, text=True,
    )  # fmt: skip
    assert str(tmp_path) in where.stdout
    copied = subprocess.run(
        [sys.executable, "-m", "s15erav3.notebooks", "mine"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")}, capture_output=True, text=True,
    )  # fmt: skip
    assert copied.returncode == 0, copied.stderr
    assert (tmp_path / "mine" / "01_expert_balance.ipynb").read_bytes() == (
        ROOT / "notebooks" / "01_expert_balance.ipynb"
    ).read_bytes()
    assert result(tmp_path / "run")["status"] == "completed"
