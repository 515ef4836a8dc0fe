"""The commands and their options. Each hands over to a function in a module that does the work."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from aicl_fast.cli.ending import KEPT, Interrupted
from aicl_fast.errors import ConfigError
from aicl_fast.files import inputs_kept, is_stdout, only_results
from aicl_fast.limits import MAX_UNPACKED, parse_size

if TYPE_CHECKING:
    from aicl_fast.cli.video import VideoOptions
    from aicl_fast.export.formats import ExportOptions

_GOES_ON = {
    "train": "the same command with --resume goes on from the last checkpoint",
    "ablate": "the same command goes on with the runs that are not finished",
    "features": "the same command goes on with the videos that have no features yet",
}


class _Commands(TyperGroup):
    """typer itself ends a command that Ctrl-C comes to without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted(error, _GOES_ON.get(ctx.invoked_subcommand or "", KEPT)) from None


_KEEP_INPUTS = ("detect", "evaluate", "compare", "plot", "report", "import-checkpoint")
"""Commands that write what is none of the files that they read."""


class _Command(TyperCommand):
    """Where a file is ``-``, standard output is its alone; all else that is printed goes to stderr."""

    def invoke(self, ctx: Any) -> Any:
        with inputs_kept() if self.name in _KEEP_INPUTS else nullcontext():
            return self._invoke(ctx)

    def _invoke(self, ctx: Any) -> Any:
        named = [each for each in self.params if _is_stdout(ctx.params.get(each.name or ""))]
        if not named:
            return super().invoke(ctx)
        options = [max(each.opts, key=len) for each in named if each.param_type_name == "option"]
        if len(options) > 1:
            raise ConfigError(f"{', '.join(options)}: standard output takes one file. Name the others.")
        with only_results():
            return super().invoke(ctx)


_Function = TypeVar("_Function", bound=Callable[..., Any])


class _App(typer.Typer):
    def command(self, name: str | None = None, **options: Any) -> Callable[[_Function], _Function]:
        return super().command(name, **{"cls": _Command, **options})


def _is_stdout(value: object) -> bool:
    return isinstance(value, Path) and is_stdout(value)


app = _App(
    name="aicl-fast",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Find when actions happen in long untrimmed recordings.\n\n"
    "A model is trained from video-level labels only (AICL, AAAI 2023), exported, and then localises "
    "actions in features of any length.",
)

Preset = Annotated[
    str, typer.Option("--preset", "-p", help="thumos14, activitynet12, activitynet13 or demo.")
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Leave out videos that have no features.")
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run native code that a version-compatible .engine carries; if you trust its origin."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="NAME=VALUE", help="Override a setting; may be repeated."),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="TOML file with settings."),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads of the engine; every core if left out."),
]

_VIDEO = "Videos"
RgbWeights = Annotated[
    Path | None,
    typer.Option(help="I3D for RGB: weights, or an exported .onnx or .openvino.", rich_help_panel=_VIDEO),
]
FlowWeights = Annotated[
    Path | None,
    typer.Option(help="I3D for optical flow, the same.", rich_help_panel=_VIDEO),
]
_BATCH = 8
VideoBatch = Annotated[
    int | None,
    typer.Option(min=1, help=f"Segments a run of I3D; {_BATCH} if left out.", rich_help_panel=_VIDEO),
]
VideoPrecision = Annotated[
    str | None,
    typer.Option(
        help="Of I3D: fp32, bf16 or fp16; if left out, an exported file's own, and for weights "
        "fp32 on the CPU and fp16 on a GPU.",
        rich_help_panel=_VIDEO,
    ),
]
AllowDamaged = Annotated[
    bool,
    typer.Option(
        "--allow-damaged", help="Take what can be read of cut off or corrupt files.", rich_help_panel=_VIDEO
    ),
]
_FLOW = "tvl1"
_FLOW_HELP = f"Optical flow by tvl1 or dis, as the model's training features; {_FLOW} if left out."
_FlowAlgorithm = Annotated[
    str, typer.Option("--flow", "--flow-algorithm", help=_FLOW_HELP, show_default=False)
]


def _print_version(asked: bool) -> None:
    if asked:
        from aicl_fast import __version__

        typer.echo(f"aicl-fast {__version__}")
        raise typer.Exit


