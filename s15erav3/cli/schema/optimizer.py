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
    Doc("decay rates of AdamW's running means of the gradient and its square"),
]
Eps = Annotated[NotNegative, Doc("AdamW's epsilon, added to the denominator")]
DecayEmbeddings = Annotated[bool, Doc("whether weight decay applies to embedding and head; it never does to norms")]


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
    momentum: Annotated[ShareBelowOne, Doc("momentum coefficient")]
    weight_decay: Annotated[NotNegative, Doc("weight decay of the matrices, times the learning rate per step")]
    router: Annotated[Literal["adamw", "muon"], Doc("which of the two optimizers trains the routers")]
    adamw_lr: Annotated[Positive, Doc("peak learning rate of embeddings, head, norms and, with router=adamw, routers")]
    betas: Betas
    eps: Eps
    adamw_weight_decay: Annotated[NotNegative, Doc("weight decay of the parameters trained by AdamW")]
    decay_embeddings: DecayEmbeddings
    bf16: Annotated[bool | None, Doc("orthogonalise in bf16; null: on hardware with native bf16")]


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

    weight: Annotated[NotNegative, Doc("initial weight of its loss (DeepSeek-V3: 0.3)")]
    final_weight: Annotated[NotNegative, Doc("final weight of its loss (DeepSeek-V3: 0.1)")]
    final_from: Annotated[Share, Doc("share of training after which the final weight applies")]
