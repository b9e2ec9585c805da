from fractions import Fraction

import pytest

from kitchen.card import card
from kitchen.scaling import scale

SOUP = """\
serves 4
3: carrots
1 1/2: litres of water
2: onions
"""


def test_same_number_of_people():
    assert card(SOUP, 4) == ["3 carrots", "1 1/2 litres of water", "2 onions"]


def test_half():
    assert card(SOUP, 2) == ["1 1/2 carrots", "3/4 litres of water", "1 onions"]


def test_more_people():
    assert scale({"rice": Fraction(100)}, 3, 4) == {"rice": Fraction(400, 3)}


def test_nobody():
    with pytest.raises(ValueError):
        scale({}, 4, 0)