@app.callback()
def shared_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
    max_unpacked: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory that a file may take though it is small itself, as 4GiB; for files that you trust.",
        ),
    ] = None,
) -> None:
    """Take the options that stand before a command's name."""
    if max_unpacked is not None:
        os.environ[MAX_UNPACKED] = str(parse_size(max_unpacked, "--max-unpacked"))


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything the demo writes.")] = Path(
        "runs/demo"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Train this many seeds and show their mean.")] = 1,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Train L_a alone as well, for comparison.")
    ] = False,
    set_: Settings = None,
) -> None:
    """Train, export, localise, evaluate and draw on real wrist-watch recordings.

    Examples:

      aicl-fast demo

      aicl-fast demo --seeds 3 --ablate
    """
    from aicl_fast.cli.demo import run_demo

    run_demo(out, seeds=seeds, ablate=ablate, overrides=set_ or [])


@app.command()
def train(
    data: Annotated[
        Path, typer.Option("--data", "-d", help="Data set folder (features/, gt.json, split_*.txt).")
    ],
    preset: Preset = "thumos14",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the model and the logs.")] = Path(
        "runs/train"
    ),
    config: SettingsFile = None,
    set_: Settings = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Throw away the run that --out holds.")
    ] = False,
    allow_missing: AllowMissing = False,
) -> None:
    """Train a model on a data set's video-level labels.

    Several processes: torchrun --nproc-per-node N -m aicl_fast.train, with these same options.

    Examples:

      aicl-fast train --preset thumos14 --data THUMOS14 --out runs/thumos14

      aicl-fast train -p demo -d runs/demo/data --set steps=300 --set lr=3e-4
    """
    from aicl_fast.cli.commands import run_train

    run_train(
        data,
        preset,
        out,
        config,
        set_ or [],
        device,
        resume=resume,
        overwrite=overwrite,
        allow_missing=allow_missing,
    )


@app.command()
def detect(
    model: Annotated[Path, typer.Argument(help="Exported model, or trained weights.")],
    features: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files of `aicl-fast features`, .npy files with both streams side by side, a folder of "
            "these or with rgb/ and flow/, a data set, or videos."
        ),
    ] = None,
    rgb: Annotated[Path | None, typer.Option(help=".npy of the first stream.")] = None,
    flow: Annotated[Path | None, typer.Option(help=".npy of the second stream.")] = None,
    name: Annotated[
        str | None, typer.Option(help="The recording's name in the detections; by its files if left out.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second; the model's if left out.")] = None,
    split: Annotated[str, typer.Option(help="Of a data set folder: train or test.")] = "test",
    allow_missing: AllowMissing = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the detections.")] = Path(
        "detections.json"
    ),
    scores: Annotated[
        Path | None,
        typer.Option(help="Also write the curves here (scores.npz), for plot and report."),
    ] = None,
    set_: Settings = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="What runs the model: onnxruntime, openvino, tensorrt or torch; by its file if left out."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Of the model and, for videos, of I3D: cpu, cuda or cuda:N; if left out, cpu, but for "
            "TensorRT engines."
        ),
    ] = None,
    threads: Threads = None,
    trust: Trust = False,
    rgb_weights: RgbWeights = None,
    flow_weights: FlowWeights = None,
    flow_algorithm: Annotated[str | None, typer.Option(help=_FLOW_HELP, rich_help_panel=_VIDEO)] = None,
    batch: VideoBatch = None,
    precision: VideoPrecision = None,
    allow_damaged: AllowDamaged = False,
    render: Annotated[
        Path | None,
        typer.Option(
            help="Also write the video with its detections burnt in (.mp4).", rich_help_panel=_VIDEO
        ),
    ] = None,
) -> None:
    """Localise the actions in recordings and write them as ActivityNet JSON.

    Settings of the decoding (class_threshold, nms, …) can be overridden with --set.

    Examples:

      aicl-fast detect model.onnx --rgb video_rgb.npy --flow video_flow.npy --fps 25

      aicl-fast detect runs/demo/model.onnx runs/demo/data -o detections.json

      aicl-fast detect model.onnx clip.mp4 --rgb-weights i3d_rgb.npz --render seen.mp4

      aicl-fast detect model.onnx runs/demo/data --engine openvino
    """
    from aicl_fast.cli.detect import ModelOptions, run_detect

    of_videos = {
        "--rgb-weights": rgb_weights,
        "--flow-weights": flow_weights,
        "--flow-algorithm": flow_algorithm,
        "--batch": batch,
        "--precision": precision,
        "--allow-damaged": allow_damaged or None,
    }

    def video_options() -> VideoOptions:
        from aicl_fast.cli.video import VideoOptions

        return VideoOptions(
            rgb_weights,
            flow_weights,
            flow_algorithm or _FLOW,
            batch or _BATCH,
            device or "cpu",
            precision,
            threads,
            allow_damaged,
            trust,
        )

    run_detect(
        ModelOptions(model, engine, device, threads, trust),
        features or [],
        rgb,
        flow,
        fps,
        split,
        out,
        set_ or [],
        scores,
        render,
        video_options,
        [option for option, value in of_videos.items() if value is not None],
        name,
        allow_missing=allow_missing,
    )


