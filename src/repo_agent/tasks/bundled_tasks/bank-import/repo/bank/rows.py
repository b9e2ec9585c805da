"""A bank file: a line of column names, then one line for each booking."""


def read_rows(text):
    """One dict a booking, by column name; blank lines are skipped."""
    names, *lines = text.split("\n")[:-1]
    columns = names.split(";")
    return [dict(zip(columns, line.split(";"))) for line in lines if line.strip()]
