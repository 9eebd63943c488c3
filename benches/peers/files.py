#!/usr/bin/env python3
"""A file to an annotated file, crops and JSON lines: whole processes, ours by gst-launch-1.0 and the plain Python loop.

Both decode H.264 by FFmpeg, detect at 640 with the same weights and provider, and write crops as PNG. OpenCV's `mp4v`
writes MPEG-4 part 2. Ours writes H.264, as pipelines/annotate.launch does, at a quantizer that gives a better picture in
a smaller file: of the 1080p clip as it is 39.45 dB and 3.9 MB against 39.18 dB and 7.3 MB. And, beside it, MPEG-4 part 2
at a bitrate whose file is as large as OpenCV's (43.5 dB and 8.5 MB: FFmpeg is given planes, not BGR).
Runs alternate; time is of whole processes, start included. `BENCH_CLIPS=1080p` leaves out the original clip.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time

import common

THREADS = common.pin()
ROUNDS = int(os.environ.get("ROUNDS", 2 if common.QUICK else 6))
WORK = common.TARGET / "tmp/files"
LARGE = common.TARGET / "tmp/clip-1080p.mp4"
FRAMES = 300


def gst(words):
    return ["gst-launch-1.0", "-q", "-e", *words.split()]


def make_large():
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


# A thread of its own for each of decoder, detector, encoder and crops, and a run of the model a core. Crops are cut first:
# the overlay then has the frame for itself, and need not copy it. `single-segment`: avenc_mpeg4 of GStreamer 1.22 gives nothing where a segment does not start at 0.
MPEG4 = "identity single-segment=true ! avenc_mpeg4 bitrate=100000000 gop-size=12"
X264 = "x264enc tune=zerolatency sliced-threads=false threads=1 speed-preset=ultrafast pass=quant quantizer=27 ! h264parse"


def pipeline(clip, encoder, detector):
    return gst(
        f"filesrc location={clip} ! qtdemux ! h264parse ! avdec_h264 max-threads=1 ! queue ! retinaface {detector} ! queue"
        f" ! facemetapublish location={WORK}/faces.jsonl ! tee name=t"
        f" t. ! facealign ! queue ! pngenc compression-level=1 ! multifilesink location={WORK}/crop-%05d.png async=false"
        f" t. ! queue ! facemetaoverlay ! queue ! {encoder} ! mp4mux ! filesink location={WORK}/annotated.mp4"
    )


def python(environment, clip, *more):
    script = common.ROOT / "benches/peers/python_loop.py"
    interpreter = common.OUT / environment / "bin/python"
    return [str(interpreter), str(script), str(clip), str(WORK), str(common.MODEL), "--threads", str(THREADS), *more]


def contenders(clip):
    cpu = f"execution-provider=cpu threads=1 parallel-runs={THREADS}"
    openvino = f"execution-provider=openvino threads={THREADS} precision=reduced"
    return {
        "Python loop": python("venv", clip),
        "Python loop, spinning": python("venv", clip, "--default-spinning"),
        "ours": pipeline(clip, X264, cpu),
        "ours, MPEG-4": pipeline(clip, MPEG4, cpu),
        "Python loop, OpenVINO bf16": python("venv-openvino", clip, "--openvino", "bf16"),
        "ours, OpenVINO reduced": pipeline(clip, X264, openvino),
    }


# Against whom: the faster of those. ONNX Runtime's threads spin by default, which helps on idle cores and harms on busy ones.
LOOPS = ["Python loop", "Python loop, spinning"]
PAIRS = {"ours": LOOPS, "ours, MPEG-4": LOOPS, "ours, OpenVINO reduced": ["Python loop, OpenVINO bf16"]}


def run(command):
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    try:
        ended = subprocess.run(command, env=common.ENVIRONMENT, capture_output=True, text=True, timeout=180)
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        raise common.Missing(str(error)[:200]) from None
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode != 0:
        words = [line for line in ended.stderr.splitlines() if line.strip()]
        said = [line for line in words if "Error" in line or "ERROR" in line or "WARNING" in line]
        raise common.Missing((said or words or ["no word of why"])[0][:200])
    return {
        "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "frames": sum(1 for _ in open(WORK / "faces.jsonl")),
        "crops": len(list(WORK.glob("crop-*.png"))),
        "video_bytes": (WORK / "annotated.mp4").stat().st_size,
        **({"loop": json.loads(ended.stdout)} if ended.stdout.startswith("{") else {}),
    }


def measure(clip):
    commands, runs, missing = contenders(clip), {}, {}
    for number in range(ROUNDS):
        for name, command in commands.items():
            result = None
            if name not in missing:
                try:
                    result = run(command)
                except common.Missing as reason:
                    missing[name] = str(reason)
            runs.setdefault(name, []).append(result)
        print(f"files: {clip.name}, round {number + 1} of {ROUNDS}", file=sys.stderr)
    rows = {}
    for name, results in runs.items():
        done = [result for result in results if result]
        if name in missing or not done:
            rows[name] = {"missing": missing.get(name, "no run ended")}
            continue
        seconds = [result and result["seconds"] for result in results]
        cpu = [result["cpu_seconds"] for result in done]
        rows[name] = {key: done[-1][key] for key in ["frames", "crops", "video_bytes"]}
        rows[name] |= {"seconds": common.spread([s for s in seconds if s]), "cpu_seconds": common.spread(cpu), "rounds": seconds}
        if "loop" in done[-1]:
            rows[name]["ms_a_frame"] = done[-1]["loop"]["ms_a_frame"]
        rows[name]["command"] = " ".join(commands[name]).replace(str(common.ROOT) + "/", "")
        loops = [loop for loop in PAIRS.get(name, []) if "rounds" in rows.get(loop, {})]
        if loops:
            fastest = min(loops, key=lambda loop: rows[loop]["seconds"]["median"])
            rows[name] |= {"times_as_fast": common.spread(common.pairs(rows[fastest]["rounds"], seconds)), "against": fastest}
    return rows


def main():
    make_large()
    wanted = os.environ.get("BENCH_CLIPS", "1080p,360p").split(",")
    clips = {name: measure(clip) for name, clip in [("1080p", LARGE), ("360p", common.CLIP)] if name in wanted}
    common.write("files.json", {"machine": common.machine(), "threads": THREADS, "rounds": ROUNDS, "clips": clips})


if __name__ == "__main__":
    main()