@app.command()
def features(
    videos: Annotated[list[Path], typer.Argument(help="Video files, and folders of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for one <video>.npz each.")],
    rgb_weights: RgbWeights = None,
    flow_weights: FlowWeights = None,
    flow_algorithm: _FlowAlgorithm = _FLOW,
    fps: Annotated[float, typer.Option(help="Frames a second to read at.")] = 25.0,
    stride: Annotated[
        int, typer.Option(min=1, max=16, help="Frames from one segment of 16 to the next.")
    ] = 16,
    batch: VideoBatch = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.", rich_help_panel=_VIDEO)] = "cpu",
    precision: VideoPrecision = None,
    threads: Threads = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Extract anew what is there already.")
    ] = False,
    allow_damaged: AllowDamaged = False,
    trust: Trust = False,
) -> None:
    """Extract the features of videos with I3D, for training and detecting.

    Started again, it goes on with the videos that have no features yet. Exits with 1 when a video could not
    be used; the others are extracted nonetheless.

    Examples:

      aicl-fast features clip.mp4 -o feats --rgb-weights i3d_rgb.npz

      aicl-fast features videos/ -o DATA/features --rgb-weights rgb.pt --flow-weights flow.pt --flow dis
    """
    from aicl_fast.cli.video import VideoOptions, run_features

    options = VideoOptions(
        rgb_weights,
        flow_weights,
        flow_algorithm,
        batch or _BATCH,
        device,
        precision,
        threads,
        allow_damaged,
        trust,
    )
    run_features(videos, out, options, fps, stride, overwrite=overwrite)


@app.command("annotations")
def make_annotations(
    table: Annotated[Path, typer.Argument(help="CSV: video,label[,start,end][,split], times in seconds.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Data set folder.")],
    videos: Annotated[
        Path | None,
        typer.Option(help="Folder of the videos, for their lengths where there are no features yet."),
    ] = None,
    test_share: Annotated[
        float, typer.Option(min=0, max=0.99, help="Of the videos whose split is not given.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Draws the test videos.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace annotations that are there.")
    ] = False,
) -> None:
    """Turn a table of labels into a data set's gt.json, split files and settings.

    Training needs labels alone; test videos need start and end in every row.

    Examples:

      aicl-fast annotations labels.csv -o DATA

      aicl-fast annotations labels.csv -o DATA --videos videos/ --test-share 0.3
    """
    from aicl_fast.cli.labels import run_annotations

    run_annotations(table, out, videos, test_share, seed, overwrite=overwrite)


Subset = Annotated[
    str | None,
    typer.Option(help="Only this subset of the annotations (test, validation, …)."),
]
Tious = Annotated[
    str | None,
    typer.Option("--tiou", help="Thresholds, comma-separated; the preset's if left out."),
]
GroundTruthFile = Annotated[
    Path | None,
    typer.Option("--gt", help="Annotation file; the run's own gt.json if left out."),
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Also write the result as JSON."),
]


