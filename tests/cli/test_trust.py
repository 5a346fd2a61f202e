"""Files of runs, checkpoints, sweeps and Hugging Face folders are data: nothing that they name is executed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from s15erav3.__main__ import main
from s15erav3.cli import trust
from s15erav3.comparison.tables import markdown
from s15erav3.errors import UserError
from s15erav3.sweeps.plan import check_name
from tests.test_bad_input import refusal
from tests.test_extending import own_package, place  # noqa: F401  fixtures
from tests.tiny import TINY, train


def payloads(mark: Path) -> list[dict[str, Any]]:
    """Calls that would make ``mark`` if they were made, or run code; none of them is on Hydra's own blocklist."""
    return [
        {"_target_": "pathlib.Path.write_text", "_args_": [{"_target_": "pathlib.Path", "_args_": [str(mark)]}, "x"]},
        {"_target_": "pathlib.Path.touch", "_args_": [{"_target_": "pathlib.Path", "_args_": [str(mark)]}]},
        {"_target_": "builtins.open", "file": str(mark), "mode": "w"},
        {"_target_": "io.open", "file": str(mark), "mode": "w"},
        {"_target_": "os.mkdir", "path": str(mark)},
        {"_target_": "numpy.save", "file": str(mark), "arr": [1]},
        {"_target_": "numpy.load", "file": f"{mark}.pickle", "allow_pickle": True},
        {"_target_": "torch.save", "obj": 1, "f": str(mark)},
        {"_target_": "torch.load", "f": f"{mark}.pickle", "weights_only": False},
        {"_target_": "torch.hub.load", "repo_or_dir": str(mark.parent), "model": "evil", "source": "local"},
        {"_target_": "subprocess.run", "args": ["touch", str(mark)]},
        {"_target_": "s15erav3.files.replace_text", "target": str(mark), "text": "x"},
        {"_target_": "s15erav3.runs.folder.subprocess.run", "args": ["touch", str(mark)]},
        {"_target_": "s15erav3.balancing.LossFree", "rate": {"_target_": "os.mkdir", "path": str(mark)}},
        {"_target_": "s15erav3.balancing.Balancer", "x": 1},
    ]


NAMES = [p["_target_"] + ("*" if "rate" in p else "") for p in payloads(Path("x"))]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short finished run."""
    folder = tmp_path_factory.mktemp("trust") / "run"
    assert train("trainer.max_steps=2", run_dir=folder) == 0
    return folder


def changed(run_dir: Path, copy: Path, key: str, value: Any) -> Path:
    """A copy of the run whose saved config says ``value`` at the dotted ``key``."""
    shutil.copytree(run_dir, copy)
    file = copy / ".hydra" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    node, *rest = key.split(".")
    below = config
    for part in rest:
        below = below.setdefault(node, {})
        node = part
    below[node] = value
    file.write_text(yaml.safe_dump(config))
    return copy


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("s15erav3.loggers.mlflow.RunMLflow", "tracking_uri", "tracking_uri"),
        ("s15erav3.loggers.trackio.RunTrackio", "space_id", "space_id"),
        ("s15erav3.loggers.tensorboard.RunTensorBoard", "log_dir", "log_dir"),
        ("lightning.pytorch.loggers.MLFlowLogger", "tracking_uri", "trust=lightning"),
    ],
)
def test_a_runs_config_sends_its_figures_nowhere(
    name: str, setting: str, said: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A foreign folder must not make a resumed run talk to a foreign server. Seen to fail with a logger that takes any
    setting."""
    value = {"_target_": name, "save_dir": "${run_dir}", setting: "http://127.0.0.1:9"}
    copy = changed(run_dir, tmp_path / "copy", "logger.theirs", value)
    assert said in refusal(capsys, "train", f"resume={copy}", "trainer.max_steps=4")


