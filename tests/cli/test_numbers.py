"""Numbers and flags of every config: refused in one sentence, or taken for what they are."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from s15erav3.__main__ import main
from s15erav3.cli.plugins import own_plugins
from s15erav3.cli.schema.trainer import seconds
from s15erav3.cli.schema.tree import fields, parts
from s15erav3.cli.schema.wording import alternatives
from s15erav3.cli.settings import read_interpolated
from s15erav3.cli.trust import conf_dir
from s15erav3.errors import UserError
from s15erav3.session.prepare import prepare
from s15erav3.session.run import be_quiet
from tests.tiny import DATA, MODEL, TINY, result, train

VALUES = [math.inf, math.nan, float("1e309"), -1, True, "abc", 99999999999999999999999, -0.0, None, 1e-320, 2**63]
CONFIGS = {
    "default": [],
    "strategies": ["balancing=smebu", "optimizer=muon", "schedule=cosine"],
    "sequences": ["balancing=dsv3", "schedule=constant", "callbacks.checkpoint.keep_every_n_steps=5"],
    "quantile": ["balancing=quantile"],
    "assignment": ["balancing=bip", "logger=wandb"],
}


def composed(*settings: str) -> DictConfig:
    """conf/train.yaml as Hydra hands it on, of one run in the working folder."""
    own_plugins(conf_dir())
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [*MODEL, *DATA, "trainer.accelerator=cpu", *settings], return_hydra_config=True)
    with read_write(cfg), read_write(cfg.hydra), open_dict(cfg):
        cfg.hydra.runtime.output_dir, cfg.run_dir = ".", "."
        cfg.hydra.mode = "RUN"
    HydraConfig.instance().cfg = cfg
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def numbers(cfg: DictConfig) -> dict[str, set[type]]:
    """Every setting of a config that is a number or a flag, by its dotted name, with the types that it may be of."""
    found = {}
    for place, node, settings in parts("train", cfg):
        for key in node:
            kinds = {kind for kind, _ in alternatives(fields(settings).get(key))}
            if kinds & {int, float, bool} and str not in kinds:
                found[f"{place}.{key}".lstrip(".")] = kinds
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working folder, and Hydra's config put back."""
    monkeypatch.chdir(tmp_path)
    be_quiet()
    yield
    HydraConfig.instance().cfg = None