@app.command()
def evaluate(
    ground_truth: Annotated[Path, typer.Argument(help="Annotation file (gt.json).")],
    detections: Annotated[Path, typer.Argument(help="Detection file (detections.json).")],
    tiou: Tious = None,
    preset: Preset = "thumos14",
    subset: Subset = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave out this video, those in this file, or the list 'thumos14'; may be repeated."
        ),
    ] = None,
    detad: Annotated[
        Path | None,
        typer.Option(help="Also diagnose the errors (DETAD) and draw them here, .png or .svg."),
    ] = None,
    out: JsonFile = None,
) -> None:
    """Measure detections against ground truth: mean average precision at each tIoU.

    Examples:

      aicl-fast evaluate gt.json detections.json --subset test --detad errors.png

      aicl-fast evaluate gt.json detections.json --tiou 0.5,0.75,0.95 -o metrics.json
    """
    from aicl_fast.cli.judge import run_evaluate

    run_evaluate(ground_truth, detections, tiou, preset, subset, exclude or [], detad, out)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Folder of a run, with detections.json.")],
    second: Annotated[Path, typer.Argument(help="Folder of the run to compare with it.")],
    gt: GroundTruthFile = None,
    tiou: Tious = None,
    preset: Preset = "thumos14",
    subset: Subset = None,
    out: JsonFile = None,
) -> None:
    """Compare two runs on the same videos, and tell a difference from noise (paired bootstrap).

    Examples:

      aicl-fast compare runs/baseline runs/aicl

      aicl-fast compare runs/a runs/b --gt THUMOS14/gt.json --subset test
    """
    from aicl_fast.cli.judge import run_compare

    run_compare(first, second, gt, tiou, preset, subset, out)


Baseline = Annotated[
    Path | None,
    typer.Option(help="Folder of a second run on the same videos, shown beside."),
]


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(help="Folder of a run, with detections.json and scores.npz.")],
    out: Annotated[Path, typer.Option("--out", "-o", help=".png, .svg or .pdf.")] = Path("timeline.png"),
    video: Annotated[
        list[str] | None,
        typer.Option(help="Draw this video; may be repeated. Every video if left out."),
    ] = None,
    worst: Annotated[int | None, typer.Option(help="Draw the N videos of the lowest AP.")] = None,
    baseline: Baseline = None,
    gt: GroundTruthFile = None,
    min_score: Annotated[float | None, typer.Option(help="Draw detections from this score.")] = None,
) -> None:
    """Draw timelines: both branches, the fused score, detections and ground truth.

    Examples:

      aicl-fast plot runs/demo --video watch_test_002 -o timeline.png

      aicl-fast plot runs/aicl --worst 6 --baseline runs/baseline -o worst.svg
    """
    from aicl_fast.cli.judge import run_plot

    run_plot(run, out, video or [], worst, baseline, gt, min_score)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, with detections.json.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The page; report.html in the run's folder if left out."),
    ] = None,
    baseline: Baseline = None,
    gt: GroundTruthFile = None,
    media: Annotated[Path | None, typer.Option(help="Folder of video files that the page plays.")] = None,
    preset: Preset = "thumos14",
    subset: Subset = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
) -> None:
    """Write one self-contained HTML page about a run: tables, error analysis, interactive timelines.

    Examples:

      aicl-fast report runs/demo

      aicl-fast report runs/aicl --baseline runs/baseline -o page.html
    """
    from aicl_fast.cli.judge import run_report

    run_report(run, out, baseline, gt, media, preset, subset, title)


_BUILDER = "TensorRT"
_SERVER = "Triton Inference Server"


