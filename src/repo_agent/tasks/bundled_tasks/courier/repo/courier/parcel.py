from dataclasses import dataclass


@dataclass(frozen=True)
class Parcel:
    code: str
    grams: int

    def __post_init__(self):
        if self.grams < 1:
            raise ValueError(f"parcel {self.code} weighs nothing")
