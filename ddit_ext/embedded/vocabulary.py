"""The words of the embedded model: its objects, colours, patterns and the grammar of its prompts."""

from __future__ import annotations

import re

GLYPH_SIZE = (136, 128)  # width and height of one bitmap of the font, in pixels

# Name -> character. The order is that of the sprite and of the classifier's outputs.
OBJECTS: dict[str, str] = {
    "pizza": "\U0001f355",
    "penguin": "\U0001f427",
    "cat": "\U0001f431",
    "rocket": "\U0001f680",
    "apple": "\U0001f34e",
    "banana": "\U0001f34c",
    "frog": "\U0001f438",
    "octopus": "\U0001f419",
    "car": "\U0001f697",
    "sunflower": "\U0001f33b",
    "cactus": "\U0001f335",
    "mushroom": "\U0001f344",
    "heart": "\u2764",
    "football": "\u26bd",
    "guitar": "\U0001f3b8",
    "umbrella": "\u2602",
    "snowman": "\u26c4",
    "pumpkin": "\U0001f383",
    "watermelon": "\U0001f349",
    "butterfly": "\U0001f98b",
    "panda": "\U0001f43c",
    "whale": "\U0001f433",
    "fish": "\U0001f420",
    "tree": "\U0001f332",
}

# Name -> sRGB.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 62, 62),
    "orange": (240, 148, 52),
    "yellow": (242, 214, 76),
    "green": (84, 170, 92),
    "blue": (70, 126, 214),
    "purple": (140, 88, 190),
    "pink": (240, 148, 186),
    "gray": (140, 144, 150),
}

# Name -> how the prompt says it.
PATTERNS: dict[str, str] = {
    "plain": "plain {colour}",
    "stripes": "{colour} stripes",
    "checks": "{colour} checks",
    "dots": "{colour} dots",
    "gradient": "{article} {colour} gradient",
}

OBJECT_NAMES = tuple(OBJECTS)
COLOUR_NAMES = tuple(COLOURS)
PATTERN_NAMES = tuple(PATTERNS)
WORDS = ("a", "an", "and", "on", *PATTERN_NAMES, *COLOUR_NAMES, *OBJECT_NAMES)

MOTIONS = ("drifting", "spinning", "bouncing", "growing")
"""What an object of a clip does; the word stands before the object."""

CLIP_WORDS = (*WORDS, *MOTIONS)


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def describe(
    objects: tuple[str, ...], pattern: str, colour: str, motions: tuple[str, ...] | None = None
) -> str:
    """The prompt of a scene, such as ``"a pizza and a penguin on blue stripes"``.

    With one motion an object, that of a clip: ``"a spinning pizza on red checks"``.
    """
    names = objects if motions is None else [f"{m} {o}" for m, o in zip(motions, objects, strict=True)]
    things = " and ".join(f"{_article(name)} {name}" for name in names)
    return f"{things} on {PATTERNS[pattern].format(colour=colour, article=_article(colour))}"


def parse(prompt: str) -> tuple[tuple[str, ...], str, str]:
    """Objects, pattern and colour that a prompt asks for; the inverse of :func:`describe`.

    Raises:
        ValueError: the prompt does not follow the grammar of the embedded model.
    """
    words = re.findall(r"[a-z]+", prompt.lower())
    objects = tuple(word for word in words if word in OBJECTS)
    colours = [word for word in words if word in COLOURS]
    patterns = [word for word in words if word in PATTERNS]
    if not objects or len(colours) != 1 or len(patterns) != 1:
        raise ValueError(
            "prompt must name one or two objects, one colour and one pattern of the embedded model "
            f"(such as 'a pizza and a penguin on blue stripes'), got {prompt!r}"
        )
    return objects, patterns[0], colours[0]
