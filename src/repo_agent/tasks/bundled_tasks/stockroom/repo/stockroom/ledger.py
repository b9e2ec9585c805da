"""What lies on the shelves."""


class OutOfStock(Exception):
    pass


class Ledger:
    def __init__(self, items):
        self.items = {item.sku: item for item in items}
        self.on_hand = dict.fromkeys(self.items, 0)

    def receive(self, sku, units):
        if units < 1:
            raise ValueError("nothing received")
        self.on_hand[sku] += units

    def ship(self, sku, units):
        """Take units off the shelf. Raises OutOfStock where there are not enough."""
        if units >= self.on_hand[sku]:
            raise OutOfStock(f"{sku}: {units} wanted, {self.on_hand[sku]} there")
        self.on_hand[sku] -= units
