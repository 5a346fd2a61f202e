"""Load balancing as in DeepSeek-V3's training (arXiv 2412.19437, sections 2.1.2 and 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from s15erav3.balancing.auxiliary import sequence_loss
from s15erav3.balancing.base import MicroBatch
from s15erav3.balancing.loss_free import LossFree
from s15erav3.errors import check_number


class DeepSeekV3(LossFree):
    """The sign rule, frozen for the last part of training, plus a small loss against imbalance within a sequence:

        e_i = sign(c̄ - c_i),    b_i <- b_i + u (e_i - mean_j e_j),
        loss = alpha sum over layers of the mean over sequences of sum_i f_i P_i,

    with f and P as in :class:`~s15erav3.balancing.auxiliary.AuxiliaryLoss`.

    Args:
        rate: u (DeepSeek-V3: 1e-3).
        freeze_at: fraction of training after which u is 0 (DeepSeek-V3: 14.3 of 14.8 T tokens).
        alpha: weight of the sequence-wise loss (DeepSeek-V3: 1e-4).

    Raises:
        UserError: a value is out of range.
    """

    def __init__(self, rate: float = 1e-3, freeze_at: float = 14.3 / 14.8, alpha: float = 1e-4) -> None:
        super().__init__(rate, "freeze", freeze_at)
        check_number("balancing.alpha", alpha, above=0, hint="; use balancing=loss_free for no loss")
        self.alpha = alpha

    def loss(self, micro_batch: MicroBatch) -> Tensor:
        """Compute the sequence-wise loss of the class docstring: a scalar."""
        losses = [sequence_loss(routing, micro_batch.sequences) for routing in micro_batch.routings]
        return self.alpha * torch.stack(losses).sum()
