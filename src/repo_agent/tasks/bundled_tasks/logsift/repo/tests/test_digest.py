from logsift import digest, read_records
from logsift.digest import headline

LOG = """\
INFO web: started
ERROR db: connection lost
WARN db: retrying
ERROR web: no answer
INFO db: back again
"""


def test_digest_of_a_list():
    figures = digest(list(read_records(LOG.splitlines())))
    assert figures == {"records": 5, "errors": 2, "warnings": 1, "busiest": "db"}


def test_digest_straight_from_the_reader():
    figures = digest(read_records(LOG.splitlines()))
    assert figures == {"records": 5, "errors": 2, "warnings": 1, "busiest": "db"}


def test_headline():
    assert headline(read_records(LOG.splitlines())) == "5 records, 2 errors"


def test_empty_log():
    assert digest(read_records([])) == {"records": 0, "errors": 0, "warnings": 0, "busiest": None}
