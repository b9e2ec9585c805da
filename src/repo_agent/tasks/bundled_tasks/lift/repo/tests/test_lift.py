from direction import first_direction, toward
from route import plan
from travel import floors_travelled


def test_toward():
    assert [toward(3, floor) for floor in (1, 3, 9)] == [-1, 0, 1]


def test_idle_lift_sets_off_to_the_nearest_call():
    assert first_direction(4, {1, 6}) == 1
    assert first_direction(4, {2, 6}) == 1
    assert first_direction(4, set()) == 0


def test_all_above():
    assert plan(0, [7, 2, 4]) == [2, 4, 7]


def test_up_then_down():
    assert plan(5, [1, 3, 8], heading=1) == [8, 3, 1]


def test_down_then_up():
    assert plan(5, [1, 3, 8, 6], heading=-1) == [3, 1, 6, 8]


def test_call_from_the_same_floor():
    assert plan(2, [2, 2, 3]) == [2, 3]
    assert plan(2, []) == []


def test_floors_travelled():
    assert floors_travelled(5, [1, 3, 8], heading=1) == 10
