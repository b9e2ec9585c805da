from datetime import date

import pytest

from rental import bill, billable_days

MONDAY = date(2025, 5, 5)


def test_same_day_is_one_day():
    assert billable_days(MONDAY, MONDAY) == 1


def test_monday_to_wednesday():
    assert billable_days(MONDAY, date(2025, 5, 7)) == 3


def test_sunday_costs_nothing():
    assert billable_days(date(2025, 5, 11), date(2025, 5, 11)) == 0


def test_closed_day_costs_nothing():
    assert billable_days(MONDAY, date(2025, 5, 7), closed={date(2025, 5, 6)}) == 2


def test_backwards_loan():
    with pytest.raises(ValueError):
        billable_days(date(2025, 5, 7), MONDAY)


def test_weekly_price():
    assert bill(MONDAY, date(2025, 5, 12), 500, weekly_cents=2000) == 2500
