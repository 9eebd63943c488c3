#!/usr/bin/env python3
"""Measures landmarks by what they are for: how steady they are, and how well crops are recognised.

    make accuracy                                  # also runs this
    python tools/accuracy/alignment.py [--out FILE]

Jitter: 24 versions of each fetched photo, moved by known small similarities, with noise; the
distance of the points, mapped back, from their mean, in units of the distance between the eyes.
Recognition: SFace on the crops of `retinaface detect --crops` of labelled faces. Intervals are 95 %,
by bootstrap: over faces for jitter, over people for recognition, with the same samples for all
settings of a detector, so that differences are paired.

The labelled faces are part of the evaluation data, see accuracy.py. Only the part of the document
between its markers is replaced.

Exit status: 0 success, 2 an error.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

import accuracy
from accuracy import AccuracyError, common, report, table

BEGIN, END = "<!-- alignment: made by `make accuracy` -->", "<!-- end of alignment -->"

VERSIONS = 24
# Standard deviation of the noise of a version, in grey levels.
NOISE = 4
SAMPLES = 2000
INTERVAL = (2.5, 97.5)
FALSE_ACCEPT_RATES = (1e-2, 1e-3)
SETS = ("lfw10", "bbt8")

SFACE = accuracy.ROOT / ".fetch/models/sface.onnx"
IDENTITY = common.TEST_DATA / "eval/identity"
VARIANTS = accuracy.ROOT / ".fetch/models/variants"

NONE = ["--landmark-fusion", "none", "--refine-large-faces", "off"]
MEAN = ["--refine-large-faces", "off"]
# Titles and options of the settings; the first one is what the others are compared with.
SETTINGS = {
    "best candidate (`none`)": NONE,
    "mean of candidates (default for live video)": MEAN,
    "mean and second inference (default for images)": [],
    "second inference only": ["--landmark-fusion", "none"],
    "`--flip --merge vote`": ["--flip", "--merge", "vote", *MEAN],
}
SIMPLE = {"best candidate (`none`)": NONE, "mean of candidates": MEAN, "mean and second inference": []}


def detectors():
    """Title to model, options and settings of each detector that is at hand."""
    models = accuracy.MODELS
    found = {
        f"`{accuracy.DEFAULT}`": (models[accuracy.DEFAULT], [], SETTINGS),
        f"`{accuracy.DEFAULT}`, input size 320": (models[accuracy.DEFAULT], ["--input-size", "320"], SIMPLE),
    }
    for kind in ("fp16", "int8"):
        file = VARIANTS / f"{accuracy.DEFAULT}_{kind}.onnx"
        if file.exists():
            found[f"`{accuracy.DEFAULT}`, {kind} variant"] = (file, [], SIMPLE)
    if "openvino" in usable_providers():
        for precision in ("full", "reduced"):
            options = ["--execution-provider", "openvino", "--precision", precision]
            found[f"`{accuracy.DEFAULT}`, OpenVINO, precision {precision}"] = (models[accuracy.DEFAULT], options, SIMPLE)
    for name in ("retinaface_biubug6_fixed640", "retinaface_insightface_mnet025", "scrfd_500m_kps", "yunet_n_dynamic"):
        found[f"`{name}`"] = (models[name], [], SIMPLE)
    return found


def usable_providers():
    """The names of the execution providers that run a model on this machine."""
    command = [str(common.PROGRAM), "devices", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, env=common.ENVIRONMENT)
    if result.returncode != 0:
        raise AccuracyError(f"retinaface devices: {result.stderr.strip()}")
    return {provider["provider"] for provider in json.loads(result.stdout)["providers"] if provider["usable"]}


def detect(model, files, options, *more):
    """The faces of each file, as `retinaface detect` prints them."""
    provider = () if "--execution-provider" in options else accuracy.CPU
    command = [common.PROGRAM, "detect", "--model", model, *provider, *options, *more, "--", *files]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=common.ENVIRONMENT)
    if result.returncode not in (0, 1):
        raise AccuracyError(f"detect with {Path(model).name}: {result.stderr.strip().splitlines()[-1]}")
    return [json.loads(line)["faces"] for line in result.stdout.splitlines()]


# ---------------------------------------------------------------- jitter


def write_versions(directory):
    """Writes the moved photos. Returns, for each photo, its file and the versions with their matrices."""
    generator = np.random.default_rng(0)
    photos = []
    for photo in accuracy.PHOTOS:
        image = cv2.imread(str(photo))
        height, width = image.shape[:2]
        versions = []
        for number in range(VERSIONS):
            degrees, scale = generator.uniform(-4, 4), generator.uniform(0.93, 1.07)
            matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, scale)
            matrix[:, 2] += generator.uniform(-1 / 80, 1 / 80, 2) * width
            moved = cv2.warpAffine(image, matrix, (width, height), borderValue=(90, 90, 90)).astype(np.float32)
            moved += generator.normal(0, NOISE, moved.shape)
            file = directory / f"{photo.stem}-{number}.png"
            cv2.imwrite(str(file), np.clip(np.rint(moved), 0, 255).astype(np.uint8))
            versions.append((file, matrix))
        photos.append((photo, versions))
    return photos


def landmarks(faces):
    return [np.array(face["landmarks"]) for face in faces]


def deviations(points):
    """Mean distance of points, [versions, 5, 2], from their mean, in eye distances."""
    points = np.array(points)
    mean = points.mean(axis=0)
    return float(np.linalg.norm(points - mean, axis=2).mean() / np.linalg.norm(mean[0] - mean[1]))


def jitter(photos, model, options):
    """The jitter of each face."""
    measured = []
    for photo, versions in photos:
        found = detect(model, [photo, *(file for file, _ in versions)], options)
        originals = landmarks(found[0])
        tracks = [[] for _ in originals]
        for (_, matrix), faces in zip(versions, found[1:]):
            inverse = cv2.invertAffineTransform(matrix)
            for points in landmarks(faces):
                points = points @ inverse[:, :2].T + inverse[:, 2]
                distances = [np.linalg.norm(points - original) for original in originals]
                nearest = int(np.argmin(distances))
                if distances[nearest] < np.linalg.norm(originals[nearest][0] - originals[nearest][1]):
                    tracks[nearest].append(points)
        measured += [deviations(points) for points in tracks if len(points) >= VERSIONS / 2]
    return np.array(measured)


# ---------------------------------------------------------------- recognition


class Recogniser:
    """SFace: embeddings of unit length."""

    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(SFACE), options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def embed(self, file):
        rgb = cv2.imread(str(file))[..., ::-1].astype(np.float32)
        [[embedding]] = self.session.run(None, {self.input: np.ascontiguousarray(rgb.transpose(2, 0, 1)[None])})
        return embedding / np.linalg.norm(embedding)


def embeddings(recogniser, files, model, options, work):
    """The embedding of the largest face of each image; zeros, which are similar to nothing, without a face."""
    crops = Path(tempfile.mkdtemp(dir=work))
    result = []
    for file, faces in zip(files, detect(model, files, options, "--crops", crops)):
        if not faces:
            result.append(np.zeros(128, np.float32))
            continue
        largest = max(range(len(faces)), key=lambda index: faces[index]["box"]["w"] * faces[index]["box"]["h"])
        result.append(recogniser.embed(crops / f"{file.stem}-{largest}.png"))
    return np.array(result)


def weighted(values, weights):
    mean = np.average(values, weights=weights)
    return mean, np.average((values - mean) ** 2, weights=weights)


def measures(similarities, people, counts):
    """Genuine cosine, d', and the true accept rates, if each person counts `counts` times."""
    rows, columns = np.triu_indices(len(people), 1)
    first, second = people[rows], people[columns]
    values, is_genuine = similarities[rows, columns], first == second
    genuine, genuine_weights = values[is_genuine], counts[first[is_genuine]]
    impostor, impostor_weights = values[~is_genuine], (counts[first] * counts[second])[~is_genuine]
    (mean, variance), (other, other_variance) = weighted(genuine, genuine_weights), weighted(impostor, impostor_weights)
    order = np.argsort(-impostor)
    accepted = np.cumsum(impostor_weights[order]) / impostor_weights.sum()
    rates = []
    for rate in FALSE_ACCEPT_RATES:
        # The greatest threshold above which at most this share of the impostor pairs lies.
        threshold = impostor[order][np.searchsorted(accepted, rate, side="right").clip(max=len(order) - 1)]
        rates.append(np.average(genuine > threshold, weights=genuine_weights))
    spread = math.sqrt((variance + other_variance) / 2)
    return [mean, (mean - other) / spread if spread else math.nan, *rates]


