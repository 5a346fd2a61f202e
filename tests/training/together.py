"""A tiny run by one process, or by several ranks that each have a share of the same global batches."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from s15erav3.balancing import AddOns, AuxiliaryLoss, Balancer, Combined, LossFree, Quantile
from s15erav3.training.module import LanguageModule
from s15erav3.training.optim import adamw, muon
from s15erav3.training.sharded import ShardedStrategy
from s15erav3.training.shards import own, whole_state
from tests.training.parts import VOCABULARY, module_for, tiny_net, trainer

ADAMW = partial(adamw, lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, decay_embeddings=False)
MUON = partial(
    muon, lr=3e-3, momentum=0.95, weight_decay=0.1, adamw_lr=3e-3, betas=(0.9, 0.95), eps=1e-8,
    adamw_weight_decay=0.0, decay_embeddings=False, router="muon", bf16=False,
)  # fmt: skip
FORMS: dict[str, Callable[[], Any]] = {
    "one": lambda: "auto",
    "ddp": lambda: DDPStrategy(broadcast_buffers=False),
    "fsdp": ShardedStrategy,
    "expert_parallel": lambda: ShardedStrategy(expert_parallel=True),
}
MICRO, ROWS, LENGTH = 2, 8, 9


STRATEGIES: dict[str, Callable[[], Balancer]] = {
    "loss_free": lambda: LossFree(0.02),
    "quantile": Quantile,
    "aux_global": lambda: AuxiliaryLoss(0.1, "global"),
    "dsv3": lambda: Combined(LossFree(0.02), AddOns(), {"aux": AuxiliaryLoss(0.1, "sequence", "unbiased")}),
}


class Shares(L.LightningDataModule):
    """Step s is one random global batch. A rank has the same share of each of its micro-batches.

    Args:
        start: steps done before.
    """

    def __init__(self, steps: int, start: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.batches = [torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1), generator=generator) for _ in range(steps)]
        self.batches = self.batches[start:]

    def train_dataloader(self) -> DataLoader[Tensor]:
        assert self.trainer is not None
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        shares = [torch.cat([part.chunk(ranks)[rank] for part in b.chunk(MICRO)]) for b in self.batches]
        return DataLoader(shares, batch_size=None)  # type: ignore[arg-type]


class Diary(L.Callback):
    """What each step did: the mean loss over ranks, loads, biases, norm of the gradient."""

    def __init__(self) -> None:
        self.pages: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        record = pl_module.last_step
        loss = trainer.strategy.reduce(record.loss.clone(), reduce_op="mean")
        page = {"loss": loss, "loads": record.loads, "norm": record.grad_norm}
        page |= {"biases": torch.stack([router.bias for router in pl_module.routers])}
        if record.mtp_loss is not None:
            page["mtp"] = trainer.strategy.reduce(record.mtp_loss.clone(), reduce_op="mean")
        self.pages.append({name: value.detach().clone().double() for name, value in page.items()})


def fit(
    form: str,
    balancing: str = "loss_free",
    *,
    steps: int = 30,
    optimizer: Callable[..., Any] = ADAMW,
    resume: str | None = None,
    start: int = 0,
    save: str | None = None,
    net: Mapping[str, Any] | None = None,
    precision: str = "32-true",
    **settings: Any,
) -> dict[str, Any]:
    """Train; return each step's figures, whole weights at the end, and bytes of this rank's training state."""
    torch.manual_seed(0)
    shape = {"num_nextn_predict_layers": 1, "initializer_range": 0.1} | dict(net or {})
    module = module_for(
        STRATEGIES[balancing](), tiny_net(**shape), micro_batches=MICRO, optimizer=optimizer, **settings
    )
    diary = Diary()
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    fitting = trainer(
        steps, callbacks=[diary], strategy=FORMS[form](), precision=precision, num_nodes=1,
        **{"devices": ranks, "enable_checkpointing": False},
    )  # fmt: skip
    fitting.fit(module, Shares(steps, start), ckpt_path=resume)
    if save:
        fitting.save_checkpoint(save)
    return {"pages": diary.pages, "weights": whole_state(module.net), "bytes": held(module)}


def held(module: LanguageModule) -> int:
    """Bytes of parameters, and of the optimizer's state, that this process holds."""
    optimizer: Any = module.optimizers(use_pl_optimizer=False)
    tensors = [*module.net.parameters(), *(v for s in optimizer.state.values() for v in s.values())]
    return sum(own(tensor).untyped_storage().nbytes() for tensor in dict.fromkeys(tensors))


def _rank(rank: int, ranks: int, port: int, work: Callable[[], Any], folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), NODE_RANK="0")
    os.environ.update(WORLD_SIZE=str(ranks))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    torch.save(work(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def in_ranks(ranks: int, work: Callable[[], Any], folder: Path) -> list[Any]:
    """What ``work``, which can be pickled, returns in each of so many processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_rank, args=(ranks, port, work, str(folder)), nprocs=ranks)
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]
