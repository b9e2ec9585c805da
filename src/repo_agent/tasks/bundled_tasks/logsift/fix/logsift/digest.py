from logsift.counting import busiest_source, count


def digest(records):
    """Figures about records, which may be any iterable of them."""
    records = list(records)
    return {
        "records": sum(1 for _ in records),
        "errors": count(records, "ERROR"),
        "warnings": count(records, "WARN"),
        "busiest": busiest_source(records),
    }


def headline(records):
    figures = digest(records)
    return f"{figures['records']} records, {figures['errors']} errors"
