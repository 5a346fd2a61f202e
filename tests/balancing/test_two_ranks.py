"""Strategies that look at tokens, in two real processes: both end with the same numbers, those of all tokens."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from s15erav3.balancing import BIP, AuxiliaryLoss, CausalSequenceBias, Quantile, ZeroExperts
from s15erav3.model import Router
from tests.balancing.parts import config, micro_batch, skewed
from tests.training.together import in_ranks

LOADS = torch.ones(1, 6, dtype=torch.int64)


def figures(parts: list[slice]) -> dict[str, Tensor]:
    """What each strategy makes of a step whose micro-batches are these parts of 512 tokens."""
    router, x = skewed(6, 2, seed=0)
    with torch.no_grad():
        quantile, auxiliary = Quantile(), AuxiliaryLoss(1.0, "global")
        binned = Quantile(bins=1000)
        quantile.attach([router])
        binned.attach([router])
        for part in parts:
            batch = micro_batch(router(x[part]))
            quantile.observe(batch)
            binned.observe(batch)
            loss = auxiliary.loss(batch)
        bip = BIP(rounds=2)
        bip.attach([router])
        for part in parts:
            bip.observe(micro_batch(router(x[part])))
        real = Router(config(6, 2, topk_method="zero_experts", norm_topk_prob=False))  # tokens are all that counts
        real.weight.fill_(0)
        zero, causal = ZeroExperts(0.1), CausalSequenceBias(0.1)
        zero.attach([real])
        router.solver = None  # that of BIP
        causal.attach([router])
        for part in parts:
            zero.observe(micro_batch(real(x[part])))
            causal.observe(micro_batch(router(x[part])))
        return {
            "zero": zero.bias_update(LOADS, 0.0),
            "causal": causal._loads_by_bias(),
            "quantile": quantile.bias_update(LOADS, 0.0),
            "binned": binned.bias_update(LOADS, 0.0),
            "bip": bip.bias_update(LOADS, 0.0),
            "global": loss,
            "f": auxiliary._step_loads,
        }


def of_this_rank() -> dict[str, Tensor]:
    first = dist.get_rank() == 0
    return figures([slice(0, 128), slice(256, 384)] if first else [slice(128, 256), slice(384, 512)])


def test_two_ranks_see_the_tokens_of_both(tmp_path: Path) -> None:
    """A bias that differs between ranks is two models. Seen to fail without ``from_all_ranks`` in Quantile, without
    the counts or the extremes of the other rank, either sum over ranks in BIP, and without the one in AuxiliaryLoss,
    ZeroExperts or CausalSequenceBias."""
    one, other = in_ranks(2, of_this_rank, tmp_path)
    quarters = [slice(0, 128), slice(128, 256), slice(256, 384), slice(384, 512)]
    whole, parts = figures([slice(0, 512)]), figures(quarters)
    for name in ("quantile", "binned", "bip", "f", "zero", "causal"):
        assert torch.equal(one[name], other[name]), name
    torch.testing.assert_close(one["quantile"], whole["quantile"])
    assert torch.equal(one["binned"], whole["binned"])
    torch.testing.assert_close(one["binned"], whole["quantile"], rtol=0, atol=4e-3)  # bins of 1e-3 times the range
    torch.testing.assert_close(one["bip"], parts["bip"])  # the mean over micro-batches
    assert torch.equal(one["f"], whole["f"])
    assert torch.equal(one["zero"], whole["zero"]) and torch.equal(one["causal"], whole["causal"])
    assert one["global"] != other["global"]  # P is each rank's own
