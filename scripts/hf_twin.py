"""What the benchmarks compare: a model by its config groups, and transformers' DeepseekV3 with the same weights."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

from s15erav3.cli.hydra_setup import conf_dir
from s15erav3.interop import hf_config, hf_weights
from s15erav3.model import ModelConfig, Transformer


def load_config(model: str, experts: str, vocab_size: int) -> ModelConfig:
    """The dimensions that ``model=... experts=...`` give."""
    train, size, choice = (
        OmegaConf.load(conf_dir() / f"{n}.yaml") for n in ("train", f"model/{model}", f"experts/{experts}")
    )
    return ModelConfig.from_dict({**train.model, **train.experts, **size, **choice, "vocab_size": vocab_size})


def hf_twin(net: Transformer, **settings: str) -> nn.Module:
    """DeepseekV3ForCausalLM with the weights of ``net``, without what it cannot load; ``settings`` of its loading."""
    from transformers import AutoModelForCausalLM

    ids = {"bos_token_id": 0, "eos_token_id": None}  # nothing ends a text, so that all are equally long
    config = hf_config.to_hub(net.config) | ids | {"dtype": "float32", "num_nextn_predict_layers": 0}
    ahead = tuple(f"model.layers.{net.config.num_layers + k}." for k in range(len(net.mtp)))
    tensors = {key: value for key, value in hf_weights.to_hub(net).items() if not key.startswith(ahead or ("-",))}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        twin: nn.Module = AutoModelForCausalLM.from_pretrained(folder, **settings)
    return twin


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of one call; wall time by default."""
    start = clock()
    call()
    return clock() - start
