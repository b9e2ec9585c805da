from math import hypot
from typing import NamedTuple


class Point(NamedTuple):
    x: float
    y: float

    def distance(self, other: "Point") -> float:
        return hypot(self.x - other.x, self.y - other.y)
