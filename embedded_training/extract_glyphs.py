"""Draws the scene objects from the Noto Color Emoji font into one sprite: embedded/ddit_ext_embedded/assets/glyphs.png.

The font is Debian's package fonts-noto-color-emoji (SIL Open Font License 1.1, whose text lies beside the sprite).
Names and groups follow the Unicode short names as listed by the npm package emoji-datasource-google.

    python embedded_training/extract_glyphs.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ddit_ext.embedded.vocabulary import GLYPH_SIZE, OBJECTS

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
BITMAP_SIZE = 109  # the one size at which the font holds its 136x128 bitmaps


def extract(font_path: str, out: Path) -> None:
    font = ImageFont.truetype(font_path, BITMAP_SIZE)
    width, height = GLYPH_SIZE
    sprite = Image.new("RGBA", (width * len(OBJECTS), height))
    for column, character in enumerate(OBJECTS.values()):
        glyph = Image.new("RGBA", (width, height))
        ImageDraw.Draw(glyph).text((0, 0), character, font=font, embedded_color=True)
        if glyph.getbbox() is None:
            raise SystemExit(f"the font has no bitmap for {character!r}")
        sprite.paste(glyph, (column * width, 0))
    out.parent.mkdir(parents=True, exist_ok=True)
    sprite.save(out, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--font", default=FONT)
    parser.add_argument("--out", type=Path, default=Path("embedded/ddit_ext_embedded/assets/glyphs.png"))
    arguments = parser.parse_args()
    extract(arguments.font, arguments.out)
