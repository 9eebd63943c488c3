#!/usr/bin/env python3
"""Makes smaller variants of a detector and measures what they cost.

    make setup build                                   # the program reads the model and runs the comparison
    python3 -m venv /tmp/variants && /tmp/variants/bin/pip install -r tools/variants/requirements.txt
    /tmp/variants/bin/python tools/variants/variants.py make MODEL OUT_DIR --calibration PICTURES...
    /tmp/variants/bin/python tools/variants/variants.py compare MODEL VARIANT PICTURES...

`make models` does all of it for the default model. MODEL is any detector that `retinaface model FILE` knows: its
normalisation and fixed size come from there. PICTURES are pictures, clips, or folders of either.

make writes OUT_DIR/NAME_fp16.onnx and OUT_DIR/NAME_int8.onnx. Both keep the model's inputs and outputs, in float32,
with their names, so that they are used like MODEL itself: `retinaface detect --model`, `model-file=`.

- fp16: for CUDA and TensorRT. On a CPU it is no faster than MODEL: ONNX Runtime computes it in float32 there.
- int8: static, per channel, in QDQ form; calibrated on PICTURES, which should look like what the detector will see.
  For CPUs with integer dot products; measured with AVX-512 VNNI only. The defaults were chosen by measuring
  (benches/README.md): 8-bit arithmetic in the first layers costs accuracy and brings no speed, so these stay in float32.

compare runs the program over PICTURES with both files and matches what they find (IoU at least 0.5, best pairs first);
then it runs both in turns within one process. The ratio of the times of each turn is taken and of those the median:
times of two separate runs must not be compared, since a shared machine changes its speed between them.

Exit status: 0 done, 2 an error.
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
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
CLIPS = {".mp4", ".mov", ".mkv", ".avi", ".webm"}

# Per-channel QuantizeLinear and DequantizeLinear are there from this opset on.
MIN_OPSET = 13
# As src/letterbox.rs, INPUT_MULTIPLE.
INPUT_MULTIPLE = 32
# Two faces are the same from this intersection over union on.
SAME_FACE = 0.5

CONVOLUTIONS = {"Conv", "ConvTranspose"}
ACTIVATIONS = {"Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish"}
# What comes before this stride has few channels and large planes: there integers bring no speed.
STEM_STRIDE = 8

# Faces whose shorter side is above this many pixels are counted apart.
LARGE_FACE = 24

# Turns that are run before time is taken.
WARM_UP = 3
KINDS = ("fp16", "int8")
# What lies between convolutions is quantised with them. Softmax is not: in steps of 1/256 its numbers add up to 1 no more.
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
    """What went wrong, with its remedy; told on one line."""


def say(text):
    print(f"variants: {text}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the program


class Program:
    """The project's program, which knows what a model wants and runs any supported one."""

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
                raise VariantError(f"{path} is not a program that can be run; --program names retinaface's binary")
            return str(Path(path).resolve())
        target = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
        built = [folder / "retinaface" for folder in (target / "release", target / "debug")]
        for file in built:
            if os.access(file, os.X_OK):
                return str(file)
        found = shutil.which("retinaface")
        if found is None:
            places = ", ".join(map(str, built))
            raise VariantError(f"the program was not found ({places}, PATH): run `make build`, or name it with --program")
        return found

    def run(self, arguments, good=(0,)):
        done = subprocess.run([self.path, *map(str, arguments)], capture_output=True, text=True, env=self.environment)
        if done.returncode not in good:
            words = done.stderr.strip() or f"status {done.returncode}"
            if "unexpected argument '--json'" in words:
                raise VariantError(f"{self.path} is too old to say what a model is: run `make build`")
            raise VariantError(words)
        return done.stdout

    def contract(self, model):
        """What the program recognised in a model file, as `retinaface model --json` says it."""
        return json.loads(self.run(["model", "--json", model]))

    def detect(self, model, pictures, options):
        """A list of faces for each picture."""
        found = []
        # Command lines have a longest length.
        for start in range(0, len(pictures), 100):
            part = pictures[start : start + 100]
            arguments = [
                "detect", "--model", model, "--score-threshold", options.score_threshold, "--input-size", options.input_size,
                "--threads", options.threads, "--execution-provider", options.provider, "--", *part,
            ]  # fmt: skip
            lines = self.run(arguments, good=(0, 1)).splitlines()
            if len(lines) != len(part):
                raise VariantError(f"{self.path} wrote {len(lines)} lines for {len(part)} pictures")
            found.extend(json.loads(line)["faces"] for line in lines)
        return found


