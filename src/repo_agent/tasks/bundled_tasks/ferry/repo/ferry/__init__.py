from ferry.journey import NoRoute, hops, minutes
from ferry.line import Line

__all__ = ["Line", "NoRoute", "hops", "minutes"]
