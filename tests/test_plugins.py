"""Additions of other installed packages are found, and those that cannot be imported are named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aicl_fast.errors import AiclWarning
from aicl_fast.plugins import load


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    load.cache_clear()
    yield
    load.cache_clear()


def test_additions_are_found_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_engines.py").write_text("ENGINE = 'an engine'\n", encoding="utf-8")
    made = tmp_path / "toy_engines-1.0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: toy-engines\nVersion: 1.0\n", encoding="utf-8"
    )
    (made / "entry_points.txt").write_text(
        "[aicl_fast.engines]\ntoy = toy_engines:ENGINE\nlost = toy_engines:OTHER\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(AiclWarning, match="toy-engines: expected toy_engines:OTHER .*'lost'.*AttributeError"):
        assert load("aicl_fast.engines") == {"toy": "an engine"}
    assert load("aicl_fast.writers") == {}