# ---------------------------------------------------------------- pictures


def list_files(paths):
    """Pictures and clips among files and folders, sorted within each folder."""
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURES | CLIPS)
        elif not path.exists():
            raise VariantError(f"{path} does not exist: name pictures, clips, or folders of them")
        elif path.suffix.lower() in PICTURES | CLIPS:
            files.append(path)
        else:
            raise VariantError(f"{path} is neither a picture nor a clip ({', '.join(sorted(PICTURES | CLIPS))})")
    if not files:
        raise VariantError(f"no picture or clip in {', '.join(map(str, paths))}")
    return files


def is_clip(file):
    return file.suffix.lower() in CLIPS


def read_picture(file):
    """BGR, turned as its EXIF data says; as the program reads it."""
    bgr = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise VariantError(f"{file} is not a picture that can be read: leave it out")
    return bgr


def read_clip(file, count):
    """`count` frames spread evenly over a clip, or all where it has fewer."""
    clip = cv2.VideoCapture(str(file))
    length = int(clip.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted = {int((i + 0.5) * length / count) for i in range(count)}
    frames, index = [], 0
    while len(frames) < len(wanted):
        good, frame = clip.read()
        if not good:
            break
        if index in wanted:
            frames.append(frame)
        index += 1
    clip.release()
    if not frames:
        raise VariantError(f"{file} is not a clip that can be read: leave it out")
    return frames


def read_all(paths, frames_per_clip):
    for file in list_files(paths):
        if is_clip(file):
            yield from read_clip(file, frames_per_clip)
        else:
            yield read_picture(file)


def round_half_up(number):
    return int(number + 0.5)


def letterbox(width, height, longest=None, fixed=None):
    """Sizes of the scaled frame and of the input it lies in, (width, height) each; as src/letterbox.rs."""
    if fixed is None and longest == 0:
        return (width, height), (width, height)
    box = tuple(fixed) if fixed is not None else (longest, longest)
    scale = min(box[0] / width, box[1] / height)
    content = tuple(min(max(round_half_up(side * scale), 1), most) for side, most in zip((width, height), box))
    if fixed is not None:
        return content, box
    return content, tuple(-(-side // INPUT_MULTIPLE) * INPUT_MULTIPLE for side in content)


def preprocess(bgr, contract, longest=None, fixed=None):
    """A picture as the model's input, [1, 3, height, width]; as src/preprocess.rs."""
    height, width = bgr.shape[:2]
    content, (cols, rows) = letterbox(width, height, longest, contract["fixed_size"] or fixed)
    small = bgr if content == (width, height) else cv2.resize(bgr, content, interpolation=cv2.INTER_LINEAR)
    pixels = small if contract["order"] == "BGR" else small[..., ::-1]
    scale = np.float32(contract["scale"])
    mean = np.array(contract["mean"], np.float32)
    tensor = np.zeros((1, 3, rows, cols), np.float32)
    tensor[0, :, : content[1], : content[0]] = (pixels.astype(np.float32) * scale - mean * scale).transpose(2, 0, 1)
    return tensor


# ---------------------------------------------------------------- making


def load(path):
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except FileNotFoundError:
        raise VariantError(f"{path} does not exist: name an ONNX file") from None
    except Exception as error:  # each of protobuf's and onnx's own, and OSError
        raise VariantError(f"{path} is not an ONNX file that can be read: {first_line(error)}") from None
    return model


def first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def opset(model):
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def unfuse(model):
    """Takes ONNX Runtime's own FusedConv, which some published files hold, apart: convolution, then activation."""
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
            name, between = node.name or node.output[0], f"{node.output[0]}_before_{activation}"
            conv = onnx.helper.make_node("Conv", node.input, [between], name=name, **attributes)
            act = onnx.helper.make_node(activation, [between], node.output, name=f"{name}_{activation}",
                                        **dict(zip(names[activation], parameters)))  # fmt: skip
            nodes += [conv, act]
        elif node.domain not in ("", "ai.onnx"):
            raise VariantError(f"node {node.name} is {node.domain}'s own {node.op_type}, so the file was optimised or "
                               "quantised already: use the file as its framework exported it")  # fmt: skip
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    standard = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(standard)


def lift(model):
    """A copy of a model at opset 13 or higher, of standard operators only."""
    model = copy.deepcopy(model)
    unfuse(model)
    if opset(model) < MIN_OPSET:
        # The converter wants initialisers to be no inputs, and old files list them among those.
        initialisers = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in initialisers]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        # Shapes that an older exporter noted can contradict what the converter infers.
        del model.graph.value_info[:]
        model.ir_version = max(model.ir_version, 4)
        try:
            model = version_converter.convert_version(model, MIN_OPSET)
        except Exception as error:  # of onnx's C++ part
            raise VariantError(f"the model cannot be lifted from opset {opset(model)} to {MIN_OPSET}: "
                               f"{first_line(error)}; export it at opset {MIN_OPSET} or higher") from None  # fmt: skip
    model.ir_version = max(model.ir_version, 8)
    leave_out_empty(model)
    name_nodes(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def leave_out_empty(model):
    """Exporters write Resize's unused inputs as constants without elements, which stop being that once they are cast."""
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
    """Nodes are kept in float by their names, so each needs one."""
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
    """The last convolutions: those that no other one follows."""
    after, leads_on = readers(model), {}
    for node in reversed(model.graph.node):  # which are sorted, each behind those it reads
        following = [reader for name in node.output for reader in after.get(name, [])]
        leads_on[node.name] = any(a.op_type in CONVOLUTIONS or leads_on[a.name] for a in following)
    return [node for node in convolutions(model) if not leads_on[node.name]]


def stem(model):
    """The first convolutions: those that read what is larger than an eighth of the picture, to either side."""
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
    """Names of the nodes that are not quantised: the convolutions in `keep`, with their activations."""
    kept = []
    for what in keep:
        if what == "none":
            continue
        parts = {"heads": heads, "stem": stem}
        if what in parts:
            found = parts[what](model)
        else:
            found = [node for node in model.graph.node if fnmatch.fnmatchcase(node.name, what)]
        if not found:
            raise VariantError(f"no node of the model is {what}; --keep takes stem, heads, none and names, which may have a *")
        kept += found
    after = readers(model)
    activations = [reader for node in kept for name in node.output for reader in after.get(name, [])
                   if reader.op_type in ACTIVATIONS]  # fmt: skip
    return sorted({node.name for node in kept + activations})


def make_fp16(model):
    """Half-precision weights and arithmetic, float32 inputs and outputs."""
    # Near 1 half precision steps by 0.0005, and scores are what users set a threshold on.
    blocked = [*DEFAULT_OP_BLOCK_LIST, "Softmax", "Sigmoid"]
    model = convert_float_to_float16(lift(model), keep_io_types=True, op_block_list=blocked)
    # The converter appends its casts; the standard wants each node behind those it reads.
    sorter = ONNXModel(model)
    sorter.topological_sort()
    return sorter.model


class Reader(CalibrationDataReader):
    """Calibration inputs, of which ONNX Runtime takes one at a time: they differ in size."""

    def __init__(self, name, tensors):
        self.name, self.tensors = name, tensors
        self.set_range(0, len(tensors))

    def __len__(self):
        return len(self.tensors)

    def set_range(self, start_index, end_index):
        self.rest = iter(self.tensors[start_index:end_index])

    def get_next(self):
        tensor = next(self.rest, None)
        return None if tensor is None else {self.name: tensor}


def make_int8(model, contract, pictures, options):
    """Static quantisation of the convolutions and what lies between them, one scale a channel."""
    with tempfile.TemporaryDirectory() as folder:
        lifted, ready, done = (Path(folder) / name for name in ("lifted.onnx", "ready.onnx", "int8.onnx"))
        # Folds what is constant, and batch normalisation into convolutions; infers the shapes.
        onnx.save(lift(model), str(lifted))
        with quiet():
            quant_pre_process(str(lifted), str(ready), skip_symbolic_shape=True)
        prepared = onnx.load(str(ready))
        name_nodes(prepared)
        onnx.save(prepared, str(ready))
        # Not among the kinds at all, ONNX Runtime 1.19 would miss its range where it is the last node.
        softmaxes = [node.name for node in prepared.graph.node if node.op_type == "Softmax"]
        tensors = [preprocess(picture, contract, options.input_size) for picture in pictures]
        with quiet():
            quantize_static(
                str(ready),
                str(done),
                Reader(contract["input"], tensors),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=[*QUANTISED, "Softmax"],
                per_channel=True,
                activation_type=TYPES[options.activations],
                weight_type=TYPES[options.weights],
                nodes_to_exclude=float_nodes(prepared, options.keep) + softmaxes,
                calibrate_method=METHODS[options.method],
                extra_options={"CalibStridedMinMax": 1, "CalibPercentile": options.percentile},
            )
        return onnx.load(str(done))


@contextlib.contextmanager
def quiet():
    """Silences the progress reports of a library, and its advice on what is done already."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.root.setLevel(level)


# ---------------------------------------------------------------- comparing


def iou(a, b):
    """Intersection over union of two boxes as the program writes them."""
    width = min(a["x"] + a["w"], b["x"] + b["w"]) - max(a["x"], b["x"])
    height = min(a["y"] + a["h"], b["y"] + b["h"]) - max(a["y"], b["y"])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / (a["w"] * a["h"] + b["w"] * b["h"] - both)


def match(ours, theirs):
    """Pairs of indices of faces that are the same, each face in one pair at most, best overlap first."""
    overlaps = [(iou(a["box"], b["box"]), i, j) for i, a in enumerate(ours) for j, b in enumerate(theirs)]
    pairs, left, right = [], set(), set()
    for overlap, i, j in sorted(overlaps, reverse=True):
        if overlap >= SAME_FACE and i not in left and j not in right:
            pairs.append((i, j))
            left.add(i)
            right.add(j)
    return pairs


def side(face):
    """A face's size as the program's --min-face-size counts it: the shorter side in pixels of the picture."""
    return min(face["box"]["w"], face["box"]["h"])


def corners(box):
    return np.array([box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"]])


def spread(values):
    if not values:
        return None
    return {"mean": float(np.mean(values)), "p95": float(np.percentile(values, 95)), "max": float(np.max(values))}


def agreement(fp32, variant, large=LARGE_FACE):
    """What two models' faces of the same pictures have in common; a list of faces a picture each."""
    counts = {"fp32": 0, "variant": 0, "matched": 0, "missed": 0, "extra": 0}
    of_large = dict(counts)
    drift = {"score": [], "box_px": [], "box_1_minus_iou": [], "landmark_px": []}
    missed_scores = []
    for ours, theirs in zip(fp32, variant):
        pairs = match(ours, theirs)
        found, kept = {i for i, _ in pairs}, {j for _, j in pairs}
        for count, least in ((counts, -1), (of_large, large)):
            counted = [i for i, face in enumerate(ours) if side(face) > least]
            others = [j for j, face in enumerate(theirs) if side(face) > least]
            count["fp32"] += len(counted)
            count["variant"] += len(others)
            count["matched"] += sum(i in found for i in counted)
            count["missed"] += sum(i not in found for i in counted)
            count["extra"] += sum(j not in kept for j in others)
        missed_scores += [face["score"] for i, face in enumerate(ours) if i not in found and side(face) > large]
        for i, j in pairs:
            a, b = ours[i], theirs[j]
            drift["score"].append(abs(a["score"] - b["score"]))
            drift["box_px"].append(float(np.abs(corners(a["box"]) - corners(b["box"])).max()))
            drift["box_1_minus_iou"].append(1 - iou(a["box"], b["box"]))
            if a["landmarks"] and b["landmarks"]:
                between = np.linalg.norm(np.subtract(a["landmarks"], b["landmarks"]), axis=1)
                drift["landmark_px"].append(float(between.max()))
    return {
        "pictures": len(fp32),
        "faces": counts,
        f"faces_over_{large}_px": {
            **of_large,
            "missed_percent": 100 * of_large["missed"] / of_large["fp32"] if of_large["fp32"] else None,
            "best_missed_score": max(missed_scores, default=None),
        },
        "drift": {name: spread(values) for name, values in drift.items()},
    }


def sessions(files, threads, provider):
    """Sessions set as the program sets its own."""
    name = PROVIDERS[provider]
    if name not in onnxruntime.get_available_providers():
        raise VariantError(f"this Python's ONNX Runtime has no {provider}: install the build that has it "
                           "(onnxruntime-gpu, onnxruntime-openvino) in place of onnxruntime, or take --provider cpu")  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads of the one that rests must not take a core from the one that runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    opened = [onnxruntime.InferenceSession(str(file), options, providers=[name]) for file in files]
    for session, file in zip(opened, files):
        if name not in session.get_providers():
            raise VariantError(f"{file} does not run on {provider}: its libraries are not found or do not fit")
    return opened


def speed(files, tensor, threads, provider, rounds):
    """How often as fast the second file is, in turns within this process."""
    ran = [(session, {session.get_inputs()[0].name: tensor}) for session in sessions(files, threads, provider)]
    seconds = [[], []]
    for turn in range(WARM_UP + rounds):
        # Each is first every other time.
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            session, feed = ran[which]
            start = time.perf_counter()
            session.run(None, feed)
            if turn >= WARM_UP:
                seconds[which].append(time.perf_counter() - start)
    ratios = [fp32 / variant for fp32, variant in zip(*seconds)]
    quarter = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {
        "input": list(tensor.shape),
        "provider": provider,
        "threads": threads,
        "rounds": rounds,
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [quarter[0], quarter[2]],
        "fp32_ms": 1000 * statistics.median(seconds[0]),
        "variant_ms": 1000 * statistics.median(seconds[1]),
    }


def compare(fp32, variant, paths, options, program):
    """Agreement and speed of two files as one dictionary."""
    contracts = [program.contract(file) for file in (fp32, variant)]
    differing = [key for key in contracts[0] if contracts[0][key] != contracts[1][key]]
    if differing:
        raise VariantError(f"{variant} is no variant of {fp32}: they differ in {', '.join(differing)}")
    files = list_files(paths)
    with tempfile.TemporaryDirectory() as folder:
        pictures = []
        for file in files:
            if not is_clip(file):
                pictures.append(file)
                continue
            for number, frame in enumerate(read_clip(file, options.frames)):
                pictures.append(Path(folder) / f"{len(pictures)}-{number}.png")
                cv2.imwrite(str(pictures[-1]), frame)
        found = [program.detect(file, pictures, options) for file in (fp32, variant)]
        tensor = preprocess(read_picture(pictures[0]), contracts[0], fixed=options.speed_size)
    return {
        "fp32": str(fp32),
        "variant": str(variant),
        "score_threshold": options.score_threshold,
        "input_size": options.input_size,
        **agreement(*found),
        "speed": speed((fp32, variant), tensor, options.threads, options.provider, options.rounds),
    }


def table(result):
    """A comparison for people."""
    rows = [f"{Path(result['variant']).name} against {Path(result['fp32']).name}, {result['pictures']} pictures, "
            f"scores above {result['score_threshold']}, input size {result['input_size']}"]  # fmt: skip
    rows.append(f"  {'faces':<18}{'fp32':>8}{'variant':>9}{'matched':>9}{'missed':>8}{'extra':>7}")
    large = result[f"faces_over_{LARGE_FACE}_px"]
    for name, count in (("all", result["faces"]), (f"over {LARGE_FACE} px", large)):
        numbers = (count["fp32"], count["variant"], count["matched"], count["missed"], count["extra"])
        rows.append("  {:<18}{:>8}{:>9}{:>9}{:>8}{:>7}".format(name, *numbers))
    if large["missed_percent"] is not None:
        best = large["best_missed_score"]
        rows.append(f"  missed over {LARGE_FACE} px: {large['missed_percent']:.2f} %"
                    + ("" if best is None else f", the best of them scored {best:.2f}"))  # fmt: skip
    rows.append(f"  {'drift':<18}{'mean':>8}{'p95':>9}{'max':>9}")
    names = {"score": "score", "box_px": "box, px", "box_1_minus_iou": "box, 1 - IoU", "landmark_px": "landmarks, px"}
    for name, words in names.items():
        values = result["drift"][name]
        if values is not None:
            rows.append(f"  {words:<18}{values['mean']:>8.4f}{values['p95']:>9.4f}{values['max']:>9.4f}")
    ran = result["speed"]
    low, high = ran["ratio_quartiles"]
    _, _, rows_, cols = ran["input"]
    rows.append(f"  speed: {ran['ratio']:.2f} times fp32 (quartiles {low:.2f} to {high:.2f}), median of {ran['rounds']} turns at "
                f"{cols}x{rows_} on {ran['provider']}, threads {ran['threads'] or 'as ONNX Runtime chooses'}")  # fmt: skip
    return "\n".join(rows)


# ---------------------------------------------------------------- command line


def check(file, source, program):
    """A made file is valid, runs, and is recognised as what its source is."""
    onnx.checker.check_model(str(file), full_check=True)
    kinds = [[(value.name, value.type) for value in (*session.get_inputs(), *session.get_outputs())]
             for session in sessions((source, file), 0, "cpu")]  # fmt: skip
    if kinds[0] != kinds[1]:
        raise VariantError(f"{file.name} would have other inputs and outputs than its source: {kinds[1]} for {kinds[0]}")
    was, is_now = program.contract(source), program.contract(file)
    if was != is_now:
        raise VariantError(f"the program takes {file.name} for {is_now} instead of {was}")


def make(model_file, folder, kinds, options, program):
    """Writes the variants of a model into a folder; their paths."""
    model = load(model_file)
    contract = program.contract(model_file)
    pictures = list(read_all(options.calibration, options.frames)) if "int8" in kinds else []
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory(dir=folder) as work:
        for kind in kinds:
            say(f"making {kind} of {model_file}" + (f", calibrated on {len(pictures)} pictures" if kind == "int8" else ""))
            variant = make_fp16(model) if kind == "fp16" else make_int8(model, contract, pictures, options)
            about = {"source_sha256": hashlib.sha256(model_file.read_bytes()).hexdigest()}
            if kind == "int8":
                about.update(method=options.method, activations=options.activations, weights=options.weights,
                             keep=" ".join(options.keep), calibration_pictures=str(len(pictures)))  # fmt: skip
            # What the source says of itself (retinaface.mean and so on) is as true of the variant.
            own = {entry.key: entry.value for entry in model.metadata_props}
            about = {f"retinaface.variant.{key}": value for key, value in about.items()} | {"retinaface.variant": kind}
            del variant.metadata_props[:]
            onnx.helper.set_model_props(variant, own | about)
            file = Path(work) / f"{model_file.stem}_{kind}.onnx"
            onnx.save(variant, str(file))
            check(file, model_file, program)
            # A file in its place is a file that was checked.
            written.append(folder / file.name)
            os.replace(file, written[-1])
    return written


def size(text):
    try:
        width, height = map(int, text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not WIDTHxHEIGHT") from None
    if width < 1 or height < 1 or width % INPUT_MULTIPLE or height % INPUT_MULTIPLE:
        raise argparse.ArgumentTypeError(f"the sides of {text} are not multiples of {INPUT_MULTIPLE}")
    return width, height


def number(least, most=None, kind=int):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text} is not a number") from None
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{text} is not {f'between {least} and {most}' if most else f'at least {least}'}")
        return value

    return parse


def arguments():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="variants.py", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True)
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("--program", type=Path, metavar="FILE", help="the project's program; default: as built, or the one in PATH")
    both.add_argument("--input-size", type=number(0), default=640, metavar="PIXELS",
                      help="longer side of the model's input; 0: the picture's own size (default: 640)")  # fmt: skip
    both.add_argument("--frames", type=number(1), default=8, metavar="N", help="frames taken of each clip (default: 8)")

    maker = commands.add_parser("make", parents=[both], help="make variants of a model")
    maker.add_argument("model", type=Path, metavar="MODEL", help="ONNX file of a detector that the program knows")
    maker.add_argument("folder", type=Path, metavar="OUT_DIR", help="where NAME_fp16.onnx and NAME_int8.onnx go")
    maker.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what to make (default: both)")
    maker.add_argument("--calibration", nargs="+", type=Path, default=[], metavar="PATH",
                       help="pictures, clips, or folders of them, for int8")  # fmt: skip
    maker.add_argument("--method", choices=METHODS, default="percentile",
                       help="how ranges are taken from them (default: percentile)")  # fmt: skip
    maker.add_argument("--percentile", type=number(50, 100, float), default=99.999, metavar="P",
                       help="of values within the range, for percentile (default: 99.999)")  # fmt: skip
    maker.add_argument("--activations", choices=TYPES, default="uint8", help="type of what flows (default: uint8)")
    maker.add_argument("--weights", choices=TYPES, default="int8", help="type of weights (default: int8)")
    maker.add_argument("--keep", nargs="+", default=["stem"], metavar="WHAT",
                       help="convolutions that stay in float32: stem (those that read what is larger than an eighth of the "
                       "picture), heads (the last ones), names of nodes, with * for any part, or none (default: stem)")  # fmt: skip

    comparer = commands.add_parser("compare", parents=[both], help="measure what a variant costs")
    comparer.add_argument("fp32", type=Path, metavar="FP32", help="ONNX file of the detector")
    comparer.add_argument("variant", type=Path, metavar="VARIANT", help="ONNX file of its variant")
    comparer.add_argument("pictures", nargs="+", type=Path, metavar="PATH", help="pictures, clips, or folders of them")
    comparer.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    comparer.add_argument("--score-threshold", type=number(0, 1, float), default=0.5, metavar="0..1", help="(default: 0.5)")
    comparer.add_argument("--provider", choices=PROVIDERS, default="cpu", help="what both run on (default: cpu)")
    comparer.add_argument("--threads", type=number(0), default=0, metavar="N",
                          help="threads of a run; 0: one a physical core (default)")  # fmt: skip
    comparer.add_argument("--speed-size", type=size, default=(640, 384), metavar="WIDTHxHEIGHT",
                          help="input that speed is measured at, unless the model's is fixed (default: 640x384, as 1080p)")  # fmt: skip
    comparer.add_argument("--rounds", type=number(1), default=60, metavar="N", help="turns of each (default: 60)")
    return parser.parse_args()


def run(options):
    program = Program(options.program)
    if options.command == "make":
        if "int8" in options.kinds and not options.calibration:
            raise VariantError("int8 needs --calibration with pictures, clips, or folders of them (or --kinds fp16)")
        for file in make(options.model, options.folder, options.kinds, options, program):
            print(file)
    else:
        result = compare(options.fp32, options.variant, options.pictures, options, program)
        print(table(result))
        if options.json is not None:
            options.json.write_text(json.dumps(result, indent=2) + "\n")


def main():
    options = arguments()
    # Warnings of its graph clean-up are no news to anybody here.
    onnxruntime.set_default_logger_severity(3)
    try:
        run(options)
    except (VariantError, OSError) as error:
        say(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
