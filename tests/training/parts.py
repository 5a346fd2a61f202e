"""A tiny model, tokens to train it on, its module and a Trainer around them."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from s15erav3.balancing import Balancer
from s15erav3.model import ModelConfig, Router, Transformer
from s15erav3.training.module import LanguageModule
from s15erav3.training.mtp import MultiTokenLoss
from s15erav3.training.schedule import Constant

VOCABULARY = 40


def tiny_config(**values: Any) -> ModelConfig:
    """Three layers, the first one dense, four experts of which a token takes two."""
    return ModelConfig.from_dict(
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "num_layers": 3,
            "num_heads": 2,
            "kv_lora_rank": 6,
            "qk_nope_head_dim": 4,
            "qk_rope_head_dim": 2,
            "v_head_dim": 5,
            "intermediate_size": 24,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "initializer_range": 0.2,
            **values,
        }
    )


def tiny_net(seed: int = 0, **values: Any) -> Transformer:
    """The model of ``tiny_config`` with small random router biases."""
    torch.manual_seed(seed)
    net = Transformer(tiny_config(**values))
    for module in net.modules():
        if isinstance(module, Router):
            module.bias.normal_(std=0.05)
    return net


class Windows(L.LightningDataModule):
    """The same random windows of tokens in every epoch: ``batches`` of (rows, length + 1)."""

    def __init__(self, batches: int = 4, rows: int = 8, length: int = 7, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shape = (rows, length + 1)
        self.batches = [torch.randint(0, VOCABULARY, shape, generator=generator) for _ in range(batches)]

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Tensor]:
        uneven = [batch.flip(0)[: 3 + i] for i, batch in enumerate(self.batches)]
        own = torch.Generator()  # a loader without one draws from the global generator
        return DataLoader(uneven, batch_size=None, generator=own)  # type: ignore[arg-type]


def trainer(steps: int = 3, **settings: Any) -> L.Trainer:
    """A Trainer on the CPU that prints and writes nothing."""
    return L.Trainer(
        accelerator="cpu",
        devices=settings.pop("devices", 1),
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **{"limit_val_batches": 0, "enable_checkpointing": False, **settings},
    )


def sgd(net: nn.Module, lr: float = 0.5) -> torch.optim.Optimizer:
    """Plain gradient descent."""
    return torch.optim.SGD([{"params": list(net.parameters()), "initial_lr": lr}], lr=lr)


def module_for(balancer: Balancer, net: Transformer | None = None, **settings: Any) -> LanguageModule:
    """A module that trains ``tiny_net`` or another by plain gradient descent."""
    net = net or tiny_net()
    ahead = MultiTokenLoss(0.3, 0.1, 0.67, end_of_text=7) if net.config.num_nextn_predict_layers else None
    lengths = torch.arange(VOCABULARY) % 5
    usual = {"optimizer": sgd, "schedule": Constant(), "byte_lengths": lengths, "multi_token_loss": ahead}
    return LanguageModule(net, balancer, **usual | settings)


def trained(balancer: Balancer, net: Transformer | None = None, steps: int = 1, **settings: Any) -> LanguageModule:
    """A module after so many steps of four micro-batches of two sequences; ``settings`` are the Trainer's."""
    module = module_for(balancer, net, micro_batches=4)
    trainer(steps, **settings).fit(module, Windows())
    return module
