"""Base fares in cents by the number of zones that a ride touches."""

BASE = {1: 210, 2: 320, 3: 450}
EACH_FURTHER = 90


def base_fare(zones):
    if zones < 1:
        raise ValueError("a ride touches at least one zone")
    if zones in BASE:
        return BASE[zones]
    furthest = max(BASE)
    return BASE[furthest] + (zones - furthest) * EACH_FURTHER
