from riverbasin.course import basin_km, longest_course
from riverbasin.network import Network, River

NETWORK = Network(
    [
        River("Orr", 40),
        River("Tamm", 25, "Orr"),
        River("Ness", 10, "Orr"),
        River("Dill", 30, "Ness"),
    ]
)


def test_basin():
    assert basin_km(NETWORK, "Orr") == 105


def test_source():
    assert longest_course(NETWORK, "Dill") == 30


def test_longest_of_several():
    assert longest_course(NETWORK, "Orr") == 80
