def page_count(songs, size):
    """Pages that the songs fill, wholly or partly; an empty playlist has one empty page."""
    return max(-(-len(songs) // size), 1)


def footer(number, pages):
    older = "<" if number > 1 else " "
    newer = ">" if number < pages else " "
    return f"{older} {number} of {pages} {newer}"
