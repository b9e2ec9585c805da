import pytest

from editor.buffer import Buffer


def test_replace_returns_what_was_there():
    buffer = Buffer("a cat sat")
    assert buffer.replace(2, 3, "horse") == "cat"
    assert buffer.text == "a horse sat"


def test_insert_at_the_end():
    buffer = Buffer("ab")
    assert buffer.replace(2, 0, "c") == ""
    assert buffer.text == "abc"


@pytest.mark.parametrize("start, length", [(-1, 1), (2, 2), (4, 0)])
def test_outside_the_text(start, length):
    with pytest.raises(IndexError):
        Buffer("abc").replace(start, length, "")
