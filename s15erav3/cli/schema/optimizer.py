"""The groups ``optimizer`` and ``schedule``, and the root setting ``mtp``."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import MaxLen, MinLen
from typing_extensions import Doc, TypedDict

from s15erav3.cli.schema.kinds import (
    Count,
    Must,
    NotNegative,
    Positive,
    Share,
    ShareBelowOne,
    closed,
)

Betas = Annotated[
    list[ShareBelowOne],
    MinLen(2),
    MaxLen(2),
    Must("a list of two numbers, at least 0 and less than 1, as [0.9,0.95]"),
    Doc("AdamW's decay of the mean of gradients and of their squares"),
]
Eps = Annotated[NotNegative, Doc("AdamW's addend in the denominator")]
DecayEmbeddings = Annotated[bool, Doc("whether embedding and head decay; norms never do")]


@closed
class AdamW(TypedDict, total=False):
    """torch's AdamW for everything."""

    lr: Annotated[Positive, Doc("peak learning rate")]
    betas: Betas
    eps: Eps
    weight_decay: Annotated[NotNegative, Doc("weight decay, times the learning rate per step")]
    decay_embeddings: DecayEmbeddings


@closed
class Muon(TypedDict, total=False):
    """Muon for matrices, AdamW for the rest."""

    lr: Annotated[Positive, Doc("peak learning rate of the matrices")]
    momentum: Annotated[ShareBelowOne, Doc("share of the old momentum that stays")]
    weight_decay: Annotated[NotNegative, Doc("weight decay of the matrices, times the learning rate per step")]
    router: Annotated[Literal["adamw", "muon"], Doc("which of the two learns the routers")]
    adamw_lr: Annotated[Positive, Doc("peak learning rate of embeddings, head, norms and, by router=adamw, routers")]
    betas: Betas
    eps: Eps
    adamw_weight_decay: Annotated[NotNegative, Doc("weight decay of what AdamW learns")]
    decay_embeddings: DecayEmbeddings
    bf16: Annotated[bool | None, Doc("orthogonalise in bf16; null: where the hardware is made for it")]


OPTIMIZER: dict[str, type] = {"s15erav3.training.optim.adamw": AdamW, "s15erav3.training.optim.muon": Muon}
"""By ``_target_``."""

WarmupSteps = Annotated[Count, Doc("optimizer steps over which the learning rate rises from near 0")]
FinalRatio = Annotated[Share, Doc("learning rate at the end, as a share of the peak")]


@closed
class Constant(TypedDict, total=False):
    """No decay."""

    warmup_steps: WarmupSteps


@closed
class Cosine(Constant, total=False):
    """Half a cosine."""

    final_ratio: FinalRatio


@closed
class Wsd(Cosine, total=False):
    """Warmup, stable, decay."""

    decay_share: Annotated[Share, Doc("share of training, at its end, over which the learning rate falls")]


SCHEDULE: dict[str, type] = {
    "s15erav3.training.schedule.Constant": Constant,
    "s15erav3.training.schedule.Cosine": Cosine,
    "s15erav3.training.schedule.WSD": Wsd,
}
"""By ``_target_``."""


@closed
class MultiToken(TypedDict, total=False):
    """The loss of multi-token prediction, where ``model.num_nextn_predict_layers`` is above 0."""

    weight: Annotated[NotNegative, Doc("weight of its loss at first (DeepSeek-V3: 0.3)")]
    final_weight: Annotated[NotNegative, Doc("weight of its loss later (DeepSeek-V3: 0.1)")]
    final_from: Annotated[Share, Doc("share of training from which on the final weight holds")]
