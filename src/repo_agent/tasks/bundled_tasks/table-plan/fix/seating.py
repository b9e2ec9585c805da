"""Who sits where at a dinner."""


class TableFull(Exception):
    pass


class Table:
    def __init__(self, number, seats=8, guests=None):
        self.number = number
        self.seats = seats
        self.guests = list(guests or [])

    @property
    def free(self):
        return self.seats - len(self.guests)

    def seat(self, guest):
        """Put a guest at this table; a guest who sits here already stays. Raises TableFull."""
        if guest in self.guests:
            return
        if self.free < 1:
            raise TableFull(f"table {self.number} is full")
        self.guests.append(guest)


def place(party, tables):
    """Seat a whole party at the first table with room for all of it; return that table or None."""
    for table in tables:
        if table.free >= len(party):
            for guest in party:
                table.seat(guest)
            return table
    return None
