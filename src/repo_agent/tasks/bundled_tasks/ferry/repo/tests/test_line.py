import pytest

from ferry import Line


def test_end_of_a_line():
    assert Line(["Quay", "Isle"]).after("Isle") is None


def test_ring_closes():
    assert Line(["Quay", "Isle"], ring=True).after("Isle") == "Quay"


def test_pier_twice():
    with pytest.raises(ValueError):
        Line(["Quay", "Isle", "Quay"])
