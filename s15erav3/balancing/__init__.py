"""Load-balancing strategies and balance metrics."""

from s15erav3.balancing.add_ons import AddOns, Combined
from s15erav3.balancing.anticipatory import Anticipatory
from s15erav3.balancing.auxiliary import AuxiliaryLoss
from s15erav3.balancing.base import Balancer, MicroBatch
from s15erav3.balancing.bip import BIP
from s15erav3.balancing.causal_sequence import CausalSequenceBias
from s15erav3.balancing.coupling import ExpertRouterCoupling
from s15erav3.balancing.deepseek_v3 import DeepSeekV3
from s15erav3.balancing.expert_choice import ExpertChoice
from s15erav3.balancing.expert_threshold import ExpertThreshold
from s15erav3.balancing.forced import Forced
from s15erav3.balancing.hash import Hash
from s15erav3.balancing.loss_free import LossFree
from s15erav3.balancing.none import Unbalanced
from s15erav3.balancing.original import OriginalRule
from s15erav3.balancing.proportional import Proportional
from s15erav3.balancing.quantile import Quantile
from s15erav3.balancing.relu_routing import ReLURouting
from s15erav3.balancing.simbal import SimBal
from s15erav3.balancing.sinkhorn import Sinkhorn
from s15erav3.balancing.smebu import SMEBU
from s15erav3.balancing.switch import Switch
from s15erav3.balancing.zero_experts import ZeroExperts

__all__ = [
    "BIP",
    "SMEBU",
    "AddOns",
    "Anticipatory",
    "AuxiliaryLoss",
    "Balancer",
    "CausalSequenceBias",
    "Combined",
    "DeepSeekV3",
    "ExpertChoice",
    "ExpertRouterCoupling",
    "ExpertThreshold",
    "Forced",
    "Hash",
    "LossFree",
    "MicroBatch",
    "OriginalRule",
    "Proportional",
    "Quantile",
    "ReLURouting",
    "SimBal",
    "Sinkhorn",
    "Switch",
    "Unbalanced",
    "ZeroExperts",
]
