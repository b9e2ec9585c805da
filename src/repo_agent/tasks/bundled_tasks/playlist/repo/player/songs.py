from typing import NamedTuple


class Song(NamedTuple):
    title: str
    seconds: int

    @property
    def length(self):
        """ "3:05" """
        minutes, rest = divmod(self.seconds, 60)
        return f"{minutes}:{rest:02}"
