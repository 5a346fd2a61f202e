"""``train init_from=...``, and the other verbs on a Hugging Face folder: the weights, the tokenizer and the sizes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from s15erav3.__main__ import main
from s15erav3.loading import load
from s15erav3.training.module import LanguageModule
from tests.test_export import NEW, PROMPTS, Exported, export, made, our_texts, tensors
from tests.test_resume import Killed, assert_same_run
from tests.tiny import DATA, RUN, result

STILL = ["optimizer.lr=1e-9", "balancing=none", "trainer.max_steps=2"]  # two steps that lead nowhere
PARAGRAPHS = "\n\n".join(f"Paragraph {i} says {i * i}, or so they tell us in chapter {i % 7}." for i in range(400))


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A trained run with a multi-token-prediction block, and what was exported of it."""
    return made("ahead", tmp_path_factory.mktemp("ahead"))


def train_from(place: Path, run_dir: Path, *settings: str) -> int:
    """``s15erav3 train init_from=PLACE``, with nothing said about the model."""
    data = [setting for setting in DATA if not setting.startswith("data.vocab_size")]
    return main(["train", f"init_from={place}", *data, *RUN, f"hydra.run.dir={run_dir}", *settings])


def weights(run_dir: Path) -> dict[str, Tensor]:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text of another kind."""
    file = tmp_path / "text.txt"
    file.write_text(PARAGRAPHS)
    return file


@pytest.mark.parametrize("kind", ["folder", "run", "checkpoint"])
def test_training_begins_with_the_weights_of_the_place(kind: str, ahead: Exported, tmp_path: Path) -> None:
    """Catches a net that stays as it was drawn, experts in another order, and biases that begin at zero again."""
    places = {"folder": ahead.folder, "run": ahead.run, "checkpoint": ahead.run / "checkpoints" / "last.ckpt"}
    assert train_from(places[kind], tmp_path / "run", *STILL) == 0
    before, after = weights(ahead.run), weights(tmp_path / "run")
    assert before.keys() == after.keys() and any(key.startswith("net.mtp.0.") for key in after)
    for key in before:
        assert torch.allclose(before[key], after[key], rtol=0, atol=1e-6), key
        assert not key.endswith("router.bias") or torch.equal(before[key], after[key]), key
    for name in ("val/loss", "val/bpb", "balance/maxvio_global"):
        assert result(tmp_path / "run")[name] == pytest.approx(result(ahead.run)[name], rel=1e-4)


def test_the_settings_of_the_place_are_recorded(
    ahead: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config that still says nano is a lie, and resuming would build a nano."""
    monkeypatch.chdir(ahead.folder.parent)
    assert train_from(Path("model"), tmp_path / "run", "trainer.max_steps=1") == 0
    ours, first = (OmegaConf.load(run / ".hydra" / "config.yaml") for run in (tmp_path / "run", ahead.run))
    model, wanted = dict(ours.model), dict(first.model)
    assert model.pop("rope_scaling").items() >= wanted.pop("rope_scaling").items()
    assert model == wanted and model["num_nextn_predict_layers"] == 1
    assert dict(ours.experts) == dict(first.experts) | {"moe_intermediate_size": 64}
    assert ours.tokenizer.name == result(tmp_path / "run")["tokenizer"] == "corpus_bpe_512"
    assert ours.init_from == str(ahead.folder)
    states = [load(str(run)).tokenizer.state() for run in (tmp_path / "run", ahead.run)]
    assert states[0] == states[1]


def test_a_run_that_began_so_is_continued_bit_for_bit_when_the_place_is_gone(
    ahead: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: Path
) -> None:
    """Resuming must not adopt anything again: not the weights, and not the tokenizer of the new text."""
    settings = ["trainer.max_steps=7", "data=text", f"data.path={text}", "trainer.accumulate_grad_batches=2"]
    place = shutil.copytree(ahead.folder, tmp_path / "model")
    assert train_from(place, tmp_path / "unbroken", *settings) == 0
    original = LanguageModule.training_step

    def dies(self: LanguageModule, batch: Tensor, index: int) -> None:
        if self.trainer.global_step == 5:
            raise Killed
        original(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModule, "training_step", dies)
        with pytest.raises(Killed):
            train_from(place, tmp_path / "run", *settings)
    shutil.rmtree(place)
    assert main(["train", f"resume={tmp_path / 'run'}"]) == 0
    assert_same_run(tmp_path / "run", tmp_path / "unbroken")


def test_another_text_is_cut_by_the_tokenizer_that_the_model_knows(ahead: Exported, tmp_path: Path, text: Path) -> None:
    """A vocabulary trained on the new text gives every id another meaning."""
    assert train_from(ahead.folder, tmp_path / "run", *STILL, "data=text", f"data.path={text}") == 0
    assert load(str(tmp_path / "run")).tokenizer.fingerprint == load(str(ahead.run)).tokenizer.fingerprint
    output = tmp_path / "measured.json"
    assert main(["evaluate", str(tmp_path / "run"), f"output={output}"]) == 0
    assert json.loads(output.read_text())["text/bpb"] == pytest.approx(result(tmp_path / "run")["val/bpb"], rel=1e-5)


def test_prediction_blocks_travel_there_and_back(ahead: Exported, tmp_path: Path) -> None:
    """Catches blocks that are drawn anew, and that are not written again."""
    assert train_from(ahead.folder, tmp_path / "run", *STILL) == 0
    export(tmp_path / "run", tmp_path / "model")
    before, after = tensors(ahead.folder), tensors(tmp_path / "model")
    assert before.keys() == after.keys() and "model.layers.3.eh_proj.weight" in after
    for key in before:
        assert torch.allclose(before[key], after[key], rtol=0, atol=1e-6), key


def test_each_job_of_a_sweep_begins_with_the_place(ahead: Exported, tmp_path: Path) -> None:
    """What the first job adopted must not be what the second was told."""
    sweep = ["-m", f"hydra.sweep.dir={tmp_path / 'sweep'}", "seed=1,2"]
    assert train_from(ahead.folder, tmp_path / "unused", *STILL, *sweep) == 0
    for job in ("0", "1"):
        ended = result(tmp_path / "sweep" / job)
        assert ended["val/bpb"] == pytest.approx(result(ahead.run)["val/bpb"], rel=1e-4)


def test_evaluate_and_sample_take_a_folder_as_they_take_a_run(ahead: Exported, tmp_path: Path, text: Path) -> None:
    """Figures of a text, and what is drafted by the prediction block, are those of the run."""
    for kind, place in (("run", ahead.run), ("folder", ahead.folder)):
        output = f"output={tmp_path / kind}.json"
        assert main(["evaluate", str(place), f"data.path={text}", "split=all", output]) == 0
    run, folder = (json.loads((tmp_path / f"{kind}.json").read_text()) for kind in ("run", "folder"))
    assert run.pop("checkpoint") != folder.pop("checkpoint") and run.pop("step") != folder.pop("step")
    for name in [name for name in run if name.endswith("/next_churn")]:  # a folder remembers no balancing strategy
        run.pop(name)
    assert run == folder
    speculative = our_texts(ahead.folder, PROMPTS, NEW, "speculative=true")
    assert speculative == our_texts(ahead.run, PROMPTS, NEW)