def refusal(cfg: DictConfig) -> str | None:
    """The sentence that a config is refused with; ``None`` if a run can be made ready."""
    try:
        prepare(cfg, Path(), None)
    except UserError as error:
        return str(error)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            return str(error.__cause__)
        raise
    return None


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.slow
def test_every_number_is_refused_properly_or_taken(config: str, here: None) -> None:
    """Of each setting of a training that is a number or a flag: a run can be made ready with it, or one sentence names
    it. What is no number, or none that a computer holds, is never taken."""
    cfg = composed(*CONFIGS[config])
    known = numbers(cfg)
    groups = tuple(f"{setting.partition('=')[0].partition('.')[0]}." for setting in CONFIGS[config])
    names = [name for name in known if name.startswith(groups or ("",))]
    assert len(names) > 70 or config != "default"
    for name in names:
        for value in VALUES:
            changed = copy.deepcopy(cfg)
            OmegaConf.update(changed, name, value, merge=False)
            refused = refusal(changed)
            if refused is not None:
                assert "\n" not in refused and name.rpartition(".")[2] in refused, (name, value, refused)
            else:
                number = isinstance(value, int | float) and value is not True
                assert not number or (value in (-1, 0)), (name, value)
                assert value != "abc" and (value is not True or bool in known[name]), (name, value)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("optimizer.betas=0.9", "optimizer.betas=0.9 must be a list of two numbers"),
        ("optimizer.betas=[0.9,inf]", "optimizer.betas[1]=inf must be a number"),
        ("report=yes", "report=yes must be true or false"),
        ("compile=1", "compile=1 must be true or false"),
        ("trainer.deterministic=abc", "true, warn or false"),
        ("data.batch_size=1e9", "data.batch_size=1000000000.0 must be a whole number"),
        ("trainer.devices=9223372036854775807", "trainer.devices=9223372036854775807"),
        ("trainer.max_steps=0", "trainer.max_steps=0 must be a whole number above 0"),
        ("trainer.max_epochs=-0.5", "trainer.max_epochs=-0.5 must be a number above 0"),
        ("+trainer.fast_dev_run=true", "trainer.max_steps=1"),
        ("+trainer.fast_dev_run=1", "trainer.max_steps=1"),
        ("+trainer.num_sanity_val_steps=2", "leave it out"),
        ("+trainer.limit_train_batches=0", "limit_train_batches=0"),
        ("+trainer.limit_train_batches=0.5", "limit_train_batches=0.5"),
        ("+trainer.limit_val_batches=2.5", "limit_val_batches=2.5"),
        ("+trainer.limit_val_batches=true", "limit_val_batches=true"),
        ("trainer.max_time=0", "trainer.max_time=0 must be a time above 0"),
        ("trainer.max_time=00:00:00:00", "trainer.max_time=00:00:00:00 must be a time above 0"),
        ("trainer.max_time=inf", "trainer.max_time=inf must be a time"),
        ("trainer.max_time=true", "trainer.max_time=true must be a time"),
        ("trainer.max_time={minute:1}", "must be a time"),
        ("trainer.max_time=[1]", "must be a time"),
        ("trainer.max_time=10:00", "trainer.max_time=10:00 must be a time"),
        ("seed=${oc.env:WORD}", "seed=abc must be a whole number"),
    ],
)
def test_a_setting_with_which_nothing_would_be_trained_is_told(
    setting: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is, and no folder stays."""
    monkeypatch.setenv("WORD", "abc")
    assert main(["train", *TINY, "trainer.max_steps=1", f"hydra.run.dir={tmp_path / 'run'}", setting]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_a_run_without_validation_has_a_checkpoint_and_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its figures of training alone; it can be sampled from and resumed."""
    run = tmp_path / "run"
    assert train("+trainer.limit_val_batches=0", "trainer.max_steps=2", run_dir=run) == 0
    said = capsys.readouterr().err
    assert "completed" in said and "val/bpb" not in said
    assert "val/bpb" not in result(run) and result(run)["status"] == "completed"
    assert main(["sample", str(run), "max_new_tokens=1"]) == 0
    assert main(["train", f"resume={run}", "trainer.max_steps=3"]) == 0
    assert result(run)["steps"] == 3


def test_a_small_share_of_the_validation_is_one_batch(tmp_path: Path) -> None:
    """Lightning would refuse it when training begins."""
    run = tmp_path / "run"
    assert train("+trainer.limit_val_batches=0.0001", "trainer.max_steps=2", run_dir=run) == 0
    assert result(run)["val/bpb"] > 0


@pytest.mark.slow
def test_numbers_and_flags_from_the_environment_are_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a run and in a sweep, which goes on with what it has made; texts stay texts."""
    for name, value in {"SEED": "3", "LR": "1e-3", "BEST": "false", "NAME": "2024"}.items():
        monkeypatch.setenv(name, value)
    cfg = composed(
        "seed=${oc.env:SEED}", "optimizer.lr=${oc.env:LR}", "report=${oc.env:BEST}", "init_from=${oc.env:NAME}",
        "trainer.max_steps=1${oc.env:SEED}",
    )  # fmt: skip
    read_interpolated(cfg, "train")
    assert (cfg.seed, cfg.optimizer.lr, cfg.report, cfg.trainer.max_steps) == (3, 0.001, False, 13)
    assert cfg.init_from == "2024" and cfg.trainer.max_epochs == 4
    HydraConfig.instance().cfg = None
    monkeypatch.chdir(tmp_path)
    sweep = ["train", "-m", *TINY, "seed=${oc.env:SEED}", "trainer.max_steps=1", "sweep.name=s"]
    for _ in range(2):
        assert main([*sweep, "experts=e8,dense"]) == 0
    assert result(Path("multirun/s/0"))["seed"] == 3 and not Path("multirun/s/.superseded").exists()
    assert main(["train", "resume=multirun/s/0", "trainer.max_steps=2"]) == 0


def test_a_time_is_read_in_every_form() -> None:
    """Seconds, days:hours:minutes:seconds, parts by name."""
    assert seconds(600) == seconds("00:00:10:00") == seconds({"minutes": 10}) == 600
    assert seconds(0.5) == 0.5 and seconds("1:00:00:01") == 86_401


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short finished run."""
    folder = tmp_path_factory.mktemp("numbers") / "run"
    assert train("trainer.max_steps=2", run_dir=folder) == 0
    return folder


OTHERS: dict[str, list[str]] = {
    "sample": ["max_new_tokens=1"],
    "evaluate": [],
    "report": ["max_tokens=0"],
    "compare": [],
}


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        *(("sample", n) for n in ("samples", "max_new_tokens", "temperature", "top_k", "top_p", "min_p", "seed")),
        *(("sample", n) for n in ("repetition_penalty", "speculative", "compile", "context_extension")),
        *(("evaluate", n) for n in ("data.sequence_length", "eval_batch_size", "context_extension")),
        ("report", "max_tokens"),
        *(("compare", n) for n in ("rows", "descending", "unfinished")),
    ],
)
@pytest.mark.slow
def test_no_number_of_the_other_verbs_ends_in_a_traceback(
    verb: str, name: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused with status 2, but for a zero of either sign and what null stands for."""
    output = {"evaluate": ["output=" + str(tmp_path / "e.json")], "compare": [f"output={tmp_path}"]}.get(verb, [])
    for value in ("inf", "nan", "1e309", "-1", "yes", "abc", "99999999999999999999999", "1e-320", "[1]"):
        others = [setting for setting in OTHERS[verb] if not setting.startswith(name)]
        assert main([verb, str(run_dir), *others, *output, f"{name}={value}"]) == 2, value
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("error: ") and name.rpartition(".")[2] in said, said


def test_a_seed_that_no_generator_takes_is_told(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each sample has its own, from the seed on."""
    assert main(["sample", str(run_dir), "max_new_tokens=1", "samples=2", f"seed={2**63 - 3}"]) == 0
    assert main(["sample", str(run_dir), "max_new_tokens=1", "samples=2", f"seed={2**63 - 1}"]) == 2
    assert "seed" in capsys.readouterr().err.strip().splitlines()[-1]
