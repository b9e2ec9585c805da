from fares.reductions import reduce_fare
from fares.rounding import payable
from fares.zones import base_fare


def quote(zones, reasons=()):
    """What a rider pays, in cents."""
    return payable(reduce_fare(base_fare(zones), reasons))
