from gridkit.check import require_size


def blank(rows, cols, fill=0):
    """A new grid of `rows` by `cols` cells."""
    require_size(rows, cols)
    return [[fill] * cols for _ in range(rows)]


def diagonal(values):
    """A square grid with `values` from top left to bottom right and 0 elsewhere."""
    values = list(values)
    grid = blank(len(values), len(values))
    for index, value in enumerate(values):
        grid[index][index] = value
    return grid


def from_text(text):
    """One row a line, one cell a character."""
    return [list(line) for line in text.splitlines()]
