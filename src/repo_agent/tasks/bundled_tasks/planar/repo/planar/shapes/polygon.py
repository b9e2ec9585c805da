from planar.point import Point


class Polygon:
    """A simple polygon from its corners in walking order, either way round."""

    def __init__(self, corners: list[tuple[float, float]]):
        if len(corners) < 3:
            raise ValueError("a polygon has at least three corners")
        self.corners = [Point(*corner) for corner in corners]

    def sides(self) -> list[tuple[Point, Point]]:
        return list(zip(self.corners, self.corners[1:] + self.corners[:1]))

    @property
    def perimeter(self) -> float:
        return sum(a.distance(b) for a, b in self.sides())

    @property
    def area(self) -> float:
        twice = sum(a.x * b.y - b.x * a.y for a, b in self.sides())
        return twice / 2
