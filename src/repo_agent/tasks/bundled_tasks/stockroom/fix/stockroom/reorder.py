"""What to order, and how much of it."""


def is_low(item, on_hand):
    """True once stock has come down to the item's reorder level."""
    return on_hand <= item.reorder_at


def reorder_list(ledger, target):
    """[(sku, packs)] that bring each low item up to `target` units or just above, by sku."""
    orders = []
    for sku in sorted(ledger.items):
        item, on_hand = ledger.items[sku], ledger.on_hand[sku]
        if is_low(item, on_hand) and on_hand < target:
            orders.append((sku, item.packs_for(target - on_hand)))
    return orders
