from fractions import Fraction


def parse_amount(text):
    """ "3", "1/2" or "1 1/2" as a Fraction. Raises ValueError for other text."""
    parts = text.split()
    if not 1 <= len(parts) <= 2:
        raise ValueError(f"not an amount: {text!r}")
    return sum((Fraction(part) for part in parts), Fraction(0))


def show_amount(amount):
    """A Fraction as a cook writes it: "1 1/2", "3/4", "2"."""
    whole, rest = divmod(amount.numerator, amount.denominator)
    if not rest:
        return str(whole)
    part = f"{rest}/{amount.denominator}"
    return f"{whole} {part}" if whole else part
