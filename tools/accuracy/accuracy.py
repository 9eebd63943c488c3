#!/usr/bin/env python3
"""How good each detector is: average precision, faces found, how steady its landmarks are, time and memory.

    make accuracy                                # everything, into docs/accuracy.md
    python tools/accuracy/accuracy.py [--out FILE]

It drives the built program over the evaluation pictures and detectors beside the project (../shared), which are not for
passing on: pictures and detections stay in a temporary folder, and only figures are written. Of the document it writes
what lies between its two markers; the words around that are by hand, and want reading after a run. Everything measured,
round by round, is in accuracy/accuracy.json below the target folder. QUICK=1: fewer rounds.

Exit status: 0 done, 2 an error.
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

# All on the one runtime that everybody has: with others beside it `auto` would take the best, and another arithmetic.
common.ENVIRONMENT["ORT_DYLIB_PATH"] = str(ROOT / ".fetch/onnxruntime/libonnxruntime.so.1")

SHARED = ROOT.parent / "shared"
IMAGES = SHARED / "eval/wider/images"
TRUTH = SHARED / "eval/wider/ground_truth"
PUBLISHED_DETECTIONS = SHARED / "eval/wider/published_r50/python_detect.tar.gz"
PHOTOS = [ROOT / ".fetch/media/single_face.jpg", ROOT / ".fetch/media/multi_face.jpg"]

DEFAULT = "retinaface_mnet025"
OTHERS = ["retinaface_biubug6_fixed640", "retinaface_insightface_mnet025", "retinaface_insightface_deconv0517",
          "ssh_layout_boxonly", "scrfd_500m_kps", "yunet_n_dynamic", "yunet_n_640_640"]  # fmt: skip
MODELS = {DEFAULT: common.MODEL} | {name: SHARED / "models" / f"{name}.onnx" for name in OTHERS}

# The input size, and the frame that time and memory are measured on. WIDER's pictures are 1024 wide.
SIZES = {"VGA": (640, (640, 480)), "native": (0, (1024, 768))}
SETS = ["easy", "medium", "hard"]
# From which score on a detection counts as one; average precision takes them all.
SCORE = 0.5

ROUNDS = 1 if common.QUICK else 5
FRAMES = 24
# Looking several times is slow: fewer rounds, over every so manieth picture.
LOOK_ROUNDS, LOOK_STEP = (1, 10) if common.QUICK else (3, 5)

# How often the default model looks at a picture: input size and options, by title.
LOOKS = {
    "plain": (0, []),
    "`--scales 1.0,0.5`": (0, ["--scales", "1.0,0.5"]),
    "`--scales auto`": (0, ["--scales", "auto"]),
    "`--flip`": (0, ["--flip"]),
    "`--scales 0.5,1.0,1.5 --flip --merge vote`": (0, ["--scales", "0.5,1.0,1.5", "--flip", "--merge", "vote"]),
    "`--tiles auto`, input size 640": (640, ["--tiles", "auto"]),
}

# What authors say of the whole validation set, easy, medium and hard, by model and size.
PUBLISHED = [
    (DEFAULT, "native", [90.70, 88.16, 73.82], "biubug6/Pytorch_Retinaface, original scale"),
    ("retinaface_insightface_mnet025", "VGA", [87.78, 81.16, 47.32], "InsightFace, VGA"),
    ("scrfd_500m_kps", "VGA", [90.97, 88.44, 69.49], "InsightFace, VGA"),
    ("yunet_n_dynamic", "native", [89.2, 88.3, 81.1], "libfacedetection.train, original size, NMS at 0.45"),
]
PUBLISHED_R50 = [92.25, 88.86, 64.02]

BEGIN, END = "<!-- figures: made by `make accuracy` -->", "<!-- end of figures -->"


class AccuracyError(Exception):
    """What went wrong, with its remedy; told on one line."""


def say(text):
    print(f"accuracy: {text}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the program


def run(*arguments, good=(0,)):
    """What the program writes on standard output."""
    command = [str(common.PROGRAM), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=common.ENVIRONMENT)
    if done.returncode not in good:
        words = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise AccuracyError(f"{' '.join(command[1:3])}: {words[-1]}")
    return done.stdout


def peak_memory(model, picture, size):
    """Most resident memory of a whole `detect` of one picture, in MiB."""
    command = [str(common.PROGRAM), "detect", "--model", str(model), "--input-size", str(size), str(picture)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=common.ENVIRONMENT)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in (0, 1):
        raise AccuracyError(f"detect of {model.name} ended with {child.returncode}")
    return usage.ru_maxrss / 1024


def require():
    """Everything that is needed is there, or what is not is said."""
    needed = [*MODELS.values(), IMAGES, TRUTH, PUBLISHED_DETECTIONS, *PHOTOS]
    missing = [path for path in needed if not path.exists()]
    if missing:
        names = ", ".join(os.path.relpath(path, ROOT) for path in missing)
        raise AccuracyError(f"missing: {names}; ../shared is private material that lies beside the project, the rest is `make setup`'s")
    if not os.access(common.PROGRAM, os.X_OK):
        raise AccuracyError("the program is not built: run `make build`")


# ---------------------------------------------------------------- average precision, faces found


def predict(model, size, out, *options, images=IMAGES):
    run("eval", "predict", "--images", images, "--out", out, "--model", model, "--input-size", size, *options)


def average_precision(predictions):
    text = run("eval", "widerface", "--predictions", predictions, "--ground-truth", TRUTH, "--subset", IMAGES, "--json")
    return json.loads(text)


def percents(report):
    return [100 * entry["average_precision"] for entry in report["sets"]]


def above(text, threshold):
    """A file of detections without those that score no more than the threshold."""
    name, _, *lines = text.splitlines()
    kept = [line for line in lines if float(line.split()[4]) > threshold]
    return "".join(f"{line}\n" for line in [name, len(kept), *kept])


def keep_above(predictions, out, threshold):
    """Suppression only lets better ones take worse ones away, so that the worse can as well be left out afterwards."""
    for file in predictions.glob("*/*.txt"):
        kept = out / file.parent.name / file.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(above(file.read_text(), threshold))


def found_and_false(entry):
    """Faces of a set that were found, and detections that are false, from the recall and precision of all detections."""
    found = round(entry["recall"] * entry["faces"])
    # Without one right detection, precision does not tell how many there were.
    return found, round(found / entry["precision"]) - found if found else None


def measure_detection(model, size, work):
    predictions, kept = work / "all", work / "kept"
    predict(model, size, predictions)
    keep_above(predictions, kept, SCORE)
    hard = average_precision(kept)["sets"][SETS.index("hard")]
    found, false = found_and_false(hard)
    return {"ap": percents(average_precision(predictions)), "faces": hard["faces"], "found": found, "false": false}


# ---------------------------------------------------------------- landmarks


@dataclass(frozen=True)
class Change:
    """A change of a picture of which it is known where each point goes; the picture's size stays."""

    degrees: float = 0
    scale: float = 1
    # In parts of the picture's sides.
    shift: tuple = (0, 0)
    # Standard deviation in pixels.
    blur: float = 0
    # What brightness is multiplied by, and what is then added.
    light: tuple = (1, 0)

    def matrix(self, width, height):
        """2 x 3, from the picture to the changed one."""
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), self.degrees, self.scale)
        matrix[:, 2] += [self.shift[0] * width, self.shift[1] * height]
        return matrix

    def of(self, picture):
        height, width = picture.shape[:2]
        changed = cv2.warpAffine(picture, self.matrix(width, height), (width, height), flags=cv2.INTER_LINEAR, borderValue=(90, 90, 90))
        if self.blur:
            changed = cv2.GaussianBlur(changed, (0, 0), self.blur)
        lit = changed.astype(np.float32) * self.light[0] + self.light[1]
        return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


