from bank.money import cents
from bank.rows import read_rows


def load(path):
    """[(date, text, cents)] of a bank file, in its order."""
    with open(path, encoding="utf-8") as file:
        rows = read_rows(file.read())
    return [(row["date"], row["text"], cents(row["amount"])) for row in rows]


def balance(bookings):
    return sum(amount for _, _, amount in bookings)
