"""Which fields are large enough to be registered."""

from planar.shapes import Polygon


def registered(fields: dict[str, Polygon], smallest: float = 1.0) -> list[str]:
    """Names of the fields of at least `smallest` area, largest first."""
    kept = [name for name, field in fields.items() if field.area >= smallest]
    return sorted(kept, key=lambda name: (-fields[name].area, name))
