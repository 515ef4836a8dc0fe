"""Numbers in the documentation are those of the recorded results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aicl_fast.bench.harness.quote import BLOCK, quoted
from aicl_fast.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("bench/*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_quoted_tables_are_the_recorded_ones(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert quoted(text, RESULTS, path.name) == text


def test_the_readme_quotes() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("<!-- quote: ") >= 3


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_page_shows_a_table_twice(path: Path) -> None:
    shown = [match.group(2, 3) for match in BLOCK.finditer(path.read_text(encoding="utf-8"))]
    assert len(set(shown)) == len(shown)


def test_every_record_is_named_on_a_page() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert [path.name for path in RESULTS.glob("*.json") if path.name not in text] == []


def test_a_changed_number_is_put_right(tmp_path: Path) -> None:
    row = {"step": "ours", "p50_ms": 12.3, "times_faster": 4.0, "times_faster_interval": [3.0, 5.0]}
    origin = {"device": "a chip", "cores": 2, "date": "2026-01-01", "commit": "abc"}
    result = {**origin, "batch": 16, "segments": 750, "threads": 2, "rows": [row]}
    (tmp_path / "t.json").write_text(json.dumps(result))
    block = "before\n<!-- quote: t.json train -->\n| ours | 99 |\n<!-- end -->\nafter\n"
    text = quoted(block, tmp_path)
    assert "| ours | 12 | 4.00 (3.00 to 5.00) |" in text
    assert "99" not in text
    assert "Measured on a chip, 2 cores, 2026-01-01, commit abc." in text
    assert text.startswith("before\n")
    assert text.endswith("<!-- end -->\nafter\n")
    assert quoted(text, tmp_path) == text


def test_wrong_blocks_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.json: the result file does not exist"):
        quoted("<!-- quote: t.json train -->\n<!-- end -->", tmp_path)
    with pytest.raises(ConfigError, match="there is no table 'speed'"):
        quoted("<!-- quote: t.json speed -->\n<!-- end -->", tmp_path)


# The ahead-of-time table is of a compiler, not of a machine: it names Triton's version.
MEASURED = [path for path in sorted(RESULTS.glob("*.json")) if path.name != "kernels-aot.json"]


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.name)
def test_results_say_where_they_come_from(path: Path) -> None:
    result = json.loads(path.read_text(encoding="utf-8"))
    for name in ("device", "date", "commit", "command", "versions"):
        assert result.get(name), f"{path.name} does not say its {name}"
