"""``scripts/check_vllm.py``, with a stand-in for vLLM's offline interface that runs transformers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from s15erav3.data.bpe import train_bpe
from s15erav3.interop.hf_folder import write_folder
from tests.training.parts import tiny_net

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = 270
STAND_IN = """
import torch
from types import SimpleNamespace as Some
from transformers import AutoModelForCausalLM, AutoTokenizer

class SamplingParams:
    def __init__(self, *, temperature, max_tokens, prompt_logprobs=None):
        self.max_tokens, self.prompt_logprobs = max_tokens, prompt_logprobs

class LLM:
    def __init__(self, model, dtype, enforce_eager):
        self.net = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
        self.tokenizer = AutoTokenizer.from_pretrained(model)

    def generate(self, prompts, settings):
        ids = torch.tensor([prompts[0]["prompt_token_ids"]])
        with torch.no_grad():
            scores = self.net(input_ids=ids).logits[0].log_softmax(-1) + OFF
        places = [None] + [{int(i): Some(logprob=float(s[i]))} for s, i in zip(scores, ids[0, 1:])]
        text = self.tokenizer.decode(self.net.generate(ids, max_new_tokens=settings.max_tokens)[0])
        return [Some(prompt_logprobs=places if settings.prompt_logprobs == 0 else None, outputs=[Some(text=text)])]
"""


def check(tmp_path: Path, off: float | None) -> subprocess.CompletedProcess[str]:
    """Run the script on a folder; ``off`` is what the stand-in adds to every log-probability."""
    write_folder(
        tmp_path / "model",
        tiny_net(vocab_size=ENTRIES),
        train_bpe(["there is nothing like the thing that there is " * 20], ENTRIES),
        "# card\n",
        sequence_length=12,
        dtype="float32",
        max_shard_size="5GB",
    )
    if off is not None:
        (tmp_path / "vllm.py").write_text(STAND_IN.replace("OFF", str(off)))
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, ROOT / "scripts" / "check_vllm.py", tmp_path / "model", "--text", "there is the thing"]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, timeout=300)


@pytest.mark.slow
def test_equal_probabilities_pass(tmp_path: Path) -> None:
    done = check(tmp_path, 0)
    assert done.returncode == 0, done.stderr
    assert "tokens; largest difference" in done.stdout and "vLLM goes on: " in done.stdout


@pytest.mark.slow
def test_other_probabilities_fail(tmp_path: Path) -> None:
    done = check(tmp_path, 0.01)
    assert done.returncode == 1 and "more than --tolerance=0.001 apart" in done.stderr


def test_without_vllm(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    done = check(tmp_path, None)
    assert done.returncode == 1 and "vLLM cannot be imported" in done.stderr and "Traceback" not in done.stderr