CHANGES = {
    "mild": [
        *(Change(degrees=degrees) for degrees in (-6, -3, 3, 6)),
        *(Change(scale=scale) for scale in (0.8, 0.9, 1.1, 1.25)),
        *(Change(blur=blur) for blur in (0.5, 1, 1.5, 2)),
        *(Change(light=light) for light in ((0.6, 0), (1.3, 0), (1, 40), (1, -40))),
    ],
    "strong": [
        Change(degrees=degrees, scale=scale, shift=(0.03, -0.02))
        for degrees, scale in ((-30, 1), (30, 1), (-30, 0.5), (30, 2), (0, 0.5), (0, 2))
    ],
}


def is_in(points, width, height):
    """Whether a face is in the picture, and not so near its edge that a part of it is cut off."""
    eyes = math.dist(points[0], points[1])
    return bool(np.all((points >= eyes) & (points <= np.array([width, height]) - eyes)))


def truth_lines(photo, size, faces, changes):
    """Where the faces of a photo went in its changed copies, as `eval landmarks` reads it."""
    width, height = size
    for number, change in enumerate(changes):
        matrix = change.matrix(width, height)
        for face in faces:
            points = np.array(face) @ matrix[:, :2].T + matrix[:, 2]
            if is_in(points, width, height):
                yield ",".join([changed_name(photo, number), *(f"{value:.4f}" for value in points.ravel())]) + "\n"


def changed_name(photo, number):
    return f"{number}-{photo.stem}.png"


