class TooHeavy(Exception):
    """A parcel that no van can carry."""


class Loader:
    """Fills vans with parcels in the order in which they come."""

    def __init__(self, limit):
        self.limit = limit
        self.vans = []
        self.current = []
        self.grams = 0

    def add(self, parcel):
        if parcel.grams > self.limit:
            raise TooHeavy(parcel.code)
        if self.grams + parcel.grams > self.limit:
            self.depart()
        self.current.append(parcel)
        self.grams += parcel.grams

    def depart(self):
        """Send the current van off, if anything is in it."""
        if self.current:
            self.vans.append(self.current)
        self.current = []
        self.grams = 0
