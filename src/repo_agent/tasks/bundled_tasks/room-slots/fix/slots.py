"""Free time of a meeting room. Times are minutes after midnight."""


def clock(minutes):
    """570 -> "9:30"."""
    hours, rest = divmod(minutes, 60)
    return f"{hours}:{rest:02}"


def free_slots(bookings, opens, closes):
    """Free (start, end) spans between `opens` and `closes`, in order.

    Bookings are (start, end) pairs in any order. They may overlap, touch, or
    reach beyond the opening hours.
    """
    free = []
    cursor = opens
    for start, end in sorted(bookings):
        start = min(start, closes)
        if start > cursor:
            free.append((cursor, start))
        cursor = max(cursor, end)
    if cursor < closes:
        free.append((cursor, closes))
    return free


def first_fit(bookings, opens, closes, length):
    """Start of the first free span of at least `length` minutes, as a clock time, or None."""
    for start, end in free_slots(bookings, opens, closes):
        if end - start >= length:
            return clock(start)
    return None
