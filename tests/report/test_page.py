"""The report page: its data against the library's measures, and its behaviour in a real browser."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aicl_fast.data.detections import Detections, load_detections
from aicl_fast.errors import DataError
from aicl_fast.evaluate import compare, mean_average_precision
from aicl_fast.report import Run, load_run, plot_run, write_report
from aicl_fast.text import clean_text


def data_of(path: Path) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.S
    )
    assert found is not None
    document: dict[str, Any] = json.loads(found.group(1))
    return document


# --- what is written -------------------------------------------------------------------------------------


def test_the_data_are_the_library_s(make_run: Callable[..., Path]) -> None:
    run = make_run("run")
    path = write_report(run)
    assert path == run / "report.html"
    document = data_of(path)
    expected = mean_average_precision(run / "gt.json", run / "detections.json", subset="test")
    assert document["runs"][0]["map"] == json.loads(json.dumps(expected.to_dict()))
    assert len(document["videos"]) == 5
    alone = mean_average_precision(
        run / "gt.json", run / "detections.json", exclude=[f"video_{i:04d}" for i in range(1, 5)]
    )
    assert document["videos"][0]["runs"][0]["ap"] == pytest.approx(alone.average, abs=1e-4)
    assert document["runs"][0]["segments"]["videos"] == 5
    assert document["comparison"] is None


def test_nothing_is_loaded_from_elsewhere(make_run: Callable[..., Path]) -> None:
    text = write_report(make_run("run")).read_text("utf-8")
    addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name space, not an address


@pytest.mark.parametrize(
    "title", ["{{data}}", "{{title}} {{js}} {{css}}", "</script><b>&\"'", "\ud800\x1b[0m", r"\1 \g<0>"]
)
def test_a_title_is_put_in_as_it_is(make_run: Callable[..., Path], title: str) -> None:
    path = write_report(make_run("run"), title=title)
    text = path.read_text("utf-8")
    assert text.count('<script type="application/json" id="data">') == 1
    assert text.count("</script>") == 2
    shown = clean_text(title)
    assert f"<title>{html.escape(shown)} · aicl-fast report</title>" in text
    assert clean_text(data_of(path)["title"]) == shown


def test_names_from_python_are_made_safe(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = load_run(make_run("run"))
    label = "\ud800</script>{{data}}"
    one = Detections(np.array([label], object), np.array([0.5]), np.array([[0.0, 1.0]]), "video_0000")
    for truth in (None, run.ground_truth):
        path = write_report(Run("r", {"video_0000": one}, {}, truth), tmp_path / "page.html", title="t")
        if truth is None:
            assert data_of(path)["classes"] == ["\ufffd</script>{{data}}"]


@pytest.mark.parametrize("name", ["a\0b.html", "a" * 300 + ".html"])
def test_a_name_that_no_file_can_have(make_run: Callable[..., Path], tmp_path: Path, name: str) -> None:
    run = make_run("run")
    with pytest.raises(DataError, match="cannot be written"):
        write_report(run, tmp_path / name)
    for suffix in (".png", ".svg"):
        with pytest.raises(DataError, match="cannot be written"):
            plot_run(run, tmp_path / f"{name}{suffix}")


def test_two_runs_are_compared(make_run: Callable[..., Path]) -> None:
    first, second = make_run("base", noise=3.0), make_run("better", noise=0.3, seed=4)
    document = data_of(write_report(second, baseline=first, resamples=200))
    assert [run["name"] for run in document["runs"]] == ["base", "better"]
    expected = compare(
        first / "gt.json",
        first / "detections.json",
        second / "detections.json",
        resamples=200,
        names=("base", "better"),
    )
    assert document["comparison"]["verdict"] == expected.verdict
    assert [len(video["runs"]) for video in document["videos"]] == [2] * 5


def test_runs_on_other_videos(make_run: Callable[..., Path]) -> None:
    """The baseline lacks videos and detects in one that is not annotated: every video still has two runs."""
    first, second = make_run("base", videos=3), make_run("full")
    document = json.loads((first / "detections.json").read_text())
    document["results"]["stranger"] = [{"label": "Diving", "score": 0.5, "segment": [1, 2]}]
    (first / "detections.json").write_text(json.dumps(document))
    videos = data_of(write_report(second, baseline=first, ground_truth=second / "gt.json"))["videos"]
    assert {video["name"] for video in videos} == {*(f"video_{i:04d}" for i in range(5)), "stranger"}
    assert all(len(video["runs"]) == 2 for video in videos)
    stranger = next(video for video in videos if video["name"] == "stranger")
    assert stranger["runs"][0]["ap"] is None
    assert stranger["truth"] == []


def test_refusals(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run("run")
    with pytest.raises(DataError, match="run's folder"):
        write_report(tmp_path / "none")
    with pytest.raises(DataError, match="folder with"):
        write_report(run, media=tmp_path / "none")
    with pytest.raises(DataError, match="path"):
        write_report(load_run(run))
    (run / "detections.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_a_page_replaces_pages_alone(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run, other = make_run("a"), tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(DataError, match=r"other.json: expected a page's name that ends in .html or .htm"):
        write_report(run, other)
    assert other.read_text() == "{}"
    page = write_report(run, tmp_path / "page.HTM")
    assert write_report(run, page) == page
    if os.path.exists(os.devnull):
        write_report(run, os.devnull)


def test_annotations_beside_the_run_s_data_are_found(make_run: Callable[..., Path]) -> None:
    run = make_run("run")
    (run / "data").mkdir()
    (run / "gt.json").rename(run / "data" / "gt.json")
    assert data_of(write_report(run))["runs"][0]["map"]["counts"]["videos"] == 5


def test_where_the_media_are(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run, media = make_run("run"), tmp_path / "media"
    for name in (
        "video_0000.webm", "video_0000.mp4", "deep/er/video_0001.MP4", "deep/video_0000.mp4",
        ".hidden/video_0002.mp4", "other.mp4",
    ):  # fmt: skip
        (media / name).parent.mkdir(parents=True, exist_ok=True)
        (media / name).write_bytes(b"")
    (media / "video_0003.mp4").mkdir()
    found = {video["name"]: video["media"] for video in data_of(write_report(run, media=media))["videos"]}
    assert found == {
        "video_0000": "../media/video_0000.mp4",
        "video_0001": "../media/deep/er/video_0001.MP4",
        **{f"video_{number:04d}": None for number in (2, 3, 4)},
    }
    assert "media" not in data_of(write_report(run))["videos"][0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: neither it nor its subfolders have .* video_0000\.mp4"):
        write_report(run, media=tmp_path / "empty")


def test_213_videos_stay_small(make_run: Callable[..., Path]) -> None:
    """THUMOS14's size twice over: 213 videos, T = 750, 95 detections each, and a baseline."""
    first = make_run("base", videos=213, length=750, detections=95)
    second = make_run("aicl", videos=213, length=750, detections=95, seed=1)
    path = write_report(second, baseline=first, resamples=100)
    assert path.stat().st_size < 10_000_000


