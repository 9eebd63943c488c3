#!/usr/bin/env python3
"""Measures each detector: average precision, faces found, repeatability of landmarks, time, memory.

    make accuracy                                # writes docs/accuracy.md
    python tools/accuracy/accuracy.py [--out FILE]

It runs the program `retinaface` on the evaluation data, which must not be redistributed: images and
detections stay in a temporary directory, and only figures are written. RETINAFACE_TEST_DATA names
the directory of the data; the default is ../shared, relative to the root of the repository.

Only the part of the document between its two markers is replaced. The text around it is not
generated: review it after each run. accuracy/accuracy.json in the target directory has all
measurements of all rounds. QUICK=1 takes fewer rounds.

Exit status: 0 success, 2 an error.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches" / "peers"))
import common  # noqa: E402

common.ENVIRONMENT["RETINAFACE_RUNTIMES"] = str(ROOT / ".fetch")
# `auto` could select another provider, with other arithmetic.
CPU = ("--execution-provider", "cpu")

IMAGES = common.TEST_DATA / "eval/wider/images"
TRUTH = common.TEST_DATA / "eval/wider/ground_truth"
PUBLISHED_DETECTIONS = common.TEST_DATA / "eval/wider/published_r50/python_detect.tar.gz"
PHOTOS = [ROOT / ".fetch/media/single_face.jpg", ROOT / ".fetch/media/multi_face.jpg"]

DEFAULT = "retinaface_mnet025"
OTHERS = ["retinaface_biubug6_fixed640", "retinaface_insightface_mnet025", "retinaface_insightface_deconv0517",
          "ssh_layout_boxonly", "scrfd_500m_kps", "yunet_n_dynamic", "yunet_n_640_640"]  # fmt: skip
MODELS = {DEFAULT: common.MODEL} | {name: common.TEST_DATA / "models" / f"{name}.onnx" for name in OTHERS}

# Input size, and size of the frame for time and memory. The images of WIDER are 1024 pixels wide.
SIZES = {"VGA": (640, (640, 480)), "native": (0, (1024, 768))}
SETS = ["easy", "medium", "hard"]
# Minimum score of a detection in the counts of found and false. Average precision uses all scores.
SCORE_THRESHOLD = 0.5

ROUNDS = 1 if common.QUICK else 5
FRAMES = 24
# Several views are slow: fewer rounds, and time is measured on every VIEW_STEP-th image.
VIEW_ROUNDS, VIEW_STEP = (1, 10) if common.QUICK else (3, 5)

# Views of the default model: title to input size and options.
VIEWS = {
    "one view": (0, []),
    "`--scales 1.0,0.5`": (0, ["--scales", "1.0,0.5"]),
    "`--scales auto`": (0, ["--scales", "auto"]),
    "`--flip`": (0, ["--flip"]),
    "`--scales 0.5,1.0,1.5 --flip --merge vote`": (0, ["--scales", "0.5,1.0,1.5", "--flip", "--merge", "vote"]),
    "`--tiles auto`, input size 640": (640, ["--tiles", "auto"]),
}

# Published AP on the whole validation set (easy, medium, hard): model, size, AP, source.
PUBLISHED = [
    (DEFAULT, "native", [90.70, 88.16, 73.82], "biubug6/Pytorch_Retinaface, original scale"),
    ("retinaface_insightface_mnet025", "VGA", [87.78, 81.16, 47.32], "InsightFace, VGA"),
    ("scrfd_500m_kps", "VGA", [90.97, 88.44, 69.49], "InsightFace, VGA"),
    ("yunet_n_dynamic", "native", [89.2, 88.3, 81.1], "libfacedetection.train, original size, NMS at 0.45"),
]
PUBLISHED_R50 = [92.25, 88.86, 64.02]

BEGIN, END = "<!-- figures: made by `make accuracy` -->", "<!-- end of figures -->"


class AccuracyError(Exception):
    """An error with its remedy, on one line."""


def report(text):
    print(f"accuracy: {text}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the program


def run(*arguments, statuses=(0,)):
    """Runs the program and returns its standard output; other exit statuses are an error."""
    command = [str(common.PROGRAM), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=common.ENVIRONMENT)
    if result.returncode not in statuses:
        messages = result.stderr.strip().splitlines() or [f"status {result.returncode}"]
        raise AccuracyError(f"{' '.join(command[1:3])}: {messages[-1]}")
    return result.stdout


def peak_memory(model, image, size):
    """Maximum resident memory of `retinaface detect` on one image, in MiB."""
    command = [str(common.PROGRAM), "detect", "--model", str(model), "--input-size", str(size), *CPU, str(image)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=common.ENVIRONMENT)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in (0, 1):
        raise AccuracyError(f"detect with {model.name} failed with status {child.returncode}")
    return usage.ru_maxrss / 1024


def require():
    """Checks that all inputs exist and that the program is built."""
    needed = [*MODELS.values(), IMAGES, TRUTH, PUBLISHED_DETECTIONS, *PHOTOS]
    missing = [path for path in needed if not path.exists()]
    if missing:
        names = ", ".join(os.path.relpath(path, ROOT) for path in missing)
        raise AccuracyError(
            f"missing: {names}; RETINAFACE_TEST_DATA names the directory of the evaluation data, "
            "and `make setup` downloads .fetch"
        )
    if not os.access(common.PROGRAM, os.X_OK):
        raise AccuracyError("the program is not built: run `make build`")


# ---------------------------------------------------------------- average precision, faces found


def predict(model, size, out, *options, images=IMAGES):
    run("eval", "predict", "--images", images, "--out", out, "--model", model, "--input-size", size, *CPU, *options)


def average_precision(predictions):
    text = run("eval", "widerface", "--predictions", predictions, "--ground-truth", TRUTH, "--subset", IMAGES, "--json")
    return json.loads(text)


def percents(report):
    return [100 * entry["average_precision"] for entry in report["sets"]]


def filter_detections(text, threshold):
    """Removes detections whose score is not above the threshold from a WIDER detection file."""
    name, _, *lines = text.splitlines()
    kept = [line for line in lines if float(line.split()[4]) > threshold]
    return "".join(f"{line}\n" for line in [name, len(kept), *kept])


def keep_above(predictions, out, threshold):
    """Writes the detections above a score threshold to the directory `out`."""
    # Filtering after NMS is equivalent to a higher threshold before it: a candidate can only be
    # suppressed by one with a higher score.
    for file in predictions.glob("*/*.txt"):
        kept = out / file.parent.name / file.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(filter_detections(file.read_text(), threshold))


def found_and_false(entry):
    """Numbers of faces found and of false detections in a set, from its recall and precision."""
    found = round(entry["recall"] * entry["faces"])
    # A precision of 0 does not tell the number of false detections.
    return found, round(found / entry["precision"]) - found if found else None


def measure_detection(model, size, work):
    predictions, kept = work / "all", work / "kept"
    predict(model, size, predictions)
    keep_above(predictions, kept, SCORE_THRESHOLD)
    hard = average_precision(kept)["sets"][SETS.index("hard")]
    found, false = found_and_false(hard)
    return {"ap": percents(average_precision(predictions)), "faces": hard["faces"], "found": found, "false": false}


# ---------------------------------------------------------------- landmarks


@dataclass(frozen=True)
class Transform:
    """An image transform that maps points exactly; the image size does not change."""

    degrees: float = 0
    scale: float = 1
    # As fractions of the width and the height.
    shift: tuple = (0, 0)
    # Standard deviation in pixels.
    blur: float = 0
    # Brightness: factor, and offset that is added afterwards.
    brightness: tuple = (1, 0)

    def matrix(self, width, height):
        """The 2 x 3 matrix from the original image to the transformed image."""
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), self.degrees, self.scale)
        matrix[:, 2] += [self.shift[0] * width, self.shift[1] * height]
        return matrix

    def apply(self, image):
        height, width = image.shape[:2]
        matrix = self.matrix(width, height)
        image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=(90, 90, 90))
        if self.blur:
            image = cv2.GaussianBlur(image, (0, 0), self.blur)
        factor, offset = self.brightness
        return np.clip(np.rint(image.astype(np.float32) * factor + offset), 0, 255).astype(np.uint8)


TRANSFORMS = {
    "mild": [
        *(Transform(degrees=degrees) for degrees in (-6, -3, 3, 6)),
        *(Transform(scale=scale) for scale in (0.8, 0.9, 1.1, 1.25)),
        *(Transform(blur=blur) for blur in (0.5, 1, 1.5, 2)),
        *(Transform(brightness=brightness) for brightness in ((0.6, 0), (1.3, 0), (1, 40), (1, -40))),
    ],
    "strong": [
        Transform(degrees=degrees, scale=scale, shift=(0.03, -0.02))
        for degrees, scale in ((-30, 1), (30, 1), (-30, 0.5), (30, 2), (0, 0.5), (0, 2))
    ],
}


def is_inside(points, width, height):
    """Whether the whole face is in the image, which a margin of one eye distance ensures."""
    eyes = math.dist(points[0], points[1])
    return bool(np.all((points >= eyes) & (points <= np.array([width, height]) - eyes)))


def truth_lines(photo, size, faces, transforms):
    """Ground truth for `eval landmarks`: a photo's landmarks in each of its transformed copies."""
    width, height = size
    for number, transform in enumerate(transforms):
        matrix = transform.matrix(width, height)
        for face in faces:
            points = np.array(face) @ matrix[:, :2].T + matrix[:, 2]
            if is_inside(points, width, height):
                yield ",".join([transformed_name(photo, number), *(f"{value:.4f}" for value in points.ravel())]) + "\n"


