"""Every file of conf/ composes, and every choice builds what it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from s15erav3.balancing import Combined, MicroBatch
from s15erav3.balancing.base import stack_loads
from s15erav3.cli.hydra_setup import conf_dir
from s15erav3.cli.plugins import own_plugins
from s15erav3.data.datamodule import CommentaryData
from s15erav3.errors import UserError
from s15erav3.model import TrainingRules, Transformer, count_parameters
from s15erav3.session.build import build_module, model_config, plain, total_steps
from s15erav3.training.module import LanguageModule
from tests.tiny import DATA, MODEL

OmegaConf.register_new_resolver("either", lambda a, b: b if a is None else a, replace=True)


def composed(*settings: str) -> DictConfig:
    """conf/train.yaml with these settings."""
    own_plugins(conf_dir())
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", [*settings, "+run_dir_=x", "run_dir=x"])


def choices(group: str) -> list[str]:
    """Names of the files of a group."""
    return sorted(p.stem for p in (conf_dir() / group).glob("*.yaml"))


GROUPS = sorted(p.name for p in conf_dir().iterdir() if p.is_dir() and p.name != "hydra")


@pytest.mark.parametrize(("group", "choice"), [(g, c) for g in GROUPS for c in choices(g)])
def test_every_choice_composes_and_resolves(group: str, choice: str) -> None:
    """A choice with a missing interpolation or a key of the past is found here."""
    path = ["data.path=x"] if (group, choice) == ("data", "text") else []
    cfg = composed(f"{group}={choice}", *path)
    assert plain(cfg)


@pytest.fixture(scope="module")
def data() -> CommentaryData:
    """The bundled text with a tiny vocabulary."""
    return CommentaryData(vocab_size=512, sequence_length=32, batch_size=4).prepare()


GATED = ("switch", "expert_choice", "expert_threshold", "relu_routing", "zero_experts", "hash")
"""Strategies that bring a gate of their own, which a dense model and one with groups cannot have."""
ANY_NUMBER = ("expert_choice", "expert_threshold", "relu_routing", "zero_experts")
"""Strategies with any number of experts per token, which know no capacity."""
NARROW = "experts.moe_intermediate_size=16"


def built(data: CommentaryData, *settings: str) -> LanguageModule:
    """The module of a tiny model with these settings."""
    return build_module(composed(*MODEL, *DATA, *settings), data, "cpu")


def of_which_slow(names: list[str], *quick: str) -> list[Any]:
    """As parameters, of which only some are for every day."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("experts", of_which_slow([e for e in choices("experts") if e != "deepseek_v3"], "e8", "dense"))
@pytest.mark.parametrize("balancing", choices("balancing"))
def test_every_strategy_trains_with_every_expert_count(experts: str, balancing: str, data: CommentaryData) -> None:
    """Module, loss and change of bias can be had for every pair, dense included where it can be."""
    settings = [f"experts={experts}", f"balancing={balancing}"]
    if experts == "dense" and balancing in GATED:
        with pytest.raises(UserError, match="n_routed_experts=0"):
            built(data, *settings)
        return
    module = built(data, *settings, *([] if experts == "dense" else [NARROW]))
    nll, out = module._nll(torch.randint(512, (2, 33)))
    assert nll.isfinite() and bool(out.routings) == (experts != "dense")
    if out.routings:
        batch = MicroBatch(out.routings, 2)
        auxiliary = module.balancer.loss(batch)
        assert auxiliary is None or (auxiliary.isfinite() and auxiliary.shape == () and auxiliary.requires_grad)
        with torch.no_grad():
            module.balancer.observe(batch)
        loads = stack_loads(out.routings)
        change = module.balancer.bias_update(loads, 0.0)
        assert change.shape == loads.shape and change.dtype == torch.float32
        assert change.isfinite().all()


@pytest.mark.parametrize("balancing", choices("balancing"))
def test_groups_go_with_rules_that_know_them_alone(balancing: str, data: CommentaryData) -> None:
    """Of what one group in two may not choose, those that solve for a cutoff know nothing; one sentence says so."""
    settings = [f"balancing={balancing}", "experts.n_group=2", NARROW]
    if balancing in (*GATED, "quantile", "bip", "sinkhorn"):
        with pytest.raises(UserError, match="n_group=1") as caught:
            built(data, *settings)
        assert str(caught.value).endswith(".") and str(caught.value).count(". ") == 0
    else:
        built(data, *settings)


