"""Shelf labels of a warehouse, such as `B-12`: an aisle letter and a bay number."""


def split_label(label):
    """`b-7` -> ("B", "7"). Raises ValueError for anything else."""
    aisle, dash, bay = label.strip().partition("-")
    if not dash or not aisle.isalpha() or not bay.isdigit():
        raise ValueError(f"not a shelf label: {label!r}")
    return aisle.upper(), bay


def walk_key(label):
    aisle, bay = split_label(label)
    return aisle, bay


def walking_order(labels):
    """The labels in the order in which a picker passes them."""
    return sorted(labels, key=walk_key)


def bays_by_aisle(labels):
    """{"A": ["1", "4"], …}, both levels in walking order."""
    found = {}
    for label in walking_order(labels):
        aisle, bay = split_label(label)
        found.setdefault(aisle, []).append(bay)
    return found
