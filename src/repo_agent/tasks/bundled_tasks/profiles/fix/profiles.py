from copy import deepcopy

from defaults import DEFAULTS
from merge import merge_into

PROFILES = {
    "plain": {},
    "night": {"theme": {"name": "dark"}},
    "narrow": {"editor": {"tab": 2}},
}


def load(name, overrides=None):
    """All settings of a profile: the defaults, the profile's own, then `overrides`."""
    if name not in PROFILES:
        raise KeyError(f"no profile {name!r}; there are {', '.join(sorted(PROFILES))}")
    settings = deepcopy(DEFAULTS)
    merge_into(settings, PROFILES[name])
    return merge_into(settings, overrides or {})
