PERCENT = {"senior": 25, "student": 30, "off-peak": 20, "dog": 50}


def reduce_fare(fare, reasons):
    """The fare in cents after the reductions named by `reasons`, in their order.

    Each one is a share of what the reductions before it have left. Raises
    ValueError for a reason that the tariff does not know.
    """
    left = fare
    for reason in reasons:
        if reason not in PERCENT:
            raise ValueError(f"no reduction for {reason!r}")
        left -= fare * PERCENT[reason] // 100
    return left