# --- in a browser ----------------------------------------------------------------------------------------


def shown(browser: Any) -> tuple[int, int]:
    kept, everything = re.findall(r"\d+", browser.text("#shown"))
    return int(kept), int(everything)


def picture(browser: Any) -> str:
    text: str = browser.run("document.getElementById('timeline').toDataURL()")
    return text


def enter(browser: Any, control: str, value: object, event: str = "input") -> None:
    browser.run(
        f"(() => {{ const box = document.getElementById('{control}'); "
        f"box.value = {json.dumps(value)}; box.dispatchEvent(new Event('{event}')); }})()"
    )


def search(browser: Any, text: str) -> list[str]:
    enter(browser, "search", text)
    names: list[str] = browser.run(
        "[...document.querySelectorAll('#video-list button')].map((button) => button.dataset.video)"
    )
    return names


def choose(browser: Any, video: str) -> None:
    search(browser, video)
    browser.click("#video-list button")


def test_it_renders(make_run: Callable[..., Path], page: Callable[[Path], Any]) -> None:
    run = make_run("run")
    browser = page(write_report(run, title="a <b>title</b>"))
    assert browser.text("#title") == "a <b>title</b>"
    average = mean_average_precision(run / "gt.json", run / "detections.json").average
    assert f"{100 * average:.1f} %" in browser.text("#summary")
    assert browser.count("#class-table tbody tr") == 3
    assert browser.count("#error-charts svg") == 3
    assert browser.count("#map-chart circle") == 7
    colours = browser.run(
        "(() => { const c = document.getElementById('timeline'), d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; const found = new Set(); "
        "for (let i = 0; i < d.length; i += 4) found.add(d[i] * 65536 + d[i + 1] * 256 + d[i + 2]); "
        "return found.size; })()"
    )
    assert colours > 20
    assert [url for url in browser.requests if not url.startswith("data:")] == [
        (run / "report.html").as_uri()
    ]


