"""Knot numerals: counts tied into a cord, in sixes.

k = 1, h = 6, d = 36, g = 216. Signs add up, but a smaller sign straight
before a greater one is taken away from it: `kh` is 5, `hd` is 30.
"""

SIGNS = {"k": 1, "h": 6, "d": 36, "g": 216}
STEPS = ((216, "g"), (180, "dg"), (36, "d"), (30, "hd"), (6, "h"), (5, "kh"), (1, "k"))
LARGEST = 1295


def write_knots(number):
    """The shortest cord that says `number`. Raises ValueError outside 1 to 1295."""
    if not 1 <= number <= LARGEST:
        raise ValueError(f"no cord says {number}")
    cord = ""
    for value, signs in STEPS:
        while number >= value:
            cord += signs
            number -= value
    return cord


def read_knots(cord):
    """The number that a cord says."""
    total = 0
    for sign, following in zip(cord, cord[1:] + "k"):
        value = SIGNS[sign]
        total += -value if value < SIGNS[following] else value
    return total