@app.command()
def export(
    model: Annotated[
        Path, typer.Argument(help="Trained weights (model.safetensors; of I3D also .pt and .npz).")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File (or folder) to write; beside the weights if left out."),
    ] = None,
    network: Annotated[
        str, typer.Option("--model", help="What the weights are of: aicl, i3d-rgb or i3d-flow.")
    ] = "aicl",
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            help="onnx, openvino, tensorrt, tensorrt-rtx or triton-repository; by the name of --out if left "
            "out, and onnx without one.",
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, tf32, fp16, bf16, int8 or fp8.")] = "fp32",
    batch: Annotated[str, typer.Option(help="Videos a run: one size, or smallest:usual:largest.")] = "1:8:64",
    segments: Annotated[
        str | None,
        typer.Option(help="T: one size, or smallest:usual:largest; the model's if left out."),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(
            help="ONNX files: up to 23, from 15 (int8 19, fp8 21, bf16 22); 18, or the lowest, if left out."
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Run the file against the weights; exit 1 past tolerance.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Data set folder to verify on."),
    ] = None,
    allow_missing: AllowMissing = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="int8, fp8: data set folder whose training features calibrate."),
    ] = None,
    calibrate_videos: Annotated[int, typer.Option(min=1, help="int8, fp8: how many at most.")] = 32,
    seed: Annotated[int, typer.Option(help="int8, fp8: chooses which.")] = 0,
    convolution: Annotated[
        str, typer.Option(help="winograd (half the products, a larger file), direct, or auto.")
    ] = "auto",
    workspace: Annotated[
        int | None,
        typer.Option(help="Most memory of a layer, in MiB.", rich_help_panel=_BUILDER),
    ] = None,
    compute_capability: Annotated[
        str, typer.Option(help="RTX: cards to build for, as 8.6,8.9.", rich_help_panel=_BUILDER)
    ] = "",
    hardware_compatible: Annotated[
        bool,
        typer.Option(
            "--hardware-compatible", help="For every card from Ampere on.", rich_help_panel=_BUILDER
        ),
    ] = False,
    version_compatible: Annotated[
        bool,
        typer.Option("--version-compatible", help="Also for later versions.", rich_help_panel=_BUILDER),
    ] = False,
    refittable: Annotated[
        bool,
        typer.Option("--refittable", help="New weights can be put in later.", rich_help_panel=_BUILDER),
    ] = False,
    refit: Annotated[
        Path | None,
        typer.Option(help="Put the weights into this engine; builds nothing.", rich_help_panel=_BUILDER),
    ] = None,
    trust: Trust = False,
    timing_cache: Annotated[
        Path | None,
        typer.Option(help="File of kernel times, kept between builds.", rich_help_panel=_BUILDER),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(help="File for all that the builder says.", rich_help_panel=_BUILDER),
    ] = None,
    backend: Annotated[str, typer.Option(help="onnx or tensorrt.", rich_help_panel=_SERVER)] = "onnx",
    name: Annotated[str, typer.Option(help="The model's name.", rich_help_panel=_SERVER)] = "aicl",
    instances: Annotated[int, typer.Option(help="Copies a device.", rich_help_panel=_SERVER)] = 1,
    instance_kind: Annotated[str, typer.Option(help="auto, cpu or gpu.", rich_help_panel=_SERVER)] = "auto",
    queue_delay: Annotated[
        int, typer.Option(help="Longest wait for a fuller batch, in µs.", rich_help_panel=_SERVER)
    ] = 1000,
) -> None:
    """Turn trained weights into a model that runs without torch.

    Examples:

      aicl-fast export runs/demo/model.safetensors

      aicl-fast export model.safetensors --format openvino --precision bf16 --verify --data THUMOS14

      aicl-fast export model.safetensors --format tensorrt-rtx --precision fp16 --batch 1:8:64

      aicl-fast export --model i3d-rgb rgb_imagenet.pt --format openvino --precision bf16 --verify
    """
    from aicl_fast.cli.exporting import run_export

    def options() -> ExportOptions:
        from aicl_fast.export.formats import ExportOptions, format_of
        from aicl_fast.export.onnx import parse_range
        from aicl_fast.export.tensorrt import BuildOptions, parse_capabilities
        from aicl_fast.export.triton_repository import ServerOptions

        return ExportOptions(
            format_of(out) if format_ is None else format_,
            precision,
            parse_range(batch, "--batch"),
            None if segments is None else parse_range(segments, "--segments"),
            calibrate,
            calibrate_videos,
            seed,
            convolution,
            BuildOptions(
                workspace,
                parse_capabilities(compute_capability),
                hardware_compatible,
                version_compatible,
                refittable,
                timing_cache,
                log,
            ),
            ServerOptions(name, backend, instances, instance_kind, queue_delay),
            opset,
            allow_missing,
        )

    run_export(model, out, options, network=network, verify=verify, data=data, refit=refit, trust=trust)