def write_changed(folder):
    """The changed photos, which are the same for each model: a folder a kind."""
    for kind, changes in CHANGES.items():
        (folder / kind).mkdir(parents=True)
        for photo in PHOTOS:
            picture = cv2.imread(str(photo))
            for number, change in enumerate(changes):
                cv2.imwrite(str(folder / kind / changed_name(photo, number)), change.of(picture))


def measure_landmarks(model, size, changed, work):
    """How far the landmarks in changed photos are from where those of the unchanged ones went, which this model found itself."""
    lines = run("detect", "--model", model, "--input-size", size, *PHOTOS, good=(0, 1)).splitlines()
    frames = [json.loads(line) for line in lines]
    measured = {}
    for kind, changes in CHANGES.items():
        file = work / f"{kind}.csv"
        truth = [truth_lines(photo, (frame["width"], frame["height"]), [face["landmarks"] for face in frame["faces"]], changes)
                 for photo, frame in zip(PHOTOS, frames)]  # fmt: skip
        file.write_text("".join(line for lines in truth for line in lines))
        report = run("eval", "landmarks", "--images", changed / kind, "--truth", file, "--model", model, "--input-size", size, "--json")
        measured[kind] = json.loads(report)
    return measured


# ---------------------------------------------------------------- time


def frame_ms(model, size, frame, threads):
    """Median time of a frame: its preprocessing, the model's run and decoding."""
    width, height = frame
    try:
        # Kernels of ours are for some layers of some models: what a model costs by itself is seen without them.
        how = {"threads": threads, "inflight": 1, "kernels": "runtime"}
        stats = common.ours(model=model, input_size=size, frame_size=f"{width}x{height}", frames=FRAMES, **how)["stats"]
    except common.Missing as missing:
        raise AccuracyError(f"bench of {model.name}: {missing}") from None
    return sum(stats[f"{stage}-p50"] for stage in ("preprocess", "inference", "decode")) / 1e6


def in_turns(contenders, rounds, measure):
    """A list of each contender's measurements. Every other round goes backwards: a machine that slows down favours none."""
    measured = {name: [] for name in contenders}
    for number in range(rounds):
        say(f"time, round {number + 1} of {rounds}")
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            measured[name].append(measure(name))
    return measured


def ratios(measured, base):
    """Of each contender the median of its rounds' ratios to the base's."""
    return {name: common.spread(common.pairs(values, measured[base])) for name, values in measured.items()}


# ---------------------------------------------------------------- all of it


def contracts():
    return {name: json.loads(run("model", "--json", file)) for name, file in MODELS.items()}


def shown_at(title, models):
    """A model of fixed size has no native one."""
    return [name for name in MODELS if title == "VGA" or models[name]["fixed_size"] is None]


def measure_models(models, work):
    write_changed(work / "changed")
    photo = cv2.imread(str(PHOTOS[1]))
    sizes = {}
    for title, (size, frame) in SIZES.items():
        picture = work / f"{title}.png"
        cv2.imwrite(str(picture), cv2.resize(photo, frame))
        rows = sizes[title] = {}
        for name in shown_at(title, models):
            say(f"{name}, {title}")
            folder = work / title / name
            folder.mkdir(parents=True)
            rows[name] = measure_detection(MODELS[name], size, folder)
            rows[name]["memory_mib"] = peak_memory(MODELS[name], picture, size)
            if models[name]["landmarks"]:
                rows[name]["landmarks"] = measure_landmarks(MODELS[name], size, work / "changed", folder)
            shutil.rmtree(folder)
        for key, threads in (("one_thread", 1), ("all_threads", 0)):
            measured = in_turns(rows, ROUNDS, lambda name: frame_ms(MODELS[name], size, frame, threads))
            for name, ratio in ratios(measured, DEFAULT).items():
                rows[name][key] = ratio | {"ms": measured[name]}
    return sizes


def link_part(folder):
    """A part of the pictures, taken evenly of all events."""
    for file in sorted(IMAGES.glob("*/*.jpg"))[::LOOK_STEP]:
        link = folder / file.parent.name / file.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    return folder


def look(title, out, *options, images=IMAGES):
    size, how = LOOKS[title]
    predict(MODELS[DEFAULT], size, out, *how, *options, images=images)


def measure_looks(work):
    rows = {}
    for number, title in enumerate(LOOKS):
        say(f"{DEFAULT}, {title}")
        out = work / f"look-{number}"
        look(title, out)
        rows[title] = {"ap": percents(average_precision(out))}
        shutil.rmtree(out)
    part = link_part(work / "part")
    measured = in_turns(LOOKS, LOOK_ROUNDS, lambda title: common.seconds(lambda: look(title, work / "timed", "--threads", "1", images=part)))
    for title, ratio in ratios(measured, "plain").items():
        rows[title]["one_thread"] = ratio | {"seconds": measured[title]}
    return rows


