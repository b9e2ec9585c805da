import pytest

from fares import quote
from fares.reductions import reduce_fare
from fares.rounding import payable
from fares.zones import base_fare


def test_base_fares():
    assert [base_fare(zones) for zones in (1, 3, 5)] == [210, 450, 630]


def test_payable_rounds_down_to_five():
    assert [payable(cents) for cents in (192, 190, 189, 2)] == [190, 190, 185, 5]


def test_one_reduction():
    assert reduce_fare(320, ["senior"]) == 240


def test_two_reductions():
    assert reduce_fare(320, ["senior", "off-peak"]) == 192


def test_unknown_reduction():
    with pytest.raises(ValueError):
        reduce_fare(320, ["tuesday"])


def test_quote():
    assert quote(1) == 210
    assert quote(2, ["senior", "off-peak"]) == 190
    assert quote(3, ["student", "dog"]) == 155
