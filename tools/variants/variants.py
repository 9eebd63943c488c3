#!/usr/bin/env python3
"""Makes fp16 and int8 variants of a detector and compares them with it.

    make setup build                         # the program inspects models and runs detection
    python3 -m venv /tmp/variants && /tmp/variants/bin/pip install -r tools/variants/requirements.txt
    /tmp/variants/bin/python tools/variants/variants.py make MODEL OUT_DIR --calibration INPUTS...
    /tmp/variants/bin/python tools/variants/variants.py compare MODEL VARIANT INPUTS...

`make models` does this for the default model. MODEL is any detector that `retinaface model FILE`
recognises; its normalisation and fixed size come from there. INPUTS are images, clips, or
directories of them.

make writes OUT_DIR/NAME_fp16.onnx and OUT_DIR/NAME_int8.onnx. Both keep the names and the type
float32 of the model's inputs and outputs, so they are used like MODEL: `retinaface detect --model`,
`model-file=`.

- fp16: for CUDA and TensorRT. It is not faster on a CPU, where ONNX Runtime computes it in float32.
- int8: static quantisation, per channel, in QDQ format. INPUTS should resemble the detector's later
  input. It is for CPUs with integer dot products; only AVX-512 VNNI was measured. The defaults come
  from measurements (benches/README.md): 8-bit arithmetic in the first layers costs accuracy and
  gains no speed, so they stay in float32.

compare runs detection on INPUTS with both files and matches the faces (IoU at least 0.5, best pairs
first). Then it runs both models alternately in one process and reports the median of the ratios of
the times. Times of separate runs are not comparable, because a shared machine changes its speed.

Exit status: 0 success, 2 an error.
"""

import argparse
import contextlib
import copy
import fnmatch
import hashlib
import io
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import version_converter
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

ROOT = Path(__file__).resolve().parents[2]
IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
CLIPS = {".mp4", ".mov", ".mkv", ".avi", ".webm"}

# The first opset with per-channel QuantizeLinear and DequantizeLinear.
MIN_OPSET = 13
# As INPUT_MULTIPLE in src/geometry/letterbox.rs.
INPUT_MULTIPLE = 32
# Minimum intersection over union of matching faces.
MATCH_IOU = 0.5

CONVOLUTIONS = {"Conv", "ConvTranspose"}
ACTIVATIONS = {"Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish"}
# Layers before this stride have few channels and large planes, where integers gain no speed.
STEM_STRIDE = 8

# Faces whose shorter side is above this many pixels are also counted separately.
LARGE_FACE = 24

# Rounds before the measurement.
WARM_UP_ROUNDS = 3
KINDS = ("fp16", "int8")
# The operators between convolutions are quantised, too, except Softmax: quantised to steps of
# 1/256, its outputs do not add up to 1.
QUANTISED = ["Conv", "ConvTranspose", "LeakyRelu", "Relu", "Clip", "Add", "Concat", "MaxPool", "Resize", "Transpose", "Reshape"]

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}


class VariantError(Exception):
    """An error with its remedy, on one line."""


