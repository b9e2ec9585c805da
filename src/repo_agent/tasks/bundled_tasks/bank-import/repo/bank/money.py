"""Amounts as the bank writes them: `1,204.50`, and `(12.50)` for money that went out."""


def cents(text):
    """The amount in cents. Raises ValueError for text that is no amount."""
    text = text.strip()
    out = text.startswith("(") and text.endswith(")")
    whole, _, part = text.strip("()").replace(",", "").partition(".")
    if not whole.isdigit() or len(part) != 2 or not part.isdigit():
        raise ValueError(f"not an amount: {text!r}")
    amount = int(whole) * 100 + int(part)
    return -amount if out else amount
