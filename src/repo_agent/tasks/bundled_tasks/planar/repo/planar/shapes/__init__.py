from planar.shapes.polygon import Polygon

__all__ = ["Polygon"]
