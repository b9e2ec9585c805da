"""Small rectangular grids as lists of rows."""
