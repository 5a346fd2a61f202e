"""Ready sweeps and launchers: what they run composes, compares what it says, and runs."""

from __future__ import annotations

import itertools
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from s15erav3.__main__ import main
from s15erav3.cli.hydra_setup import conf_dir
from s15erav3.cli.plugins import own_plugins
from s15erav3.model import Counts, count_parameters
from s15erav3.session.build import model_config, plain
from tests.tiny import TINY, result

ROOT = Path(__file__).parent.parent
SWEEPS = sorted(file.stem for file in (conf_dir() / "sweep").glob("*.yaml"))
SEARCHES = ("search", "search_pareto")


def composed(*settings: str, hydra: bool = False) -> DictConfig:
    """conf/train.yaml with these settings, with Hydra's own part if wanted."""
    own_plugins(conf_dir())
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", [*settings, "+run_dir_=x", "run_dir=x"], return_hydra_config=hydra)


def searched(sweep: str) -> list[Override]:
    """What a sweep changes, as Hydra reads it."""
    params = composed(f"sweep={sweep}", hydra=True).hydra.sweeper.params
    return OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])


def jobs(sweep: str) -> list[list[str]]:
    """The settings of every job of a sweep that is a grid."""
    grid = [
        [f"{o.get_key_element()}={v}" for v in (o.sweep_string_iterator() if o.is_sweep_override() else [o.value()])]
        for o in searched(sweep)
    ]
    return [list(job) for job in itertools.product(*grid)]


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_composes_and_tells_the_number_of_its_runs(sweep: str) -> None:
    """A sweep must not stop in the night at a job that cannot be composed; its first lines say what it costs."""
    head = (conf_dir() / "sweep" / f"{sweep}.yaml").read_text()
    assert head.startswith("# @package _global_\n")
    assert f"s15erav3 train -m sweep={sweep} " in head
    assert composed(f"sweep={sweep}").sweep.name == sweep
    told = int(re.search(r"(\d+) runs", head)[1])  # type: ignore[index]
    if sweep in SEARCHES:
        sweeper = composed(f"sweep={sweep}", hydra=True).hydra.sweeper
        assert sweeper.n_trials == told
        ranges = searched(sweep)
        for end in ("start", "end"):
            assert plain(
                composed(f"sweep={sweep}", *[f"{o.get_key_element()}={getattr(o.value(), end)}" for o in ranges])
            )
        return
    assert len(jobs(sweep)) == told
    for job in (jobs(sweep)[0], jobs(sweep)[-1]):
        model_config(composed(f"sweep={sweep}", *job), 4096)
    for key, _, value in (setting.partition("=") for job in jobs(sweep) for setting in job):
        assert not (conf_dir() / key).is_dir() or (conf_dir() / key / f"{value}.yaml").is_file(), (key, value)


def test_the_study_on_a_gpu_is_the_larger_one() -> None:
    """Its settings must win over those of the arms' own files."""
    small = composed("model=small").model
    for job in jobs("study_gpu")[::5]:
        cfg = composed("sweep=study_gpu", *job)
        assert cfg.model == small and cfg.trainer.max_steps == 4000 and cfg.trainer.accelerator == "gpu"


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [s for s in SWEEPS if s not in SEARCHES])
def test_every_combination_of_a_sweep_composes(sweep: str) -> None:
    """As Hydra does before the first job."""
    for job in {tuple(s for s in job if not s.startswith("seed=")) for job in jobs(sweep)}:
        model_config(composed(f"sweep={sweep}", *job), 4096)


def counts(model: str, experts: str) -> Counts:
    """Parameters, total and active, without routers."""
    config = model_config(composed(f"model={model}", experts), 4096)
    routers = config.num_moe_layers * config.n_routed_experts * config.hidden_size
    found = count_parameters(config)
    return found._replace(total=found.total - routers, active=found.active - routers)


