"""Points for a match. A win gives 3, a draw 1, and a goalless draw nothing to either side."""


def match_points(home, away):
    if home == away:
        share = 1 if home else 0
        return share, share
    return (3, 0) if home > away else (0, 3)


def totals(matches):
    """{team: points} from (home team, away team, home goals, away goals)."""
    points = {}
    for home, away, home_goals, away_goals in matches:
        gained = match_points(home_goals, away_goals)
        for team, more in zip((home, away), gained):
            points[team] = points.get(team, 0) + more
    return points
