import pytest

from knots import read_knots, write_knots


@pytest.mark.parametrize("number", [0, -4, 1296])
def test_out_of_range(number):
    with pytest.raises(ValueError):
        write_knots(number)


@pytest.mark.parametrize("number, cord", [(1, "k"), (6, "h"), (36, "d"), (216, "g")])
def test_round_numbers(number, cord):
    assert write_knots(number) == cord


def test_taking_away():
    assert write_knots(5) == "kh"
    assert write_knots(215) == "dghdkh"


def test_reading():
    assert read_knots("gdhhk") == 265


def test_there_and_back():
    assert [n for n in range(1, 1296) if read_knots(write_knots(n)) != n] == []
