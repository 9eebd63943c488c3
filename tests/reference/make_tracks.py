#!/usr/bin/env python3
"""Makes tests/fixtures/tracks: random tracks and the values of TrackEval 1.3.0 (MIT) for them.

    python3 -m venv /tmp/tracks && /tmp/tracks/bin/pip install -r tests/reference/requirements-tracks.txt
    /tmp/tracks/bin/python tests/reference/make_tracks.py

Each run makes the same bytes. `mot15` has the layout NAME.txt and rows of ten values; TrackEval
evaluates it as MOT15, without preprocessing. `mot17` has the layout NAME/gt/gt.txt and rows with
classes, and is evaluated as MOT17, with preprocessing. The sequences contain id switches, swapped
ids, misses, fragmentations, false positives, second boxes of one object, frames without true or
predicted boxes, and rows that are not evaluated. Some have no predictions or no true boxes.

TrackEval is unchanged. HOTA, DetA, AssA and LocA are means over its 19 thresholds.
"""

import contextlib
import io
import json
import random
import shutil
from pathlib import Path

import numpy as np
import trackeval

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "tracks"
FRAMES = 40
# Class and conf of true tracks that are not evaluated: a distractor, a car, a reflection, conf 0.
IGNORED = [(8, 1), (3, 1), (12, 1), (1, 0)]
MEANS = {"hota": "HOTA", "deta": "DetA", "assa": "AssA", "loca": "LocA"}
CLEAR = {
    "mota": "MOTA", "motp": "MOTP", "id_switches": "IDSW", "fragmentations": "Frag",
    "false_positives": "CLR_FP", "false_negatives": "CLR_FN",
}
IDENTITY = {"idf1": "IDF1", "idp": "IDP", "idr": "IDR"}
COUNTS = {"truth_ids": "GT_IDs", "predicted_ids": "IDs", "truth_boxes": "GT_Dets", "predicted_boxes": "Dets"}


