from logsift.digest import digest
from logsift.records import read_records

__all__ = ["digest", "read_records"]
