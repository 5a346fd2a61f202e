"""Ways to keep experts busy, and the numbers to judge them by."""

from s15erav3.balancing.base import Balancer
from s15erav3.balancing.loss_free import LossFree
from s15erav3.balancing.none import Unbalanced
from s15erav3.balancing.original import OriginalRule

__all__ = ["Balancer", "LossFree", "OriginalRule", "Unbalanced"]
