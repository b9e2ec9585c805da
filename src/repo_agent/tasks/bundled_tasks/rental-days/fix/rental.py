"""Bills for hired tools."""

from datetime import timedelta

SUNDAY = 6


def billable_days(first, last, closed=()):
    """Days from `first` to `last`, both counted, without Sundays and the dates in `closed`.

    Raises ValueError where `last` lies before `first`.
    """
    if last < first:
        raise ValueError("a loan cannot end before it starts")
    span = (last - first).days + 1
    days = [first + timedelta(days=offset) for offset in range(span)]
    return sum(1 for day in days if day.weekday() != SUNDAY and day not in closed)


def bill(first, last, cents_a_day, closed=(), weekly_cents=None):
    """The price in cents; each full six billable days cost `weekly_cents` where that is given."""
    days = billable_days(first, last, closed)
    if weekly_cents is None:
        return days * cents_a_day
    weeks, rest = divmod(days, 6)
    return weeks * weekly_cents + rest * cents_a_day
