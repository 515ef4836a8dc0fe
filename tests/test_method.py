"""docs/method.md gives every setting of every preset as the package has it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from aicl_fast.config import PRESETS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "method.md"


def spoken(value: object) -> str:
    """A value as the page writes it."""
    if isinstance(value, tuple):
        step = round(value[1] - value[0], 6)
        return f"{value[0]:g}:{step:g}:{value[-1]:g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return {1 / 3: "1/3", 1 / 2: "1/2"}.get(value, f"{value:g}")
    return {"": "–", "None": "none"}.get(str(value), str(value))


def presets_table() -> list[str]:
    """The table of all settings; a value that all presets share stands once."""
    rows = [f"| setting | {' | '.join(PRESETS)} |", "|---|" + "---|" * len(PRESETS)]
    presets = [asdict(preset) for preset in PRESETS.values()]
    for section, fields in presets[0].items():
        if isinstance(fields, dict):
            for name in fields:
                values = [spoken(preset[section][name]) for preset in presets]
                rows.append(f"| `{section}.{name}` | {' | '.join(values)} |")
    return rows


def test_the_page_has_every_setting_of_every_preset() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = text.partition("<!-- presets -->\n")[2].partition("\n<!-- end of presets -->")[0]
    assert table.splitlines() == presets_table()
