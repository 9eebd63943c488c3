"""Pre- and postprocessing of RetinaFace mnet0.25 in Python: OpenCV for pixels, NumPy for the rest.

It is optimised as far as is usual in Python: only candidates above the threshold are decoded, and
everything that depends only on the frame size is computed once.
"""

import cv2
import numpy as np

MEAN = np.array([104, 117, 123], dtype=np.float32)
STRIDES = [8, 16, 32]
MIN_SIZES = [[16, 32], [64, 128], [256, 512]]
SCORE_THRESHOLD, IOU_THRESHOLD = 0.5, 0.4
# ArcFace template: the five landmarks in a crop of 112 x 112.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    dtype=np.float32,
)


class Letterbox:
    """Scales the longer side of a frame to `longest`; pads right and bottom to multiples of 32."""

    def __init__(self, width, height, longest=640):
        self.scale = longest / max(width, height)
        self.size = round(width * self.scale), round(height * self.scale)
        self.width, self.height = (-(-side // 32) * 32 for side in self.size)
        self.padding = self.height - self.size[1], self.width - self.size[0]

    def image(self, bgr):
        scaled = cv2.resize(bgr, self.size, interpolation=cv2.INTER_LINEAR)
        bottom, right = self.padding
        return cv2.copyMakeBorder(scaled, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=MEAN.tolist())

    def tensor(self, bgr):
        return cv2.dnn.blobFromImage(self.image(bgr), mean=MEAN.tolist())


def priors(width, height):
    """Centre and size of each prior, in input pixels, in the order of the model's outputs."""
    rows = []
    for stride, sizes in zip(STRIDES, MIN_SIZES):
        y, x = np.mgrid[0 : -(-height // stride), 0 : -(-width // stride)]
        centres = (np.stack([x, y], axis=-1).reshape(-1, 1, 2) + 0.5) * stride
        centres = np.repeat(centres, len(sizes), axis=1)
        extents = np.broadcast_to(np.array(sizes).reshape(1, -1, 1), centres.shape)
        rows.append(np.concatenate([centres, extents], axis=-1).reshape(-1, 4))
    return np.concatenate(rows).astype(np.float32)


class Decoder:
    """Decodes model outputs to rows of score, x, y, w, h and five points, in frame pixels."""

    def __init__(self, letterbox):
        self.scale = letterbox.scale
        self.priors = priors(letterbox.width, letterbox.height)

    def faces(self, loc, conf, points):
        scores = conf[0, :, 1]
        kept = np.flatnonzero(scores > SCORE_THRESHOLD)
        if not len(kept):
            return np.empty((0, 15), dtype=np.float32)
        scores, loc, points, priors = scores[kept], loc[0, kept], points[0, kept], self.priors[kept]
        centres, extents = priors[:, :2], priors[:, 2:]
        size = extents * np.exp(loc[:, 2:] * 0.2)
        corner = centres + loc[:, :2] * 0.1 * extents - size / 2
        points = centres[:, None] + points.reshape(-1, 5, 2) * 0.1 * extents[:, None]
        best = cv2.dnn.NMSBoxes(np.hstack([corner, size]).tolist(), scores.tolist(), SCORE_THRESHOLD, IOU_THRESHOLD)
        best = np.asarray(best).reshape(-1)
        pixels = np.hstack([corner, size, points.reshape(-1, 10)])[best] / self.scale
        return np.hstack([scores[best, None], pixels])


def crop(bgr, points, size=112):
    """The face aligned by its landmarks; None if the landmarks coincide."""
    matrix, _ = cv2.estimateAffinePartial2D(points, TEMPLATE, method=cv2.LMEDS)
    return None if matrix is None else cv2.warpAffine(bgr, matrix, (size, size))


def draw(bgr, faces):
    for face in faces:
        x, y, w, h = face[1:5].round().astype(int).tolist()
        cv2.rectangle(bgr, (x, y), (x + w, y + h), (118, 230, 0), 3)
        cv2.putText(bgr, f"{face[0]:.2f}", (x, y - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (118, 230, 0), 2)
        for px, py in face[5:].reshape(5, 2).round().astype(int).tolist():
            cv2.circle(bgr, (px, py), 4, (0, 214, 255), -1)
