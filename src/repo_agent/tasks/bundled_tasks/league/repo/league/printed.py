from league.places import places
from league.points import totals


def printed(matches):
    """The table as text, one team a line."""
    return "\n".join(f"{place:>2} {team:<8} {points:>3}" for place, team, points in places(totals(matches)))
