import pytest

from planar.shapes import Polygon


def test_perimeter_closes_the_ring():
    assert Polygon([(0, 0), (3, 0), (3, 4)]).perimeter == 12


def test_area_anticlockwise():
    assert Polygon([(0, 0), (3, 0), (3, 4)]).area == 6


def test_area_clockwise():
    assert Polygon([(3, 4), (3, 0), (0, 0)]).area == 6


def test_two_corners_are_not_enough():
    with pytest.raises(ValueError):
        Polygon([(0, 0), (1, 1)])
