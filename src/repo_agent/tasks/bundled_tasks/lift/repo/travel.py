from route import plan


def floors_travelled(here, calls, heading=0):
    """How many floors the lift moves until every call is served."""
    total = 0
    for stop in plan(here, calls, heading):
        total += abs(stop - here)
        here = stop
    return total
