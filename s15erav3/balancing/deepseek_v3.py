"""DeepSeek-V3's balancing as one object, for runs of version 0.2; ``conf/balancing/dsv3.yaml`` composes it."""

from __future__ import annotations

from s15erav3.balancing.add_ons import AddOns, Combined
from s15erav3.balancing.auxiliary import AuxiliaryLoss
from s15erav3.balancing.loss_free import LossFree


class DeepSeekV3(Combined):
    """The sign rule, frozen, and the loss within sequences, which counts the experts that tokens used."""

    def __init__(self, rate: float = 1e-3, freeze_at: float = 14.3 / 14.8, alpha: float = 1e-4) -> None:
        super().__init__(LossFree(rate, "freeze", freeze_at), AddOns(), {"sequence": AuxiliaryLoss(alpha, "sequence")})
