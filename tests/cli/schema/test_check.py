"""Whole configs at the door: what is told of a wrong one, and what is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from s15erav3.cli.schema.check import check
from s15erav3.cli.schema.tree import VERBS
from s15erav3.cli.trust import conf_dir
from s15erav3.errors import UserError

CHOICES = {
    "experts": "e8", "model": "nano", "balancing": "loss_free", "optimizer": "adamw", "schedule": "wsd",
    "data": "sample", "tokenizer": "corpus_bpe", "trainer": "auto", "callbacks": "default",
}  # fmt: skip


def config(verb: str = "train", **choices: str) -> dict[str, Any]:
    """A verb's packaged config as plain YAML has it, with some of its interpolations in numbers."""
    found: dict[str, Any] = yaml.safe_load((conf_dir() / f"{verb}.yaml").read_text())
    del found["defaults"], found["hydra"]
    if verb == "train":
        for group, choice in (CHOICES | choices).items():
            content = yaml.safe_load((conf_dir() / group / f"{choice}.yaml").read_text())
            found[group] = found.get(group, {}) | content
        found["logger"] = {
            n: yaml.safe_load((conf_dir() / "logger" / f"{n}.yaml").read_text())[n] for n in ("csv", "wandb")
        }
        found["tokenizer"]["vocab_size"], found["trainer"]["max_epochs"] = found["data"]["vocab_size"], 4
    return found


def told(found: dict[str, Any], verb: str = "train", **changes: Any) -> str:
    """What is said of a config with these changes, whose keys have ``__`` for dots; empty if it is taken."""
    for name, value in changes.items():
        *path, last = name.split("__")
        node = found
        for key in path:
            node = node[key]
        node[last] = value
    try:
        check(found, verb)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("verb", VERBS)
def test_the_packaged_configs_are_taken(verb: str) -> None:
    """What is missing in them (``???``) is asked for by others."""
    assert told(config(verb), verb) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__batch_size": 0}, "data.batch_size=0 must be a whole number, at least 1 and at most 65536."),
        ({"data__batch_size": 2.5}, "data.batch_size=2.5 must be a whole number"),
        ({"data__batch_size": "many"}, "data.batch_size=many must be a whole number"),
        ({"data__vocab_size": 257}, "at most 1048576: 256 bytes, end of text, a merge."),
        ({"data__val_fraction": float("nan")}, "data.val_fraction=nan must be a number"),
        ({"data__val_fraction": 0.5, "data__test_fraction": 0.5}, "data.val_fraction=0.5 must be less than 1 - "),
        ({"data__document": "line"}, "data.document=line must be blank_line or file."),
        ({"data__name": "txt"}, "data.name=txt must be sample, ipl or text."),
        (
            {"data__sequence_length": 5000},
            "data.sequence_length=5000 must be at most model.max_position_embeddings=4096",
        ),
        ({"model__num_nextn_predict_layers": 256}, "data.sequence_length=256 must be greater than model.num_nextn"),
        ({"data": None}, "data=null must be a group of settings; change single settings (data.key=value)."),
        ({"data__pat": "x"}, "'data.pat' is not a setting of 'data': did you mean 'path'?"),
        ({"balancing__rate": -1}, "balancing.rate=-1 must be a number, greater than 0; use balancing=none for no"),
        ({"balancing__z_loss": -1}, "balancing.z_loss=-1 must be a number, at least 0."),
        ({"optimizer__betas": [0.9, 0.99, 0.999]}, "optimizer.betas=[0.9,0.99,0.999] must be a list of two numbers"),
        ({"optimizer__betas": [0.9, 1]}, "optimizer.betas[1]=1 must be a number, at least 0 and less than 1."),
        ({"optimizer__lr": 10**23}, "greater than 0; the largest whole number is 9223372036854775807."),
        ({"schedule__decay_share": 30}, "schedule.decay_share=30 must be a number, at least 0 and at most 1."),
        ({"trainer__precision": "16-mixed"}, "trainer.precision=16-mixed must be auto, 32-true or bf16-mixed."),
        (
            {"trainer__max_steps": -1, "trainer__max_epochs": None},
            "trainer.max_steps=-1 and trainer.max_epochs=null set no end",
        ),
        ({"trainer__limit_val_batches": 1.5}, "trainer.limit_val_batches=1.5 must be a whole number, at least 0, or"),
        ({"trainer__fast_dev_run": True}, "trainer.fast_dev_run=true must be false"),
        ({"trainer__min_steps": 3}, "trainer.min_steps=3 is set by this program; leave it out."),
        ({"trainer__deterministic": "abc"}, "trainer.deterministic=abc must be true, warn or false."),
        ({"callbacks__samples__temperature": 1e-9}, "callbacks.samples.temperature=1e-09 must be 0, or a number of at"),
        ({"callbacks__checkpoint__keep_every_n_steps": 0}, "must be a whole number, at least 1, or null."),
        ({"callbacks__telemetry__per_expert": 1}, "callbacks.telemetry.per_expert=1 must be true, false or auto."),
        ({"logger__wandb__log_model": 0}, "logger.wandb.log_model=0 must be false, best or last."),
        ({"sweep__code": "throw"}, "sweep.code=throw must be keep or retrain."),
        ({"model__rope_scaling": 4}, "model.rope_scaling=4 must be null or settings, as in {factor: 4, original"),
        ({"model__rope_scaling": {"factor": 0.5}}, "model.rope_scaling.factor=0.5 must be a number, at least 1."),
        ({"report": "yes\nno"}, "report=yes no must be true or false."),
    ],
    ids=str,
)
def test_a_wrong_setting_is_told_in_one_sentence(changes: dict[str, Any], said: str) -> None:
    """By its key, its value and what it must be."""
    found = told(config(), **changes)
    assert said in found and "\n" not in found


