from datetime import date

from paydays import last_of_month, payday, paydays


def test_last_of_month_in_a_leap_year():
    assert last_of_month(2024, 2) == date(2024, 2, 29)


def test_plain_month():
    assert payday(2024, 1) == date(2024, 1, 31)


def test_weekend_moves_back():
    assert payday(2024, 6) == date(2024, 6, 28)
    assert payday(2024, 8) == date(2024, 8, 30)


def test_twelve_paydays():
    assert len(paydays(2023)) == 12


def test_holiday_on_a_weekday_moves_back():
    assert payday(2024, 12, {date(2024, 12, 31)}) == date(2024, 12, 30)


def test_holiday_before_a_weekend():
    assert payday(2024, 3, {date(2024, 3, 29)}) == date(2024, 3, 28)
