"""Names of many kinds for generated programs: syllables, words, compounds, random letters.

Names fall into two pools by their SHA-256: one in eight is kept for the suites, the rest may be seen by the tiny base
model in its pre-training. No name of a suite therefore occurs in pre-training.
"""

from __future__ import annotations

import builtins
import hashlib
import keyword
import random
import sys

SUITE_SHARE = 8
"""One name in so many belongs to the suites' pool."""

_ONSETS = "b br c ch cl d dr f fl g gl gr h j k kr l m n p pl pr qu r s sk sl sp st t th tr v w y z".split()
_VOWELS = "a e i o u ai ea ee io oa ou".split()
_CODAS = ["", "", "", "l", "m", "n", "r", "s", "t", "nd", "rk", "x"]
_WORDS = """
acorn amber anchor apple arrow aspen badge bamboo barley basil beacon berry birch bishop blanket blossom bottle boulder
branch breeze bridge bronze brook bucket butter button cabin cactus camel canal candle canyon carbon cargo carpet castle
cedar cellar chapel cherry chimney cinder circle citrus clover cobalt coffee comet compass copper coral cotton cradle
crater cricket crystal curtain cypress dagger daisy dancer desert diamond dolphin dragon drawer eagle echo ember emerald
engine envelope falcon farmer feather fennel ferry fiddle finch flannel flower forest fossil fountain garden garlic
garnet ginger glacier goblet granite gravel grove hammer harbor harvest hazel heron hollow honey hunter indigo island
ivory jacket jasmine jungle juniper kernel kettle kitten ladder lagoon lantern lemon lilac linen lizard locket lotus
magnet mango maple marble meadow melon mercury mirror monsoon morning mosaic mountain muffin needle nettle nickel nutmeg
oasis ocean olive onion orbit orchard otter oyster paddle panther paper parrot pasture peach pebble pencil pepper petal
pigeon pillow pistol planet plaster pocket pollen poplar potato powder prairie prism puddle pumpkin quarry quartz rabbit
radish raven ribbon river rocket saddle saffron salmon sandal satin scarf season shadow shelter shovel silver sparrow
spider spinach spiral spruce squirrel stable statue storm sugar summit sunset swallow tablet temple thistle thunder
timber tomato topaz tower trumpet tulip tunnel turtle valley vanilla velvet village violet violin walnut water weasel
whistle willow window winter wizard yellow zebra zephyr
""".split()
_TAKEN = (
    frozenset(keyword.kwlist)
    | frozenset(sys.stdlib_module_names)
    | frozenset(dir(builtins))
    | {"tests", "src", "lib", "app", "pkg", "pytest", "items", "total", "value", "text", "left", "right"}
)


def in_suite_pool(name: str) -> bool:
    """Whether a name is kept for suites, and so unseen in pre-training."""
    return hashlib.sha256(name.encode()).digest()[0] % SUITE_SHARE == 0


class NamePool:
    """Draws names from one of the two pools, never the same one twice."""

    def __init__(self, rng: random.Random, *, suite: bool) -> None:
        self._rng, self._suite = rng, suite
        self._used: set[str] = set()

    def draw(self) -> str:
        """A new lower-case identifier that is no keyword, builtin or standard module."""
        while True:
            name = self._rng.choice(_KINDS)(self._rng)
            fresh = name not in self._used and name not in _TAKEN
            if fresh and in_suite_pool(name) == self._suite:
                self._used.add(name)
                return name


def _syllables(rng: random.Random) -> str:
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.randint(2, 3))]
    return "".join(parts)


def _compound(rng: random.Random) -> str:
    return f"{rng.choice(_WORDS)}_{rng.choice(_WORDS)}"


def _letters(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(4, 8)))


def _word(rng: random.Random) -> str:
    return rng.choice(_WORDS)


_KINDS = (_syllables, _syllables, _word, _compound, _letters)
