"""Change from a cash drawer that holds a limited number of each coin."""

COINS = (200, 100, 50, 20, 10, 5)


class NoChange(Exception):
    """The drawer cannot pay out this amount."""


def drawer_total(drawer):
    return sum(coin * count for coin, count in drawer.items())


def make_change(cents, drawer):
    """Return {coin: count} that adds up to `cents` and take those coins out of `drawer`.

    Bigger coins go first. Where the drawer cannot pay the amount, NoChange is
    raised and the drawer keeps every coin.
    """
    left = dict(drawer)
    given = {}
    for coin in COINS:
        count = min(cents // coin, left.get(coin, 0))
        if count:
            given[coin] = count
            left[coin] -= count
            cents -= coin * count
    if cents:
        raise NoChange(f"{cents} cents short")
    drawer.update(left)
    return given
