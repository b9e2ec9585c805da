from direction import first_direction, toward


def sweep(here, calls, heading):
    """The calls that lie in the heading, in the order in which the lift passes them."""
    ahead = [floor for floor in calls if toward(here, floor) == heading]
    return sorted(ahead)


def plan(here, calls, heading=0):
    """Stops in order: all those ahead, then the rest on the way back. A call from here opens at once."""
    calls = set(calls)
    heading = heading or first_direction(here, calls - {here}) or 1
    at_once = [here] if here in calls else []
    return at_once + sweep(here, calls, heading) + sweep(here, calls, -heading)
