#!/usr/bin/env python3
"""A plain loop of OpenCV, NumPy and ONNX Runtime: file to annotated file, crops and JSON lines.

    python_loop.py INPUT OUT_DIR MODEL [--threads N] [--openvino bf16|f32] [--default-spinning]

It writes annotated.mp4 (MPEG-4 part 2, OpenCV's `mp4v`), crop-NNNNN.png and faces.jsonl to OUT_DIR.
It prints one JSON object: frames, crops, and the time of the loop and of its stages, without the
imports of Python and the creation of the session.
"""

import argparse
import json
import time
from pathlib import Path

import cv2
import onnxruntime

import network


def create_session(model, threads, openvino, default_spinning):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if openvino:
        precision = {"bf16": "bf16", "f32": "f32"}[openvino]
        config = {"CPU": {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": str(threads), "PERFORMANCE_HINT": "LATENCY"}}
        provider = ("OpenVINOExecutionProvider", {"device_type": "CPU", "load_config": json.dumps(config)})
        session = onnxruntime.InferenceSession(model, options, providers=[provider])
        assert session.get_providers()[0] == "OpenVINOExecutionProvider"
        return session
    options.intra_op_num_threads = threads
    if not default_spinning:
        # Threads that spin after a run take a core from decoding and encoding.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("input")
    parser.add_argument("out", type=Path)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--openvino", choices=["bf16", "f32"])
    parser.add_argument("--default-spinning", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    net = create_session(arguments.model, arguments.threads, arguments.openvino, arguments.default_spinning)

    started, spent = time.perf_counter(), {}

    def lap(stage, since):
        now = time.perf_counter()
        spent[stage] = spent.get(stage, 0) + now - since
        return now

    capture = cv2.VideoCapture(arguments.input)
    width, height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    fps = capture.get(cv2.CAP_PROP_FPS)
    letterbox = network.Letterbox(width, height)
    decoder = network.Decoder(letterbox)
    writer = cv2.VideoWriter(str(arguments.out / "annotated.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), fps, (width, height))
    frames = crops = 0
    with open(arguments.out / "faces.jsonl", "w") as lines:
        while True:
            now = time.perf_counter()
            success, frame = capture.read()
            now = lap("read", now)
            if not success:
                break
            tensor = letterbox.tensor(frame)
            now = lap("preprocess", now)
            outputs = net.run(["loc", "conf", "landmarks"], {"input": tensor})
            now = lap("network", now)
            faces = decoder.faces(*outputs)
            now = lap("decode", now)
            for face in faces:
                crop = network.crop(frame, face[5:].reshape(5, 2))
                if crop is not None:
                    cv2.imwrite(str(arguments.out / f"crop-{crops:05d}.png"), crop)
                    crops += 1
            now = lap("crops", now)
            record = [
                {"score": face[0], "box": dict(zip("xywh", face[1:5])), "landmarks": [face[i : i + 2] for i in range(5, 15, 2)]}
                for face in faces.tolist()
            ]
            lines.write(json.dumps({"frame": frames, "pts_ns": round(frames / fps * 1e9), "width": width, "height": height, "faces": record}) + "\n")
            now = lap("json", now)
            network.draw(frame, faces)
            now = lap("draw", now)
            writer.write(frame)
            lap("write", now)
            frames += 1
    writer.release()
    seconds = time.perf_counter() - started
    stages = {name: round(1000 * value / max(frames, 1), 3) for name, value in spent.items()}
    print(json.dumps({"frames": frames, "crops": crops, "seconds": seconds, "ms_per_frame": stages}))


if __name__ == "__main__":
    main()
