from stockroom.items import Item
from stockroom.ledger import Ledger, OutOfStock
from stockroom.reorder import reorder_list

__all__ = ["Item", "Ledger", "OutOfStock", "reorder_list"]
