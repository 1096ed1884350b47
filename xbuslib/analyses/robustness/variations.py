"""Prompts that say something else than they should: what notebook 11 does to the prompts of a validation fold.

A variation changes what a prompt rests on (the policy, the attributes of a case, the size and location of a lesion) or
its wording. Nothing here knows a system or an image. `VARIATIONS` is the whole list, each with its rule in words.
"""

import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from xbuslib.errors import StudyError
from xbuslib.prompts.words import SIZES, Finding, mirror, resized, size_word

ATTRIBUTES = ("shape", "margin", "birads")
DRAWS = 3  # of what is drawn at random (shuffling, typos), averaged per image; every draw costs passes over the fold

# Degrees of suspicion of a lesion. 0 (not finished), 1 (nothing found) and 6 (proven by biopsy) are no such degrees.
SUBCATEGORIES, CATEGORIES = ("2", "3", "4a", "4b", "4c", "5"), ("2", "3", "4", "5")

# What is typical of the one class, given to the other.
BENIGN_WORDS = {"shape": "oval", "margin": "circumscribed", "birads": "3"}
MALIGNANT_WORDS = {"shape": "irregular", "margin": "not circumscribed - spiculated", "birads": "5"}
CONTRADICTION = {"benign": MALIGNANT_WORDS, "malignant": BENIGN_WORDS}

SYNONYMS = {  # plain words for the prompts' own
    "oval": "egg-shaped", "round": "circular", "irregular": "uneven", "shape": "form",
    "circumscribed": "well-defined", "not circumscribed": "poorly defined", "indistinct": "blurred",
    "angular": "sharp-cornered", "microlobulated": "finely scalloped", "spiculated": "spiky", "margin": "border",
    "BI-RADS": "breast imaging category",
    "lesion": "mass", "tumor": "mass", "small": "little", "medium": "middle-sized", "large": "big",
    "upper": "top", "lower": "bottom", "quadrant": "quarter", "image": "picture",
    "shows": "displays", "approximately": "about", "near": "close to",
}
_KNOWN = re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, sorted(SYNONYMS, key=len, reverse=True))) + r")(?![\w-])")


@dataclass(frozen=True)
class Variation:
    """One way to prompt otherwise. What is None or empty stays as in the baseline."""

    name: str
    group: str  # heading in tables and figures
    rule: str  # in words
    wrong: bool = False  # whether it replaces a statement by another one
    policy: str | None = None  # who supplies size and location (xbuslib.prompts)
    cases: Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame] | None = None  # other attributes
    finding: Callable[[Finding, tuple[float, float]], Finding] | None = None  # other size or location, given the edges
    texts: dict[str, Callable[[str, np.random.Generator], str]] = field(default_factory=dict)  # column: other wording
    fields: tuple[tuple[str, ...], ...] = ()  # of each of these, a system must read one prompt for it to matter
    draws: int = 1


def without(*attributes: str) -> Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]:
    """The cases with these attributes unknown."""
    return lambda cases, rng: cases.assign(**dict.fromkeys(attributes))


NO_ATTRIBUTES = without(*ATTRIBUTES)


def shuffled(cases: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Each case with the three attributes of another one: a random derangement, in which no case keeps its own place.

    Two cases may have been described alike, and then the words stay. Raises StudyError for fewer than two cases.
    """
    taken = cases.iloc[derangement(len(cases), rng)]
    return cases.assign(**{name: _words(cases, taken[name]) for name in ATTRIBUTES})


def derangement(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) a random permutation without a fixed point; drawn again until it has none (2.7 times on average)."""
    if n < 2:
        raise StudyError(f"attributes cannot be shuffled among {n} case(s); a fold needs two at least")
    while True:
        order = rng.permutation(n)
        if (order != np.arange(n)).all():
            return order


def contradictory(cases: pd.DataFrame, rng: np.random.Generator | None = None) -> pd.DataFrame:
    """Words typical of a malignant lesion for benign cases, and the other way round (CONTRADICTION).

    An attribute that is missing stays so, and a case that is neither keeps its words.
    """
    rows = [CONTRADICTION.get(pathology, {}) for pathology in cases["pathology"]]
    return cases.assign(**{name: _words(cases, (row.get(name, own) if pd.notna(own) else None
                                                for row, own in zip(rows, cases[name], strict=True)))
                           for name in ATTRIBUTES})


def birads_off(step: int) -> Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]:
    """One category up (step 1) or down (−1) in the list the dataset uses; at its end, one the other way."""
    def change(cases: pd.DataFrame, rng: np.random.Generator | None = None) -> pd.DataFrame:
        scale = birads_scale(cases["birads"])
        return cases.assign(birads=_words(cases, (other_birads(value, scale, step) for value in cases["birads"])))
    return change


