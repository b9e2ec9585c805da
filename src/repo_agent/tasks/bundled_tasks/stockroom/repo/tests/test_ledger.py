import pytest

from stockroom import Item, Ledger, OutOfStock


@pytest.fixture
def ledger():
    ledger = Ledger([Item("bolt"), Item("nut")])
    ledger.receive("bolt", 5)
    return ledger


def test_shipping_some(ledger):
    ledger.ship("bolt", 2)
    assert ledger.on_hand == {"bolt": 3, "nut": 0}


def test_shipping_the_last_units(ledger):
    ledger.ship("bolt", 5)
    assert ledger.on_hand["bolt"] == 0


def test_shipping_too_many(ledger):
    with pytest.raises(OutOfStock):
        ledger.ship("bolt", 6)
    assert ledger.on_hand["bolt"] == 5


def test_receiving_nothing(ledger):
    with pytest.raises(ValueError):
        ledger.receive("nut", 0)