def report(text):
    print(f"variants: {text}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the program


class Program:
    """The program `retinaface`, which inspects models and runs detection."""

    def __init__(self, path=None):
        self.path = self.find(path)
        self.environment = dict(os.environ)
        fetched = ROOT / ".fetch" / "onnxruntime" / "libonnxruntime.so.1"
        if fetched.exists():
            self.environment.setdefault("ORT_DYLIB_PATH", str(fetched))

    @staticmethod
    def find(path):
        if path is not None:
            if not os.access(path, os.X_OK) or not Path(path).is_file():
                raise VariantError(f"{path} is not an executable file: pass the path of `retinaface` to --program")
            return str(Path(path).resolve())
        target = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
        built = [directory / "retinaface" for directory in (target / "release", target / "debug")]
        for file in built:
            if os.access(file, os.X_OK):
                return str(file)
        found = shutil.which("retinaface")
        if found is None:
            places = ", ".join(map(str, built))
            raise VariantError(f"the program was not found ({places}, PATH): run `make build` or pass --program")
        return found

    def run(self, arguments, statuses=(0,)):
        result = subprocess.run([self.path, *map(str, arguments)], capture_output=True, text=True, env=self.environment)
        if result.returncode not in statuses:
            message = result.stderr.strip() or f"status {result.returncode}"
            if "unexpected argument '--json'" in message:
                raise VariantError(f"{self.path} is too old and has no `model --json`: run `make build`")
            raise VariantError(message)
        return result.stdout

    def model_spec(self, model):
        """The properties of a model file, as `retinaface model --json` prints them."""
        return json.loads(self.run(["model", "--json", model]))

    def detect(self, model, images, options):
        """The list of faces of each image."""
        found = []
        # The length of a command line is limited.
        for start in range(0, len(images), 100):
            part = images[start : start + 100]
            arguments = [
                "detect", "--model", model, "--score-threshold", options.score_threshold, "--input-size", options.input_size,
                "--threads", options.threads, "--execution-provider", options.provider, "--", *part,
            ]  # fmt: skip
            lines = self.run(arguments, statuses=(0, 1)).splitlines()
            if len(lines) != len(part):
                raise VariantError(f"{self.path} wrote {len(lines)} lines for {len(part)} images")
            found.extend(json.loads(line)["faces"] for line in lines)
        return found


# ---------------------------------------------------------------- images


def list_files(paths):
    """Images and clips in a list of files and directories; the files of a directory are sorted."""
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGES | CLIPS)
        elif not path.exists():
            raise VariantError(f"{path} does not exist: pass images, clips, or directories of them")
        elif path.suffix.lower() in IMAGES | CLIPS:
            files.append(path)
        else:
            raise VariantError(f"{path} is neither an image nor a clip ({', '.join(sorted(IMAGES | CLIPS))})")
    if not files:
        raise VariantError(f"no image or clip in {', '.join(map(str, paths))}")
    return files


def is_clip(file):
    return file.suffix.lower() in CLIPS


def read_image(file):
    """An image as BGR, rotated by its EXIF orientation as the program does."""
    bgr = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise VariantError(f"cannot read the image {file}: leave it out")
    return bgr


def read_clip(file, count):
    """`count` frames at equal distances in a clip, or all if it has fewer."""
    clip = cv2.VideoCapture(str(file))
    length = int(clip.get(cv2.CAP_PROP_FRAME_COUNT))
    selected = {int((i + 0.5) * length / count) for i in range(count)}
    frames, index = [], 0
    while len(frames) < len(selected):
        success, frame = clip.read()
        if not success:
            break
        if index in selected:
            frames.append(frame)
        index += 1
    clip.release()
    if not frames:
        raise VariantError(f"cannot read the clip {file}: leave it out")
    return frames


def read_all(paths, frames_per_clip):
    for file in list_files(paths):
        if is_clip(file):
            yield from read_clip(file, frames_per_clip)
        else:
            yield read_image(file)


def round_half_up(number):
    return int(number + 0.5)


