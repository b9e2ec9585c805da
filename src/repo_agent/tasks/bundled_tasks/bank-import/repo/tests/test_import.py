from pathlib import Path

from bank.rows import read_rows
from bank.statement import balance, load

DATA = Path(__file__).parent.parent / "data"


def test_april():
    assert balance(load(DATA / "april.csv")) == 11510


def test_march():
    bookings = load(DATA / "march.csv")
    assert bookings[-1] == ("2025-03-31", "Refund", -1250)
    assert balance(bookings) == 35200


def test_file_without_bookings():
    assert read_rows("date;text;amount\n") == []