def samples_of(count):
    """How often each of `count` items is drawn, for each bootstrap sample with two different items or more."""
    generator = np.random.default_rng(1)
    drawn = [np.bincount(generator.integers(0, count, count), minlength=count) for _ in range(SAMPLES)]
    return [counts for counts in drawn if (counts > 0).sum() > 1]


def bootstrap(similarities, people):
    """The measures for all people, and for each sample of people."""
    count = people.max() + 1
    everyone = measures(similarities, people, np.ones(count))
    return np.array(everyone), np.array([measures(similarities, people, counts) for counts in samples_of(count)])


def interval(values):
    low, high = np.percentile(values, INTERVAL, axis=0)
    return low, high


# ---------------------------------------------------------------- the document


def jitter_cell(values, base):
    ratio = values.mean() / base.mean()
    if values is base:
        return f"{values.mean():.4f}"
    low, high = interval([np.average(values, weights=counts) / np.average(base, weights=counts) for counts in samples_of(len(base))])
    return f"{values.mean():.4f} ({ratio:.2f}; {low:.2f} to {high:.2f})"


def recognition_cells(result, base):
    (everyone, samples), (base_everyone, base_samples) = result, base
    cells = []
    for index, digits in enumerate((4, 2, 3, 3)):
        # No face was found in any image.
        if math.isnan(everyone[1]):
            cells.append("-")
            continue
        cell = f"{everyone[index]:.{digits}f}"
        if result is not base and index < 2:
            low, high = interval(samples[:, index] - base_samples[:, index])
            cell += f" ({everyone[index] - base_everyone[index]:+.{digits}f}; {low:+.{digits}f} to {high:+.{digits}f})"
        cells.append(cell)
    return cells


