"""What the commands print is what they were given, safe for a terminal."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from aicl_fast.cli import console

TEXTS = (
    "open[/close]",
    "sit [down]",
    "[red]x[/red]",
    ":smile:",
    "$x_1^2$",
    r"a\[b]",
    "[link=https://x]y[/link]",
)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("which", ["out", "err"])
def test_nothing_in_a_text_is_markup(name: str, which: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = getattr(console, which)
    printed.print(f"{name}: read", soft_wrap=True)
    table = Table(title=f"of {name}")
    table.add_column(f"head {name}")
    table.add_row(f"cell {name}")
    printed.print(table, width=200)
    said = capsys.readouterr()
    text = said.out if which == "out" else said.err
    for expected in (f"{name}: read", f"of {name}", f"head {name}", f"cell {name}"):
        assert expected in text


def test_a_result_table_shows_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console.out.print(console.map_table("of [/x]", [0.5], [("run [v2]", ["1.00"], "1.00")]), width=200)
    text = capsys.readouterr().out
    assert "of [/x]" in text
    assert "run [v2]" in text


@pytest.mark.parametrize("name", TEXTS)
def test_a_progress_bar_shows_notes_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(console.err, "_file", written)
    monkeypatch.setattr(console.err, "_force_terminal", True)
    monkeypatch.setattr(console.err, "_width", 300)
    with console.progress(f"of {name}") as update:
        update(1, 2, f"{name}\x1b]0;title\x07")
    assert f"of {name}" in written.getvalue()
    assert name in written.getvalue().replace(f"of {name}", "")
    assert "\x1b]" not in written.getvalue()
    assert "\x07" not in written.getvalue()


def test_a_terminal_gets_no_escape_of_a_names(capsys: pytest.CaptureFixture[str]) -> None:
    console.out.print("a\x1b[31mb\x9bc\ud800d\u202ee\nnext line")
    assert capsys.readouterr().out == "a\ufffd[31mb\ufffdc\ufffdde\nnext line\n"