def test_worst_first_and_search(make_run: Callable[..., Path], page: Callable[[Path], Any]) -> None:
    run = make_run("run", videos=12, noise=2.0)
    path = write_report(run)
    browser = page(path)
    listed = search(browser, "")
    by_name = {video["name"]: video["runs"][0]["ap"] for video in data_of(path)["videos"]}
    assert [by_name[name] for name in listed] == sorted(by_name.values())
    assert browser.text("#video-name") == listed[0]
    assert search(browser, "0011") == ["video_0011"]
    assert set(search(browser, "high JUMP")) == {f"video_{i:04d}" for i in (2, 5, 8, 11)}
    assert search(browser, "nothing") == []
    assert "0 of 12" in browser.text("#found")
    choose(browser, "video_0007")
    assert browser.text("#video-name") == "video_0007"
    assert browser.run("location.hash") == "#video=video_0007"


def test_the_slider_filters(make_run: Callable[..., Path], page: Callable[[Path], Any]) -> None:
    run = make_run("run")
    browser = page(write_report(run))
    video = browser.text("#video-name")
    found = load_detections(run / "detections.json")[video]
    pictures = set()
    for value in (0, 300, 600, 1000):
        enter(browser, "threshold", value)
        threshold = value / 1000 * round(float(found.scores.max()), 4)
        kept = sum(round(score, 4) >= threshold for score in found.scores.tolist())
        assert shown(browser) == (kept, len(found))
        pictures.add(picture(browser))
    assert shown(browser)[0] == 1
    assert len(pictures) == 4


def test_branches_and_colours_switch(make_run: Callable[..., Path], page: Callable[[Path], Any]) -> None:
    browser = page(write_report(make_run("run")))
    pictures = [picture(browser)]
    for name in ("show-aware", "show-agnostic"):
        browser.click(f"#{name}")
        pictures.append(picture(browser))
    enter(browser, "colour-by", "kind", "change")
    pictures.append(picture(browser))
    assert len(set(pictures)) == 4
    assert "localisation" in browser.text("#legend")


def test_zoom_move_and_hover(make_run: Callable[..., Path], page: Callable[[Path], Any]) -> None:
    browser = page(write_report(make_run("run")))
    browser.run("document.getElementById('timeline').scrollIntoView()")
    left, top, width = browser.run(
        "(() => { const r = document.getElementById('timeline').getBoundingClientRect(); "
        "return [r.left, r.top, r.width]; })()"
    )
    x, y = left + 0.6 * width, top + 40
    whole = picture(browser)
    browser.mouse("mouseMoved", x, y)
    browser.wait("!document.getElementById('tip').hidden")
    tip = browser.text("#tip")
    assert "class-aware 0." in tip
    assert "class-agnostic 0." in tip
    browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-240)
    browser.mouse("mouseMoved", 2, 2)
    browser.wait("document.getElementById('tip').hidden")
    zoomed = picture(browser)
    assert zoomed != whole
    browser.mouse("mousePressed", x, y, button="left", clickCount=1)
    browser.mouse("mouseMoved", x - 60, y, button="left")
    browser.mouse("mouseReleased", x - 60, y, button="left", clickCount=1)
    browser.mouse("mouseMoved", 2, 2)
    assert picture(browser) != zoomed
    browser.click("#reset")
    assert picture(browser) == whole


def test_it_opens_at_its_top(make_run: Callable[..., Path], page: Callable[[Path], Any]) -> None:
    browser = page(write_report(make_run("run", videos=40)))
    assert browser.run("document.documentElement.scrollHeight > window.innerHeight")
    assert browser.run("window.scrollY") == 0


def test_sorting_the_classes(make_run: Callable[..., Path], page: Callable[[Path], Any]) -> None:
    browser = page(write_report(make_run("run")))
    browser.click("#class-table th")
    names = browser.run(
        "[...document.querySelectorAll('#class-table tbody tr')].map((row) => row.cells[0].textContent)"
    )
    assert names == sorted(names)


