from kitchen.amounts import parse_amount, show_amount
from kitchen.scaling import scale


def card(text, wanted):
    """The recipe card for `wanted` people.

    The text starts with a line such as `serves 4`; each further line is an
    amount, a colon and the ingredient.
    """
    first, *lines = text.strip().splitlines()
    serves = int(first.removeprefix("serves "))
    ingredients = {}
    for line in lines:
        amount, name = line.split(":", 1)
        ingredients[name.strip()] = parse_amount(amount)
    scaled = scale(ingredients, serves, wanted)
    return [f"{show_amount(amount)} {name}" for name, amount in scaled.items()]
