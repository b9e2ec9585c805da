def require_size(rows, cols):
    if rows < 0 or cols < 0:
        raise ValueError(f"no grid has {rows} by {cols} cells")


def require_even_rows(grid):
    if len({len(row) for row in grid}) > 1:
        raise ValueError("rows differ in length")
