"""Any config that is accepted trains, and comes back from its checkpoint; any other is refused in one sentence."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s15erav3.__main__ import main
from s15erav3.runs.checkpoint import load_checkpoint
from s15erav3.session import run as verb
from tests.tiny import DATA, MODEL, RUN, result

BALANCING = (
    *("none", "loss_free", "proportional", "smebu", "quantile", "original", "dsv3", "aux", "simbal", "bip", "switch"),
    *(
        "expert_choice",
        "expert_threshold",
        "relu_routing",
        "zero_experts",
        "causal_sequence_bias",
        "anticipatory",
        "sinkhorn",
        "forced",
        "hash",
    ),
)
SETTINGS = {
    "model.num_layers": (1, 2, 3),
    "model.q_lora_rank": ("null", 8),
    "model.num_nextn_predict_layers": (0, 1, 2),
    "model.tie_word_embeddings": ("true", "false"),
    "model.attention_bias": ("true", "false"),
    "model.rope_scaling": ("null", "{factor:2,original_max_position_embeddings:16}"),
    "experts.n_shared_experts": (0, 1, 2),
    "experts.num_experts_per_tok": (1, 2, 3),
    "experts.n_routed_experts": (4, 6, 8),
    "experts.first_k_dense_replace": (0, 1, 2),
    "experts.moe_intermediate_size": ("null", 16),
    "experts.n_group": (1, 2, 4),
    "experts.topk_group": (1, 2),
    "experts.scoring_func": ("sigmoid", "softmax", "sqrtsoftplus"),
    "experts.router_init": ("normal", "orthogonal"),
    "experts.norm_topk_prob": ("true", "false"),
    "experts.max_experts_per_tok": ("null", 2, 3, 4),
    "experts.n_zero_experts": ("null", 1, 3),
    "balancing.z_loss": (0.0, 0.001),
    "balancing.capacity_factor": ("null", 1.0, 1.5),
    "balancing.router_jitter": (0.0, 0.1),
    "balancing.expert_dropout": (0.0, 0.3),
    "optimizer.decay_embeddings": ("true", "false"),
    "schedule.warmup_steps": (0, 1),
    "trainer.accumulate_grad_batches": (1, 2),
    "trainer.gradient_clip_val": (0, 1.0),
    "trainer.skip_nonfinite": (0, 2),
    "trainer.precision": ("auto", "32-true", "bf16-mixed"),
    "data.sequence_length": (2, 16, 31),
    "data.batch_size": (1, 3),
    "loss_chunk": (1, 7, 512),
}
"""Values of which some do not go together. Each example changes a few of them."""


@st.composite
def configs(draw: st.DrawFn) -> list[str]:
    """Groups and settings on a command line."""
    chosen = [f"balancing={draw(st.sampled_from(BALANCING))}"]
    chosen += [f"balancing/loss={draw(st.sampled_from(['none', 'none', 'aux_sequence', '[aux,simbal]']))}"]
    chosen += [f"experts={draw(st.sampled_from(['e8', 'e8', 'e16', 'dense', 'e8_split2']))}"]
    chosen += [f"optimizer={draw(st.sampled_from(['adamw', 'muon']))}"]
    chosen += [f"schedule={draw(st.sampled_from(['constant', 'cosine', 'wsd']))}"]
    keys = draw(st.lists(st.sampled_from(sorted(SETTINGS)), max_size=7, unique=True))
    return chosen + [f"{key}={draw(st.sampled_from(SETTINGS[key]))}" for key in keys]


def quietly(*arguments: str) -> tuple[int, str]:
    """Exit status and all that is said."""
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(said):
        status = main(list(arguments))
    return status, said.getvalue()


def check(chosen: list[str]) -> bool:
    """Two steps, the checkpoint's weights, a third step, an evaluation. Whether the config was accepted."""
    sessions: list[verb.Session] = []
    original = verb.prepare

    def prepare(*args: object) -> verb.Session:
        sessions.append(original(*args))  # type: ignore[arg-type]
        return sessions[-1]

    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb, "prepare", prepare)
        run_dir = Path(folder) / "run"
        place = [f"hydra.run.dir={run_dir}", "trainer.max_steps=2"]
        status, said = quietly("train", *MODEL, *DATA, *RUN, *place, *chosen)
        if status:
            assert status == 2 and said.strip().splitlines()[-1].startswith("error: "), said
            assert "Traceback" not in said and not run_dir.exists(), said
            return False
        file = run_dir / "checkpoints" / "last.ckpt"
        saved, trained = load_checkpoint(file)["state_dict"], sessions[0].module.state_dict()
        assert saved.keys() == trained.keys() and all(torch.equal(saved[key], trained[key]) for key in saved)

        status, said = quietly("train", f"resume={run_dir}", "trainer.max_steps=3")
        assert status == 0, said
        assert result(run_dir)["steps"] == 3 and result(run_dir)["status"] == "completed"
        status, said = quietly("evaluate", str(run_dir), "eval_batch_size=256", "trainer.accelerator=cpu")
        assert status == 0, said
        return True


@settings(max_examples=3)
@given(chosen=configs())
def test_an_accepted_config_comes_back_from_its_checkpoint(chosen: list[str]) -> None:
    """Some examples of the next test."""
    check(chosen)


@pytest.mark.slow
@settings(max_examples=12)
@given(chosen=configs())
def test_many_accepted_configs_come_back(chosen: list[str]) -> None:
    """Every group, and settings of which some do not go together."""
    check(chosen)


def test_a_config_that_is_plainly_right_is_accepted() -> None:
    """Else the tests above would pass on a program that refuses everything."""
    assert check(["balancing=loss_free"])
    assert not check(["experts.num_experts_per_tok=9"])
