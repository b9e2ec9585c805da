from riverbasin.network import Network


def basin_km(network: Network, name: str) -> int:
    """Length of a river and of everything that ends up in it."""
    return network.rivers[name].km + sum(basin_km(network, other) for other in network.tributaries(name))


def longest_course(network: Network, name: str) -> int:
    """Kilometres of the longest way that water takes to the mouth of this river."""
    own = network.rivers[name].km
    tributaries = network.tributaries(name)
    return own + max(longest_course(network, other) for other in tributaries)
