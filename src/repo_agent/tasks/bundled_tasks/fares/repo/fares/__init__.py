from fares.quote import quote

__all__ = ["quote"]