def transformed_name(photo, number):
    return f"{number}-{photo.stem}.png"


def write_transformed(directory):
    """Writes the transformed photos, one directory per kind; all models use the same ones."""
    for kind, transforms in TRANSFORMS.items():
        (directory / kind).mkdir(parents=True)
        for photo in PHOTOS:
            image = cv2.imread(str(photo))
            for number, transform in enumerate(transforms):
                cv2.imwrite(str(directory / kind / transformed_name(photo, number)), transform.apply(image))


def measure_landmarks(model, size, transformed, work):
    """NME of the landmarks in transformed photos.

    The ground truth is the model's own landmarks in the original photos, transformed as the photos.
    """
    lines = run("detect", "--model", model, "--input-size", size, *CPU, *PHOTOS, statuses=(0, 1)).splitlines()
    frames = [json.loads(line) for line in lines]
    measured = {}
    for kind, transforms in TRANSFORMS.items():
        file = work / f"{kind}.csv"
        truth = [truth_lines(photo, (frame["width"], frame["height"]), [face["landmarks"] for face in frame["faces"]], transforms)
                 for photo, frame in zip(PHOTOS, frames)]  # fmt: skip
        file.write_text("".join(line for lines in truth for line in lines))
        options = ("--truth", file, "--model", model, "--input-size", size, *CPU, "--json")
        measured[kind] = json.loads(run("eval", "landmarks", "--images", transformed / kind, *options))
    return measured


