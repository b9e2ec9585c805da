"""Knot numerals: counts tied into a cord, in sixes.

k = 1, h = 6, d = 36, g = 216. Signs add up, but a smaller sign straight
before a greater one is taken away from it: `kh` is 5, `hd` is 30.
"""

SIGNS = {"k": 1, "h": 6, "d": 36, "g": 216}


def read_knots(cord):
    """The number that a cord says. Raises ValueError for an empty cord or an unknown sign."""
    if not cord:
        raise ValueError("an empty cord says nothing")
    unknown = set(cord) - set(SIGNS)
    if unknown:
        raise ValueError(f"unknown signs: {sorted(unknown)}")
    total = 0
    for index, sign in enumerate(cord):
        value = SIGNS[sign]
        following = SIGNS[cord[index + 1]] if index + 1 < len(cord) else 0
        total += -value if value < following else value
    return total


def add_knots(cords):
    """The sum of several cords; cords that cannot be read are left out."""
    total = 0
    for cord in cords:
        try:
            total += read_knots(cord)
        except ValueError:
            continue
    return total
