"""Any text can be drawn: as it is, and with a note where no font has its characters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")

from aicl_fast.data.detections import Detections  # noqa: E402
from aicl_fast.data.scores import Scores  # noqa: E402
from aicl_fast.errors import AiclWarning  # noqa: E402
from aicl_fast.plot import fonts, plot_comparison, plot_timeline  # noqa: E402

RARE = "\U0001f3ca"
"""No font of matplotlib's has it."""


def draw(path: Path, label: str, name: str = "video", title: str | None = None) -> None:
    row = np.linspace(0, 1, 20, dtype=np.float32)
    scores = Scores(
        fused=row[:, None],
        video_scores=row[-1:],
        actionness=row,
        actionness_agnostic=row,
        num_segments=20,
        fps=25.0,
        frames_per_segment=16,
        classes=(label,),
        name=name,
    )
    found = Detections(np.array([label], object), np.array([0.9]), np.array([[1.0, 5.0]]))
    plot_timeline(scores, found, None, path, title=title)
    plot_comparison({name: (scores, found)}, None, path, title=title)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
@pytest.mark.parametrize(
    "text", [r"$\frac{$", "$x_1^2$", "a_b^c", r"\alpha\\", "{x}%#&", "\ud800 \x00\x1b[31m", "x" * 100_000]
)
def test_any_text_is_drawn(tmp_path: Path, text: str, suffix: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(tmp_path / f"p{suffix}", text, text, text)
    assert (tmp_path / f"p{suffix}").stat().st_size > 1000


def test_text_is_no_formula(tmp_path: Path) -> None:
    draw(tmp_path / "a.svg", "$x$", "$y$")
    with matplotlib.rc_context({"text.usetex": True}):
        draw(tmp_path / "b.svg", "$x$", "$y$")
    for name in ("a.svg", "b.svg"):
        text = (tmp_path / name).read_text()
        assert all(f"<!-- {each} -->" in text for each in ("$x$", "$y$")), name


def test_characters_that_no_font_has_are_said(tmp_path: Path) -> None:
    with pytest.warns(AiclWarning, match=rf"p\.png: no font on this system has the characters '{RARE}'"):
        draw(tmp_path / "p.png", f"{RARE} swim")


@pytest.fixture
def rare_font(tmp_path: Path) -> Iterator[None]:
    """A font on this system that has the rare character, and one whose file is damaged."""
    builder = pytest.importorskip("fontTools.fontBuilder").FontBuilder(1000, isTTF=True)
    pen = pytest.importorskip("fontTools.pens.ttGlyphPen").TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(point)
    pen.closePath()
    names = [".notdef", "swimmer"]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(RARE): "swimmer"})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (700, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Rare", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    builder.save(tmp_path / "rare.ttf")
    manager = matplotlib.font_manager.fontManager
    before = list(manager.ttflist)
    manager.addfont(tmp_path / "rare.ttf")
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    broken = matplotlib.font_manager.FontEntry(fname=str(tmp_path / "broken.ttf"), name="Broken")
    manager.ttflist.append(broken)
    fonts._fonts_with.cache_clear()
    yield
    manager.ttflist[:] = before
    fonts._fonts_with.cache_clear()


@pytest.mark.usefixtures("rare_font")
def test_a_font_that_has_the_characters_is_found(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(tmp_path / "p.png", f"{RARE} swim")
    families, lacking = fonts._fonts_with(frozenset(RARE))
    assert (families, lacking) == (("Rare",), frozenset())
