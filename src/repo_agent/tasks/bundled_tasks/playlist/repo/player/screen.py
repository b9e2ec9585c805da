from player.footer import footer, page_count
from player.pages import numbered_page


def screen(songs, number, size=10):
    """The lines shown for a page. Raises IndexError for a page that is not there."""
    pages = page_count(songs, size)
    if not 1 <= number <= pages:
        raise IndexError(f"no page {number}")
    lines = [f"{place}. {song.title} ({song.length})" for place, song in numbered_page(songs, number, size)]
    return [*lines, footer(number, pages)]