def _words(cases: pd.DataFrame, values: Iterable[str | None]) -> pd.Series:
    """A column for `cases` in which None stays None: a column of text would make it nan, which a prompt spells out."""
    return pd.Series(list(values), index=cases.index, dtype=object)


def birads_scale(values: Iterable[str | None]) -> tuple[str, ...]:
    """SUBCATEGORIES if one of 4a, 4b, 4c is among the `values`, else CATEGORIES."""
    return SUBCATEGORIES if {"4a", "4b", "4c"} & set(values) else CATEGORIES


def other_birads(value: str | None, scale: tuple[str, ...], step: int) -> str | None:
    """The neighbour of `value` in `scale`; a 4 without sub-category has 3 and 5; 0, 1, 6 and unknown stay."""
    scale = CATEGORIES if value == "4" else scale
    return neighbour(value, scale, step) if value in scale else value


def neighbour(value: str, scale: tuple[str, ...], step: int) -> str:
    """The value one `step` on in `scale`, or one step back where the list ends."""
    at = scale.index(value)
    return scale[at + step] if 0 <= at + step < len(scale) else scale[at - step]


def size_off(step: int) -> Callable[[Finding, tuple[float, float]], Finding]:
    """One size class up or down; at the end of the list, one the other way."""
    return lambda finding, edges: _other_size(finding, edges, lambda word: neighbour(word, SIZES, step))


def size_opposite(finding: Finding, edges: tuple[float, float]) -> Finding:
    """Small becomes large and large small; medium has no opposite and stays."""
    return _other_size(finding, edges, lambda word: SIZES[2 - SIZES.index(word)])


def _other_size(finding: Finding, edges: tuple[float, float], change: Callable[[str], str]) -> Finding:
    """The finding in another size class; prompts in words name the class alone, those of the released code the box."""
    own = size_word(finding.box, edges)
    word = own and change(own)
    return finding if word == own else resized(finding, word, edges)


def flip(finding: Finding) -> Finding:
    """The same lesion in the image turned upside down: upper becomes lower (`prompts.mirror`: left and right)."""
    height, (x, y) = finding.frame[1], finding.inside
    centre, contour_centre = (None if point is None else (point[0], height - 1 - point[1])
                              for point in (finding.centre, finding.contour_centre))
    return replace(finding, centre=centre, inside=(x, 1 - y), contour_centre=contour_centre)


def synonyms(text: str, rng: np.random.Generator | None = None) -> str:
    """`text` in plain words (SYNONYMS)."""
    return _KNOWN.sub(lambda found: SYNONYMS[found[0]], text)


def typos(text: str, rng: np.random.Generator) -> str:
    """One typing error in every word: two neighbouring letters swapped, or one letter dropped, with equal odds.

    Words of one letter stay, and so does what holds a digit: a wrong digit would be another finding.
    """
    return " ".join(_typo(word, *rng.random(2)) for word in text.split(" "))


def _typo(word: str, kind: float, where: float) -> str:
    letters = [i for i, sign in enumerate(word) if sign.isalpha()]
    if len(letters) < 2 or any(sign.isdigit() for sign in word):
        return word
    swaps = [i for i in letters if i + 1 in letters and word[i] != word[i + 1]]
    if swaps and kind < 0.5:
        i = swaps[int(where * len(swaps))]
        return word[:i] + word[i + 1] + word[i] + word[i + 2:]
    i = letters[int(where * len(letters))]
    return word[:i] + word[i + 1:]


def reworded(table: pd.DataFrame, variation: Variation, draw: int) -> pd.DataFrame:
    """A table of prompts (prompts.build) with the variation's wording; a case has a random stream of its own."""
    changed = {}
    for column, change in variation.texts.items():
        streams = [np.random.default_rng([draw, zlib.crc32(case.encode())]) for case in table["case_id"]]
        changed[column] = [change(*pair) for pair in zip(table[column], streams, strict=True)]
    return table.assign(**changed)