# ---------------------------------------------------------------- time


def frame_ms(model, size, frame, threads):
    """Sum of the median times of preprocessing, inference and decoding of a frame, in ms."""
    width, height = frame
    try:
        # The kernels of this project replace some layers of some models. The comparison of models
        # is without them.
        options = {"threads": threads, "inflight": 1, "kernels": "runtime"}
        frames = {"frame_size": f"{width}x{height}", "frames": FRAMES}
        stats = common.bench(model=model, input_size=size, **frames, **options)["stats"]
    except common.Unavailable as error:
        raise AccuracyError(f"bench with {model.name}: {error}") from None
    return sum(stats[f"{stage}-p50"] for stage in ("preprocess", "inference", "decode")) / 1e6


def interleaved(contenders, rounds, measure):
    """Measures all contenders in each round; returns a list of measurements for each.

    Every second round is in reverse order, so that a machine that changes its speed favours none.
    """
    measured = {name: [] for name in contenders}
    for number in range(rounds):
        report(f"time, round {number + 1} of {rounds}")
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            measured[name].append(measure(name))
    return measured


def ratios(measured, base):
    """For each contender, the summary of the ratios to the base within each round."""
    return {name: common.summary(common.paired_ratios(values, measured[base])) for name, values in measured.items()}


# ---------------------------------------------------------------- all measurements