@pytest.mark.parametrize("balancing", [b for b in choices("balancing") if b not in ANY_NUMBER])
def test_what_combines_with_every_strategy_does(balancing: str, data: CommentaryData) -> None:
    """``balancing.z_loss=...`` beside any choice: it reaches the loss and the routers, and the strategy stays."""
    add_ons = ["balancing.z_loss=1e-3", "balancing.capacity_factor=2.0", "balancing.router_jitter=0.1"]
    module = built(data, f"balancing={balancing}", *add_ons, "balancing.expert_dropout=0.2", NARROW)
    combined, alone = module.balancer, built(data, f"balancing={balancing}", NARROW).balancer
    assert isinstance(combined, Combined) and isinstance(alone, Combined)
    assert combined.add_ons.z_loss == 1e-3 and type(combined.strategy) is type(alone.strategy)
    for router in module.routers:
        assert router.rules == TrainingRules(router_jitter=0.1, capacity_factor=2.0, expert_dropout=0.2)
    _, out = module._nll(torch.randint(512, (2, 33)))
    batch = MicroBatch(out.routings, 2)
    loss, own = combined.loss(batch), [part.loss(batch) for part in (combined.strategy, *combined.losses)]
    z = 1e-3 * torch.stack([routing.logits.logsumexp(-1).square().mean() for routing in out.routings]).sum()
    assert loss is not None
    torch.testing.assert_close(loss, z + sum(term for term in own if term is not None))


def test_without_add_ons_nothing_is_added(data: CommentaryData) -> None:
    """The defaults of conf/train.yaml are all off, and a strategy's own capacity is not overwritten by them."""
    module = built(data, "balancing=loss_free", NARROW)
    assert isinstance(module.balancer, Combined) and module.balancer.add_ons.z_loss == 0
    assert all(router.rules == TrainingRules() for router in module.routers)
    switch = built(data, "balancing=switch", NARROW)
    assert {router.rules.capacity_factor for router in switch.routers} == {1.25}


@pytest.mark.parametrize("optimizer", choices("optimizer"))
@pytest.mark.parametrize("schedule", choices("schedule"))
def test_every_optimizer_and_schedule_can_be_made(optimizer: str, schedule: str, data: CommentaryData) -> None:
    """They take the module's own parameters and carry initial_lr."""
    module = build_module(composed(*MODEL, *DATA, f"optimizer={optimizer}", f"schedule={schedule}"), data, "cpu")
    groups = module.make_optimizer(module.net).param_groups
    assert all(group["initial_lr"] > 0 for group in groups)
    assert 0 <= module.schedule(3, 0.5) <= 1


@pytest.mark.parametrize("model", of_which_slow([m for m in choices("model") if m != "deepseek_v3"], "pico", "nano"))
@pytest.mark.parametrize("experts", [e for e in choices("experts") if e not in ("original", "deepseek_v3")])
def test_every_size_goes_with_every_expert_count_at_equal_active_parameters(model: str, experts: str) -> None:
    """A dense control of equal active parameters exists for each, routers left aside."""
    config = model_config(composed(f"model={model}", f"experts={experts}"), 4096)
    dense = model_config(composed(f"model={model}", "experts=dense"), 4096)
    routers = config.num_moe_layers * config.n_routed_experts * config.hidden_size
    assert count_parameters(config).active - routers == count_parameters(dense).active


def test_the_model_sizes_are_what_their_comments_say() -> None:
    """Comments of conf/model/*.yaml name parameters, total and active, with e8 and 4096 entries."""
    for model in choices("model"):
        counts = count_parameters(model_config(composed(f"model={model}", "experts=e8"), 4096))
        first = (conf_dir() / "model" / f"{model}.yaml").read_text().splitlines()[0]
        if model not in ("original", "deepseek_v3"):
            assert f"{counts.total / 1e6:.1f} M parameters" in first, (model, counts)
            assert f"{counts.active / 1e6:.1f} M active" in first, (model, counts)


def test_the_original_experiment_is_the_original_setting() -> None:
    """Steps, batch, widths, optimizer and prompt of the course project."""
    cfg = composed("experiment=original")
    config = model_config(cfg, 50257)
    assert (config.hidden_size, config.num_layers, config.num_heads) == (512, 30, 8)
    assert (config.n_routed_experts, config.n_shared_experts, config.num_experts_per_tok) == (7, 1, 2)
    assert (config.expert_size, config.q_lora_rank, config.kv_lora_rank) == (768, 64, 64)
    assert (config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim) == (32, 32, 64)
    assert (cfg.optimizer.lr, list(cfg.optimizer.betas), cfg.optimizer.weight_decay) == (1.13e-3, [0.9, 0.95], 0.01)
    assert (cfg.data.batch_size, cfg.data.sequence_length, cfg.tokenizer.name) == (8, 512, "gpt2")
    assert "Kohli comes forward and " in cfg.data.prompts and cfg.callbacks.samples.prompts is None
    assert instantiate(cfg.schedule)(0, 0.0) == instantiate(cfg.schedule)(9999, 0.99) == 1.0

    class Data:
        samples_per_epoch, windows_per_step = 10, 8

    assert total_steps(cfg, Data(), 1) == 10_000  # type: ignore[arg-type]
    with torch.device("meta"):
        Transformer(config)


def test_the_config_folder_has_no_stray_files() -> None:
    """Only YAML lies in conf/, so that a group's listing is its choices."""
    assert {p.suffix for p in Path(conf_dir()).rglob("*") if p.is_file()} == {".yaml"}