def test_the_granularity_sweeps_keep_equal_what_they_say() -> None:
    """Else the number of experts and the number of parameters would be compared in one. (Equal active parameters at
    every size: tests/cli/test_configs.py.)"""
    choices = {s: list(dict.fromkeys(job[0] for job in jobs(s))) for s in ("experts", "experts_active")}
    split = {counts("nano", experts) for experts in choices["experts"]}
    assert len(split) == 1
    grown = [counts("nano", experts) for experts in choices["experts_active"]]
    assert len({found.active for found in [*grown, *split]}) == 1
    totals = [found.total for found in grown]
    assert totals == sorted(set(totals))
    assert f"from 1 to {totals[-1] / totals[0]:.1f} times" in (conf_dir() / "sweep/experts_active.yaml").read_text()


def test_the_split_experts_differ_in_nothing_else() -> None:
    """A split that also moved the gate would compare two things."""
    whole = composed("experts=e8").experts
    for parts in (2, 4, 8):
        split = dict(composed(f"experts=e8_split{parts}").experts)
        for key in ("n_routed_experts", "num_experts_per_tok", "n_shared_experts"):
            assert split.pop(key) == parts * whole[key]
        assert split == {key: whole[key] for key in split}


@pytest.mark.parametrize("launcher", ["joblib", "submitit_slurm", "submitit_local"])
def test_a_launcher_has_every_setting_of_its_plugin_and_no_other(
    launcher: str, recwarn: pytest.WarningsRecorder
) -> None:
    """Our file takes the place of the plugin's: a key of a newer plugin, or a misspelt one, would get lost."""
    cfg = composed(f"hydra/launcher={launcher}", "sweep.name=x", hydra=True)
    ours = cfg.hydra.launcher
    if launcher == "joblib":
        from hydra_plugins.hydra_joblib_launcher.config import JobLibLauncherConf as Theirs
    elif launcher == "submitit_slurm":
        from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf as Theirs
    else:
        from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf as Theirs
    known = set(Theirs.__dataclass_fields__)
    assert set(ours) <= known
    if launcher != "joblib":  # whose settings have defaults in joblib itself
        assert set(ours) == known
    assert ours._target_ in Plugins.instance().class_name_to_class
    assert not [w for w in recwarn if "validated against ConfigStore schema" in str(w.message)]


@pytest.mark.parametrize(
    ("choice", "extra"),
    [("launcher=joblib", "cluster"), ("launcher=submitit_slurm", "cluster"), ("sweeper=optuna", "optuna")],
)
def test_a_missing_plugin_is_named_with_the_extra_that_brings_it(
    choice: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Someone without the extras reads one sentence, and no traceback of Hydra's."""
    own_plugins(conf_dir())
    known = Plugins.instance().class_name_to_class
    ours = {name: plugin for name, plugin in known.items() if not name.startswith("hydra_plugins.")}
    monkeypatch.setattr(Plugins.instance(), "class_name_to_class", ours)
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "s15erav3.sweeps.study", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", *TINY, f"hydra/{choice}", "seed=1,2"]) == 2
    assert f"pip install 's15erav3[{extra}]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def statuses(sweep: Path) -> dict[int, str]:
    """How each run of a sweep ended."""
    return {int(file.parent.name): result(file.parent)["status"] for file in sweep.glob("*/result.json")}


SHORT = [*TINY, "trainer.max_steps=2", "callbacks.samples.max_new_tokens=0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sweep", "few"),
    [
        ("balancing", ["experts=e16", "balancing=quantile,switch", "seed=1"]),
        ("size", ["model=pico", "experts=dense,e8", "seed=1"]),
        ("experts", ["experts=e8,e8_split4", "seed=1"]),
        ("experts_active", ["experts=dense,e16", "seed=1"]),
        ("optimizer", ["optimizer=adamw,muon", "optimizer.lr=0.005", "schedule=wsd", "seed=1"]),
    ],
)
def test_a_ready_sweep_runs(sweep: str, few: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of its jobs, two steps each, in the folder that has its name."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", *SHORT, "model.intermediate_size=192", f"sweep={sweep}", *few]) == 0
    assert statuses(tmp_path / "multirun" / sweep) == {0: "completed", 1: "completed"}


