from league.points import match_points, totals


def test_match_points():
    assert match_points(2, 1) == (3, 0)
    assert match_points(0, 4) == (0, 3)
    assert match_points(2, 2) == (1, 1)


def test_goalless_draw_gives_nothing():
    assert match_points(0, 0) == (0, 0)


def test_totals():
    assert totals([("Elms", "Oaks", 1, 0), ("Oaks", "Elms", 2, 2)]) == {"Elms": 4, "Oaks": 1}
