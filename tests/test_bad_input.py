"""Every mistake gets one sentence that names it and its remedy, exit status 2, and leaves nothing behind."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from s15erav3.__main__ import main
from tests.tiny import DATA, MODEL, TINY, train


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the program says to ``arguments``, which it must refuse properly."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err.strip()
    assert "Traceback" not in said
    line = said.splitlines()[-1]
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model=nanoo"], ["nanoo", "nano"]),
        (["ballancing=none"], ["ballancing", "balancing"]),
        (["experts=e9"], ["e9", "e8"]),
        (["trainer.max_step=3"], ["trainer.max_step", "trainer.max_steps"]),
        (["model.hiden_size=64"], ["model.hiden_size", "model.hidden_size"]),
        (["+model.hiden_size=64"], ["hiden_size", "hidden_size"]),
        (["model.hidden_size=100"], ["hidden_size=100", "multiple of 8"]),
        (["model.hidden_size=64", "model.num_heads=3"], ["hidden_size=64", "num_heads=3"]),
        (["model.intermediate_size=200"], ["intermediate_size=200", "3"]),
        (["model.hidden_size=abc"], ["model.hidden_size=abc", "whole number"]),
        (["experts.num_experts_per_tok=9"], ["num_experts_per_tok=9", "n_routed_experts=8"]),
        (["experts.first_k_dense_replace=3"], ["first_k_dense_replace=3", "num_layers=3"]),
        (["tokenizer.vocab_size=100000"], ["vocab_size=100000", "or less"]),
        (["tokenizer.vocab_size=10"], ["vocab_size=10", "258"]),
        (["data=text"], ["data.path"]),
        (["data.path=/nowhere/file.txt"], ["/nowhere/file.txt", "does not exist"]),
        (["data.sequence_length=5000"], ["sequence_length=5000", "max_position_embeddings=4096"]),
        (["data.batch_size=0"], ["data.batch_size=0", "at least 1"]),
        (["data.val_fraction=0"], ["data.val_fraction=0"]),
        (["balancing.rate=-1"], ["balancing.rate=-1"]),
        (["balancing.schedule=linear"], ["balancing.schedule=linear", "cosine"]),
        (["+balancing.speed=3"], ["speed"]),
        (["optimizer.lr=0"], ["optimizer.lr=0"]),
        (["+optimizer.nesterov=true"], ["nesterov"]),
        (["optimizer=muon", "optimizer.router=sgd"], ["optimizer.router=sgd", "muon"]),
        (["schedule=wsd", "schedule.decay_share=2"], ["schedule.decay_share=2"]),
        (["trainer.precision=fp8"], ["trainer.precision=fp8", "bf16-mixed"]),
        (["trainer.precision=16-mixed"], ["trainer.precision=16-mixed", "32-true"]),
        (["trainer.max_steps=-1", "trainer.max_epochs=-1"], ["max_steps", "max_epochs"]),
        (["trainer.max_time=ten"], ["trainer.max_time=ten", "00:00:10:00"]),
        (["trainer.val_check_interval=0"], ["val_check_interval=0"]),
        (["trainer.accumulate_grad_batches=0"], ["accumulate_grad_batches=0"]),
        (["+trainer.nonsense=1"], ["nonsense"]),
        (["callbacks.samples.temperature=-1"], ["temperature=-1"]),
        (["resume=/nowhere"], ["/nowhere"]),
        (["model=5"], ["model=5"]),
        (["model.hidden_size=[1"], ["model.hidden_size=[1"]),
        (["model.num_nextn_predict_layers=-1"], ["num_nextn_predict_layers=-1", "at least 0"]),
        (["model.num_nextn_predict_layers=999"], ["num_nextn_predict_layers=999", "data.sequence_length=32"]),
        (["model.num_nextn_predict_layers=0.5"], ["num_nextn_predict_layers=0.5", "whole number"]),
        (["mtp.weight=-1"], ["mtp.weight=-1", "at least 0"]),
        (["mtp.final_from=2"], ["mtp.final_from=2", "at most 1"]),
        (["mtp.wieght=1"], ["mtp.wieght", "mtp.weight"]),
        (["model.rope_scaling=4"], ["rope_scaling=4", "original_max_position_embeddings"]),
        (["model.rope_scaling={factor:4}"], ["rope_scaling", "original_max_position_embeddings"]),
        (["model.rope_scaling={factor:0.5,original_max_position_embeddings:9}"], ["rope_scaling.factor=0.5"]),
        (["model.rope_scaling={faktor:4,original_max_position_embeddings:9}"], ["rope_scaling.faktor'", "'factor'"]),
    ],
)
def test_a_bad_setting_is_told_and_leaves_no_folder(
    settings: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Key, value and expectation are named; no run folder stays."""
    run_dir = tmp_path / "run"
    said = refusal(capsys, "train", *TINY, f"hydra.run.dir={run_dir}", "trainer.max_steps=2", *settings)
    for word in words:
        assert word in said, said
    assert not run_dir.exists()