def study(sweep: Path) -> list[tuple[str, list[float] | None]]:
    """State and values of each trial of the study in a sweep's folder."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(sweep / "study.journal")))
    trials = optuna.load_study(study_name="study", storage=storage).trials
    return [(trial.state.name, trial.values) for trial in trials]


@pytest.mark.slow
def test_a_search_goes_on_where_it_ended_with_new_runs_in_new_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hydra's plugin would begin at folder 0 again, and run as many trials anew; a failed run has no say."""
    monkeypatch.chdir(tmp_path)
    command = ["train", "-m", *SHORT, "sweep=search", "experts=e8", "optimizer.weight_decay=0.1"]
    assert main([*command, "hydra.sweeper.n_trials=2"]) == 0
    sweep = tmp_path / "multirun" / "search"
    first = study(sweep)
    assert first == [("COMPLETE", [result(sweep / job)["val/bpb"]]) for job in "01"]
    assert (sweep / "multirun.yaml").exists()
    settings = (sweep / "0" / ".hydra" / "overrides.yaml").read_text()
    assert "optimizer.lr=" in settings and "balancing.rate=" in settings and "optimizer.weight_decay=0.1" in settings
    assert main([*command, "hydra.sweeper.n_trials=2"]) == 0
    assert study(sweep) == first
    assert main([*command, "hydra.sweeper.n_trials=3", "optimizer.eps=-1"]) == 2
    assert study(sweep) == [*first, ("FAIL", None)]
    assert main([*command, "hydra.sweeper.n_trials=3"]) == 0
    assert [state for state, _ in study(sweep)] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    assert statuses(sweep) == {0: "completed", 1: "completed", 2: "failed", 3: "completed"}
    assert "best: run" in capsys.readouterr().err


