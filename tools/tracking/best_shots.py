#!/usr/bin/env python3
"""Measures whether the face with the best quality of a track is the one to recognise.

    make examples && . ./env.sh
    retinaface-sequences OUT                       # target/release/retinaface-sequences
    target/examples/venv/bin/python tools/tracking/best_shots.py OUT [--identity DIRECTORY]

Prints two tables of mean cosine similarities of SFace between a crop and the person that it shows,
for the crop of a track that a rule chooses: a random one (the mean of all), the largest face, the
best score of the detector, the best quality, and the best one that there is.

Rendered sequences: the tracks of `retinaface ! facetrack`; people are compared with their photos.
Pictures: a track is 15 random versions of a person's pictures, NAME__000.jpg and so on; they are
blurred, moved, shrunk, noisy, cut by the frame, or as they are. People are compared with the mean of
their other pictures. The default directory is that of the evaluation data.

Exit status: 0 success, 2 an error.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))
import recogniser  # noqa: E402
from recogniser import Gst  # noqa: E402

MEDIA = ROOT / ".fetch/media"
IDENTITY = Path(os.environ.get("RETINAFACE_TEST_DATA", ROOT.parent / "shared")) / "eval/identity/lfw10"
TRACK_LENGTH = 15
TRACKS = 100  # per person
SHORTEST_TRACK = 10  # crops
RULES = ("random", "largest face", "best score", "best quality", "best possible")


class Crop:
    """A crop with what the rules need."""

    def __init__(self, sample, model):
        face = recogniser.face_of(sample)
        origin = sample.get_buffer().get_custom_meta("RetinaFaceCropMeta").get_structure()
        self.time, self.score, self.size = face.time, face.score, face.box[2] * face.box[3]
        self.quality = origin.get_value("quality")
        self.track = origin.get_value("face").get_value("track-id")
        self.embedding = model.embedding(face.crop)


def unit(vector):
    return vector / np.linalg.norm(vector)


def chosen(crops, similarities):
    """The similarity of the crop that each rule chooses."""
    best = lambda value: similarities[int(np.argmax([value(crop) for crop in crops]))]  # noqa: E731
    return (
        np.mean(similarities),
        best(lambda crop: crop.size),
        best(lambda crop: crop.score),
        best(lambda crop: crop.quality),
        max(similarities),
    )


def table(title, rows):
    print(f"\n{title}\n")
    print("| tracks | " + " | ".join(RULES) + " |")
    print("|---" * (len(RULES) + 1) + "|")
    print(f"| {len(rows)} | " + " | ".join(f"{value:.3f}" for value in np.mean(rows, axis=0)) + " |")


def sequences(directory, model):
    """What the rules choose of each track of the rendered sequences."""
    photos = [MEDIA / name for name in ("multi_face.jpg", "single_face.jpg")]
    people = [Crop(sample, model).embedding for photo in photos for sample in samples(photo, recogniser.CROPS)]
    rows = []
    for file in sorted(directory.glob("*/frames.y4m")):
        tracks = {}
        for sample in samples(file, "retinaface ! facetrack ! facealign name=align"):
            crop = Crop(sample, model)
            if crop.track is not None:
                tracks.setdefault(crop.track, []).append(crop)
        for crops in (crops for crops in tracks.values() if len(crops) >= SHORTEST_TRACK):
            similarities = np.array([crop.embedding for crop in crops]) @ np.array(people).T
            rows.append(chosen(crops, list(similarities[:, similarities.mean(axis=0).argmax()])))
    if not rows:
        raise RuntimeError(f"{directory}: it has no NAME/frames.y4m with a track; run retinaface-sequences")
    return rows


def samples(file, elements):
    return recogniser.samples(str(file.resolve()), elements)


def convolved(image, kernel, axis):
    half = len(kernel) // 2
    pad = [(half, half) if axis == index else (0, 0) for index in range(3)]
    padded = np.pad(image.astype(float), pad, "reflect")
    length = image.shape[axis]
    parts = [weight * np.take(padded, range(at, at + length), axis) for at, weight in enumerate(kernel)]
    return sum(parts)


def blurred(image, sigma):
    offsets = np.arange(-int(3 * sigma + 1), int(3 * sigma + 2))
    kernel = np.exp(-((offsets / sigma) ** 2) / 2)
    kernel /= kernel.sum()
    return convolved(convolved(image, kernel, 0), kernel, 1)


def shrunk(image, factor):
    """The image with fewer pixels, in the middle of a frame of the same size."""
    whole, part = image.shape[0], round(factor * image.shape[0])
    edges = np.linspace(0, whole, part + 1)
    # The share of each old pixel in each new one.
    low, high = np.arange(whole), np.arange(1, whole + 1)
    weights = np.clip(np.minimum(high, edges[1:, None]) - np.maximum(low, edges[:-1, None]), 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    small = np.einsum("yi,xj,ijc->yxc", weights, weights, image, optimize=True)
    frame, at = np.full(image.shape, 90.0), (whole - part) // 2
    frame[at : at + part, at : at + part] = small
    return frame


def cut(image, columns):
    """The image without its left columns: the frame cuts the face."""
    frame = np.full(image.shape, 90.0)
    frame[:, : image.shape[1] - columns] = image[:, columns:]
    return frame


def versions(image, random):
    """Worse versions of a square picture whose face is about 0.4 of its height."""
    side = image.shape[0] / 250
    yield image
    yield from (blurred(image, sigma * side) for sigma in (1, 2, 3, 4))
    for length in (5, 9, 15):
        yield convolved(image, np.full(length, 1 / length), int(random.integers(2)))
    yield from (shrunk(image, factor) for factor in (0.5, 0.35, 0.25, 0.18, 0.12))
    yield from (image + random.normal(0, deviation, image.shape) for deviation in (10, 20, 40))
    yield from (cut(image, round(columns * side)) for columns in (90, 110))


def crops_of_frames(frames, model):
    """The crop of the largest face of each frame, or None."""
    height, width = frames[0].shape[:2]
    caps = f"video/x-raw,format=RGB,width={width},height={height},framerate=1/1"
    pipeline = Gst.parse_launch(
        f"appsrc name=source format=time caps={caps} ! retinaface ! facealign ! appsink name=sink sync=false"
    )
    source, sink = pipeline.get_by_name("source"), pipeline.get_by_name("sink")
    pipeline.set_state(Gst.State.PLAYING)
    for number, frame in enumerate(frames):
        rows = np.zeros((height, (3 * width + 3) // 4 * 4), np.uint8)
        rows[:, : 3 * width] = np.clip(frame, 0, 255).round().astype(np.uint8).reshape(height, -1)
        buffer = Gst.Buffer.new_wrapped(rows.tobytes())
        buffer.pts = number * Gst.SECOND
        source.emit("push-buffer", buffer)
    source.emit("end-of-stream")
    found = [None] * len(frames)
    while (sample := sink.emit("pull-sample")) is not None:
        crop = Crop(sample, model)
        number = round(crop.time)
        if found[number] is None or crop.size > found[number].size:
            found[number] = crop
    pipeline.set_state(Gst.State.NULL)
    return found


def pictures(directory, model):
    """What the rules choose of each track of worse versions of pictures."""
    random = np.random.default_rng(1)
    people = {}
    for file in sorted(directory.glob("*.jpg")):
        image = recogniser.pixels(next(samples(file, None))).astype(float)
        people.setdefault(file.name.split("__")[0], []).append(crops_of_frames(list(versions(image, random)), model))
    if not people:
        raise RuntimeError(f"{directory}: it has no pictures NAME__000.jpg")
    rows = []
    for own in people.values():
        clean = [crops[0].embedding for crops in own]
        pool = []
        for index, crops in enumerate(own):
            others = unit(np.sum(clean[:index] + clean[index + 1 :], axis=0))
            pool += [(crop, float(crop.embedding @ others)) for crop in crops if crop]
        for _ in range(TRACKS):
            track = [pool[index] for index in random.choice(len(pool), TRACK_LENGTH, replace=False)]
            rows.append(chosen(*zip(*track)))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", type=Path, help="directory that retinaface-sequences has written")
    parser.add_argument("--identity", type=Path, default=IDENTITY, help="pictures of known people")
    arguments = parser.parse_args()
    Gst.init(None)
    try:
        model = recogniser.Recogniser(recogniser.SFACE)
        table("Rendered sequences", sequences(arguments.sequences, model))
        if arguments.identity.is_dir():
            table("Pictures of known people", pictures(arguments.identity, model))
        else:
            print(f"\n{arguments.identity} is missing: no pictures of known people", file=sys.stderr)
    except RuntimeError as error:
        print(f"best_shots.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
