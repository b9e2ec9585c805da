from editor.buffer import Buffer
from editor.history import Edit, History


class Session:
    def __init__(self, text=""):
        self.buffer = Buffer(text)
        self.history = History()

    @property
    def text(self):
        return self.buffer.text

    def replace(self, start, length, new):
        old = self.buffer.replace(start, length, new)
        self.history.record(Edit(start, old, new))

    def type(self, new):
        """Add text at the end."""
        self.replace(len(self.text), 0, new)

    def undo(self):
        return self._apply(self.history.undo())

    def redo(self):
        return self._apply(self.history.redo())

    def _apply(self, edit):
        """Apply an edit from the history; False where there is none."""
        if edit is None:
            return False
        self.buffer.replace(edit.start, len(edit.old), edit.new)
        return True
