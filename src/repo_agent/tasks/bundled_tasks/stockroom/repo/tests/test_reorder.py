from stockroom import Item, Ledger, reorder_list


def shelf(units):
    ledger = Ledger([Item("tape", reorder_at=3, pack_size=4)])
    ledger.receive("tape", units)
    return ledger


def test_plenty():
    assert reorder_list(shelf(4), target=10) == []


def test_at_the_reorder_level():
    assert reorder_list(shelf(3), target=10) == [("tape", 2)]


def test_below_the_reorder_level():
    assert reorder_list(shelf(1), target=10) == [("tape", 3)]
