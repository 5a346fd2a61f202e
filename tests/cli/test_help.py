"""What only asks is answered at once: no verb, and nothing that takes seconds, is imported for it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from s15erav3.__main__ import VERBS

HEAVY = ("torch", "lightning", "wandb", "transformers", "tokenizers", "pyarrow", "plotly", "numpy", "rich", "optuna")
ASK = """
import atexit, sys
def tell(): print("heavy:", *({name.partition(".")[0] for name in sys.modules} & set(HEAVY)), file=sys.stderr)
atexit.register(tell)
from s15erav3.__main__ import main
sys.exit(main(sys.argv[1:]))
""".replace("HEAVY", repr(HEAVY))


def ask(*arguments: str, line: str = "") -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, which tells what it has imported."""
    environment = os.environ | {"COMP_LINE": line}
    command = [sys.executable, "-c", ASK, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "line", "shown"),
    [
        (["--help"], "", "export"),
        (["--version"], "", "."),
        *(([verb, "--help"], "", "SETTINGS") for verb in VERBS),
        (["sample", "RUN_DIR", "--help", "top_k=3"], "", "top_k: 3"),
        (["train", "--help"], "", "how the load of the experts is balanced"),
        (["train", "--help", "experts"], "", "experts.n_routed_experts=8 "),
        (["train", "--help=experts", "experts=e16"], "", "experts.n_routed_experts=16 "),
        (["train", "--help", "optimizer", "mtp"], "", "mtp.final_from=0.67 "),
        (["sample", "RUN_DIR", "--help", "trainer"], "", "trainer.precision=auto "),
        (["evaluate", "--help"], "", "split=val "),
        (["train", "--hydra-help"], "", "--multirun"),
        (["train", "--cfg", "job", "model=pico"], "", "hidden_size: 64"),
        (["--completion", "words"], "s15erav3 train balancing=loss", "balancing=loss_free"),
        (["-sc", "query=bash"], "s15erav3 train balancing=loss", "balancing=loss_free"),
        (["--completion", "bash"], "", "complete"),
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str], line: str, shown: str) -> None:
    """By name; what a verb works with takes five seconds."""
    answer = ask(*arguments, line=line)
    assert answer.returncode == 0, answer.stderr
    assert shown in answer.stdout
    assert answer.stderr == "heavy:\n"


def test_help_takes_less_than_two_seconds() -> None:
    """Of the processor's time: half a second on a quiet machine, where it once was six."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    assert ask("train", "--help").returncode == 0
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2


def test_a_wrong_setting_is_told_in_help_too() -> None:
    """With the exit status of a user's mistake."""
    answer = ask("train", "--help", "balancing=nonsense")
    assert answer.returncode == 2 and answer.stderr.startswith("error: balancing=nonsense is not a choice")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["expertz"], "'expertz' is not a group of train; did you mean 'experts'"),
        (["experts", "experts=e9"], "experts=e9 is not a choice of the group 'experts': did you mean"),
    ],
)
def test_a_group_that_is_none_is_told(words: list[str], said: str) -> None:
    """With the nearest one."""
    answer = ask("train", "--help", *words)
    assert answer.returncode == 2 and answer.stderr.startswith(f"error: {said}") and answer.stdout == ""


def test_a_reader_that_has_enough_is_no_error() -> None:
    """``train --help | head -1``: Python would tell of a broken pipe."""
    asked = f"{sys.executable} -m s15erav3 train --help | head -1"
    run = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=False, timeout=60)
    assert run.stdout.startswith("Train a model") and run.stderr == ""