def measure_published(work):
    """What somebody else's detections get on the whole set and on the subset: how much easier the subset is."""
    with tarfile.open(PUBLISHED_DETECTIONS) as archive:
        archive.extractall(work, filter="data")
    return percents(average_precision(work / "python_detect"))


# ---------------------------------------------------------------- the document


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def shown(values, digits=1):
    return [f"{value:.{digits}f}" for value in values]


def landmark_cells(landmarks):
    if landmarks is None:
        return ["-"] * 4
    cells = []
    for kind in CHANGES:
        report = landmarks[kind]
        cells += ["-" if report["nme"] is None else f"{report['nme']:.3f}", f"{report['faces'] - report['found']} of {report['faces']}"]
    return cells


def model_table(rows, models):
    faces = next(iter(rows.values()))["faces"]
    head = ["model", "AP easy", "medium", "hard", f"found, of {faces}", "false", "NME mild", "not found", "NME strong",
            "not found", "time, one thread", "time, all threads", "memory, MiB"]  # fmt: skip
    body = []
    for name, row in rows.items():
        fixed = models[name]["fixed_size"]
        model = f"`{name}`" + (f" ({fixed[0]} x {fixed[1]} only)" if fixed else "")
        false = "-" if row["false"] is None else str(row["false"])
        body.append([model, *shown(row["ap"]), str(row["found"]), false, *landmark_cells(row.get("landmarks")),
                     f"{row['one_thread']['median']:.2f}", f"{row['all_threads']['median']:.2f}", f"{row['memory_mib']:.0f}"])  # fmt: skip
    return table(head, body)


def look_table(rows):
    body = [[title, *shown(row["ap"]), f"{row['one_thread']['median']:.2f}"] for title, row in rows.items()]
    return table(["", "AP easy", "medium", "hard", "time"], body)


def published_table(sizes, r50):
    rows = [(f"`{name}`, {title}", whole, sizes[title][name]["ap"], source) for name, title, whole, source in PUBLISHED]
    rows.append(("a ResNet50's published detections", PUBLISHED_R50, r50, "Charrin/RetinaFace-Cpp; the same detections on both"))
    body = [[what, " / ".join(shown(whole)), " / ".join(shown(ours)), " / ".join(f"{b - a:+.1f}" for a, b in zip(whole, ours)), source]
            for what, whole, ours, source in rows]  # fmt: skip
    return table(["", "published, whole set", "here, subset", "difference", "source"], body)


def figures(result):
    machine, sizes, models = result["machine"], result["sizes"], result["models"]
    fixed = ", ".join(f"`{name}`" for name in models if models[name]["fixed_size"])
    return f"""\
`make accuracy` on a virtual machine: {machine['cores']} cores of an {machine['cpu']} ({', '.join(machine['extensions'])}), {machine['system']}; \
{len(MODELS)} models, {result['pictures']} pictures, time in {ROUNDS} rounds.

## VGA: the longer side scaled to 640

{model_table(sizes['VGA'], models)}

## Native: pictures at their own size

{model_table(sizes['native'], models)}

Models of a fixed size ({fixed}) have no native size: whatever they are asked, a picture is scaled into 640 x 640 with its shape kept.

## Looking more than once: `{DEFAULT}`, native size

{look_table(result['looks'])}

Time of `eval predict` on one thread, reading the pictures included, to the plain run's; every {LOOK_STEP}th picture, {LOOK_ROUNDS} rounds in turns.

## Beside what was published

{published_table(sizes, result['published_r50'])}
"""


def filled(document, text):
    """The document with other figures between its markers."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise AccuracyError(f"the document has no lines {BEGIN!r} and {END!r} to write figures between")
    return f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}"


def measure():
    models = contracts()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="accuracy-") as folder:
        work = Path(folder)
        result = {
            "machine": common.machine(),
            "models": models,
            "pictures": len(list(IMAGES.glob("*/*.jpg"))),
            "published_r50": measure_published(work),
            "sizes": measure_models(models, work),
            "looks": measure_looks(work),
        }
    say(f"done in {time.monotonic() - started:.0f} s")
    return result


def main():
    parser = argparse.ArgumentParser(prog="accuracy.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/accuracy.md", metavar="FILE", help="document to write the figures into")
    options = parser.parse_args()
    try:
        require()
        # Said now, not after half an hour.
        filled(options.out.read_text(), "")
        common.pin()
        result = measure()
        json_file = common.TARGET / "accuracy/accuracy.json"
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(result, indent=1) + "\n")
        options.out.write_text(filled(options.out.read_text(), figures(result)))
    except (AccuracyError, OSError) as error:
        say(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
