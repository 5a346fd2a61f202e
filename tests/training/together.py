"""A tiny run by one process, or by several ranks that each have a share of the same global batches."""

from __future__ import annotations

import multiprocessing
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

from s15erav3.balancing import AddOns, AuxiliaryLoss, Balancer, Combined, ExpertThreshold, Forced, LossFree, Quantile
from s15erav3.model.recompute import Recompute
from s15erav3.runs.checkpoint_io import WholeFileIO
from s15erav3.runs.parts import joined
from s15erav3.training.module import LanguageModule
from s15erav3.training.optim import adamw, muon
from s15erav3.training.sharded import ShardedStrategy
from s15erav3.training.shards import own, whole_net, whole_state
from tests.training.parts import VOCABULARY, module_for, tiny_net, trainer

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "adamw": partial(adamw, lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, decay_embeddings=False),
    "muon": partial(
    muon, lr=3e-3, momentum=0.95, weight_decay=0.1, adamw_lr=3e-3, betas=(0.9, 0.95), eps=1e-8,
    adamw_weight_decay=0.0, decay_embeddings=False, router="muon", bf16=False,
    ),
}  # fmt: skip
FORMS: dict[str, Callable[[], Any]] = {
    "one": lambda: "auto",
    "ddp": lambda: DDPStrategy(broadcast_buffers=False),
    "fsdp": ShardedStrategy,
    "expert_parallel": lambda: ShardedStrategy(expert_parallel=True),
    "fsdp_copies": lambda: ShardedStrategy(replicas=2),
    "expert_parallel_copies": lambda: ShardedStrategy(expert_parallel=True, replicas=2),
}
MICRO, ROWS, LENGTH = 2, 8, 9
MOST = 40
"""Batches of an epoch: more than any run has steps. The data module's epoch never ends."""


STRATEGIES: dict[str, Callable[[], Balancer]] = {
    "loss_free": lambda: LossFree(0.02),
    "quantile": Quantile,
    "aux_global": lambda: AuxiliaryLoss(0.1, "global"),
    "single": lambda: Forced("single"),
    "expert_threshold": lambda: ExpertThreshold(),
    "none": Balancer,
    "dsv3": lambda: Combined(LossFree(0.02), AddOns(), {"aux": AuxiliaryLoss(0.1, "sequence", "unbiased")}),
}


class Shares(L.LightningDataModule):
    """Step s is one random global batch. A rank has the same share of each of its micro-batches.

    Args:
        start: steps done before.
    """

    def __init__(self, start: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.batches = [torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1), generator=generator) for _ in range(MOST)]
        self.batches = self.batches[start:]

    def train_dataloader(self) -> DataLoader[Tensor]:
        assert self.trainer is not None
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        shares = [torch.cat([part.chunk(ranks)[rank] for part in b.chunk(MICRO)]) for b in self.batches]
        return DataLoader(shares, batch_size=None)  # type: ignore[arg-type]


class Files(WholeFileIO):
    """These runs do not describe themselves in their checkpoints."""

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return joined(torch.load(path, weights_only=True), Path(path))


class Diary(L.Callback):
    """What each step did: losses, means over ranks; loads, biases, norm of the gradient; bytes of the gradient here."""

    def __init__(self) -> None:
        self.pages: list[dict[str, Tensor]] = []
        self.received: list[Tensor] = []
        self.gradient = 0

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.gradient = sum(own(p.grad).nbytes for p in pl_module.net.parameters() if p.grad is not None)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        record = pl_module.last_step
        page = {"loads": record.loads, "norm": record.grad_norm}
        page |= {"biases": torch.stack([router.bias for router in pl_module.routers])}
        if getattr(trainer.strategy, "expert_parallel", False):
            self.received.append(trainer.strategy.rank_loads(record.loads, record.own_loads))  # type: ignore[attr-defined]
        for name, loss in (("loss", record.loss), ("mtp", record.mtp_loss)):
            page[name] = trainer.strategy.reduce(loss.clone(), reduce_op="mean")
        self.pages.append({name: value.detach().clone().double() for name, value in page.items()})


