"""Lines such as `ERROR db: connection lost` become records."""

from typing import NamedTuple

LEVELS = ("DEBUG", "INFO", "WARN", "ERROR")


class Record(NamedTuple):
    level: str
    source: str
    message: str


def read_records(lines):
    """Yield a Record for each line that has the right shape; skip the others."""
    for line in lines:
        head, colon, message = line.strip().partition(": ")
        level, _, source = head.partition(" ")
        if colon and level in LEVELS and source:
            yield Record(level, source, message)
