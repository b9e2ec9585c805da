class Line:
    """Piers in the order of travel. A ring goes from its last pier back to the first."""

    def __init__(self, piers, ring=False):
        if len(set(piers)) != len(piers):
            raise ValueError("a line calls at each pier once")
        self.piers = list(piers)
        self.ring = ring

    def after(self, pier):
        """The next pier, or None at the end of a line that is no ring."""
        index = self.piers.index(pier) + 1
        if index < len(self.piers):
            return self.piers[index]
        return self.piers[0] if self.ring else None
