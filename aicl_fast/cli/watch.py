"""watch: a camera, an address, a growing file or a pipe to events, as they become known."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from aicl_fast.cli import options
from aicl_fast.cli.ending import noted_signals
from aicl_fast.cli.options import FLOW_HELP, VIDEO
from aicl_fast.errors import ConfigError
from aicl_fast.files import inputs_kept, line_file, require_place
from aicl_fast.text import clean_text, counted

if TYPE_CHECKING:
    from aicl_fast.hook import Hook
    from aicl_fast.stream_events import Event
    from aicl_fast.video.live_source import Source
    from aicl_fast.video.rolling import Rolling
    from aicl_fast.video.watching import Notice

FOREVER = "forever"
SOURCE = "Source"
_SAY_EVERY = 10.0
"""Seconds from one note on what was dropped to the next."""
_RECENT = 1000
"""Final detections whose numbers are kept, since they may be withdrawn."""


@inputs_kept()
def run(
    source: Annotated[
        str,
        Argument(
            help="A camera (/dev/video0), an address (rtsp://, http://, https://, tcp://, udp://), a file "
            "that may still grow, or - for standard input."
        ),
    ],
    model: Annotated[Path, Option("--model", help="Exported model, or trained weights.")],
    rgb_weights: options.RgbWeights = None,
    flow_weights: options.FlowWeights = None,
    flow_algorithm: Annotated[str | None, Option(help=FLOW_HELP, rich_help_panel=VIDEO)] = None,
    batch: Annotated[
        int,
        Option(min=1, help="Segments a run of I3D at most, of those that wait.", rich_help_panel=VIDEO),
    ] = options.BATCH,
    precision: options.VideoPrecision = None,
    out: Annotated[
        Path | None,
        Option("--out", "-o", help="Add each event to this file, as a line of JSON; - prints them."),
    ] = None,
    render: Annotated[
        Path | None,
        Option(help="A .png of the last minute, replaced once a second; or an .mp4 or .mkv of all of it."),
    ] = None,
    exec_: Annotated[
        str | None,
        Option(
            "--exec",
            metavar="COMMAND",
            help="Run this for each final detection, without a shell: {label}, {score}, {start}, {end} and "
            "{video} are replaced in its arguments.",
        ),
    ] = None,
    name: Annotated[str | None, Option(help="The source's name in the events; by itself by default.")] = None,
    wait: Annotated[
        float, Option(help="Seconds after its end before a detection is final: more are more accurate.")
    ] = 2.0,
    retract: Annotated[
        bool, Option("--retract", help="Withdraw a final detection that turns out otherwise.")
    ] = False,
    drop: Annotated[
        bool | None,
        Option(
            "--drop/--no-drop",
            help="Drop segments that cannot be kept up with; by default of cameras and addresses.",
            rich_help_panel=SOURCE,
        ),
    ] = None,
    queue: Annotated[
        int, Option(min=1, help="Segments that wait before one is dropped.", rich_help_panel=SOURCE)
    ] = 4,
    reconnect: Annotated[
        str | None,
        Option(
            metavar="N|forever",
            help="How often in a row a camera or an address is opened again, also if it was not there at "
            "first; by default for ever once it was there.",
            rich_help_panel=SOURCE,
        ),
    ] = None,
    timeout: Annotated[
        float,
        Option(help="Seconds without data after which an address is opened again.", rich_help_panel=SOURCE),
    ] = 10.0,
    idle: Annotated[
        float, Option(help="Seconds without growth after which a file has ended.", rich_help_panel=SOURCE)
    ] = 5.0,
    set_: options.Settings = None,
    engine: Annotated[str | None, Option(help="What runs the model; by its file by default.")] = None,
    device: Annotated[str | None, Option(help="Of the model and of I3D: cpu, cuda or cuda:N.")] = None,
    threads: options.Threads = None,
    trust: options.Trust = False,
) -> None:
    """Localise actions in a camera, a stream, a growing file or a pipe while it goes on.

    Prints a line for each event: a detection started, was updated, is final or was withdrawn. Times are
    seconds since the first frame. Ends with the source, or with Ctrl-C or SIGTERM, and then makes final what
    is known.

    Examples:

      aicl-fast watch rtsp://camera.local/live --model model.onnx --rgb-weights i3d_rgb.onnx -o events.jsonl

      aicl-fast watch /dev/video0 --model model.onnx --rgb-weights i3d_rgb.onnx --render now.png

      ffmpeg -i … -f mpegts - | aicl-fast watch - --model model.onnx --rgb-weights i3d_rgb.onnx

      aicl-fast watch growing.ts --model model.onnx --rgb-weights i3d_rgb.onnx --exec 'notify-send {label}'
    """
    from aicl_fast.cli.detect import override_settings
    from aicl_fast.cli.video import VideoOptions
    from aicl_fast.detector import Detector
    from aicl_fast.video.live import Limits, LiveReader
    from aicl_fast.video.live_source import parse_source
    from aicl_fast.video.watching import Watch

    given = parse_source(source)
    limits = Limits(drop, queue, *_reconnect(reconnect, given), timeout=timeout, idle=idle)
    _check_targets(out, render)
    hook = None if exec_ is None else _hook(exec_)
    detector = Detector(model, engine=engine, device=device, threads=threads, trust=trust)
    if set_:
        override_settings(detector, list(set_))
    plan = VideoOptions(
        rgb_weights, flow_weights, flow_algorithm, batch, precision, True, device, threads, trust
    ).model_plan(detector.config.data)
    _check_targets(out, render)  # again: nothing may replace what was read
    video = given.video if name is None else clean_text(name)
    with ExitStack() as stack:
        rolling = None if render is None else stack.enter_context(_rolling(render, plan.fps))
        line = None if out is None else stack.enter_context(line_file(out))
        if hook is not None:
            stack.enter_context(hook)
        reader = LiveReader(given, plan, limits, show=rolling is not None)
        show = None if rolling is None else rolling.show
        watch = Watch(detector, plan, reader, batch=batch, show=show, wait=wait, retract=retract)
        told = _Told(video, given.name, line, rolling, hook)
        with noted_signals(reader.stop) as ended:
            for item in watch.events():
                told(item)
        told.summary()
    ended.leave("what was found is final")
    if told.lost:
        sys.exit(1)


def _check_targets(out: Path | None, render: Path | None) -> None:
    for target in (out, render):
        if target is not None:
            require_place(target)
    if out is not None and render is not None and os.path.realpath(out) == os.path.realpath(render):
        raise ConfigError("--out, --render: name one file twice. Give each its own.")


def _reconnect(text: str | None, source: Source) -> tuple[int | None, bool]:
    """How often a source is opened again, None for ever; and whether also if it was not there at first."""
    if text is None:
        return None, False
    if not source.live:
        raise ConfigError(f"--reconnect: {source.name} is not opened again; only a camera or an address is.")
    if text == FOREVER:
        return None, True
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigError(f"--reconnect: expected a number of tries or {FOREVER}, got {clean_text(text)!r}.")
    return int(text), int(text) > 0


def _hook(command: str) -> Hook:
    from aicl_fast.cli.console import note
    from aicl_fast.hook import Hook

    return Hook(command, note)


def _rolling(target: Path, fps: float) -> Rolling:
    from aicl_fast.video.rolling import Rolling

    return Rolling(target, fps)


class _Told:
    """Says what happens: on the terminal, in a file, in pictures, to a command."""

    def __init__(
        self,
        video: str,
        source: str,
        line: Callable[[str], None] | None,
        rolling: Rolling | None,
        hook: Hook | None,
    ) -> None:
        self._video, self._source = video, source
        self._line, self._rolling, self._hook = line, rolling, hook
        self._final = self._dropped = self._unsaid = 0
        self._recent: deque[int] = deque(maxlen=_RECENT)
        self._say_at = 0.0
        self.lost = False

    def __call__(self, item: Event | Notice) -> None:
        from aicl_fast.stream_events import Event

        if isinstance(item, Event):
            self._event(item)
        else:
            self._notice(item)

    def _event(self, event: Event) -> None:
        if event.kind == "final":
            self._final += 1
            self._recent.append(event.id)
        elif event.kind == "withdrawn" and event.id in self._recent:
            self._final -= 1
        sys.stdout.write(
            f"{event.kind:<9} {event.start:9.2f} s to {event.end:8.2f} s  {event.score:7.3f}  {event.label}\n"
        )
        sys.stdout.flush()
        values = asdict(event)
        self._write(values.pop("kind"), values)
        if self._rolling is not None:
            self._rolling.event(event)
        if self._hook is not None and event.kind == "final":
            self._hook(
                {
                    "label": event.label,
                    "score": f"{event.score:.4f}",
                    "start": f"{event.start:.2f}",
                    "end": f"{event.end:.2f}",
                    "video": self._video,
                }
            )

    def _notice(self, notice: Notice) -> None:
        from aicl_fast.cli.console import note, remark

        values: dict[str, Any] = {"time": notice.time}
        if notice.kind != "opened":
            values |= {"segments": notice.segments, "seconds": notice.seconds}
        if notice.kind == "ended":
            values |= {"why": notice.why, "pause": notice.pause}
        self._write(notice.kind, values)
        if notice.kind == "dropped":
            self._dropped += notice.segments
            self._unsaid += notice.segments
            if time.monotonic() >= self._say_at:
                note(
                    f"slower than real time: {counted(self._unsaid, 'segment')} dropped before "
                    f"{notice.time + notice.seconds:.2f} s, {self._dropped} in all"
                )
                self._unsaid, self._say_at = 0, time.monotonic() + _SAY_EVERY
        elif notice.kind == "opened":
            remark(f"watching {self._source} from {notice.time:.2f} s on")
        else:
            self.lost = notice.lost
            self._say_ended(notice)

    def _say_ended(self, notice: Notice) -> None:
        from aicl_fast.cli.console import note

        why = notice.why or f"{self._source}: ended after {notice.seconds:.2f} s"
        if notice.pause is not None:
            note(f"{why}; opened again in {notice.pause:g} s")
        elif notice.lost:
            note(f"{why}; it was tried as often as --reconnect allows")
        elif notice.why:
            note(why)

    def _write(self, kind: str, values: dict[str, Any]) -> None:
        if self._line is not None:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            record = {"event": kind, "video": self._video, **values, "utc": now}
            self._line(json.dumps(record, allow_nan=False))

    def summary(self) -> None:
        """What there was in all."""
        dropped = f", {counted(self._dropped, 'segment')} dropped" if self._dropped else ""
        sys.stdout.write(f"{counted(self._final, 'detection')} in {self._source}{dropped}\n")