_LOCAL, _SIZE, _PLACE = ("local_text",), ("global_text",), ("global_text", "point")
POLICY, LESS, WRONG_WORDS, WORDING, SPATIAL, ALL = (
    "who gives size and location", "attributes left out", "attributes wrong", "wording", "size or location wrong",
    "everything at once")


def _policies() -> list[Variation]:
    rules = {"reference": "size and location from the reference mask",
             "paper": "size from the reference mask, location from the first pass",
             "first_pass": "size and location from the model's own first pass", "none": "neither size nor location"}
    return [Variation(f"policy {name}", POLICY, rule, policy=name, fields=(_PLACE,)) for name, rule in rules.items()]


def _attributes() -> list[Variation]:
    words = {"shape": "shape", "margin": "margin", "birads": "BI-RADS"}
    left_out = [Variation(f"no {word}", LESS, f"{word} left out", cases=without(name), fields=(_LOCAL,))
                for name, word in words.items()]
    wrong = (
        ("shuffled", "attributes of another case of the fold", shuffled, DRAWS),
        ("contradictory", "oval, circumscribed, BI-RADS 3 for malignant; irregular, spiculated, BI-RADS 5 for benign",
         contradictory, 1),
        ("BI-RADS one up", "the next higher category; 5 becomes the one below", birads_off(1), 1),
        ("BI-RADS one down", "the next lower category; 2 becomes 3", birads_off(-1), 1))
    return [*left_out, Variation("no attributes", LESS, "all three left out", cases=NO_ATTRIBUTES,
                                 fields=(_LOCAL,)),
            *(Variation(name, WRONG_WORDS, rule, True, cases=change, fields=(_LOCAL,), draws=draws)
              for name, rule, change, draws in wrong)]


def _wording() -> list[Variation]:
    return [Variation(f"{name} in {what}", WORDING, f"{rule}, in {what}", texts={column: change}, fields=((column,),),
                      draws=draws)
            for column, what in (("local_text", "attributes"), ("global_text", "size and location"))
            for name, rule, change, draws in (("synonyms", "plain words from a fixed table", synonyms, 1),
                                              ("typos", "a letter swapped or dropped in every word", typos, DRAWS))]


def _spatial() -> list[Variation]:
    changes = (
        ("size one up", "the next larger class; large becomes medium", size_off(1), _SIZE),
        ("size one down", "the next smaller class; small becomes medium", size_off(-1), _SIZE),
        ("size opposite", "small for large and large for small; medium stays", size_opposite, _SIZE),
        ("left for right", "the place mirrored horizontally", lambda finding, edges: mirror(finding), _PLACE),
        ("upper for lower", "the place mirrored vertically", lambda finding, edges: flip(finding), _PLACE),
        ("opposite quadrant", "the place mirrored both ways", _opposite, _PLACE))
    return [Variation(name, SPATIAL, rule, True, finding=change, fields=(needed,))
            for name, rule, change, needed in changes]


def _opposite(finding: Finding, edges: tuple[float, float]) -> Finding:
    return flip(mirror(finding))


VARIATIONS = (
    *_policies(), *_attributes(), *_wording(), *_spatial(),
    Variation("nothing given", ALL, "no attributes, no size, no location", policy="none", cases=NO_ATTRIBUTES,
              fields=(_LOCAL, _PLACE)),
    Variation("all wrong", ALL, "contradictory attributes, opposite size, opposite quadrant", True,
              cases=contradictory, finding=lambda finding, edges: _opposite(size_opposite(finding, edges), edges),
              fields=(_LOCAL, _SIZE, _PLACE)),
)
UNVARIED = Variation("as it is", "", "the baseline")


def applicable(read: tuple[str, ...]) -> tuple[list[Variation], list[Variation]]:
    """(variations that can matter, those that cannot) for a system that reads these prompts (System.prompts)."""
    can = [variation for variation in VARIATIONS if all(set(needed) & set(read) for needed in variation.fields)]
    return can, [variation for variation in VARIATIONS if variation not in can]
