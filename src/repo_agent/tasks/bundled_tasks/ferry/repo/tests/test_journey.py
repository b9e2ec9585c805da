import pytest

from ferry import Line, NoRoute, hops, minutes

PIERS = ["Quay", "Isle", "Fort", "Mole"]


def test_forward():
    assert hops(Line(PIERS), "Isle", "Mole") == 2


def test_ring_goes_round():
    assert hops(Line(PIERS, ring=True), "Mole", "Isle") == 2


def test_minutes():
    assert minutes(Line(PIERS), "Quay", "Fort") == 27
    assert minutes(Line(PIERS), "Quay", "Quay") == 0


def test_against_the_direction():
    with pytest.raises(NoRoute):
        hops(Line(PIERS), "Fort", "Quay")


def test_pier_that_the_ring_does_not_serve():
    with pytest.raises(NoRoute):
        hops(Line(PIERS, ring=True), "Quay", "Lighthouse")
