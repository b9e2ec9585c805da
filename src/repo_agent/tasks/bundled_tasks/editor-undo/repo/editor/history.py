from typing import NamedTuple


class Edit(NamedTuple):
    start: int
    old: str
    new: str

    def reversed(self):
        return Edit(self.start, self.new, self.old)


class History:
    """Edits that can be taken back, and those that were taken back and can be made again."""

    def __init__(self):
        self.done = []
        self.undone = []

    def record(self, edit):
        self.done.append(edit)

    def undo(self):
        """The edit to apply for an undo, or None."""
        if not self.done:
            return None
        self.undone.append(self.done.pop())
        return self.undone[-1].reversed()

    def redo(self):
        """The edit to apply for a redo, or None."""
        if not self.undone:
            return None
        self.done.append(self.undone.pop())
        return self.done[-1]
