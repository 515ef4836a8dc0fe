"""Text in pictures: as it is, never as a formula, and in whatever font of this system has its characters."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING

from aicl_fast.errors import AiclWarning

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_FONTS = 4
"""Added to the usual one for a picture."""


def prepare_text(figure: Figure, source: object) -> bool:
    """Make a figure's texts plain, and give them fonts for all their characters.

    Args:
        source: the picture's name, for the warning about characters that no font here has.
    Returns:
        Whether a font was found for every character.
    """
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    characters: set[str] = set()
    for text in texts:
        text.set_parse_math(False)
        text.set_usetex(False)
        characters.update(text.get_text())
    families = FontProperties().get_family()
    usual = _characters(findfont(FontProperties()))
    lacking = {character for character in characters - usual if not character.isspace()}
    if not lacking:
        return True
    more, lacking_still = _fonts_with(frozenset(lacking))
    for text in texts:
        if not lacking.isdisjoint(text.get_text()):
            text.set_fontfamily([*families, *more])
            text.set_fontweight("normal")  # such fonts are seldom here in bold
    if lacking_still:
        warnings.warn(
            f"{source}: no font on this system has the characters {''.join(sorted(lacking_still))!r}: boxes "
            "stand in their places. Install a font that has them, such as Noto Sans CJK.",
            AiclWarning,
            stacklevel=2,
        )
    return not lacking_still


@functools.lru_cache(maxsize=32)
def _fonts_with(wanted: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Families that have as many of the characters as there are, and the characters that none has."""
    from matplotlib.font_manager import fontManager

    # One file of each family: the one that is neither bold nor slanted, where there is one.
    plain = sorted(fontManager.ttflist, key=lambda font: (font.style != "normal", str(font.weight) != "400"))
    files: dict[str, str] = {}
    for font in plain:
        if not font.name.startswith("Last Resort"):  # it has boxes for all characters
            files.setdefault(font.name, font.fname)
    families: list[str] = []
    lacking = set(wanted)
    while lacking and len(families) < MAX_FONTS:
        best, most = "", set[str]()
        for name in sorted(files):
            has = lacking & _characters(files[name])
            if len(has) > len(most):
                best, most = name, has
            if has == lacking:
                break
        if not most:
            break
        families.append(best)
        lacking -= most
    return tuple(families), frozenset(lacking)


@functools.cache
def _characters(file: str) -> frozenset[str]:
    """What a font has; nothing where its file cannot be read, or has pictures in place of outlines."""
    from matplotlib.font_manager import get_font

    try:
        font = get_font(file)
        return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
    except Exception:  # a damaged font among the system's is not the user's concern
        return frozenset()