def test_two_runs_in_the_browser(make_run: Callable[..., Path], page: Callable[[Path], Any]) -> None:
    first = make_run("baseline", videos=21, noise=4.0)
    second = make_run("AICL", videos=21, noise=0.3, seed=4)
    browser = page(write_report(second, baseline=first, resamples=200))
    assert "AICL is better than baseline" in browser.text(".verdict")
    assert browser.count("#error-charts svg") == 6
    # Kept for whoever looks at a CI run, and for the README.
    folder = os.environ.get("AICL_ARTIFACTS")
    if folder:
        browser.screenshot(Path(folder) / "report.png")


def test_names_are_text_and_never_markup(make_run: Callable[..., Path], page: Callable[[Path], Any]) -> None:
    evil = "</script><img src=x onerror=window.broken=1><!--"
    run = make_run("run", rename=lambda index: f"{evil}{index}")
    browser = page(write_report(run, title=evil))
    assert browser.run("window.broken") is None
    assert browser.text("#video-name").startswith(evil)
    assert browser.run("document.title").startswith("</script><img")


def test_a_run_without_curves(make_run: Callable[..., Path], page: Callable[[Path], Any]) -> None:
    browser = page(write_report(make_run("run", scores=False)))
    assert shown(browser)[1] == 12
    assert "actionness" not in browser.text("#legend")


def test_a_video_s_file_is_played(
    make_run: Callable[..., Path], page: Callable[[Path], Any], shared_data: Path, tmp_path: Path
) -> None:
    clip = shared_data / "i3d" / "clean_and_jerk.mp4"
    media = tmp_path / "the media"
    media.mkdir()
    shutil.copyfile(clip, media / "video_0001.mp4")
    run = make_run("run")
    browser = page(write_report(run, media=media))
    choose(browser, "video_0001")
    browser.wait("document.querySelector('#player video').readyState >= 1")
    assert browser.run("document.querySelector('#player video').duration") == pytest.approx(18.16, abs=0.3)
    choose(browser, "video_0002")
    assert browser.run("document.querySelector('#player video')") is None
    assert "No file of this video" in browser.text("#player")


def test_without_annotations_there_are_the_timelines(
    make_run: Callable[..., Path], page: Callable[[Path], Any], shared_data: Path, tmp_path: Path
) -> None:
    """What `aicl-fast detect` gives for one's own videos: detections, curves, and the video that plays."""
    run = make_run("own", videos=3)
    (run / "gt.json").unlink()
    media = tmp_path / "videos"
    media.mkdir()
    shutil.copyfile(shared_data / "i3d" / "clean_and_jerk.mp4", media / "video_0001.mp4")
    path = write_report(run, media=media)
    document = data_of(path)
    assert document["runs"] == [{"name": "own", "map": None, "segments": None}]
    expected = load_detections(run / "detections.json")
    assert [video["name"] for video in document["videos"]] == list(expected)
    for video in document["videos"]:
        found = [(document["classes"][label], score) for label, score, *_ in video["runs"][0]["detections"]]
        assert found == [(d.label, round(d.score, 4)) for d in expected[video["name"]]]
    browser = page(path)
    assert "3 videos · 36 detections" in browser.text("#summary")
    for hidden in ("precision", "errors", "colour-by"):
        assert not browser.run(f"document.getElementById('{hidden}').checkVisibility()")
    assert search(browser, "") == ["video_0000", "video_0001", "video_0002"]
    assert shown(browser)[1] == 12
    choose(browser, "video_0001")
    browser.wait("document.querySelector('#player video').readyState >= 1")
    before = picture(browser)
    browser.run("document.querySelector('#player video').currentTime = 9")
    browser.wait("!document.querySelector('#player video').seeking")
    browser.wait(f"document.getElementById('timeline').toDataURL() !== {json.dumps(before)}")
    enter(browser, "threshold", 0)
    assert shown(browser) == (12, 12)


def test_two_runs_without_annotations(make_run: Callable[..., Path], page: Callable[[Path], Any]) -> None:
    first, second = make_run("base", videos=2, scores=False), make_run("own", videos=3, seed=3)
    for run in (first, second):
        (run / "gt.json").unlink()
    browser = page(write_report(second, baseline=first))
    assert set(search(browser, "")) == {"video_0000", "video_0001", "video_0002"}
    assert shown(browser)[1] == 24


def test_many_videos_open(make_run: Callable[..., Path], page: Callable[[Path], Any]) -> None:
    browser = page(write_report(make_run("run", videos=213, length=750, detections=95)))
    assert len(search(browser, "")) == 213