def test_a_model_that_no_machine_can_train_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the memory is full and the system kills something."""
    said = refusal(capsys, "train", "model=deepseek_v3", "data.vocab_size=512", f"hydra.run.dir={tmp_path / 'run'}")
    assert "parameters take 10," in said and "this machine has" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``trainer=gpu`` never falls back silently."""
    said = refusal(capsys, "train", *MODEL, *DATA, "trainer=gpu", f"hydra.run.dir={tmp_path / 'run'}")
    assert "no CUDA device" in said


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b" \n\n \n", "empty"),
        (b"RCB 1st Inns\n0.1 overs\nA to B, \0\0", "binary"),
        (b"\xff\xfe\x00bad", "UTF-8"),
        (b"Plain prose, no cricket at all.\n", "data=text"),
        (b"RCB 1st Inns\n0.1 overs\nA to B, FOUR, fine\n", "too few"),
    ],
)
def test_a_bad_corpus_is_told(content: bytes, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Empty, binary, foreign and short files are each called what they are."""
    file = tmp_path / "corpus.txt"
    file.write_bytes(content)
    said = refusal(capsys, "train", *TINY, "data=ipl", f"data.path={file}", f"hydra.run.dir={tmp_path / 'run'}")
    assert word in said
    assert not (tmp_path / "run").exists()


def test_a_corpus_too_short_for_the_sequence_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The part, its size and what it needs are named."""
    file = tmp_path / "short.txt"
    file.write_text("\n\n".join(f"Paragraph {i}." for i in range(30)))
    said = refusal(
        capsys, "train", *TINY, "data=text", f"data.path={file}", "tokenizer=gpt2", f"hydra.run.dir={tmp_path / 'run'}",
        "data.sequence_length=512",
    )  # fmt: skip
    assert "too short" in said and "data.sequence_length=512" in said


def test_an_unwritable_folder_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A place below a file cannot be made a folder, whoever the user is."""
    (tmp_path / "file").write_text("")
    assert "hydra.run.dir" in refusal(capsys, "train", *TINY, f"hydra.run.dir={tmp_path / 'file' / 'run'}")


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second run in the same place is refused and the first one kept."""
    run_dir = tmp_path / "run"
    assert train("trainer.max_steps=1", run_dir=run_dir) == 0
    files = [run_dir / "result.json", run_dir / ".hydra" / "config.yaml"]
    before = [file.read_text() for file in files]
    assert "already holds a run" in refusal(capsys, "train", *TINY, "seed=7", f"hydra.run.dir={run_dir}")
    assert [file.read_text() for file in files] == before


def test_a_folder_with_a_sweep_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another sweep under the same sweep.name is refused before anything is written."""
    monkeypatch.chdir(tmp_path)
    sweep = [*TINY, "sweep.name=mine", "trainer.max_steps=1"]
    assert main(["train", "-m", *sweep, "seed=1"]) == 0
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    said = refusal(capsys, "train", "-m", *sweep, "seed=2")
    assert "seed=1, here seed=2" in said and "choose another sweep.name" in said
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short finished run."""
    folder = tmp_path_factory.mktemp("bad") / "run"
    assert train("trainer.max_steps=2", run_dir=folder) == 0
    return folder


class Bomb:
    """A pickle that would leave a mark if it were executed."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("verb", ["sample", "evaluate"])
def test_a_checkpoint_that_is_none_is_refused_and_never_executed(
    verb: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Absent, foreign, truncated and malicious files."""
    assert "does not exist" in refusal(capsys, verb, str(tmp_path / "none.ckpt"))
    assert "needs a checkpoint" in refusal(capsys, verb)
    assert "no checkpoint" in refusal(capsys, verb, str(tmp_path))
    best = run_dir / "checkpoints" / "best.ckpt"
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(best.read_bytes()[:-4000])
    assert "truncated" in refusal(capsys, verb, str(cut))
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    assert "not a checkpoint of s15erav3" in refusal(capsys, verb, str(foreign))
    mark = tmp_path / "mark"
    bomb = tmp_path / "bomb.ckpt"
    bomb.write_bytes(pickle.dumps(Bomb(mark)))
    assert "not a checkpoint" in refusal(capsys, verb, str(bomb))
    torch.save({"run": Bomb(mark), "state_dict": {}, "global_step": 1}, bomb)
    assert "refused" in refusal(capsys, verb, str(bomb))
    assert not mark.exists()


def test_damage_inside_a_checkpoint_is_told(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes lost in the middle, with the end of the file in place."""
    best = (run_dir / "checkpoints" / "best.ckpt").read_bytes()
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(best[: len(best) // 3] + best[len(best) // 2 :])
    said = refusal(capsys, "sample", str(broken))
    assert "damaged" in said or "truncated" in said


def test_a_checkpoint_of_another_architecture_is_told(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first tensor that differs is named with both shapes; the run is left as it was."""
    before = (run_dir / "result.json").read_text()
    said = refusal(capsys, "train", f"resume={run_dir}", "model.hidden_size=64", "trainer.max_steps=4")
    assert "another architecture" in said
    assert (run_dir / "result.json").read_text() == before


def test_a_resumed_run_keeps_its_groups_and_its_text(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Choosing another optimizer or other text for a resumed run is refused."""
    assert "optimizer=muon" in refusal(capsys, "train", f"resume={run_dir}", "optimizer=muon")
    said = refusal(capsys, "train", f"resume={run_dir}", "data.split_seed=5", "trainer.max_steps=4")
    assert "other text" in said or "another" in said
    assert "-m" in refusal(capsys, "train", "-m", f"resume={run_dir}")


@pytest.mark.parametrize(
    ("verb", "settings", "word"),
    [
        ("sample", ["temperature=-1"], "temperature=-1"),
        ("sample", ["top_p=0"], "top_p=0"),
        ("sample", ["temprature=1"], "temperature"),
        ("sample", ["max_new_tokens=0"], "max_new_tokens=0"),
        ("evaluate", ["split=vall"], "val"),
        ("evaluate", ["split=all"], "data.path"),
        ("evaluate", ["data.path=/nowhere", "split=all"], "/nowhere"),
        ("evaluate", ["output=/dev/null/x.json"], "output"),
        ("evaluate", ["context_extension=0"], "context_extension=0"),
        ("sample", ["context_extension=0.5"], "context_extension=0.5"),
        ("sample", ["context_extension=far"], "context_extension=far"),
    ],
)
def test_bad_settings_of_the_other_verbs(
    verb: str, settings: list[str], word: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """sample and evaluate refuse as train does."""
    assert word in refusal(capsys, verb, str(run_dir), *settings)


def test_an_unknown_verb_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """With the nearest one."""
    assert "'train'" in refusal(capsys, "trian")


def test_a_diverged_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A loss that is no number ends the run with its reason in result.json."""
    run = tmp_path / "run"
    said = refusal(
        capsys, "train", *TINY, "optimizer.lr=1e30", "schedule.warmup_steps=0", "trainer.max_steps=8",
        f"hydra.run.dir={run}",
    )  # fmt: skip
    assert "diverged" in said and "optimizer.lr" in said
    assert '"status": "failed"' in (run / "result.json").read_text()
