from planar.register import registered
from planar.shapes import Polygon

SQUARE = [(0, 0), (2, 0), (2, 2), (0, 2)]
STRIP = [(0, 0), (5, 0), (5, 1), (0, 1)]
SLIVER = [(0, 0), (1, 0), (1, 0.5)]


def test_largest_first_and_small_ones_left_out():
    fields = {"mill": Polygon(SQUARE), "brook": Polygon(STRIP), "corner": Polygon(SLIVER)}
    assert registered(fields) == ["brook", "mill"]


def test_direction_does_not_matter():
    fields = {"mill": Polygon(SQUARE[::-1]), "brook": Polygon(STRIP)}
    assert registered(fields) == ["brook", "mill"]
