#!/usr/bin/env python3
"""Names the faces of a video: GStreamer finds and aligns them, SFace recognises them.

    make examples
    . ./env.sh
    target/examples/venv/bin/python examples/recogniser.py --gallery people clip.mp4

`people` has pictures of known people, at least one of each: people/NAME.jpg, people/NAME__2.jpg
or people/NAME/anything.jpg. A picture of 112 x 112 pixels is taken as an aligned crop; in any other
one, the largest face counts. Pictures must be upright: decodebin of GStreamer 1.22 ignores the EXIF
orientation of a JPEG file; `retinaface detect --crops` does not.

The video is a file or a URI, also a picture, rtsp://... or v4l2:///dev/video0. Each face gives a
line with the time in the video, the name and the cosine similarity to the most similar picture:

       1.240 s  Alice        0.712

docs/python.md explains how to read the metadata. Exit status: 0 success, 2 an error.
"""

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp  # noqa: E402, F401  GstApp gives appsink its methods

# PyGObject has no other way to read an array of a GstStructure.
warnings.filterwarnings("ignore", "GObject.ValueArray", DeprecationWarning)

SFACE = Path(__file__).resolve().parents[1] / ".fetch" / "models" / "sface.onnx"
# Similarity from which on OpenCV Zoo takes two faces for the same person
# (models/face_recognition_sface/sface.py).
SAME_PERSON = 0.363
CROP_SIZE = 112
PICTURES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}

# videoflip turns the videos of phones upright. videoconvert copies no frame in a format that the
# next element takes.
SOURCE = "uridecodebin name=source ! videoconvert ! videoflip video-direction=auto ! videoconvert"
CROPS = f"retinaface ! facealign name=align size={CROP_SIZE}"
# With a full queue, appsink lets the pipeline wait: no crop of a file is lost.
SINK = "video/x-raw,format=RGB ! appsink name=sink sync=false max-buffers=16"


class Face(NamedTuple):
    """An aligned crop and where it comes from. All coordinates are pixels, x right, y down."""

    crop: np.ndarray  # [112, 112, 3], RGB, 0 to 255
    time: float | None  # time of the frame in seconds; None if the frame has none
    score: float  # of the detection, 0 to 1
    box: np.ndarray  # x, y, width, height in the frame
    landmarks: np.ndarray  # [5, 2]: eyes, nose, mouth corners in the frame
    crop_from_frame: np.ndarray  # [2, 3] matrix: crop_from_frame @ (x, y, 1) is a point of the crop
    frame_from_crop: np.ndarray  # [2, 3] matrix in the other direction


def numbers(structure, field):
    """An array field of a GstStructure. `get_value` raises TypeError for these without gst-python."""
    found, array = structure.get_array(field)
    if not found:
        raise KeyError(field)
    return np.array([array.get_nth(index) for index in range(array.n_values)])


def pixels(sample):
    """The RGB image of a sample, [height, width, 3]."""
    caps, buffer = sample.get_caps().get_structure(0), sample.get_buffer()
    width, height = caps.get_value("width"), caps.get_value("height")
    # GStreamer pads the rows of RGB to a multiple of four bytes.
    rows = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8).reshape(height, -1)
    return rows[:, : 3 * width].reshape(height, width, 3)


def face_of(sample):
    """The face of a sample that facealign made."""
    origin = sample.get_buffer().get_custom_meta("RetinaFaceCropMeta").get_structure()
    face = origin.get_value("face")
    pts = origin.get_value("frame-pts")
    return Face(
        crop=pixels(sample),
        time=None if pts is None else pts / Gst.SECOND,
        score=face.get_value("score"),
        box=numbers(face, "box"),
        landmarks=numbers(face, "landmarks").reshape(5, 2),
        crop_from_frame=numbers(origin, "crop-from-frame").reshape(2, 3),
        frame_from_crop=numbers(origin, "frame-from-crop").reshape(2, 3),
    )


