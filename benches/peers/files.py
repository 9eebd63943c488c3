#!/usr/bin/env python3
"""Measures file to annotated file, crops and JSON lines: gst-launch-1.0 and a plain Python loop.

Both decode H.264 with FFmpeg, detect at 640 with the same weights and provider, and write crops as
PNG. The Python loop encodes MPEG-4 part 2 with OpenCV's `mp4v`. The pipeline `ours` encodes H.264,
as pipelines/annotate.launch does, at a quantizer that gives higher quality in a smaller file: for
the unchanged 1080p clip 39.45 dB and 3.9 MB instead of 39.18 dB and 7.3 MB. `ours, MPEG-4` encodes
MPEG-4 part 2 at a bitrate that gives a file of about the size of OpenCV's (43.5 dB and 8.5 MB;
FFmpeg gets YUV planes, not BGR).

Runs are interleaved. The time is that of the whole process, including its start.
`BENCH_CLIPS=1080p` leaves out the original clip.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time

import common

THREADS = common.pin_to_cores()
ROUNDS = int(os.environ.get("ROUNDS", 2 if common.QUICK else 6))
WORK = common.TARGET / "tmp/files"
LARGE = common.TARGET / "tmp/clip-1080p.mp4"
FRAMES = 300


def gst(description):
    return ["gst-launch-1.0", "-q", "-e", *description.split()]


def make_large_clip():
    if LARGE.exists():
        return
    LARGE.parent.mkdir(parents=True, exist_ok=True)
    part = LARGE.with_suffix(".part")
    subprocess.run(
        gst(
            f"filesrc location={common.CLIP} ! decodebin ! identity eos-after={FRAMES} ! videoconvert ! videoscale method=lanczos"
            " ! video/x-raw,format=I420,width=1920,height=1080 ! x264enc speed-preset=fast bitrate=8000 ! h264parse ! mp4mux"
            f" ! filesink location={part}"
        ),
        env=common.ENVIRONMENT,
        check=True,
    )
    part.rename(LARGE)


# Queues give decoder, detector, encoder and crops a thread each. facealign is the first branch of
# the tee, so that the overlay then owns the frame and does not copy it. single-segment: avenc_mpeg4
# of GStreamer 1.22 outputs nothing for a segment that does not start at 0.
MPEG4 = "identity single-segment=true ! avenc_mpeg4 bitrate=100000000 gop-size=12"
X264 = "x264enc tune=zerolatency sliced-threads=false threads=1 speed-preset=ultrafast pass=quant quantizer=27 ! h264parse"


def pipeline(clip, encoder, detector):
    return gst(
        f"filesrc location={clip} ! qtdemux ! h264parse ! avdec_h264 max-threads=1 ! queue ! retinaface {detector} ! queue"
        f" ! facemetapublish location={WORK}/faces.jsonl ! tee name=t"
        f" t. ! facealign ! queue ! pngenc compression-level=1 ! multifilesink location={WORK}/crop-%05d.png async=false"
        f" t. ! queue ! facemetaoverlay ! queue ! {encoder} ! mp4mux ! filesink location={WORK}/annotated.mp4"
    )


def python_loop(environment, clip, *options):
    script = common.ROOT / "benches/peers/python_loop.py"
    interpreter = common.OUT / environment / "bin/python"
    return [str(interpreter), str(script), str(clip), str(WORK), str(common.MODEL), "--threads", str(THREADS), *options]


def contenders(clip):
    cpu = f"execution-provider=cpu threads=1 parallel-runs={THREADS}"
    openvino = f"execution-provider=openvino threads={THREADS} precision=reduced"
    return {
        "Python loop": python_loop("venv", clip),
        "Python loop, spinning": python_loop("venv", clip, "--default-spinning"),
        "ours": pipeline(clip, X264, cpu),
        "ours, MPEG-4": pipeline(clip, MPEG4, cpu),
        "Python loop, OpenVINO bf16": python_loop("venv-openvino", clip, "--openvino", "bf16"),
        "ours, OpenVINO reduced": pipeline(clip, X264, openvino),
    }


# Each pipeline is compared with the fastest of its Python loops. The threads of ONNX Runtime spin
# by default, which helps if cores are idle and harms if they are busy.
LOOPS = ["Python loop", "Python loop, spinning"]
BASELINES = {"ours": LOOPS, "ours, MPEG-4": LOOPS, "ours, OpenVINO reduced": ["Python loop, OpenVINO bf16"]}


def run(command):
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    try:
        result = subprocess.run(command, env=common.ENVIRONMENT, capture_output=True, text=True, timeout=180)
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        raise common.Unavailable(str(error)[:200]) from None
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line or "ERROR" in line or "WARNING" in line]
        raise common.Unavailable((errors or lines or ["no error message"])[0][:200])
    return {
        "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "frames": sum(1 for _ in open(WORK / "faces.jsonl")),
        "crops": len(list(WORK.glob("crop-*.png"))),
        "video_bytes": (WORK / "annotated.mp4").stat().st_size,
        **({"loop": json.loads(result.stdout)} if result.stdout.startswith("{") else {}),
    }


def measure(clip):
    commands, runs, unavailable = contenders(clip), {}, {}
    for number in range(ROUNDS):
        for name, command in commands.items():
            result = None
            if name not in unavailable:
                try:
                    result = run(command)
                except common.Unavailable as reason:
                    unavailable[name] = str(reason)
            runs.setdefault(name, []).append(result)
        print(f"files: {clip.name}, round {number + 1} of {ROUNDS}", file=sys.stderr)
    rows = {}
    for name, results in runs.items():
        finished = [result for result in results if result]
        if name in unavailable or not finished:
            rows[name] = {"unavailable": unavailable.get(name, "no run succeeded")}
            continue
        seconds = [result and result["seconds"] for result in results]
        cpu = [result["cpu_seconds"] for result in finished]
        rows[name] = {key: finished[-1][key] for key in ["frames", "crops", "video_bytes"]}
        rows[name] |= {"seconds": common.summary([s for s in seconds if s]), "cpu_seconds": common.summary(cpu), "rounds": seconds}
        if "loop" in finished[-1]:
            rows[name]["ms_per_frame"] = finished[-1]["loop"]["ms_per_frame"]
        rows[name]["command"] = " ".join(commands[name]).replace(str(common.ROOT) + "/", "")
        loops = [loop for loop in BASELINES.get(name, []) if "rounds" in rows.get(loop, {})]
        if loops:
            fastest = min(loops, key=lambda loop: rows[loop]["seconds"]["median"])
            rows[name] |= {"speedup": common.summary(common.paired_ratios(rows[fastest]["rounds"], seconds)), "against": fastest}
    return rows


def main():
    make_large_clip()
    selected = os.environ.get("BENCH_CLIPS", "1080p,360p").split(",")
    clips = {name: measure(clip) for name, clip in [("1080p", LARGE), ("360p", common.CLIP)] if name in selected}
    common.write("files.json", {"machine": common.machine(), "threads": THREADS, "rounds": ROUNDS, "clips": clips})


if __name__ == "__main__":
    main()