@pytest.mark.parametrize(
    ("verb", "changes", "said"),
    [
        ("evaluate", {"split": "vall"}, "split=vall must be train, val, test or all."),
        ("evaluate", {"split": "all"}, "split=all needs data.path=FILE"),
        ("evaluate", {"data__path": "x"}, "split=val must be all"),
        ("sample", {"seed": 2**63 - 1}, "seed=9223372036854775807 must be at most 9223372036854775806"),
        ("sample", {"prompt": []}, "prompt=[] must be a text, or a list of texts."),
        ("sample", {"speculative": True}, "temperature=0.7 must be 0"),
        ("sample", {"speculative": True, "temperature": 0, "samples": 2}, "samples above 1"),
        ("compare", {"rows": 0}, "rows=0 must be a whole number, at least 1."),
        ("report", {"max_tokens": -1}, "max_tokens=-1 must be a whole number, at least 0."),
        ("export", {"dtype": "int8"}, "dtype=int8 must be float32 or bfloat16."),
    ],
    ids=str,
)
def test_a_wrong_setting_of_another_verb_is_told(verb: str, changes: dict[str, Any], said: str) -> None:
    """They come through the same door."""
    assert said in told(config(verb), verb, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"_target_": "torch.optim.SGD", "lr": "free", "momentum": True}},
        {"balancing": {"_target_": "mine.Rescue", "rate": -1, "below": "x", "z_loss": 0.1}},
        {"schedule": {"_target_": "mine.Schedule", "warmup_steps": -1}},
        {"callbacks__mine": {"_target_": "mine.Callback", "every_n_steps": -1}},
        {"callbacks__progress": None},
        {"logger__tb": {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "save_dir": 3}},
        {"logger__wandb__entity": "me"},
        {"trainer__benchmark": True},
        {"trainer__strategy": {"_target_": "lightning.pytorch.strategies.DDPStrategy", "broadcast_buffers": False}},
        {"trainer__max_time": {"minutes": 10}},
        {"trainer__max_time": "00:00:10:00"},
        {"trainer__devices": [0, 1]},
        {"trainer__devices": "2"},
        {"width": [64]},
        {"sweep__name": 2024},
        {"init_from": "there", "data__sequence_length": 5000},
    ],
    ids=str,
)
def test_what_is_somebody_elses_is_left_alone(changes: dict[str, Any]) -> None:
    """Strategies, optimizers, callbacks and loggers of one's own keep their free settings; Lightning's are its own."""
    assert told(config(), **changes) == ""


def test_what_combines_with_a_strategy_of_ones_own_is_checked() -> None:
    """The add-ons are this program's."""
    own = {"_target_": "mine.Rescue", "below": "x", "expert_dropout": 1}
    assert told(config(), balancing=own).startswith("balancing.expert_dropout=1 must be a number")


def test_a_second_callback_of_a_kind_is_checked_by_its_target() -> None:
    """Whatever its name."""
    target = "s15erav3.callbacks.telemetry.Telemetry"
    said = told(config(), callbacks__rare={"_target_": target, "run_dir": "x", "every_n_steps": 0})
    assert said.startswith("callbacks.rare.every_n_steps=0")
