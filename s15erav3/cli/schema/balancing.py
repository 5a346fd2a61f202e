"""The group ``balancing``: settings common to all strategies, and those of each strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from typing_extensions import Doc, TypedDict

from s15erav3.cli.schema.kinds import (
    AtLeastOne,
    Hint,
    Must,
    NotNegative,
    Positive,
    Real,
    Share,
    ShareBelowOne,
    Whole,
    closed,
    open_ended,
)

NO_BALANCING = Hint("; use balancing=none for no balancing")

Rate = Annotated[Positive, NO_BALANCING, Doc("how far a bias moves per optimizer step, in units of the affinity score")]
FreezeAt = Annotated[Share, Doc("share of training after which the rate is 0; only with schedule=freeze")]
Alpha = Annotated[Positive, NO_BALANCING, Doc("weight of the loss")]


@open_ended
class AddOns(TypedDict, total=False):
    """Add-ons that combine with every strategy, including user-defined ones."""

    z_loss: Annotated[NotNegative, Doc("weight of logsumexp(router logits)^2 in the loss; 0: none")]
    capacity_factor: Annotated[
        Positive | None,
        Doc(
            "capacity of an expert, as a multiple of its fair share; excess tokens are dropped in training; null: none"
        ),
    ]
    router_jitter: Annotated[ShareBelowOne, Doc("half-width of a random factor on the router's inputs in training")]
    loss: Annotated[Mapping[str, Any] | None, Must("losses by name"), Doc("further losses, from balancing/loss")]
    expert_dropout: Annotated[ShareBelowOne, Doc("probability that a chosen expert is dropped in training")]


@closed
class Plain(AddOns, total=False):
    """Strategies without settings: ``none``, ``expert_choice``."""


@closed
class Scheduled(AddOns, total=False):
    """``zero_experts``: a bias that follows the error of the loads."""

    rate: Rate
    schedule: Annotated[
        Literal["constant", "cosine", "freeze"],
        Doc("the rate over training: constant; cosine down to 0; freeze: constant, then 0"),
    ]
    freeze_at: FreezeAt


@closed
class Rule(Scheduled, total=False):
    """``loss_free`` and ``proportional``: the same, which can be centred."""

    centred: Annotated[bool, Doc("whether the mean over the experts is subtracted from the bias update")]


@closed
class CausalSequence(Rule, total=False):
    """``causal_sequence_bias``: the sign rule, and a bias within each sequence."""

    strength: Annotated[Positive, Doc("bias of an expert that no earlier token used, in units of the affinity score")]
    prior: Annotated[Positive, Doc("tokens of even load that are counted before each sequence")]
    block: Annotated[AtLeastOne, Doc("tokens of a sequence that are routed at once, by the loads of those before them")]


@closed
class AnticipatoryRule(Rule, total=False):
    """``anticipatory``: the sign rule, and experts chosen by older weights."""

    lag: Annotated[AtLeastOne, Doc("age of the weights that choose a token's experts, in optimizer steps")]


@closed
class Smebu(Rule, total=False):
    """``smebu``: a smooth sign rule with momentum."""

    kappa: Annotated[Positive, Doc("steepness of the tanh of the relative error")]
    beta: Annotated[ShareBelowOne, Doc("momentum: share of the last update that is kept in the next")]


@closed
class Original(AddOns, total=False):
    """``original``: the course project's rule."""

    rate: Annotated[Positive, NO_BALANCING, Doc("factor on the squared distance of a load share from even, signed")]


@closed
class Quantile(AddOns, total=False):
    """``quantile``: the bias that would have balanced the last step."""

    ema: Annotated[ShareBelowOne, Doc("share of the old bias that is kept; 0: none")]
    scope: Annotated[
        Literal["step", "micro", "sequence"],
        Doc("tokens of a quantile: the step on all ranks; a micro-batch or a sequence, with the mean of their biases"),
    ]
    bins: Annotated[
        Annotated[Whole, Ge(2), Le(1_000_000)] | None,
        Doc("bins of the histograms that ranks exchange in place of all values; null: exact; only with scope=step"),
    ]


@closed
class Threshold(AddOns, total=False):
    """``expert_threshold``: each expert takes all tokens above its threshold."""

    ema: Annotated[ShareBelowOne, Doc("share of the old threshold that is kept; 0: none")]
    bins: Annotated[
        Annotated[Whole, Ge(2), Le(1_000_000)] | None,
        Doc("bins of the histograms that ranks exchange in place of all values; null: exact"),
    ]


