def merge_into(target, changes):
    """Write `changes` into `target`, key by key, going down where both sides hold a dict.

    The target itself is changed, and returned as well so that calls can be chained.
    """
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            merge_into(target[key], value)
        else:
            target[key] = value
    return target
