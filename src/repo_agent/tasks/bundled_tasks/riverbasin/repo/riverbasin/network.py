from dataclasses import dataclass


@dataclass(frozen=True)
class River:
    name: str
    km: int
    flows_into: str | None = None


class Network:
    def __init__(self, rivers):
        self.rivers = {river.name: river for river in rivers}
        for river in rivers:
            if river.flows_into is not None and river.flows_into not in self.rivers:
                raise ValueError(f"{river.name} flows into an unknown river")

    def tributaries(self, name):
        """Rivers that flow straight into this one, by name."""
        return sorted(river.name for river in self.rivers.values() if river.flows_into == name)

    def downstream(self, name):
        """The rivers that water passes on its way to the sea, this one first."""
        passed = []
        while name is not None:
            passed.append(name)
            name = self.rivers[name].flows_into
        return passed
