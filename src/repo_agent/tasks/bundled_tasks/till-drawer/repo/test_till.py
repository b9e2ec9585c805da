import pytest

from till import NoChange, drawer_total, make_change


def test_big_coins_first():
    assert make_change(270, {200: 2, 50: 3, 20: 5}) == {200: 1, 50: 1, 20: 1}


def test_paid_coins_leave_the_drawer():
    drawer = {100: 2, 20: 1}
    make_change(120, drawer)
    assert drawer == {100: 1, 20: 0}


def test_falls_back_to_smaller_coins():
    assert make_change(100, {100: 0, 50: 1, 10: 9}) == {50: 1, 10: 5}


def test_nothing_to_pay():
    assert make_change(0, {5: 1}) == {}


def test_refusal_keeps_the_drawer():
    drawer = {100: 1, 20: 1}
    with pytest.raises(NoChange):
        make_change(150, drawer)
    assert drawer == {100: 1, 20: 1}
    assert drawer_total(drawer) == 120
