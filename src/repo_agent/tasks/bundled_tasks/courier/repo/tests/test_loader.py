import pytest

from courier.loading.loader import Loader, TooHeavy
from courier.manifest import manifest
from courier.parcel import Parcel


def parcels(*grams):
    return [Parcel(f"P{index}", weight) for index, weight in enumerate(grams, start=1)]


def test_one_van():
    assert manifest(parcels(200, 300), limit=500) == ["1: P1 P2 (500 g)"]


def test_no_parcels():
    assert manifest([], limit=500) == []


def test_second_van_is_filled_too():
    lines = manifest(parcels(400, 200, 100, 150), limit=500)
    assert lines == ["1: P1 (400 g)", "2: P2 P3 P4 (450 g)"]


def test_departing_twice_sends_one_van():
    loader = Loader(500)
    loader.add(Parcel("A", 10))
    loader.depart()
    loader.depart()
    assert len(loader.vans) == 1


def test_load_starts_from_nothing():
    loader = Loader(500)
    loader.add(Parcel("A", 450))
    loader.depart()
    loader.add(Parcel("B", 450))
    assert [[parcel.code for parcel in van] for van in loader.vans] == [["A"]]
    assert loader.grams == 450


def test_parcel_heavier_than_any_van():
    with pytest.raises(TooHeavy):
        Loader(500).add(Parcel("A", 501))
