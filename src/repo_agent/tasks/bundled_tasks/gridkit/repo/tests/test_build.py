import pytest

from gridkit.build import blank, diagonal, from_text


def test_blank_has_the_size_asked_for():
    assert blank(2, 3, ".") == [[".", ".", "."], [".", ".", "."]]


def test_rows_are_independent():
    grid = blank(3, 2)
    grid[1][0] = 9
    assert grid == [[0, 0], [9, 0], [0, 0]]


def test_diagonal():
    assert diagonal([5, 6]) == [[5, 0], [0, 6]]


def test_negative_size():
    with pytest.raises(ValueError):
        blank(-1, 2)


def test_from_text():
    assert from_text("ab\ncd") == [["a", "b"], ["c", "d"]]