def model_specs():
    return {name: json.loads(run("model", "--json", file)) for name, file in MODELS.items()}


def models_at(title, models):
    """The models that are measured at a size: models with a fixed input size only at VGA."""
    return [name for name in MODELS if title == "VGA" or models[name]["fixed_size"] is None]


def measure_models(models, work):
    write_transformed(work / "transformed")
    photo = cv2.imread(str(PHOTOS[1]))
    sizes = {}
    for title, (size, frame) in SIZES.items():
        image = work / f"{title}.png"
        cv2.imwrite(str(image), cv2.resize(photo, frame))
        rows = sizes[title] = {}
        for name in models_at(title, models):
            report(f"{name}, {title}")
            directory = work / title / name
            directory.mkdir(parents=True)
            rows[name] = measure_detection(MODELS[name], size, directory)
            rows[name]["memory_mib"] = peak_memory(MODELS[name], image, size)
            if models[name]["landmarks"]:
                rows[name]["landmarks"] = measure_landmarks(MODELS[name], size, work / "transformed", directory)
            shutil.rmtree(directory)
        for key, threads in (("one_thread", 1), ("all_threads", 0)):
            measured = interleaved(rows, ROUNDS, lambda name: frame_ms(MODELS[name], size, frame, threads))
            for name, ratio in ratios(measured, DEFAULT).items():
                rows[name][key] = ratio | {"ms": measured[name]}
    return sizes


def link_sample(directory):
    """Links every VIEW_STEP-th image, so that all events are represented."""
    for file in sorted(IMAGES.glob("*/*.jpg"))[::VIEW_STEP]:
        link = directory / file.parent.name / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    return directory


def predict_views(title, out, *options, images=IMAGES):
    size, views = VIEWS[title]
    predict(MODELS[DEFAULT], size, out, *views, *options, images=images)


def measure_views(work):
    rows = {}
    for number, title in enumerate(VIEWS):
        report(f"{DEFAULT}, {title}")
        out = work / f"views-{number}"
        predict_views(title, out)
        rows[title] = {"ap": percents(average_precision(out))}
        shutil.rmtree(out)
    sample = link_sample(work / "sample")

    def timed(title):
        return common.seconds(lambda: predict_views(title, work / "timed", "--threads", "1", images=sample))

    measured = interleaved(VIEWS, VIEW_ROUNDS, timed)
    for title, ratio in ratios(measured, "one view").items():
        rows[title]["one_thread"] = ratio | {"seconds": measured[title]}
    return rows


def measure_published(work):
    """AP of published detections on the subset; the published AP on the whole set is PUBLISHED_R50.

    The difference shows how much easier the subset is.
    """
    with tarfile.open(PUBLISHED_DETECTIONS) as archive:
        archive.extractall(work, filter="data")
    return percents(average_precision(work / "python_detect"))


# ---------------------------------------------------------------- the document


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def formatted(values, digits=1):
    return [f"{value:.{digits}f}" for value in values]


def landmark_cells(landmarks):
    if landmarks is None:
        return ["-"] * 4
    cells = []
    for kind in TRANSFORMS:
        result = landmarks[kind]
        nme = "-" if result["nme"] is None else f"{result['nme']:.3f}"
        cells += [nme, f"{result['faces'] - result['found']} of {result['faces']}"]
    return cells


