#!/usr/bin/env python3
"""Prints what `make bench` measured as ratios within that run, from criterion's files."""

import json
import sys
from pathlib import Path

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "target") / "criterion"


def median_us(name):
    file = folder / name / "new" / "estimates.json"
    if not file.exists():
        sys.exit(f"{file} is not there: run `make bench`")
    return json.loads(file.read_text())["median"]["point_estimate"] / 1000


model = median_us("frame/model")
surround = median_us("frame/preprocess") + median_us("frame/decode_nms")
pairs = json.loads((folder.parent / "tmp/paired.json").read_text())


def paired(column):
    """Least, median and most of the bare session's time over the column's, of all pairs."""
    ratios = sorted(pair[0] / pair[column] for pair in pairs)
    return ratios[len(ratios) // 2], f"({ratios[0]:.3f} to {ratios[-1]:.3f} of {len(ratios)} pairs)"


element, element_range = paired(1)
whole, whole_range = paired(2)
rows = [
    ("preprocess + decode + NMS of a 1080p NV12 frame / the model's run at 640", surround / model, "at most 0.10"),
    ("one face's transform and warp, NV12 [us]", median_us("frame/align_one_nv12"), "at most 100"),
    ("one face's transform and warp, BGR [us]", median_us("frame/align_one_bgr"), "at most 100"),
    ("five faces drawn into 1080p NV12 / the model's run", median_us("frame/overlay_five") / model, ""),
    ("the element's frame rate on a 1080p clip / the bare session's", element, f"at least 0.90 {element_range}"),
    ("with overlay and alignment / the bare session's", whole, whole_range),
]
for what, value, wanted in rows:
    print(f"{what:<75} {value:8.3f}  {wanted}")
