"""No balancing: the baseline that shows how routing collapses by itself."""

from s15erav3.balancing.base import Balancer


class Unbalanced(Balancer):
    """Loads are recorded, nothing acts on them."""