@pytest.mark.slow
def test_two_objectives_give_a_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """val/bpb and MaxVio reach the study in this order; a direction too few is refused, not three failed runs."""
    monkeypatch.chdir(tmp_path)
    command = ["train", "-m", *SHORT, "sweep=search_pareto", "experts=e8", "hydra.sweeper.n_trials=3"]
    assert main([*command, "hydra.sweeper.direction=minimize"]) == 2
    assert "one direction for each" in capsys.readouterr().err
    assert main(command) == 0
    sweep = tmp_path / "multirun" / "search_pareto"
    runs = [result(sweep / str(job)) for job in range(3)]
    assert [values for _, values in study(sweep)] == [[r["val/bpb"], r["balance/maxvio_global"]] for r in runs]
    assert "front: run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_trial_that_was_killed_goes_on_in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its run would stay half done for ever, and its trial RUNNING."""
    monkeypatch.chdir(tmp_path)
    killed = (
        "import os, signal, sys; import s15erav3.callbacks.last_checkpoint as c; save = c.LastCheckpoint._save\n"
        "def dies(self, trainer, due):\n"
        "    save(self, trainer, due)\n"
        "    if trainer.global_step == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "c.LastCheckpoint._save = dies; from s15erav3.__main__ import main; sys.exit(main())"
    )
    command = ["train", "-m", *SHORT, "hydra/sweeper=optuna", "balancing.rate=interval(0.001,0.1)", "sweep.name=killed"]
    command += ["hydra.sweeper.n_trials=2", "trainer.max_steps=4"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", killed, *command], env=environment, capture_output=True)
    assert done.returncode == -9
    sweep = tmp_path / "multirun" / "killed"
    assert study(sweep) == [("RUNNING", None)]
    assert main(command) == 0
    assert [state for state, _ in study(sweep)] == ["COMPLETE"] * 2
    assert statuses(sweep) == {0: "completed", 1: "completed"}
    assert not (sweep / ".superseded").exists()  # it went on, and did not begin anew


@pytest.mark.slow
def test_joblib_runs_jobs_side_by_side_and_a_failing_one_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Workers are other processes: they need Hydra's resolvers, and what they fail at must be told here."""
    monkeypatch.chdir(tmp_path)
    command = ["train", "-m", *SHORT, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "sweep.name=two"]
    assert main([*command, "seed=1,2", "balancing.rate=0.01,-1"]) == 2
    assert statuses(tmp_path / "multirun" / "two") == {0: "completed", 1: "failed", 2: "completed", 3: "failed"}
    said = capfd.readouterr().err
    assert "2 done, 2 failed" in said and "balancing.rate=-1" in said
    assert "GPU available" not in said


SLURM = {
    "sbatch": """\
        import os, re, subprocess, sys
        script = open(sys.argv[1]).read()
        print("Submitted batch job 7")
        tasks = re.search(r"--array=.?0-(\\d+)", script)
        for task in range(int(tasks[1]) + 1 if tasks else 1):
            env = dict(os.environ, SLURM_JOB_ID=str(7 + task), SLURM_NTASKS="1", SLURM_JOB_NUM_NODES="1")
            env |= dict(SLURM_NODEID="0", SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_JOB_NODELIST="here")
            env["SLURM_CPUS_PER_TASK"] = "1"
            if tasks:
                env |= dict(SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID=str(task))
            silent = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            job = subprocess.Popen(["bash", sys.argv[1]], env=env, **silent)
            with open(sys.argv[0] + ".jobs", "a") as jobs:
                print(f"7_{task}" if tasks else "7", job.pid, file=jobs)
        """,
    "srun": """\
        import os, sys
        words = sys.argv[1:]
        while words[0].startswith("--"):
            del words[: 1 if words[0] == "--unbuffered" or "=" in words[0] else 2]
        os.execvp(words[0], words)
        """,
    "squeue": """\
        import os, psutil, sys
        for line in open(os.path.dirname(sys.argv[0]) + "/sbatch.jobs"):
            name, pid = line.split()
            if psutil.pid_exists(int(pid)) and psutil.Process(int(pid)).status() != "zombie":
                print(name, "None")
        """,
}
"""A cluster of one machine: what is submitted runs at once."""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands on the PATH."""
    import textwrap

    place = tmp_path / "slurm"
    place.mkdir()
    for name, text in SLURM.items():
        (place / name).write_text(f"#!{sys.executable}\n" + textwrap.dedent(text))
        (place / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    return place


@pytest.mark.slow
def test_a_slurm_array_is_submitted_as_configured_and_runs(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The whole way, but for Slurm itself: sbatch file, pickled job in a process of its own, results back here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [
        "train",
        "-m",
        *SHORT,
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.partition=gpu",
        "sweep.name=array",
    ]
    assert main([*command, "hydra.launcher.gpus_per_node=2", "seed=1", "balancing.rate=0.01,-1"]) == 2
    sweep = tmp_path / "multirun" / "array"
    assert statuses(sweep) == {0: "completed", 1: "failed"}, list((sweep / ".submitit").rglob("*_log.out"))
    script = next((sweep / ".submitit").rglob("*submission*.sh")).read_text()
    for line in (
        "partition=gpu",
        "gpus-per-node=2",
        "cpus-per-task=4",
        "mem=16GB",
        "time=240",
        "requeue",
        "array=0-1%2",
    ):
        assert f"#SBATCH --{line}" in script, script
    assert "signal=USR2@120" in script
    assert "\nexport OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK" in script
    assert "1 done, 1 failed" in capfd.readouterr().err
    assert json.loads((sweep / "0" / "result.json").read_text())["steps"] == 2
