class Buffer:
    """Text in which a stretch can be replaced by another."""

    def __init__(self, text=""):
        self.text = text

    def replace(self, start, length, new):
        """Put `new` in place of `length` characters from `start`; return what was there.

        Raises IndexError where the stretch does not lie within the text.
        """
        if start < 0 or length < 0 or start + length > len(self.text):
            raise IndexError("outside the text")
        old = self.text[start : start + length]
        self.text = self.text[:start] + new + self.text[start + length :]
        return old
