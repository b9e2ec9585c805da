def places(points):
    """[(place, team, points)], best first, and by name among equals.

    Teams with equal points share a place; the place of a team is one more than the
    number of teams that have more points.
    """
    table = []
    place, last = 0, None
    for position, team in enumerate(sorted(points, key=lambda name: (-points[name], name)), start=1):
        if points[team] != last:
            place, last = position, points[team]
        table.append((place, team, points[team]))
    return table
