#!/usr/bin/env python3
"""Compares the tracker with others on the same detections of rendered sequences.

    cargo build --release --package retinaface-sequences
    target/release/retinaface-track-sequences OUT
    pip install -r tools/tracking/requirements.txt
    tools/tracking/tracking.py OUT [--intervals 1,5] [--program target/bin/retinaface]

The others are ByteTrack and SORT of the package `trackers` and `norfair`. Each gets the detections of
every Nth frame, and is evaluated in these frames, because the others say nothing about the frames in
between. Prints a table in Markdown.

Exit status: 0 success, 2 an error.
"""

import argparse
import collections
import json
import subprocess
import sys
from pathlib import Path

import norfair
import numpy as np
import supervision
import trackers

# Scores below this start no track; as in TrackerSettings.
SCORE = 0.5
# Time for which a lost track is kept, as in TrackerSettings.
LOST_SECONDS = 2.0


def read(file):
    """The rows of a file in the MOT Challenge format by frame."""
    frames = collections.defaultdict(list)
    for line in file.read_text().splitlines():
        values = [float(value) for value in line.split(",")]
        frames[int(values[0])].append(values[1:])
    return frames


def frame_rate(file):
    """Mean frame rate of a sequence."""
    times = [int(line.split(",")[1]) for line in file.read_text().splitlines()[1:]]
    return 1e9 * (len(times) - 1) / (times[-1] - times[0])


def detections(rows):
    boxes = np.array([row[1:5] for row in rows], dtype=float).reshape(-1, 4)
    scores = np.array([row[5] for row in rows], dtype=float)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return corners, scores


class Supervised:
    """A tracker of the package `trackers`."""

    def __init__(self, kind, rate, **options):
        options |= {
            "lost_track_buffer": round(30 * LOST_SECONDS),
            "frame_rate": rate,
            "track_activation_threshold": SCORE,
        }
        self.tracker = kind(**options)

    def update(self, rows):
        corners, scores = detections(rows)
        found = supervision.Detections(xyxy=corners, confidence=scores, class_id=np.zeros(len(rows), dtype=int))
        tracked = self.tracker.update(found)
        ids = tracked.tracker_id if tracked.tracker_id is not None else []
        return [(int(key), box) for key, box in zip(ids, tracked.xyxy) if key >= 0]


class Norfair:
    """Norfair with intersection over union."""

    def __init__(self, rate):
        self.tracker = norfair.Tracker(
            distance_function="iou",
            distance_threshold=0.8,
            initialization_delay=1,
            hit_counter_max=max(2, round(LOST_SECONDS * rate)),
        )

    def update(self, rows):
        corners, scores = detections(rows)
        found = [
            norfair.Detection(box.reshape(2, 2), scores=np.full(2, score))
            for box, score in zip(corners, scores)
            if score >= SCORE
        ]
        # Tracks that were not detected in this frame are guesses, which the others do not report.
        tracked = [track for track in self.tracker.update(found) if track.last_detection in found]
        return [(track.id, track.last_detection.points.reshape(4)) for track in tracked]


def others(rate):
    """The trackers to compare with."""
    return {
        "trackers ByteTrack": Supervised(
            trackers.ByteTrackTracker, rate, high_conf_det_threshold=SCORE, minimum_consecutive_frames=1
        ),
        "trackers SORT": Supervised(trackers.SORTTracker, rate, minimum_consecutive_frames=1),
        "norfair": Norfair(rate),
    }


def write(file, frames):
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, tracks in enumerate(frames, 1):
        for key, (left, top, right, bottom) in tracks:
            lines.append(f"{number},{key},{left:.2f},{top:.2f},{right - left:.2f},{bottom - top:.2f},1,-1,-1,-1")
    file.write_text("".join(line + "\n" for line in lines))


def thinned(source, target, interval):
    """Copies every Nth frame of a file, with consecutive numbers."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for line in source.read_text().splitlines():
        number, rest = line.split(",", 1)
        if (int(number) - 1) % interval == 0:
            lines.append(f"{(int(number) - 1) // interval + 1},{rest}\n")
    target.write_text("".join(lines))


def evaluate(program, truth, predictions):
    command = [program, "eval", "track", "--truth", truth, "--predictions", predictions, "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["combined"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--intervals", default="1,5", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--program", default="target/bin/retinaface")
    options = parser.parse_args()
    print("| every Nth frame | tracker | HOTA | MOTA | IDF1 | id switches | ids (true) |")
    print("|---|---|---|---|---|---|---|")
    for interval in options.intervals:
        work = options.out / f"compared-{interval}"
        truth = work / "truth"
        for file in sorted((options.out / "detections").glob("*.txt")):
            thinned(options.out / "truth" / file.name, truth / file.name, interval)
            thinned(options.out / f"interval-{interval}" / file.name, work / "facetrack" / file.name, interval)
            rate = frame_rate(options.out / "times" / f"{file.stem}.csv") / interval
            rows = read(file)
            analysed = range(1, len((options.out / "times" / f"{file.stem}.csv").read_text().splitlines()), interval)
            for name, tracker in others(rate).items():
                write(work / name / file.name, [tracker.update(rows[number]) for number in analysed])
        for name in ["facetrack", *others(1)]:
            scores = evaluate(options.program, truth, work / name)
            figures = " | ".join(f"{100 * scores[key]:.2f}" for key in ("hota", "mota", "idf1"))
            ids = f"{scores['predicted_ids']} ({scores['truth_ids']})"
            print(f"| {interval} | {name} | {figures} | {scores['id_switches']} | {ids} |")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"tracking: {error}", file=sys.stderr)
        sys.exit(2)