def objects(rng, number, frames):
    """Boxes x, y, w, h by object and frame."""
    tracks = {}
    for index in range(1, number + 1):
        first = rng.randint(1, frames // 3)
        last = rng.randint(frames // 2, frames)
        x, y = rng.uniform(0, 300), rng.uniform(0, 120)
        size = rng.uniform(30, 60)
        dx, dy = rng.uniform(-6, 6), rng.uniform(-2, 2)
        tracks[index] = {
            frame: (x + dx * (frame - first), y + dy * (frame - first), size, size * 1.3)
            for frame in range(first, last + 1) if not 19 <= frame - index <= 20
        }
    return tracks


def moved(rng, box, amount):
    x, y, w, h = box
    return (x + rng.gauss(0, amount), y + rng.gauss(0, amount), max(w + rng.gauss(0, amount), 1), max(h + rng.gauss(0, amount), 1))


def predict(rng, tracks, frames, noise):
    """Boxes by frame and id of a tracker with all kinds of errors."""
    ids = {index: index + 10 for index in tracks}
    next_id = 100
    missed = {}
    predicted = {frame: {} for frame in range(1, frames + 1)}
    for frame in predicted:
        if frame % 13 == 0:
            continue  # the tracker finds nothing
        if rng.random() < 0.1 and len(ids) > 1:
            a, b = rng.sample(sorted(ids), 2)
            ids[a], ids[b] = ids[b], ids[a]
        for index, boxes in tracks.items():
            if rng.random() < 0.05:
                missed[index] = frame + rng.randint(1, 3)
            if rng.random() < 0.04:
                ids[index], next_id = next_id, next_id + 1
            if frame in boxes and missed.get(index, 0) < frame:
                predicted[frame][ids[index]] = moved(rng, boxes[frame], noise)
                if rng.random() < 0.06:
                    predicted[frame][ids[index] + 1000] = moved(rng, boxes[frame], 2 * noise)
        if rng.random() < 0.15:
            predicted[frame][500 + frame // 4] = (rng.uniform(0, 300), rng.uniform(0, 120), 40, 50)
    return predicted


def rows(boxes_of_frames, last):
    return "".join(
        f"{frame},{index}," + ",".join(f"{value:.1f}" for value in box) + f",{last(frame, index)}\n"
        for frame, boxes in boxes_of_frames.items() for index, box in boxes.items()
    )


def by_frame(rng, tracks, frames):
    """The boxes of each frame, in any order; the middle of the video has none."""
    all_frames = {}
    for frame in range(1, frames + 1):
        indices = [index for index in tracks if frame in tracks[index] and frame not in (17, 18)]
        rng.shuffle(indices)
        all_frames[frame] = {index: tracks[index][frame] for index in indices}
    return all_frames


def sequence(benchmark, name, number, noise, seed, truth=True, predictions=True):
    rng = random.Random(seed)
    tracks = objects(rng, number, FRAMES)
    predicted = predict(rng, tracks, FRAMES, noise)
    ignored = {index: rng.choice(IGNORED) for index in tracks if index % 4 == 0 and benchmark == "mot17"}

    def end_of_truth(frame, index):
        class_id, conf = ignored.get(index, (1, 1))
        conf = conf if truth and (index + frame) % 11 else 0
        return f"{conf},{class_id},0.5" if benchmark == "mot17" else f"{conf},-1,-1,-1"

    directory = FIXTURES / benchmark
    file = directory / "truth" / (f"{name}/gt/gt.txt" if benchmark == "mot17" else f"{name}.txt")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(rows(by_frame(rng, tracks, FRAMES), end_of_truth))
    file = directory / "predictions" / f"{name}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(rows(predicted, lambda frame, index: "0.9,-1,-1,-1") if predictions else "")


def scores(results):
    hota, clear, identity, count = results
    values = {name: float(np.mean(hota[field])) for name, field in MEANS.items()}
    for source, fields in (clear, CLEAR), (identity, IDENTITY), (count, COUNTS):
        for name, field in fields.items():
            value = source[field]
            values[name] = int(value) if float(value).is_integer() and name not in ("mota", "motp", *IDENTITY) else float(value)
    return values


def evaluate(directory, benchmark, names, frames=FRAMES):
    """The values of TrackEval by sequence, and combined."""
    layout = "{gt_folder}/{seq}/gt/gt.txt" if benchmark == "mot17" else "{gt_folder}/{seq}.txt"
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = trackeval.datasets.MotChallenge2DBox({
            "GT_FOLDER": str(directory / "truth"), "TRACKERS_FOLDER": str(directory), "TRACKERS_TO_EVAL": ["predictions"],
            "TRACKER_SUB_FOLDER": "", "SKIP_SPLIT_FOL": True, "BENCHMARK": benchmark.upper(), "GT_LOC_FORMAT": layout,
            "SEQ_INFO": {name: frames for name in names}, "PRINT_CONFIG": False,
        })
        quiet = {"PRINT_CONFIG": False}
        modules = trackeval.metrics
        metrics = [modules.HOTA(), modules.CLEAR(quiet), modules.Identity(quiet), modules.Count()]
        results = {}
        for name in names:
            data = dataset.get_preprocessed_seq_data(dataset.get_raw_seq_data("predictions", name), "pedestrian")
            results[name] = [metric.eval_sequence(data) for metric in metrics]
        combined = [
            metric.combine_sequences({name: result[index] for name, result in results.items()})
            for index, metric in enumerate(metrics)
        ]
    return {"sequences": {name: scores(result) for name, result in results.items()}, "combined": scores(combined)}


def main():
    shutil.rmtree(FIXTURES, ignore_errors=True)
    sequence("mot15", "crossing", 5, 2.0, 1)
    sequence("mot15", "noisy", 4, 9.0, 2)
    sequence("mot15", "nothing-found", 2, 2.0, 3, predictions=False)
    sequence("mot15", "nothing-true", 2, 2.0, 4, truth=False)
    sequence("mot17", "distractors", 8, 3.0, 5)
    sequence("mot17", "crowd", 9, 5.0, 6)
    names = {
        "mot15": ["crossing", "noisy", "nothing-found", "nothing-true"],
        "mot17": ["crowd", "distractors"],
    }
    expected = {benchmark: evaluate(FIXTURES / benchmark, benchmark, names[benchmark]) for benchmark in names}
    (FIXTURES / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    for benchmark, results in expected.items():
        for name, values in [*results["sequences"].items(), ("combined", results["combined"])]:
            print(benchmark, name, " ".join(f"{key}={value:.4g}" for key, value in values.items()))


if __name__ == "__main__":
    main()
