from fractions import Fraction


def scale(ingredients, serves, wanted):
    """{name: amount} for `wanted` people from a recipe that serves `serves`."""
    if serves < 1 or wanted < 1:
        raise ValueError("a recipe serves at least one")
    factor = Fraction(wanted, serves)
    return {name: amount * factor for name, amount in ingredients.items()}
