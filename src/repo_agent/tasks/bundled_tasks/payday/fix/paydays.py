"""When wages are due: the last working day of each month."""

import calendar
from datetime import date, timedelta

FRIDAY = 4
ONE_DAY = timedelta(days=1)


def last_of_month(year, month):
    return date(year, month, calendar.monthrange(year, month)[1])


def payday(year, month, holidays=frozenset()):
    """The last day of the month that is neither on a weekend nor in `holidays`."""
    day = last_of_month(year, month)
    while True:
        if day.weekday() > FRIDAY:
            day -= timedelta(days=day.weekday() - FRIDAY)
        elif day in holidays:
            day -= ONE_DAY
        else:
            return day


def paydays(year, holidays=frozenset()):
    return [payday(year, month, holidays) for month in range(1, 13)]