def samples(video, elements=None, **align):
    """Plays a file or URI through `elements` and yields what arrives at the end."""
    pipeline = Gst.parse_launch(" ! ".join(filter(None, (SOURCE, elements, SINK))))
    uri = video if Gst.uri_is_valid(video) else Gst.filename_to_uri(video)
    pipeline.get_by_name("source").set_property("uri", uri)
    for name, value in align.items():
        pipeline.get_by_name("align").set_property(name, value)
    sink, bus = pipeline.get_by_name("sink"), pipeline.get_bus()
    pipeline.set_state(Gst.State.PLAYING)
    try:
        while True:
            sample = sink.try_pull_sample(Gst.SECOND // 10)
            if sample is not None:
                yield sample
            elif message := bus.pop_filtered(Gst.MessageType.ERROR):
                raise RuntimeError(f"{video}: {message.parse_error()[0].message}")
            elif sink.is_eos():
                return
    finally:
        pipeline.set_state(Gst.State.NULL)


class Recogniser:
    """SFace, and the people that it knows."""

    def __init__(self, model):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no base class of their own
            raise RuntimeError(f"{model} cannot be opened: {error}") from None
        self.names, self.embeddings = [], np.empty((0, 128), np.float32)

    def embedding(self, crop):
        """A vector of length 1, [128]: the dot product of two of them is their cosine similarity."""
        image = crop.transpose(2, 0, 1)[None].astype(np.float32)
        (vector,) = self.session.run(None, {"data": image})[0]
        return vector / np.linalg.norm(vector)

    def add(self, name, crop):
        self.names.append(name)
        self.embeddings = np.vstack([self.embeddings, self.embedding(crop)])

    def identify(self, crop, threshold=SAME_PERSON):
        """The name of the most similar picture, or None below the threshold, and the similarity."""
        similarities = self.embeddings @ self.embedding(crop)
        best = similarities.argmax()
        return self.names[best] if similarities[best] >= threshold else None, float(similarities[best])


def crop_of_picture(file):
    """The aligned crop of the largest face in a picture, or None if it shows none."""
    images = [pixels(sample) for sample in samples(str(file))]
    if not images:
        raise RuntimeError(f"{file}: it has no picture")
    if images[0].shape[:2] == (CROP_SIZE, CROP_SIZE):
        return images[0]
    faces = [face_of(sample) for sample in samples(str(file), CROPS)]
    return max(faces, key=lambda face: face.box[2] * face.box[3]).crop if faces else None


def read_gallery(directory, recogniser):
    """Adds the people of a directory to a recogniser."""
    for file in sorted(Path(directory).rglob("*")):
        if file.suffix.lower() not in PICTURES:
            continue
        inside = file.relative_to(directory).parts
        name = inside[0] if len(inside) > 1 else file.stem.split("__")[0]
        try:
            crop = crop_of_picture(file)
        except RuntimeError as error:
            print(f"recogniser: left out: {error}", file=sys.stderr)
            continue
        if crop is None:
            print(f"recogniser: left out: {file}: no face was found", file=sys.stderr)
            continue
        recogniser.add(name, crop)
    if not recogniser.names:
        raise RuntimeError(f"{directory} has no picture with a face: add NAME.jpg for each person")


def main():
    parser = argparse.ArgumentParser(description="Names the faces of a video.")
    add = parser.add_argument
    add("video", metavar="VIDEO_OR_URI")
    add("--gallery", required=True, metavar="DIR", help="pictures of known people: NAME.jpg, NAME/*.jpg")
    add("--model", default=SFACE, type=Path, metavar="FILE", help="SFace as set-up fetches it (%(default)s)")
    add("--threshold", default=SAME_PERSON, type=float, metavar="COSINE",
        help="lowest similarity of a known person (%(default)s)")  # fmt: skip
    add("--min-face-size", default=40, type=int, metavar="PIXELS",
        help="shorter side of the smallest face (%(default)s)")  # fmt: skip
    arguments = parser.parse_args()
    Gst.init(None)
    if Gst.ElementFactory.find("facealign") is None:
        raise RuntimeError("GStreamer does not find the plugin: run `. ./env.sh`, or set GST_PLUGIN_PATH")
    if not arguments.model.is_file():
        raise RuntimeError(f"there is no {arguments.model}: run `make setup`, or pass --model")

    # A detector that is open all the time: the pipelines share its model, and do not load it again.
    detector, bus = Gst.ElementFactory.make("retinaface"), Gst.Bus.new()
    detector.set_bus(bus)
    try:
        if detector.set_state(Gst.State.PAUSED) == Gst.StateChangeReturn.FAILURE:
            raise RuntimeError(bus.pop_filtered(Gst.MessageType.ERROR).parse_error()[0].message)
        recogniser = Recogniser(arguments.model)
        read_gallery(arguments.gallery, recogniser)
        for sample in samples(arguments.video, CROPS, min_face_size=arguments.min_face_size):
            face = face_of(sample)
            name, similarity = recogniser.identify(face.crop, arguments.threshold)
            time = "       -" if face.time is None else f"{face.time:8.3f} s"
            print(f"{time}  {name or 'unknown':20}  {similarity:6.3f}", flush=True)
    finally:
        detector.set_state(Gst.State.NULL)


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        print(f"recogniser: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # The reader of the lines has gone, for example `head`; Python would report it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)
