from fractions import Fraction

import pytest

from kitchen.amounts import parse_amount, show_amount


def test_parse():
    assert [parse_amount(text) for text in ("3", "1/2", "1 1/2")] == [3, Fraction(1, 2), Fraction(3, 2)]


@pytest.mark.parametrize("text", ["", "some", "1 1 1"])
def test_parse_refuses_other_text(text):
    with pytest.raises(ValueError):
        parse_amount(text)


def test_show():
    assert [show_amount(Fraction(top, 4)) for top in (3, 6, 8)] == ["3/4", "1 1/2", "2"]