@pytest.mark.parametrize("n", range(len(NAMES)), ids=NAMES)
def test_a_checkpoint_names_nothing_that_is_called(
    n: int, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``evaluate`` builds the strategy that a checkpoint describes. Seen to fail without ``check_targets`` there."""
    payload = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    payload["run"]["config"]["balancing"] = payloads(tmp_path / "mark")[n]
    lone = tmp_path / "lone.ckpt"
    torch.save(payload, lone)
    assert "nothing was executed" in refusal(capsys, "evaluate", str(lone))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("n", range(len(NAMES)), ids=NAMES)
def test_a_saved_config_names_nothing_that_is_called(
    n: int, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In any group of a run's config. Seen to fail without ``check_targets`` in ``go_on``."""
    places = ("balancing", "optimizer", "schedule", "trainer.strategy", "callbacks.mine", "logger.mine")
    copy = changed(run_dir, tmp_path / "copy", places[n % len(places)], payloads(tmp_path / "mark")[n])
    before = {f: f.read_bytes() for f in copy.rglob("*") if f.is_file()}
    assert "nothing was executed" in refusal(capsys, "train", f"resume={copy}", "trainer.max_steps=4")
    assert {f: f.read_bytes() for f in copy.rglob("*") if f.is_file()} == before
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("hydra.callbacks.evil", {"_target_": "os.mkdir", "path": "MARK"}, "'hydra'"),
        ("defaults", ["/etc/other"], "'defaults'"),
        ("balancing", "${oc.create:${oc.decode:'{_target_: os.mkdir, path: MARK}'}}", "oc."),
        ("seed", "${oc.env:HOME}", "trust=oc.env"),
        ("sweep.name", {"_target_": "os.mkdir"}, "as sweep.name"),
        ("data._target_", "os.mkdir", "as data"),
        ("trainer._target_", "s15erav3.balancing.LossFree", "as trainer"),
        ("optimizer._target_", "s15erav3.balancing.LossFree", "as optimizer"),
        ("callbacks.telemetry._target_", "${seed}.system", " as "),
        ("logger.csv.name", "../../elsewhere", "points outside"),
    ],
)
def test_a_saved_config_configures_nothing_else(
    key: str, value: Any, word: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hydra's own part, other files, resolvers that read or make things, choices in the wrong place."""
    copy = changed(run_dir, tmp_path / "copy", key, value)
    assert word in refusal(capsys, "train", f"resume={copy}", "trainer.max_steps=4")


def test_a_saved_config_without_end_is_refused(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """YAML aliases, by which a kilobyte describes gigabytes, and nesting deeper than Python goes."""
    shutil.copytree(run_dir, tmp_path / "copy")
    file = tmp_path / "copy" / ".hydra" / "config.yaml"
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    for text in (bomb, "a: " + "[" * 20_000, "- 1", "\0", "x" * 2_000_000):
        file.write_text(text)
        assert "damaged" in refusal(capsys, "train", f"resume={tmp_path / 'copy'}", "trainer.max_steps=4")


def test_a_resumed_run_writes_into_its_own_folder(run_dir: Path, tmp_path: Path) -> None:
    """Whatever place its files name."""
    copy = changed(run_dir, tmp_path / "copy", "callbacks.samples.run_dir", str(tmp_path / "elsewhere"))
    assert main(["train", f"resume={copy}", "trainer.max_steps=4"]) == 0
    assert not (tmp_path / "elsewhere").exists()
    assert (copy / "samples.jsonl").stat().st_size > (run_dir / "samples.jsonl").stat().st_size


def test_ones_own_strategy_is_asked_for(
    own_package: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A training believes what is typed; what a folder names has to be trusted on the command line."""
    run, search = own_package / "run", f"hydra.searchpath=[file://{own_package / 'my_conf'}]"
    assert main(["train", *TINY, "trainer.max_steps=2", search, "balancing=rescue", f"hydra.run.dir={run}"]) == 0
    for command in (["train", f"resume={run}", "trainer.max_steps=3"], ["evaluate", str(run)]):
        assert "add trust=mine" in refusal(capsys, *command)
        assert "add trust=mine" in refusal(capsys, *command, "trust=min")
        assert main([*command, "trust=mine"]) == 0


@pytest.mark.parametrize(
    "argument",
    [
        "hydra.callbacks={evil:{_target_:os.mkdir,path:x}}",
        "hydra/callbacks=evil",
        "hydra/launcher=evil",
        "hydra.launcher.setup=[touch x]",
        "hydra.launcher._target_=os.mkdir",
        "hydra.searchpath=[file:///tmp]",
        "hydra.sweeper.storage=/tmp/x.journal",
        "hydra.sweeper.sampler._target_=optuna.samplers.CmaEsSampler",
        "hydra.sweeper.pruner={_target_:os.mkdir,path:x}",
        "hydra.sweeper.custom_search_space=os.mkdir",
        "hydra.sweep.subdir=../../x",
        "--config-dir=/tmp",
        "-cd",
        "balancing={_target_: pathlib.Path.touch}",
        "balancing={'_target_': 'os.mkdir'}",
        '+callbacks.x={"_target_":os.mkdir}',
        "balancing._target_=os.mkdir",
        "balancing=${oc.decode:x}",
        "balancing={_target_ \\: os.mkdir}",
    ],
)
def test_a_saved_command_chooses_settings_alone(
    argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``sweep.resume=`` repeats what a file says was typed."""
    file = tmp_path / "sweep" / ".sweep" / "command.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"arguments": ["-m", "seed=1,2", argument], "folder": str(tmp_path)}))
    said = refusal(capsys, "train", f"sweep.resume={tmp_path / 'sweep'}")
    assert "nothing was executed" in said
    assert {p.name for p in tmp_path.rglob("*")} == {"sweep", ".sweep", "command.json"}


def test_a_saved_command_of_this_program_is_repeated() -> None:
    """The launchers and sweepers that come with it, and its own classes."""
    own = ["-m", "seed=1,2", "hydra/launcher=gpu_queue", "hydra.launcher.cpu_slots=2", "hydra/sweeper=optuna"]
    own += ["hydra/launcher=ray", "hydra.launcher.num_gpus=0.5", "hydra.launcher.max_retries=9"]
    own += ["hydra.sweeper.n_trials=3", "hydra/sweeper/sampler=tpe", "hydra.sweeper.sampler.seed=1"]
    own += [
        "hydra/sweeper/pruner=median",
        "hydra.sweeper.pruner.n_warmup_steps=100",
        "balancing._target_=s15erav3.balancing.LossFree",
    ]
    trust.check_arguments([*own, "hydra.sweep.dir=/tmp/x", "run_dir=${hydra:runtime.output_dir}"], "here")


def test_every_packaged_choice_is_allowed_and_every_other_place_is_not() -> None:
    """The list follows conf/; the named classes of torch and Lightning exist."""
    for group in ("balancing", "optimizer", "schedule"):
        for file in (trust.conf_dir() / group).glob("*.yaml"):
            trust.check_targets(
                {group: yaml.safe_load(file.read_text()).get(group, yaml.safe_load(file.read_text()))}, "x"
            )
    from hydra.utils import get_class

    for names in (*trust.MORE.values(), trust.optimizers()):
        assert names and all(get_class(name) for name in names)
    trust.check_targets({"trainer": {"strategy": {"_target_": "lightning.pytorch.strategies.DDPStrategy"}}}, "x")
    with pytest.raises(UserError, match=" as "):
        trust.check_targets({"model": {"_target_": "s15erav3.balancing.LossFree"}}, "x")


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../b", "a/./b", "a\nb", "\x1b[2J"])
def test_a_sweep_stays_below_multirun(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is made before the name has been looked at."""
    with pytest.raises(UserError, match="would leave multirun"):
        check_name(name)
    monkeypatch.chdir(tmp_path)
    if name.isprintable():
        assert "sweep.name" in refusal(capsys, "train", "-m", *TINY, "seed=1,2", f"sweep.name='{name}'")
        assert not list(tmp_path.iterdir())


def test_names_are_text_in_markdown() -> None:
    """A folder or reason with HTML or Markdown in it is shown, not rendered."""
    table = markdown(["a"], [["<script>alert(1)</script>"], ["[x](javascript:y)"], ["one\n| two"]], 1)
    assert "<script" not in table and "[x]" not in table and table.count("\n") == 5


def test_an_index_names_files_of_its_own_folder(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights are never read from elsewhere."""
    pytest.importorskip("safetensors")
    assert main(["export", str(run_dir), str(tmp_path / "hub")]) == 0
    index = tmp_path / "hub" / "model.safetensors.index.json"
    for name in ("../run/model.safetensors", "/etc/passwd", "pytorch_model.bin", ""):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        assert "files of the folder itself" in refusal(
            capsys, "evaluate", str(tmp_path / "hub"), "split=all", "data.path=x"
        )


def test_a_link_in_place_of_a_scratch_file_is_not_followed(tmp_path: Path) -> None:
    """Neither there nor at the target."""
    from s15erav3 import files

    outside = tmp_path / "outside"
    outside.write_text("kept")
    folder = tmp_path / "run"
    folder.mkdir()
    import os

    for name in ("result.json", f".result.json.{os.getpid()}.partial", "result.json.partial"):
        (folder / name).symlink_to(outside)
    files.replace_text(folder / "result.json", "new")
    assert outside.read_text() == "kept"
    assert (folder / "result.json").read_text() == "new" and not (folder / "result.json").is_symlink()