@app.command()
def parity(
    models: Annotated[
        list[str],
        typer.Argument(help="Model files; the first is the reference. engine:file picks an engine."),
    ],
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Data set folder; random features if left out."),
    ] = None,
    allow_missing: AllowMissing = False,
    threads: Threads = None,
    trust: Trust = False,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each file.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the random features.")] = 0,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda or cuda:N, of every file; each engine's own if left out."),
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(help="ONNX Runtime's execution provider, in order of preference; may be repeated."),
    ] = None,
    pin_threads: Annotated[
        bool | None,
        typer.Option("--pin-threads/--no-pin-threads", help="Tie the engines' threads to cores."),
    ] = None,
) -> None:
    """Run the same features through several model files and compare outputs, mAP and latency.

    Exits with 1 when a file is further from the first than its precision allows.

    Examples:

      aicl-fast parity model.safetensors model.onnx model.openvino

      aicl-fast parity model.safetensors onnxruntime:model.onnx openvino:model.onnx --data THUMOS14
    """
    from aicl_fast.cli.exporting import run_parity

    run_parity(
        models,
        data,
        threads,
        runs,
        seed,
        device=device,
        trust=trust,
        providers=provider,
        pin_threads=pin_threads,
        allow_missing=allow_missing,
    )


@app.command()
def info(
    model: Annotated[
        Path | None,
        typer.Argument(help="A model file; without one, the installation and the presets are shown."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", "-p", help="Show every setting of this preset."),
    ] = None,
) -> None:
    """Show what is installed, what a preset sets, or what a model file holds.

    Examples:

      aicl-fast info

      aicl-fast info --preset thumos14

      aicl-fast info runs/demo/model.onnx
    """
    from aicl_fast.cli.info import run_info

    run_info(model, preset)


@app.command("import-checkpoint")
def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="The authors' file (CAS_Only.pkl).")],
    model: Annotated[Path, typer.Argument(help="File to write (model.safetensors).")],
    preset: Preset = "thumos14",
    gt: Annotated[
        Path | None,
        typer.Option("--gt", help="Annotation file whose labels, sorted, are the classes."),
    ] = None,
    config: SettingsFile = None,
    set_: Settings = None,
) -> None:
    """Turn weights of the authors' program into a model file.

    The presets of ActivityNet have no class names: give them by --gt, --set classes=… or --config.

    Examples:

      aicl-fast import-checkpoint CAS_Only.pkl model.safetensors

      aicl-fast import-checkpoint CAS_Only.pkl model.safetensors -p activitynet12 --gt ActivityNet12/gt.json
    """
    from aicl_fast.cli.training import run_import_checkpoint

    run_import_checkpoint(checkpoint, model, preset, gt, config, set_ or [])


@app.command()
def synthetic(
    root: Annotated[Path, typer.Argument(help="Folder to make.")],
    set_: Settings = None,
) -> None:
    """Generate a synthetic data set shaped like THUMOS14, for measuring and trying things out.

    Settings are the generator's own (train_videos, width, scene_confusion, seed, …).

    Examples:

      aicl-fast synthetic runs/synthetic

      aicl-fast synthetic runs/small --set train_videos=40 --set test_videos=20 --set width=64
    """
    from aicl_fast.cli.training import run_synthetic

    run_synthetic(root, set_ or [])


@app.command()
def ablate(
    experiment: Annotated[str, typer.Argument(help="losses, fusion, accuracy, consistency or selection.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Data set folder; the demo's recordings if left out."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", "-p", help="thumos14, activitynet12, activitynet13; demo without --data."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for every run; runs/ablate-EXPERIMENT if left out."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train each arm with this many seeds.")] = 3,
    config: SettingsFile = None,
    set_: Settings = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    allow_missing: AllowMissing = False,
) -> None:
    """Repeat an experiment of the paper: a table, a picture, and a record of every run.

    Started again, it goes on with the runs that are not finished.

    Examples:

      aicl-fast ablate selection

      aicl-fast ablate losses --data THUMOS14 --preset thumos14 --seeds 3
    """
    from aicl_fast.cli.training import run_ablate

    run_ablate(experiment, data, preset, out, seeds, config, set_ or [], device, allow_missing=allow_missing)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(
    context: typer.Context,
    suite: Annotated[
        str,
        typer.Argument(
            help="detect, engines, decode, train, evaluate, load, video, accuracy, kernels or sweep; all of "
            "them; or report or compare, for what was recorded."
        ),
    ],
) -> None:
    """Measure this machine, each suite against a baseline in the same process.

    What follows the suite is its own; aicl-fast bench SUITE -h lists it.

    Examples:

      aicl-fast bench detect --seconds 5

      aicl-fast bench detect --model m.onnx --batch 1,8,64 --seconds 5

      aicl-fast bench all

      aicl-fast bench compare old.json new.json
    """
    from aicl_fast.cli.commands import run_bench

    run_bench(suite, context.args)
