#!/usr/bin/env python3
"""How cost grows with streams, frame size and faces: `retinaface bench` with a run a core, each point once a round.

A machine that others use changes its speed while we measure. Each run alternates a bare session of the model with the
element, so a point's cost is that of a frame in bare runs, and its time that many medians of its series' bare runs.
"""

import os
import statistics
import sys

import common

THREADS = common.pin()
ROUNDS = int(os.environ.get("ROUNDS", 1 if common.QUICK else 3))
TOTAL = 64 if common.QUICK else 128
SIZES = ["640x360", "1280x720", "1920x1080", "2560x1440", "3840x2160"]
# Name to its points: what the point is called on the axis, and the program's arguments.
SERIES = {
    "streams": [(n, {"streams": n, "frame_size": "1280x720", "frames": max(8, TOTAL // n)}) for n in [1, 2, 4, 8, 16, 32]],
    "pixels": [
        (int(size.split("x")[0]) * int(size.split("x")[1]), {"frame_size": size, "frames": TOTAL // 2}) for size in SIZES
    ],
    # An input of 1280: of 500 faces in a frame each is 40 pixels there, at 640 too small to be found.
    "faces": [(n, {"frame_size": "1920x1080", "faces": n, "frames": TOTAL // 4, "input_size": 1280}) for n in [0, 1, 5, 20, 50, 100, 200, 500]],
}


# A network so large that it runs some two times a second on one core, and video beside it that must not wait.
LATEST = {"mode": "latest", "fps": 60, "frames": 300 if common.QUICK else 1200, "input_size": 3840, "threads": 1}
# What a GPU is asked for: one stream's delay, and many streams' rate.
GPU = {
    f"{provider} {precision}, {streams} streams": {"execution_provider": provider, "precision": precision, "streams": streams}
    for provider, precision in [("cuda", "full"), ("cuda", "reduced"), ("tensorrt", "reduced")]
    for streams in [1, 16]
}


def one(arguments):
    try:
        return common.ours(**arguments)
    except common.Missing as reason:
        return {"missing": str(reason)}


def main():
    runs, missing = {name: {x: [] for x, _ in points} for name, points in SERIES.items()}, {}
    for number in range(ROUNDS):
        for name, points in SERIES.items():
            for x, arguments in points:
                if (name, x) in missing:
                    continue
                try:
                    runs[name][x].append(common.ours(**{"input_size": 640, "threads": 1, "parallel_runs": THREADS, "execution_provider": "cpu", **arguments}))
                except common.Missing as reason:
                    missing[name, x] = str(reason)
        print(f"scaling: round {number + 1} of {ROUNDS}", file=sys.stderr)
    series = {}
    for name, points in runs.items():
        series[name] = []
        bare = [run["bare_rate"] for results in points.values() for run in results if run.get("bare_rate")]
        bare_ms = 1000 / statistics.median(bare) if bare else None
        for x, results in points.items():
            point = {"x": x}
            if (name, x) in missing or not results:
                point["missing"] = missing.get((name, x), "not run")
            else:
                costs = [run["bare_rate"] / run["rate"] if run.get("bare_rate") else None for run in results]
                if bare_ms and all(costs):
                    point["bare_runs_a_frame"] = common.spread(costs)
                    point["ms_a_frame"] = float(f"{statistics.median(costs) * bare_ms:.4g}")
                else:
                    point["ms_a_frame"] = float(f"{1000 / statistics.median(run['rate'] for run in results):.4g}")
                point["rates"] = [run["rate"] for run in results]
                point["grown_kb"] = statistics.median(run["resident_end_kb"] - run["resident_start_kb"] for run in results)
                point["resident_kb"] = statistics.median(run["resident_end_kb"] for run in results)
            series[name].append(point)
    machine = common.machine()
    latest = one({"execution_provider": "cpu", "frame_size": "1920x1080", **LATEST})
    gpu = {name: one({"frame_size": "1920x1080", "frames": 480, **arguments}) for name, arguments in GPU.items()} if machine["gpu"] != "none at hand" else {}
    common.write("scaling.json", {
        "machine": machine, "threads": THREADS, "rounds": ROUNDS, "series": series, "latest": latest, "gpu": gpu,
    })


if __name__ == "__main__":
    main()
