from player.footer import footer, page_count
from player.pages import numbered_page
from player.songs import Song


def test_page_is_numbered_through():
    assert numbered_page("abcdefg", 2, 3) == [(4, "d"), (5, "e"), (6, "f")]


def test_last_page_may_be_short():
    assert numbered_page("abcdefg", 3, 3) == [(7, "g")]


def test_page_count():
    assert [page_count("x" * songs, 3) for songs in (0, 1, 3, 4, 6, 7)] == [1, 1, 1, 2, 2, 3]


def test_footer():
    assert footer(2, 3) == "< 2 of 3 >"
    assert footer(1, 1) == "  1 of 1  "


def test_length():
    assert Song("Intro", 65).length == "1:05"
