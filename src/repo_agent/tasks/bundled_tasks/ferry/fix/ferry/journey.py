class NoRoute(Exception):
    """The line does not lead from the one pier to the other."""


def hops(line, start, goal):
    """How many legs the boat sails from `start` until it calls at `goal`."""
    here, legs = start, 0
    while here != goal:
        here = line.after(here)
        legs += 1
        if here is None or here == start:
            raise NoRoute(f"{start} to {goal}")
    return legs


def minutes(line, start, goal, leg=12, stay=3):
    """Time on board; the boat stays at every pier between the first and the last."""
    legs = hops(line, start, goal)
    return legs * leg + max(legs - 1, 0) * stay