def measure(work):
    (work / "versions").mkdir()
    photos = write_versions(work / "versions")
    recogniser = Recogniser()
    sets = {}
    for name in SETS:
        files = sorted((IDENTITY / name).iterdir())
        names = [file.name.rsplit("__", 1)[0] for file in files]
        sets[name] = files, np.unique(names, return_inverse=True)[1]
    text = []
    for title, (model, options, settings) in detectors().items():
        report(f"alignment: {title}")
        base, rows = None, []
        for setting, more in settings.items():
            points = jitter(photos, model, [*options, *more])
            recognised = {}
            for name, (files, people) in sets.items():
                vectors = embeddings(recogniser, files, model, [*options, *more], work)
                recognised[name] = bootstrap(vectors @ vectors.T, people)
            base = base or (points, recognised)
            cells = [cell for name in SETS for cell in recognition_cells(recognised[name], base[1][name])]
            rows.append([setting, jitter_cell(points, base[0]) if len(points) == len(base[0]) else "-", *cells])
        header = ["", "jitter", *(f"{name} {column}" for name in SETS for column in ("cosine", "d'", "TAR 1e-2", "TAR 1e-3"))]
        text.append(f"### {title}\n\n{table(header, rows)}")
    return "\n\n".join(text)


def main():
    parser = argparse.ArgumentParser(prog="alignment.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=accuracy.ROOT / "docs/accuracy.md", metavar="FILE",
                        help="document whose figures are replaced")  # fmt: skip
    options = parser.parse_args()
    try:
        accuracy.require()
        # Fail before the measurements if the markers are missing.
        accuracy.replace_figures(options.out.read_text(), "", (BEGIN, END))
        with tempfile.TemporaryDirectory(prefix="alignment-") as directory:
            text = measure(Path(directory))
        machine = common.machine()
        text = f"On {machine['cores']} cores of an {machine['cpu']}, {machine['system']}.\n\n{text}"
        options.out.write_text(accuracy.replace_figures(options.out.read_text(), text, (BEGIN, END)))
    except (AccuracyError, OSError) as error:
        report(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
