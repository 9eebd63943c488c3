#!/usr/bin/env python3
"""Measures how the cost grows with the number of streams, the frame size and the number of faces.

It runs `retinaface bench` with one single-threaded session per core, each point once per round. A
shared machine changes its speed during the measurement. Therefore each run interleaves a bare
session of the model with the element: the cost of a point is the time of a frame in units of a bare
run, and its time is that cost times the median bare run of the series.
"""

import os
import statistics
import sys

import common

THREADS = common.pin_to_cores()
ROUNDS = int(os.environ.get("ROUNDS", 1 if common.QUICK else 3))
TOTAL = 64 if common.QUICK else 128
SIZES = ["640x360", "1280x720", "1920x1080", "2560x1440", "3840x2160"]
# Name to points: the value on the axis, and the arguments of the program.
SERIES = {
    "streams": [(n, {"streams": n, "frame_size": "1280x720", "frames": max(8, TOTAL // n)}) for n in [1, 2, 4, 8, 16, 32]],
    "pixels": [
        (int(size.split("x")[0]) * int(size.split("x")[1]), {"frame_size": size, "frames": TOTAL // 2}) for size in SIZES
    ],
    # At an input of 1280, 500 faces per frame have 40 pixels each; at 640 they are too small to be
    # found.
    "faces": [(n, {"frame_size": "1920x1080", "faces": n, "frames": TOTAL // 4, "input_size": 1280}) for n in [0, 1, 5, 20, 50, 100, 200, 500]],
}


# A model that runs about twice per second on one core, and a stream that must not wait for it.
LATEST = {"mode": "latest", "fps": 60, "frames": 300 if common.QUICK else 1200, "input_size": 3840, "threads": 1}
# On a GPU: the delay of one stream and the rate of many streams.
GPU = {
    f"{provider} {precision}, {streams} streams": {"execution_provider": provider, "precision": precision, "streams": streams}
    for provider, precision in [("cuda", "full"), ("cuda", "reduced"), ("tensorrt", "reduced")]
    for streams in [1, 16]
}


def bench_or_reason(arguments):
    try:
        return common.bench(**arguments)
    except common.Unavailable as reason:
        return {"unavailable": str(reason)}


def main():
    runs, unavailable = {name: {x: [] for x, _ in points} for name, points in SERIES.items()}, {}
    for number in range(ROUNDS):
        for name, points in SERIES.items():
            for x, arguments in points:
                if (name, x) in unavailable:
                    continue
                try:
                    runs[name][x].append(common.bench(**{"input_size": 640, "threads": 1, "parallel_runs": THREADS, "execution_provider": "cpu", **arguments}))
                except common.Unavailable as reason:
                    unavailable[name, x] = str(reason)
        print(f"scaling: round {number + 1} of {ROUNDS}", file=sys.stderr)
    series = {}
    for name, points in runs.items():
        series[name] = []
        bare = [run["bare_rate"] for results in points.values() for run in results if run.get("bare_rate")]
        bare_ms = 1000 / statistics.median(bare) if bare else None
        for x, results in points.items():
            point = {"x": x}
            if (name, x) in unavailable or not results:
                point["unavailable"] = unavailable.get((name, x), "not run")
            else:
                costs = [run["bare_rate"] / run["rate"] if run.get("bare_rate") else None for run in results]
                if bare_ms and all(costs):
                    point["bare_runs_per_frame"] = common.summary(costs)
                    point["ms_per_frame"] = float(f"{statistics.median(costs) * bare_ms:.4g}")
                else:
                    point["ms_per_frame"] = float(f"{1000 / statistics.median(run['rate'] for run in results):.4g}")
                point["rates"] = [run["rate"] for run in results]
                point["grown_kb"] = statistics.median(run["resident_end_kb"] - run["resident_start_kb"] for run in results)
                point["resident_kb"] = statistics.median(run["resident_end_kb"] for run in results)
            series[name].append(point)
    machine = common.machine()
    latest = bench_or_reason({"execution_provider": "cpu", "frame_size": "1920x1080", **LATEST})
    gpu = {name: bench_or_reason({"frame_size": "1920x1080", "frames": 480, **arguments}) for name, arguments in GPU.items()} if machine["gpu"] != "none at hand" else {}
    common.write("scaling.json", {
        "machine": machine, "threads": THREADS, "rounds": ROUNDS, "series": series, "latest": latest, "gpu": gpu,
    })


if __name__ == "__main__":
    main()