@closed
class Relu(AddOns, total=False):
    """``relu_routing``: gates by ReLU, with a loss of adaptive weight."""

    start: Annotated[Positive, Doc("weight of the loss in the first step")]
    factor: Annotated[Real, Gt(1), Doc("factor by which the weight grows or shrinks after each step")]


@closed
class AuxiliaryLoss(TypedDict, total=False):
    """``balancing/loss``: an auxiliary loss on load times affinity."""

    alpha: Alpha
    scope: Annotated[
        Literal["micro", "sequence", "global"],
        Doc("tokens over which loads are counted: a micro-batch, each sequence, or the step on all ranks so far"),
    ]
    counts: Annotated[
        Literal["chosen", "unbiased"],
        Doc("experts that a token counts for: those that it used, or the top K of its affinities without the bias"),
    ]
    groups: Annotated[
        Annotated[Whole, Ge(2)] | None, Doc("balance so many groups of neighbouring experts; null: each expert")
    ]


@closed
class Auxiliary(AddOns, AuxiliaryLoss, total=False):
    """``aux``: the auxiliary loss as the strategy."""


@closed
class Loss(TypedDict, total=False):
    """A loss and its weight."""

    alpha: Alpha


@closed
class Coupling(Loss, total=False):
    """``balancing/loss=erc``: ties each router row to what its expert responds to."""

    margin: Annotated[Share, Doc("largest response of others relative to an expert's own; lower: more specialised")]


@closed
class Weighted(AddOns, Loss, total=False):
    """``simbal`` and ``switch``: a loss and its weight."""


@closed
class Bip(AddOns, total=False):
    """``bip``: an even assignment of the current tokens."""

    rounds: Annotated[Whole, Ge(1), Le(1000), Doc("solver iterations for the assignment, per micro-batch and layer")]


@closed
class Sinkhorn(Bip, total=False):
    """``sinkhorn``: a transport plan of the current tokens."""

    temperature: Annotated[Positive, Doc("entropy of the plan, in units of the affinity; small values are more even")]


@closed
class Forced(AddOns, total=False):
    """``forced``: loads that are known beforehand."""

    load: Annotated[Literal["even", "zipf", "single"], Doc("loads of the experts, whatever the affinities")]
    exponent: Annotated[NotNegative, Doc("exponent of Zipf's law; only with load=zipf")]


@closed
class Hash(AddOns, total=False):
    """``hash``: a fixed map from token ids to experts."""

    map: Annotated[
        Literal["balanced", "random"],
        Doc("balanced: even loads by the tokens' frequencies in the training part; random: whatever these are"),
    ]


BALANCING: dict[str, type] = {
    "s15erav3.balancing.Unbalanced": Plain,
    "s15erav3.balancing.ExpertChoice": Plain,
    "s15erav3.balancing.LossFree": Rule,
    "s15erav3.balancing.Proportional": Rule,
    "s15erav3.balancing.Anticipatory": AnticipatoryRule,
    "s15erav3.balancing.CausalSequenceBias": CausalSequence,
    "s15erav3.balancing.SMEBU": Smebu,
    "s15erav3.balancing.OriginalRule": Original,
    "s15erav3.balancing.Quantile": Quantile,
    "s15erav3.balancing.ExpertThreshold": Threshold,
    "s15erav3.balancing.AuxiliaryLoss": Auxiliary,
    "s15erav3.balancing.ReLURouting": Relu,
    "s15erav3.balancing.ZeroExperts": Scheduled,
    "s15erav3.balancing.SimBal": Weighted,
    "s15erav3.balancing.Switch": Weighted,
    "s15erav3.balancing.BIP": Bip,
    "s15erav3.balancing.Sinkhorn": Sinkhorn,
    "s15erav3.balancing.Forced": Forced,
    "s15erav3.balancing.Hash": Hash,
    "*": AddOns,
}
"""Settings by ``_target_``; ``*`` for a user-defined strategy."""

LOSSES: dict[str, tuple[str, type]] = {
    "aux": ("s15erav3.balancing.AuxiliaryLoss", AuxiliaryLoss),
    "aux_sequence": ("s15erav3.balancing.AuxiliaryLoss", AuxiliaryLoss),
    "aux_global": ("s15erav3.balancing.AuxiliaryLoss", AuxiliaryLoss),
    "aux_device": ("s15erav3.balancing.AuxiliaryLoss", AuxiliaryLoss),
    "simbal": ("s15erav3.balancing.SimBal", Loss),
    "erc": ("s15erav3.balancing.ExpertRouterCoupling", Coupling),
}
"""The losses of ``balancing/loss``: name, ``_target_``, settings."""
