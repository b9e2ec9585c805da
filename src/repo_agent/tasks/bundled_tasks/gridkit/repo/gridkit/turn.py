from gridkit.build import blank
from gridkit.check import require_even_rows


def transpose(grid):
    require_even_rows(grid)
    return [list(column) for column in zip(*grid)]


def turn_right(grid):
    """The grid after a quarter turn clockwise."""
    return [row[::-1] for row in transpose(grid)]


def pad(grid, fill=0):
    """The grid with a border of one cell on every side."""
    require_even_rows(grid)
    width = len(grid[0]) if grid else 0
    framed = blank(len(grid) + 2, width + 2, fill)
    for y, row in enumerate(grid, start=1):
        framed[y][1 : width + 1] = row
    return framed