def model_table(rows, models):
    faces = next(iter(rows.values()))["faces"]
    header = ["model", "AP easy", "medium", "hard", f"found, of {faces}", "false", "NME mild", "not found", "NME strong",
            "not found", "time, one thread", "time, all threads", "memory, MiB"]  # fmt: skip
    body = []
    for name, row in rows.items():
        fixed = models[name]["fixed_size"]
        model = f"`{name}`" + (f" ({fixed[0]} x {fixed[1]} only)" if fixed else "")
        false = "-" if row["false"] is None else str(row["false"])
        body.append([model, *formatted(row["ap"]), str(row["found"]), false, *landmark_cells(row.get("landmarks")),
                     f"{row['one_thread']['median']:.2f}", f"{row['all_threads']['median']:.2f}", f"{row['memory_mib']:.0f}"])  # fmt: skip
    return table(header, body)


def views_table(rows):
    body = [[title, *formatted(row["ap"]), f"{row['one_thread']['median']:.2f}"] for title, row in rows.items()]
    return table(["", "AP easy", "medium", "hard", "time"], body)


def published_table(sizes, r50):
    rows = [(f"`{name}`, {title}", whole, sizes[title][name]["ap"], source) for name, title, whole, source in PUBLISHED]
    rows.append(("published detections of a ResNet50", PUBLISHED_R50, r50, "Charrin/RetinaFace-Cpp, the same detections"))
    body = [[title, " / ".join(formatted(whole)), " / ".join(formatted(subset)),
             " / ".join(f"{b - a:+.1f}" for a, b in zip(whole, subset)), source]
            for title, whole, subset, source in rows]  # fmt: skip
    return table(["", "published, whole set", "measured, subset", "difference", "source"], body)


def figures(result):
    machine, sizes, models = result["machine"], result["sizes"], result["models"]
    fixed = ", ".join(f"`{name}`" for name in models if models[name]["fixed_size"])
    return f"""\
`make accuracy` on a virtual machine: {machine['cores']} cores of an {machine['cpu']} ({', '.join(machine['extensions'])}), {machine['system']}; \
{len(MODELS)} models, {result['images']} images, {ROUNDS} rounds for time.

## VGA: longer side scaled to 640

{model_table(sizes['VGA'], models)}

## Native: images at their original size

{model_table(sizes['native'], models)}

Models with a fixed input size ({fixed}) are not measured at the native size: they scale every image into 640 x 640 with its aspect ratio kept.

## Several views: `{DEFAULT}`, native size

{views_table(result['views'])}

Time of `eval predict` on one thread, including reading the images, relative to one view; every {VIEW_STEP}th image, {VIEW_ROUNDS} interleaved rounds.

## Comparison with published figures

{published_table(sizes, result['published_r50'])}
"""


def replace_figures(document, text, markers=(BEGIN, END)):
    """The document with new text between its markers."""
    before, begin, rest = document.partition(markers[0])
    _, end, after = rest.partition(markers[1])
    if not begin or not end:
        raise AccuracyError(f"the document has no lines {markers[0]!r} and {markers[1]!r} that mark the generated part")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


def measure():
    models = model_specs()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="accuracy-") as directory:
        work = Path(directory)
        result = {
            "machine": common.machine(),
            "models": models,
            "images": len(list(IMAGES.glob("*/*.jpg"))),
            "published_r50": measure_published(work),
            "sizes": measure_models(models, work),
            "views": measure_views(work),
        }
    report(f"done in {time.monotonic() - started:.0f} s")
    return result


def main():
    parser = argparse.ArgumentParser(prog="accuracy.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/accuracy.md", metavar="FILE", help="document whose figures are replaced")
    options = parser.parse_args()
    try:
        require()
        # Fail before the measurements if the markers are missing.
        replace_figures(options.out.read_text(), "")
        common.pin_to_cores()
        result = measure()
        json_file = common.TARGET / "accuracy/accuracy.json"
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(result, indent=1) + "\n")
        options.out.write_text(replace_figures(options.out.read_text(), figures(result)))
    except (AccuracyError, OSError) as error:
        report(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
