"""No balancing: the baseline that shows routing collapse."""

from s15erav3.balancing.base import Balancer


class Unbalanced(Balancer):
    """Loads are recorded but not used."""
