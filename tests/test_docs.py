"""The documentation holds what it says: commands compose, files and targets exist, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from s15erav3.__main__ import VERBS, main
from s15erav3.cli.trust import conf_dir
from tests.docs import PAGES, ROOT, Command, commands, prose, sections

GROUPS = sorted(p.name for p in conf_dir().iterdir() if p.is_dir() and p.name != "hydra")
OWN = ("hydra.searchpath=",)
"""Commands with these need files that stand beside them in the docs; those of docs/extending.md are run, by
tests/test_extending.py."""
CHECKED = {"s15erav3", "python", "make"}
FOREIGN = {"pip", "uv", "docker", "wandb", "pre-commit", "mkdir", "sbatch", "srun", "torchrun"}
"""Programs that are not this project's."""


def choices(word: str) -> list[str]:
    """``key=a,b`` as one setting for each choice of a sweep; of an interval its lower end."""
    if "=" not in word or word.startswith(("prompt=", "stop=", "data.path=")):
        return [word]
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return [word]
    if override.is_interval_sweep():
        return [f"{override.key_or_group}={override.value().start}"]
    return [f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()]


def composed(command: Command) -> int:
    """The greatest exit status of composing a command's config, with each choice of its sweep at least once.

    What a resumed run brings along is not there, so its settings are composed as those of a new run.
    """
    words = [w for w in command.arguments if w != "-m" and not w.startswith(("resume=", "sweep.resume=", "trust="))]
    lists = [choices(word) for word in words]
    rounds = range(max(map(len, lists), default=1))
    return max(main([command.verb, *(c[i % len(c)] for c in lists), "--cfg", "job"]) for i in rounds)


COMPOSED = [c for c in commands("s15erav3") if not any(word.startswith(OWN) for word in c.words)]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMPOSED, ids=lambda c: c.label)
def test_every_command_composes(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """A setting, group or choice that was renamed cannot stay in the docs."""
    assert command.verb in VERBS
    assert composed(command) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["train", "balancing.rat=1"],
        ["train", "-m", "experts=e8,e17"],
        ["train", "resume=last", "optimizer.rate=1"],
        ["train", "hydra/launcher=gpu_queue", "hydra.launcher.jobs=2"],
        ["evaluate", "RUN_DIR", "splits=val"],
        ["compare", "multirun/first", "order=val/bpb"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_would_be_found(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The test above can fail: in each place of a command line."""
    assert composed(Command("", ["s15erav3", *words])) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_there_are_commands_of_every_verb() -> None:
    """A reader of Markdown that finds nothing would let everything pass."""
    assert {c.verb for c in COMPOSED} == set(VERBS)
    assert len(COMPOSED) > 60
    assert {c.words[0] for c in commands()} <= CHECKED | FOREIGN


@pytest.mark.parametrize("command", commands("python"), ids=lambda c: c.label)
def test_scripts_and_their_options_exist(command: Command) -> None:
    """``python scripts/NAME.py --option``, ``python -m module`` and ``python -c`` alike."""
    _, script, *options = command.words
    if script.startswith("-"):
        return
    source = (ROOT / script).read_text()
    for option in (word.partition("=")[0] for word in options if word.startswith("--")):
        names = (f'"{option}"', f'"--no-{option[2:]}"')
        assert any(name in source for name in names), f"{script} has no {option}"


@pytest.mark.parametrize("command", commands("make"), ids=lambda c: c.label)
def test_targets_of_make_exist(command: Command) -> None:
    """Also variables such as LOCK=."""
    makefile = (ROOT / "Makefile").read_text()
    for word in command.words[1:]:
        name, given, _ = word.partition("=")
        assert re.search(rf"^{name}{' [?]=' if given else ':'}", makefile, re.MULTILINE), word


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_choices_named_in_the_text_exist(page: Path) -> None:
    """`GROUP=CHOICE` within a sentence, as `balancing=loss_free`."""
    for group, choice in re.findall(rf"`({'|'.join(GROUPS)})=([a-z0-9_]+)`", prose(page.read_text())):
        assert choice == "null" or (conf_dir() / group / f"{choice}.yaml").exists(), f"{group}={choice}"


def anchor(heading: str) -> str:
    """As the site and GitHub call a heading."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To files of this repository, and to headings in them. The site is also built with --strict, README.md is not
    in it."""
    for target in re.findall(r"\]\(([^)#\s]*(?:#[\w-]*)?)", prose(page.read_text())):
        if target.startswith(("http", "mailto:")):
            continue
        name, _, fragment = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if fragment and file.suffix == ".md":
            heads = re.findall(r"^#+ (.+)$", prose(file.read_text()), re.MULTILINE)
            assert fragment in map(anchor, heads), target


def test_the_laboratory_has_a_section_for_each_strategy() -> None:
    """With its source, and its curve if the first study has it."""
    found = sections((ROOT / "docs" / "laboratory.md").read_text())
    for file in (conf_dir() / "balancing").glob("*.yaml"):
        assert "**Source**" in found[file.stem]
        assert ("](figures/maxvio_" in found[file.stem]) != ("not part of the first study" in found[file.stem])


def test_the_laboratory_repeats_the_first_study_faithfully() -> None:
    """Every number of its tables stands in the study's table of those experts."""
    study: dict[tuple[str, str], list[str]] = {}
    experts = ""
    for line in (ROOT / "docs" / "first_study.md").read_text().splitlines():
        experts = line[9:12] if line.startswith("`experts=") else experts
        cells = [cell.strip().partition(" (")[0] for cell in line.strip("|").split("|")]
        if len(cells) == 8 and experts:
            study.setdefault((experts, cells[0]), cells)
    checked = 0
    for text in sections((ROOT / "docs" / "laboratory.md").read_text()).values():
        for name, rows in re.findall(r"maxvio_(\w+)\.svg\)\n\n\|.*\n\|.*\n((?:\|.*\n)+)", text):
            for row in rows.splitlines():
                experts, value, bpb, maxvio, dead, churn = (cell.strip() for cell in row.strip("|").split("|"))
                loss, _, against = bpb.removesuffix(" %").partition(", ")
                of_study = study[experts, name]
                assert [name, value.strip("-"), loss, against, maxvio, dead] == of_study[:6]
                assert churn.removesuffix(" %").replace("not defined", "") == of_study[7]
                checked += 1
    assert checked == 28


def test_the_map_names_every_folder_and_group() -> None:
    """Of the package in docs/architecture.md, of the config in docs/getting-started.md."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    for folder in (p.parent for p in (ROOT / "s15erav3").glob("*/__init__.py")):
        assert f"  {folder.name}/ " in text, folder
    text = (ROOT / "docs" / "getting-started.md").read_text()
    for group in GROUPS:
        assert f"`{group}`" in text


def test_the_readme_is_short() -> None:
    """At most 10 KB, and its picture at most 200 KB."""
    assert (ROOT / "README.md").stat().st_size <= 10_000
    assert 20_000 < (ROOT / "docs" / "figures" / "report.png").stat().st_size <= 200_000
