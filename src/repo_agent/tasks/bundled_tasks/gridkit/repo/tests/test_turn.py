from gridkit.turn import pad, transpose, turn_right


def test_transpose():
    assert transpose([[1, 2, 3]]) == [[1], [2], [3]]


def test_turn_right():
    assert turn_right([[1, 2], [3, 4]]) == [[3, 1], [4, 2]]


def test_pad():
    assert pad([[7, 8]]) == [[0, 0, 0, 0], [0, 7, 8, 0], [0, 0, 0, 0]]
