from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """A thing we stock. `reorder_at` is the level at which more is ordered."""

    sku: str
    reorder_at: int = 0
    pack_size: int = 1

    def packs_for(self, units):
        """Whole packs that hold at least `units`."""
        return -(-units // self.pack_size)
