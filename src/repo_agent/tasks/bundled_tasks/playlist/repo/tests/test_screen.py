import pytest

from player.screen import screen
from player.songs import Song

SONGS = [Song(f"Take {number}", 60 * number) for number in range(1, 8)]


def test_last_page():
    assert screen(SONGS, 3, size=3) == ["7. Take 7 (7:00)", "< 3 of 3  "]


def test_full_last_page():
    assert screen(SONGS[:6], 2, size=3)[-1] == "< 2 of 2  "


@pytest.mark.parametrize("number", [0, 4])
def test_no_such_page(number):
    with pytest.raises(IndexError):
        screen(SONGS, number, size=3)
