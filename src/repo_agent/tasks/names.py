"""Names of many kinds for generated programs: syllables, words, compounds, random letters.

Names fall into two pools: those kept for the suites, and those that the tiny base model may see in its pre-training.
Words have a list for each pool, and pre-training also sees words spliced of two halves, so that it learns to copy words
rather than to know them; made-up names fall by their SHA-256, one in eight to the suites.
"""

from __future__ import annotations

import builtins
import hashlib
import keyword
import random
import sys
from functools import cache

_FRONTS = tuple("and app are as at be by for if in is lib max no of on py to use".split())
"""No suite name begins with one of these, which a tokenizer cuts otherwise after a space than after a slash, and
none is long or holds a letter twice: a tiny model copies by looking up what followed the last letters it wrote."""
LONGEST = 7
_TRIES = 40
"""Draws of one kind before another is tried: words run out."""
SUITE_SHARE = 8
"""One made-up name in so many belongs to the suites' pool."""

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
_SUITE_WORDS = """
almond alpine amulet antler apron badger balcony banjo basket bonfire brisket cashew cavern chariot chisel
cloak copse cougar dinghy elm fable fathom filbert flagon flint frigate gable gherkin gourd gypsum hamlet
hemlock hickory jasper kiln larch leopard lichen limpet lodge lynx marlin mistral moraine nectar obelisk
osprey pelican piston plover quiver sapling sickle spindle sundial tundra turnip urchin walrus wicker
""".split()
_TAKEN = (
    frozenset(keyword.kwlist)
    | frozenset(sys.stdlib_module_names)
    | frozenset(dir(builtins))
    | {"tests", "src", "lib", "app", "pkg", "pytest", "items", "total", "value", "text", "left", "right"}
)


@cache
def _seen_words() -> tuple[list[str], frozenset[str]]:
    """The words of pre-training, in order and as a set: real ones, and the front of one on the back of another."""
    spliced = {front[: len(front) // 2] + back[len(back) // 2 :] for front in _WORDS for back in _WORDS}
    words = sorted((spliced | set(_WORDS)) - set(_SUITE_WORDS))
    return words, frozenset(words)


def in_suite_pool(name: str) -> bool:
    """Whether a name is kept for suites, and so unseen in pre-training."""
    first = name.split("_")[0]
    if first in _SUITE_WORDS:
        return True
    if first in _seen_words()[1]:
        return False
    return hashlib.sha256(name.encode()).digest()[0] % SUITE_SHARE == 0


class NamePool:
    """Draws names from one of the two pools, never the same word twice: not in two names, nor in one."""

    def __init__(self, rng: random.Random, *, suite: bool) -> None:
        self._rng, self._suite = rng, suite
        self._words = _SUITE_WORDS if suite else _seen_words()[0]
        self._used: set[str] = set()

    def draw(self) -> str:
        """A new lower-case identifier that is no keyword, builtin or standard module."""
        while True:
            kind = self._rng.choice(_KINDS)
            for _ in range(_TRIES):
                name = kind(self._rng, self._words)
                words = name.split("_")
                fresh = len({*words}) == len(words) and self._used.isdisjoint(words) and name not in _TAKEN
                easy = not self._suite or all(map(_easy, words))
                if fresh and easy and in_suite_pool(name) == self._suite:
                    self._used.update(words)
                    return name


def _easy(word: str) -> bool:
    return len(word) <= LONGEST and len({*word}) == len(word) and not word.startswith(_FRONTS)


def _syllables(rng: random.Random, _words: list[str]) -> str:
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(2)]
    return "".join(parts)


def _compound(rng: random.Random, words: list[str]) -> str:
    first, second = sorted((rng.choice(words) for _ in range(6)), key=len)[:2]
    return f"{first}_{second}"


def _letters(rng: random.Random, _words: list[str]) -> str:
    return "".join(rng.sample("abcdefghijklmnopqrstuvwxyz", rng.randint(3, 6)))


def _word(rng: random.Random, words: list[str]) -> str:
    return rng.choice(words)


_KINDS = (_syllables, _syllables, _word, _compound, _letters)