def letterbox(width, height, longest=None, fixed=None):
    """Sizes (width, height) of scaled frame and padded input; as src/geometry/letterbox.rs."""
    if fixed is None and longest == 0:
        return (width, height), (width, height)
    box = tuple(fixed) if fixed is not None else (longest, longest)
    scale = min(box[0] / width, box[1] / height)
    content = tuple(min(max(round_half_up(side * scale), 1), maximum) for side, maximum in zip((width, height), box))
    if fixed is not None:
        return content, box
    return content, tuple(-(-side // INPUT_MULTIPLE) * INPUT_MULTIPLE for side in content)


def preprocess(bgr, spec, longest=None, fixed=None):
    """The model input of an image, [1, 3, height, width]; as src/detect/preprocess.rs."""
    height, width = bgr.shape[:2]
    content, (cols, rows) = letterbox(width, height, longest, spec["fixed_size"] or fixed)
    scaled = bgr if content == (width, height) else cv2.resize(bgr, content, interpolation=cv2.INTER_LINEAR)
    pixels = scaled if spec["order"] == "BGR" else scaled[..., ::-1]
    scale = np.float32(spec["scale"])
    mean = np.array(spec["mean"], np.float32)
    tensor = np.zeros((1, 3, rows, cols), np.float32)
    tensor[0, :, : content[1], : content[0]] = (pixels.astype(np.float32) * scale - mean * scale).transpose(2, 0, 1)
    return tensor


# ---------------------------------------------------------------- conversion


def load(path):
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except FileNotFoundError:
        raise VariantError(f"{path} does not exist: pass an ONNX file") from None
    except Exception as error:  # protobuf and onnx have their own exceptions
        raise VariantError(f"{path} is not a valid ONNX file: {first_line(error)}") from None
    return model


def first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def opset(model):
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def unfuse(model):
    """Splits FusedConv, an operator of ONNX Runtime, into standard operators."""
    nodes = []
    for node in model.graph.node:
        if node.domain == "com.microsoft" and node.op_type == "FusedConv":
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            activation = attributes.pop("activation", b"").decode()
            parameters = list(attributes.pop("activation_params", []))
            names = {"Relu": [], "Tanh": [], "Sigmoid": [], "LeakyRelu": ["alpha"], "HardSigmoid": ["alpha", "beta"]}
            if activation not in names or len(node.input) > 3:
                raise VariantError(f"node {node.name} is a FusedConv with {activation or 'no'} activation and "
                                   f"{len(node.input)} inputs: use the file as its framework exported it")  # fmt: skip
            name, conv_output = node.name or node.output[0], f"{node.output[0]}_before_{activation}"
            conv = onnx.helper.make_node("Conv", node.input, [conv_output], name=name, **attributes)
            act = onnx.helper.make_node(activation, [conv_output], node.output, name=f"{name}_{activation}",
                                        **dict(zip(names[activation], parameters)))  # fmt: skip
            nodes += [conv, act]
        elif node.domain not in ("", "ai.onnx"):
            raise VariantError(f"node {node.name} is {node.op_type} of {node.domain}, so the file was already optimised or "
                               "quantised: use the file as its framework exported it")  # fmt: skip
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    standard = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(standard)


def upgrade(model):
    """A copy of a model with standard operators only, at opset 13 or higher."""
    model = copy.deepcopy(model)
    unfuse(model)
    if opset(model) < MIN_OPSET:
        # Old files list initialisers as inputs, which the converter rejects.
        initialisers = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in initialisers]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        # Shapes from an older exporter can contradict those that the converter infers.
        del model.graph.value_info[:]
        model.ir_version = max(model.ir_version, 4)
        try:
            model = version_converter.convert_version(model, MIN_OPSET)
        except Exception as error:  # from the C++ code of onnx
            raise VariantError(f"the model cannot be converted from opset {opset(model)} to {MIN_OPSET}: "
                               f"{first_line(error)}; export it at opset {MIN_OPSET} or higher") from None  # fmt: skip
    model.ir_version = max(model.ir_version, 8)
    remove_empty_inputs(model)
    name_nodes(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def remove_empty_inputs(model):
    """Removes empty constants for unused inputs of Resize; the fp16 converter breaks them."""
    empty = {tensor.name for tensor in model.graph.initializer if 0 in tensor.dims}
    for node in model.graph.node:
        if node.op_type == "Constant":
            empty.update(node.output[0] for a in node.attribute if a.name == "value" and 0 in a.t.dims)
    for node in model.graph.node:
        if node.op_type == "Resize":
            node.input[:] = [node.input[0], *("" if name in empty else name for name in node.input[1:])]
    read = {name for node in model.graph.node for name in node.input}
    for node in [node for node in model.graph.node if node.op_type == "Constant" and node.output[0] not in read]:
        model.graph.node.remove(node)


def name_nodes(model):
    """Names all nodes, because nodes are excluded from quantisation by name."""
    for node in model.graph.node:
        node.name = node.name or f"{node.op_type}_{node.output[0]}"


def convolutions(model):
    return [node for node in model.graph.node if node.op_type in CONVOLUTIONS]


def readers(model):
    """The nodes that read each tensor."""
    found = {}
    for node in model.graph.node:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def heads(model):
    """The last convolutions: those that no other convolution follows."""
    after, precedes_conv = readers(model), {}
    for node in reversed(model.graph.node):  # the graph is in topological order
        following = [reader for name in node.output for reader in after.get(name, [])]
        precedes_conv[node.name] = any(a.op_type in CONVOLUTIONS or precedes_conv[a.name] for a in following)
    return [node for node in convolutions(model) if not precedes_conv[node.name]]


def stem(model):
    """The first convolutions: those whose input has a stride below STEM_STRIDE."""
    stride, found = {}, []
    for node in model.graph.node:
        before = max((stride.get(name, 1) for name in node.input), default=1)
        steps = next((list(a.ints) for a in node.attribute if a.name == "strides"), [1])
        down = max(steps) if node.op_type in ("Conv", "MaxPool", "AveragePool") else 1
        if node.op_type in CONVOLUTIONS and before < STEM_STRIDE:
            found.append(node)
        stride.update((name, before * down) for name in node.output)
    return found


def float_nodes(model, keep):
    """Names of the nodes that are not quantised: the nodes in `keep` and their activations."""
    kept = []
    for pattern in keep:
        if pattern == "none":
            continue
        parts = {"heads": heads, "stem": stem}
        if pattern in parts:
            found = parts[pattern](model)
        else:
            found = [node for node in model.graph.node if fnmatch.fnmatchcase(node.name, pattern)]
        if not found:
            raise VariantError(f"no node of the model matches {pattern}: pass stem, heads, none, or node names with * to --keep")
        kept += found
    after = readers(model)
    activations = [reader for node in kept for name in node.output for reader in after.get(name, [])
                   if reader.op_type in ACTIVATIONS]  # fmt: skip
    return sorted({node.name for node in kept + activations})


def from_heads(model):
    """Names of the last convolutions and of all nodes after them."""
    found = {node.name for node in heads(model)}
    values = set()
    for node in model.graph.node:  # the graph is in topological order
        if node.name in found or values.intersection(node.input):
            found.add(node.name)
            values.update(node.output)
    return sorted(found)


def make_fp16(model):
    """Half-precision weights and arithmetic, float32 inputs and outputs.

    The last convolutions and what follows stay in float32: half precision rounds the scores of all
    good candidates of a face to 1, and their order is lost.
    """
    model = upgrade(model)
    blocked = {"op_block_list": [*DEFAULT_OP_BLOCK_LIST, "Softmax", "Sigmoid"], "node_block_list": from_heads(model)}
    model = convert_float_to_float16(model, keep_io_types=True, **blocked)
    # The converter appends casts at the end, but ONNX requires topological order.
    sorter = ONNXModel(model)
    sorter.topological_sort()
    return sorter.model


class Reader(CalibrationDataReader):
    """Calibration inputs, one per batch because their sizes differ."""

    def __init__(self, name, tensors):
        self.name, self.tensors = name, tensors
        self.set_range(0, len(tensors))

    def __len__(self):
        return len(self.tensors)

    def set_range(self, start_index, end_index):
        self.remaining = iter(self.tensors[start_index:end_index])

    def get_next(self):
        tensor = next(self.remaining, None)
        return None if tensor is None else {self.name: tensor}


def make_int8(model, spec, images, options):
    """Quantises convolutions and the operators between them, with one scale per channel."""
    with tempfile.TemporaryDirectory() as directory:
        upgraded, prepared_file, quantised = (Path(directory) / name for name in ("upgraded.onnx", "prepared.onnx", "int8.onnx"))
        # Folds constants and batch normalisation, and infers shapes.
        onnx.save(upgrade(model), str(upgraded))
        with quiet():
            quant_pre_process(str(upgraded), str(prepared_file), skip_symbolic_shape=True)
        prepared = onnx.load(str(prepared_file))
        name_nodes(prepared)
        onnx.save(prepared, str(prepared_file))
        # Softmax is excluded by node name, not by type: otherwise ONNX Runtime 1.19 finds no range
        # for a Softmax at the end of the model.
        softmaxes = [node.name for node in prepared.graph.node if node.op_type == "Softmax"]
        tensors = [preprocess(image, spec, options.input_size) for image in images]
        with quiet():
            quantize_static(
                str(prepared_file),
                str(quantised),
                Reader(spec["input"], tensors),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=[*QUANTISED, "Softmax"],
                per_channel=True,
                activation_type=TYPES[options.activations],
                weight_type=TYPES[options.weights],
                nodes_to_exclude=float_nodes(prepared, options.keep) + softmaxes,
                calibrate_method=METHODS[options.method],
                extra_options={"CalibStridedMinMax": 1, "CalibPercentile": options.percentile},
            )
        return onnx.load(str(quantised))


@contextlib.contextmanager
def quiet():
    """Suppresses the progress output and the warnings of a library."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.root.setLevel(level)


# ---------------------------------------------------------------- comparison


def iou(a, b):
    """Intersection over union of two boxes in the format of the program."""
    width = min(a["x"] + a["w"], b["x"] + b["w"]) - max(a["x"], b["x"])
    height = min(a["y"] + a["h"], b["y"] + b["h"]) - max(a["y"], b["y"])
    if width <= 0 or height <= 0:
        return 0.0
    intersection = width * height
    return intersection / (a["w"] * a["h"] + b["w"] * b["h"] - intersection)


def match(fp32, variant):
    """Pairs of indices of matching faces, best overlap first; each face is in at most one pair."""
    overlaps = [(iou(a["box"], b["box"]), i, j) for i, a in enumerate(fp32) for j, b in enumerate(variant)]
    pairs, left, right = [], set(), set()
    for overlap, i, j in sorted(overlaps, reverse=True):
        if overlap >= MATCH_IOU and i not in left and j not in right:
            pairs.append((i, j))
            left.add(i)
            right.add(j)
    return pairs


def face_size(face):
    """The shorter side in pixels, as --min-face-size of the program measures it."""
    return min(face["box"]["w"], face["box"]["h"])


def corners(box):
    return np.array([box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"]])


def summary(values):
    if not values:
        return None
    return {"mean": float(np.mean(values)), "p95": float(np.percentile(values, 95)), "max": float(np.max(values))}


def agreement(fp32, variant, large=LARGE_FACE):
    """Compares the faces of two models; both arguments have one list of faces per image."""
    counts = {"fp32": 0, "variant": 0, "matched": 0, "missed": 0, "extra": 0}
    large_counts = dict(counts)
    drift = {"score": [], "box_px": [], "box_1_minus_iou": [], "landmark_px": []}
    missed_scores = []
    for fp32_faces, variant_faces in zip(fp32, variant):
        pairs = match(fp32_faces, variant_faces)
        found, kept = {i for i, _ in pairs}, {j for _, j in pairs}
        for count, minimum in ((counts, -1), (large_counts, large)):
            counted = [i for i, face in enumerate(fp32_faces) if face_size(face) > minimum]
            others = [j for j, face in enumerate(variant_faces) if face_size(face) > minimum]
            count["fp32"] += len(counted)
            count["variant"] += len(others)
            count["matched"] += sum(i in found for i in counted)
            count["missed"] += sum(i not in found for i in counted)
            count["extra"] += sum(j not in kept for j in others)
        missed_scores += [face["score"] for i, face in enumerate(fp32_faces) if i not in found and face_size(face) > large]
        for i, j in pairs:
            a, b = fp32_faces[i], variant_faces[j]
            drift["score"].append(abs(a["score"] - b["score"]))
            drift["box_px"].append(float(np.abs(corners(a["box"]) - corners(b["box"])).max()))
            drift["box_1_minus_iou"].append(1 - iou(a["box"], b["box"]))
            if a["landmarks"] and b["landmarks"]:
                distances = np.linalg.norm(np.subtract(a["landmarks"], b["landmarks"]), axis=1)
                drift["landmark_px"].append(float(distances.max()))
    return {
        "images": len(fp32),
        "faces": counts,
        f"faces_over_{large}_px": {
            **large_counts,
            "missed_percent": 100 * large_counts["missed"] / large_counts["fp32"] if large_counts["fp32"] else None,
            "best_missed_score": max(missed_scores, default=None),
        },
        "drift": {name: summary(values) for name, values in drift.items()},
    }


def sessions(files, threads, provider):
    """Sessions with the settings of the program."""
    name = PROVIDERS[provider]
    if name not in onnxruntime.get_available_providers():
        raise VariantError(f"the installed ONNX Runtime does not have {provider}: replace onnxruntime by a build that has it "
                           "(onnxruntime-gpu, onnxruntime-openvino), or use --provider cpu")  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Spinning threads of the idle session would take a core from the other one.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    opened = [onnxruntime.InferenceSession(str(file), options, providers=[name]) for file in files]
    for session, file in zip(opened, files):
        if name not in session.get_providers():
            raise VariantError(f"{file} does not run on {provider}: its libraries are missing or have the wrong version")
    return opened


def speed(files, tensor, threads, provider, rounds):
    """Speed of the second file relative to the first, which run alternately in this process."""
    contenders = [(session, {session.get_inputs()[0].name: tensor}) for session in sessions(files, threads, provider)]
    seconds = [[], []]
    for number in range(WARM_UP_ROUNDS + rounds):
        # The order alternates, so that neither benefits from being first.
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            session, inputs = contenders[index]
            start = time.perf_counter()
            session.run(None, inputs)
            if number >= WARM_UP_ROUNDS:
                seconds[index].append(time.perf_counter() - start)
    ratios = [fp32 / variant for fp32, variant in zip(*seconds)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {
        "input": list(tensor.shape),
        "provider": provider,
        "threads": threads,
        "rounds": rounds,
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [quartiles[0], quartiles[2]],
        "fp32_ms": 1000 * statistics.median(seconds[0]),
        "variant_ms": 1000 * statistics.median(seconds[1]),
    }


def compare(fp32, variant, paths, options, program):
    """Compares the faces and the speed of two files."""
    specs = [program.model_spec(file) for file in (fp32, variant)]
    differing = [key for key in specs[0] if specs[0][key] != specs[1][key]]
    if differing:
        raise VariantError(f"{variant} is not a variant of {fp32}: they differ in {', '.join(differing)}")
    files = list_files(paths)
    with tempfile.TemporaryDirectory() as directory:
        images = []
        for file in files:
            if not is_clip(file):
                images.append(file)
                continue
            for number, frame in enumerate(read_clip(file, options.frames)):
                images.append(Path(directory) / f"{len(images)}-{number}.png")
                cv2.imwrite(str(images[-1]), frame)
        found = [program.detect(file, images, options) for file in (fp32, variant)]
        tensor = preprocess(read_image(images[0]), specs[0], fixed=options.speed_size)
    return {
        "fp32": str(fp32),
        "variant": str(variant),
        "score_threshold": options.score_threshold,
        "input_size": options.input_size,
        **agreement(*found),
        "speed": speed((fp32, variant), tensor, options.threads, options.provider, options.rounds),
    }


def table(result):
    """The result of a comparison as text."""
    rows = [f"{Path(result['variant']).name} against {Path(result['fp32']).name}, {result['images']} images, "
            f"scores above {result['score_threshold']}, input size {result['input_size']}"]  # fmt: skip
    rows.append(f"  {'faces':<18}{'fp32':>8}{'variant':>9}{'matched':>9}{'missed':>8}{'extra':>7}")
    large = result[f"faces_over_{LARGE_FACE}_px"]
    for name, count in (("all", result["faces"]), (f"over {LARGE_FACE} px", large)):
        values = (count["fp32"], count["variant"], count["matched"], count["missed"], count["extra"])
        rows.append("  {:<18}{:>8}{:>9}{:>9}{:>8}{:>7}".format(name, *values))
    if large["missed_percent"] is not None:
        best = large["best_missed_score"]
        rows.append(f"  missed over {LARGE_FACE} px: {large['missed_percent']:.2f} %"
                    + ("" if best is None else f", highest score {best:.2f}"))  # fmt: skip
    rows.append(f"  {'drift':<18}{'mean':>8}{'p95':>9}{'max':>9}")
    names = {"score": "score", "box_px": "box, px", "box_1_minus_iou": "box, 1 - IoU", "landmark_px": "landmarks, px"}
    for name, title in names.items():
        values = result["drift"][name]
        if values is not None:
            rows.append(f"  {title:<18}{values['mean']:>8.4f}{values['p95']:>9.4f}{values['max']:>9.4f}")
    speed_result = result["speed"]
    low, high = speed_result["ratio_quartiles"]
    _, _, height, width = speed_result["input"]
    rows.append(f"  speed: {speed_result['ratio']:.2f} times fp32 (quartiles {low:.2f} to {high:.2f}), median of {speed_result['rounds']} rounds at "
                f"{width}x{height} on {speed_result['provider']}, threads {speed_result['threads'] or 'default of ONNX Runtime'}")  # fmt: skip
    return "\n".join(rows)


# ---------------------------------------------------------------- command line


def check(file, source, program):
    """Checks that a variant is valid, runs, and is recognised as its source is."""
    onnx.checker.check_model(str(file), full_check=True)
    signatures = [[(value.name, value.type) for value in (*session.get_inputs(), *session.get_outputs())]
             for session in sessions((source, file), 0, "cpu")]  # fmt: skip
    if signatures[0] != signatures[1]:
        raise VariantError(f"{file.name} does not have the inputs and outputs of its source: {signatures[1]} instead of {signatures[0]}")
    expected, actual = program.model_spec(source), program.model_spec(file)
    if expected != actual:
        raise VariantError(f"the program recognises {file.name} as {actual} instead of {expected}")


def make(model_file, directory, kinds, options, program):
    """Writes the variants of a model to a directory and returns their paths."""
    model = load(model_file)
    spec = program.model_spec(model_file)
    images = list(read_all(options.calibration, options.frames)) if "int8" in kinds else []
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory(dir=directory) as work:
        for kind in kinds:
            report(f"making {kind} of {model_file}" + (f", calibrated on {len(images)} images" if kind == "int8" else ""))
            variant = make_fp16(model) if kind == "fp16" else make_int8(model, spec, images, options)
            properties = {"source_sha256": hashlib.sha256(model_file.read_bytes()).hexdigest()}
            if kind == "int8":
                properties.update(method=options.method, activations=options.activations, weights=options.weights,
                             keep=" ".join(options.keep), calibration_images=str(len(images)))  # fmt: skip
            # Metadata of the source, such as retinaface.mean, also applies to the variant.
            source_properties = {entry.key: entry.value for entry in model.metadata_props}
            properties = {f"retinaface.variant.{key}": value for key, value in properties.items()} | {"retinaface.variant": kind}
            del variant.metadata_props[:]
            onnx.helper.set_model_props(variant, source_properties | properties)
            file = Path(work) / f"{model_file.stem}_{kind}.onnx"
            onnx.save(variant, str(file))
            check(file, model_file, program)
            # Rename only after the check, so that an invalid file never has the final name.
            written.append(directory / file.name)
            os.replace(file, written[-1])
    return written


def size(text):
    try:
        width, height = map(int, text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not WIDTHxHEIGHT") from None
    if width < 1 or height < 1 or width % INPUT_MULTIPLE or height % INPUT_MULTIPLE:
        raise argparse.ArgumentTypeError(f"width and height of {text} are not positive multiples of {INPUT_MULTIPLE}")
    return width, height


def number(minimum, maximum=None, kind=int):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text} is not a number") from None
        if value < minimum or (maximum is not None and value > maximum):
            raise argparse.ArgumentTypeError(f"{text} is not {f'between {minimum} and {maximum}' if maximum else f'at least {minimum}'}")
        return value

    return parse


def arguments():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="variants.py", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--program", type=Path, metavar="FILE", help="the program retinaface; default: the built one, or the one in PATH")
    common.add_argument("--input-size", type=number(0), default=640, metavar="PIXELS",
                      help="longer side of the model's input; 0: the size of the image (default: 640)")  # fmt: skip
    common.add_argument("--frames", type=number(1), default=8, metavar="N", help="number of frames per clip (default: 8)")

    maker = commands.add_parser("make", parents=[common], help="make variants of a model")
    maker.add_argument("model", type=Path, metavar="MODEL", help="ONNX file of a detector that the program recognises")
    maker.add_argument("directory", type=Path, metavar="OUT_DIR", help="directory for NAME_fp16.onnx and NAME_int8.onnx")
    maker.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="variants to make (default: both)")
    maker.add_argument("--calibration", nargs="+", type=Path, default=[], metavar="PATH",
                       help="images, clips, or directories of them, for int8")  # fmt: skip
    maker.add_argument("--method", choices=METHODS, default="percentile",
                       help="calibration method (default: percentile)")  # fmt: skip
    maker.add_argument("--percentile", type=number(50, 100, float), default=99.999, metavar="P",
                       help="percentage of values inside the range, for the method percentile (default: 99.999)")  # fmt: skip
    maker.add_argument("--activations", choices=TYPES, default="uint8", help="type of activations (default: uint8)")
    maker.add_argument("--weights", choices=TYPES, default="int8", help="type of weights (default: int8)")
    maker.add_argument("--keep", nargs="+", default=["stem"], metavar="NODES",
                       help="convolutions that stay in float32: stem (those whose input has a stride below 8), heads (the "
                       "last ones), names of nodes, with * as wildcard, or none (default: stem)")  # fmt: skip

    comparer = commands.add_parser("compare", parents=[common], help="compare a variant with its model")
    comparer.add_argument("fp32", type=Path, metavar="FP32", help="ONNX file of the detector")
    comparer.add_argument("variant", type=Path, metavar="VARIANT", help="ONNX file of its variant")
    comparer.add_argument("inputs", nargs="+", type=Path, metavar="PATH", help="images, clips, or directories of them")
    comparer.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON to this file")
    comparer.add_argument("--score-threshold", type=number(0, 1, float), default=0.5, metavar="0..1", help="minimum score of a face (default: 0.5)")
    comparer.add_argument("--provider", choices=PROVIDERS, default="cpu", help="execution provider (default: cpu)")
    comparer.add_argument("--threads", type=number(0), default=0, metavar="N",
                          help="threads per session; 0: one per physical core (default)")  # fmt: skip
    comparer.add_argument("--speed-size", type=size, default=(640, 384), metavar="WIDTHxHEIGHT",
                          help="input size for speed, unless the model has a fixed size (default: 640x384, as for 1080p)")  # fmt: skip
    comparer.add_argument("--rounds", type=number(1), default=60, metavar="N", help="number of rounds (default: 60)")
    return parser.parse_args()


def run(options):
    program = Program(options.program)
    if options.command == "make":
        if "int8" in options.kinds and not options.calibration:
            raise VariantError("int8 needs --calibration with images, clips, or directories of them; or use --kinds fp16")
        for file in make(options.model, options.directory, options.kinds, options, program):
            print(file)
    else:
        result = compare(options.fp32, options.variant, options.inputs, options, program)
        print(table(result))
        if options.json is not None:
            options.json.write_text(json.dumps(result, indent=2) + "\n")


def main():
    options = arguments()
    # Hide warnings of the graph optimiser.
    onnxruntime.set_default_logger_severity(3)
    try:
        run(options)
    except (VariantError, OSError) as error:
        report(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
