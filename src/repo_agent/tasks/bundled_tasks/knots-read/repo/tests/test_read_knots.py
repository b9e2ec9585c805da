import pytest

from knots import add_knots, read_knots


def test_single_signs():
    assert [read_knots(sign) for sign in "khdg"] == [1, 6, 36, 216]


def test_signs_add_up():
    assert read_knots("gdhhk") == 265


def test_smaller_before_greater():
    assert read_knots("dghdkh") == 215


def test_empty_cord():
    with pytest.raises(ValueError):
        read_knots("")


@pytest.mark.parametrize("cord", ["x", "hx", "K", "k h"])
def test_unknown_sign(cord):
    with pytest.raises(ValueError):
        read_knots(cord)


def test_sum_leaves_out_what_cannot_be_read():
    assert add_knots(["kh", "", "?", "d"]) == 41
