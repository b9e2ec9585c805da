"""Machines take nothing below five cents, and nobody pays more than the tariff says."""

STEP = 5


def payable(cents):
    """Cents rounded down to a multiple of five, and never below one step."""
    return max(cents // STEP * STEP, STEP)