def fit(
    form: str,
    balancing: str = "loss_free",
    *,
    steps: int = 4,
    optimizer: str = "adamw",
    resume: str | None = None,
    start: int = 0,
    save: str | None = None,
    save_parts: str | None = None,
    bad_step: int | None = None,
    net: Mapping[str, Any] | None = None,
    precision: Any = "32-true",
    recompute: Recompute = "none",
    **settings: Any,
) -> dict[str, Any]:
    """Train in one of the ``FORMS``.

    Args:
        start: steps of the run that ``resume`` continues.
        save, save_parts: files of a checkpoint at the end, by the first rank or in parts.
        bad_step: this step's loss is not a number on the last rank.

    Returns:
        ``pages`` of the :class:`Diary`; ``received``, the tokens that travel to each rank; whole ``weights``;
        ``logits`` of a copy of the net for other tokens; bytes of the training state here; ``dtypes`` of weights in the
        forward pass.
    """
    torch.manual_seed(0)
    shape = {"num_nextn_predict_layers": 1, "initializer_range": 0.1} | dict(net or {})
    module = module_for(
        STRATEGIES[balancing](), tiny_net(**shape), micro_batches=MICRO, optimizer=OPTIMIZERS[optimizer], **settings
    )
    module.net.recompute(recompute)
    diary, dtypes = Diary(), {}
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    for name in ("router", "experts", "shared_experts.gate_proj"):
        part = module.net.get_submodule(f"layers.1.mlp.{name}")
        part.register_forward_hook(lambda m, *_, name=name: dtypes.update({name: next(m.parameters()).dtype}))
    if bad_step is not None and (ranks == 1 or dist.get_rank() == ranks - 1):
        right = module.objective

        def wrong(*args: Any) -> Any:
            found = right(*args)
            return found._replace(loss=found.loss * float("nan")) if module.trainer.global_step == bad_step else found

        module.objective = wrong  # type: ignore[method-assign]
    fitting = trainer(
        steps, callbacks=[diary], strategy=FORMS[form](), precision=precision, devices=ranks, plugins=[Files()]
    )
    fitting.fit(module, Shares(start), ckpt_path=resume)
    if save:
        fitting.save_checkpoint(save)
    if save_parts:
        fitting.strategy.own_parts = True  # type: ignore[attr-defined]
        fitting.save_checkpoint(save_parts)
    copy, ids = whole_net(module.net).eval(), torch.arange(LENGTH).unsqueeze(0)
    with torch.no_grad():
        logits = copy.logits(copy(ids).hidden) if precision == "32-true" else torch.zeros(())
    return {
        "pages": diary.pages,
        "received": diary.received,
        "weights": whole_state(module.net),
        "logits": logits,
        "bytes": diary.gradient + held(module),
        "dtypes": dtypes,
    }


def held(module: LanguageModule) -> int:
    """Bytes of parameters and of the optimizer's state that this process holds."""
    optimizer: Any = module.optimizers(use_pl_optimizer=False)
    tensors = [*module.net.parameters(), *(v for s in optimizer.state.values() for v in s.values())]
    return sum(own(tensor).nbytes for tensor in tensors)


def assert_same(found: dict[str, Any], wanted: dict[str, Any], since: int = 0) -> None:
    """Losses, biases and weights to 1e-6, loads exactly, at every step."""
    assert len(found["pages"]) == len(wanted["pages"][since:]) > 0
    for step, (page, other) in enumerate(zip(found["pages"], wanted["pages"][since:], strict=True), start=since):
        assert torch.equal(page["loads"], other["loads"]), step
        for name in ("loss", "mtp", "biases", "norm"):
            told = f"{name}, step {step}"
            torch.testing.assert_close(page[name], other[name], rtol=1e-6, atol=1e-6, equal_nan=True, msg=told)
    assert found["weights"].keys() == wanted["weights"].keys()
    for name, weight in found["weights"].items():
        # AdamW divides by the root of v, so the rounding of a gradient near 0 moves its weight: DDP's, too.
        torch.testing.assert_close(weight, wanted["weights"][name], rtol=0, atol=5e-6, msg=name)
    torch.testing.assert_close(found["logits"], wanted["logits"], rtol=0, atol=1e-5)


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
    multiprocessing.set_forkserver_preload([__name__])  # one process imports torch, and ranks are its children
    torch.multiprocessing.start_processes(
        _rank, args=(ranks, port, work, str(folder)), nprocs=ranks, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]
