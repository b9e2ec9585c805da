def count(records, level):
    return sum(1 for record in records if record.level == level)


def busiest_source(records):
    """The source with most records; the first of them by name on a tie; None without records."""
    tally = {}
    for record in records:
        tally[record.source] = tally.get(record.source, 0) + 1
    return min(tally, key=lambda source: (-tally[source], source), default=None)
