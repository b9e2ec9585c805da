"""Directions as numbers: 1 is up, -1 is down, 0 is standing."""


def toward(here, floor):
    return (floor > here) - (floor < here)


def first_direction(here, calls):
    """Where an idle lift sets off to: the nearest call, and up on a tie."""
    if not calls:
        return 0
    nearest = min(calls, key=lambda floor: (abs(floor - here), -floor))
    return toward(here, nearest)
