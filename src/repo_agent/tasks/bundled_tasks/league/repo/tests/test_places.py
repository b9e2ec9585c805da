from league.places import places
from league.printed import printed


def test_no_ties():
    assert places({"Oaks": 4, "Elms": 9}) == [(1, "Elms", 9), (2, "Oaks", 4)]


def test_shared_first_place():
    assert [place for place, _, _ in places({"Elms": 7, "Oaks": 7, "Firs": 3})] == [1, 1, 3]


def test_shared_last_place():
    assert [place for place, _, _ in places({"Elms": 0, "Oaks": 0, "Firs": 3})] == [1, 2, 2]


def test_empty():
    assert places({}) == []


def test_printed():
    matches = [("Elms", "Firs", 1, 0), ("Oaks", "Firs", 2, 1)]
    assert printed(matches) == " 1 Elms       3\n 1 Oaks       3\n 3 Firs       0"
