"""Which songs stand on which page. Pages are counted from 1, and so are songs."""


def bounds(number, size):
    """Index of the first song on a page, and of the first one after it."""
    return (number - 1) * size, number * size


def numbered_page(songs, number, size):
    """[(song number, song)] of a page; the last page may hold fewer than `size`."""
    first, after = bounds(number, size)
    return list(enumerate(songs[first:after], start=first + 1))
