#!/usr/bin/env python3
"""Makes the seeds of the fuzz targets in fuzz/corpus. Findings are added there by hand.

    .fetch/venv-variants/bin/python fuzz/make_corpus.py

`make test-tools` makes that virtual environment. Each run makes the same bytes.
"""

import random
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from onnx import TensorProto, helper, numpy_helper

CORPUS = Path(__file__).resolve().parent / "corpus"


def write(target, name, data):
    directory = CORPUS / target
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(data.encode() if isinstance(data, str) else data)


def texts():
    options = {
        "detector": "color-order=RGB; mean=104,117,123; scale=0.0078125; padding=black; scores=logits",
        "anchors": "strides=8,16,32; anchors=16,32/64,128/256,512; anchor-centre=cell; variances=0.1,0.2,0.1",
        "landmarks": "points=signed; point-numbers=3; mean=127.5",
    }
    for name, text in options.items():
        write("model_options", name, text)
    for name, text in {"scales": "1.0,0.2", "auto": "auto", "tiles": "3x2", "roi": "0,0,640,360; 10.5,-20,300,1e3"}.items():
        write("views", name, text)
    line = '{"schema":"retinaface.frame/1","stream":"cam","frame":0,"pts_ns":0,"utc":null,"width":64,"height":48,'
    line += '"pixel_aspect_ratio":[1,1],"age_ns":0,"lost":0,"faces":[{"score":0.75,"box":{"x":1.5,"y":2,"w":3,"h":4}}]}'
    for name, text in {"whole": line, "unfinished": line[:120], "start": line[:10], "other": '{"level":"info"}'}.items():
        write("json_line", name, text)


def tracks():
    truth = "1,1,10,20,30,40,1,1,1\n1,2,60,20,30,40,1,1,1\n2,1,12,20,30,40,1,1,1\n2,2,58,20,30,40,0,1,1\n3,3,5,5,9,9,1,8,1\n"
    mot = "1,7,11,20,30,40,0.9,-1,-1,-1\n1,8,61,20,30,40,0.8,-1,-1,-1\n2,8,12,21,30,40,0.7,-1,-1,-1\n3,7,5,5,9,9,1,-1,-1,-1\n"
    line = '{"schema":"retinaface.frame/1","stream":"cam","frame":%d,"faces":[%s]}\n'
    face = '{"score":0.75,"box":{"x":%.1f,"y":20,"w":30,"h":40},"track_id":%s}'
    lines = line % (0, face % (11, 7)) + line % (1, face % (12.5, 8) + "," + face % (70, "null"))
    write("tracks", "mot", truth + "\n" + mot)
    write("tracks", "json_lines", truth.replace(",1,1,1\n", ",1,-1,-1,-1\n") + "\n" + lines)
    write("tracks", "equal", mot)
    group = "".join(f"1,{index},{index},0,20,20,1\n" for index in range(12))
    write("tracks", "group", group + "\n" + group.replace(",0,20,", ",0.5,20,"))


def exif(orientation, order):
    """EXIF data with an orientation and a text, in the byte order "<" or ">"."""
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8)
    entries = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    entries += struct.pack(order + "HHII", 0x010E, 2, 9, 8 + 2 + 2 * 12 + 4)
    return head + struct.pack(order + "H", 2) + entries + struct.pack(order + "I", 0) + b"a camera\0"


def riff(chunks):
    body = b"WEBP" + b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def images():
    pixels = np.random.default_rng(1).integers(0, 255, (6, 10, 3), np.uint8)
    encode = lambda extension: cv2.imencode(extension, pixels)[1].tobytes()
    jpeg = encode(".jpg")
    app1 = b"Exif\0\0" + exif(6, ">")
    write("image_file", "exif.jpg", jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + jpeg[2:])
    png = encode(".png")
    data = exif(8, "<")
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    write("image_file", "exif.png", png[:33] + chunk + png[33:])
    webp = encode(".webp")
    still = (webp[12:16], webp[20:20 + struct.unpack("<I", webp[16:20])[0]])
    size = struct.pack("<I", 9)[:3] + struct.pack("<I", 5)[:3]
    write("image_file", "exif.webp", riff([(b"VP8X", b"\x08\0\0\0" + size), still, (b"EXIF", exif(3, "<"))]))
    frame = b"\0" * 6 + size + b"\x64\0\0\0"
    frame += still[0] + struct.pack("<I", len(still[1])) + still[1] + b"\0" * (len(still[1]) % 2)
    animation = [(b"VP8X", b"\x02\0\0\0" + size), (b"ANIM", b"\0" * 6), (b"ANMF", frame)]
    write("image_file", "animated.webp", riff(animation))
    gif = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    gif += b"\x2c" + struct.pack("<HHHHB", 1, 1, 2, 2, 0) + b"\x02\x03\x44\x02\x05\0\x3b"
    write("image_file", "part.gif", gif)
    write("image_file", "exif.tiff", exif(6, "<"))


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + b"\0" * (-len(data) % 8)


def matrix(array_class, dims, value, name=b""):
    flags = element(6, struct.pack("<II", array_class, 0))
    return element(14, flags + element(5, struct.pack("<2i", *dims)) + element(1, name) + value)


def mat_files():
    char = lambda text: matrix(4, (1, len(text)), element(4, text.encode("utf-16-le")))
    numbers = lambda rows, values: matrix(6, (rows, len(values) // rows), element(9, struct.pack(f"<{len(values)}d", *values)))
    cell = lambda *cells, name=b"": matrix(1, (len(cells), 1), b"".join(cells), name)
    variables = [
        cell(char("0--Parade"), name=b"event_list"),
        cell(cell(char("a_1"), char("a_2")), name=b"file_list"),
        cell(cell(numbers(2, [1, 2, 3, 4, 5, 6, 7, 8]), numbers(1, [1, 2, 3, 4])), name=b"face_bbx_list"),
        cell(cell(numbers(2, [1, 2]), matrix(6, (0, 0), element(9, b""))), name=b"gt_list"),
    ]
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    write("mat_file", "plain.mat", header + b"".join(variables))
    packed = [zlib.compress(variable) for variable in variables]
    write("mat_file", "compressed.mat", header + b"".join(struct.pack("<II", 15, len(data)) + data for data in packed))
    write("mat_file", "truncated.mat", (header + b"".join(variables))[:-30])


def models():
    """A detector whose convolutions are replaced by the kernels."""
    rng = np.random.default_rng(2)
    constants, nodes = [], []

    def conv(source, outputs, inputs, kernel, stride=1, group=1, activation="LeakyRelu"):
        name = f"c{len(nodes)}"
        weights = rng.normal(0, 0.2, (outputs, inputs // group, kernel, kernel)).astype(np.float32)
        constants.append(numpy_helper.from_array(weights, name + "w"))
        constants.append(numpy_helper.from_array(np.zeros(outputs, np.float32), name + "b"))
        attributes = {"strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": group}
        nodes.append(helper.make_node("Conv", [source, name + "w", name + "b"], [name], **attributes))
        if not activation:
            return name
        nodes.append(helper.make_node(activation, [name], [name + "a"]))
        return name + "a"

    def head(source, name, values):
        convolution = conv(source, 2 * values, 32, 1, activation=None)
        nodes.append(helper.make_node("Transpose", [convolution], [name + "t"], perm=[0, 2, 3, 1]))
        nodes.append(helper.make_node("Reshape", [name + "t", "shape" + str(values)], [name + "r"]))
        return name + "r"

    level = conv("input", 8, 3, 3, stride=2)
    for outputs in (8, 16):
        level = conv(conv(level, 8, 8, 3, stride=2, group=8), outputs, 8, 1)
    levels = [conv(level, 32, 16, 3)]
    for _ in range(2):
        levels.append(conv(levels[-1], 32, 32, 3, stride=2, group=32, activation="Relu"))
    heads = {"boxes": 4, "scores": 2, "landmarks": 10}
    for name, values in heads.items():
        constants.append(numpy_helper.from_array(np.array([0, -1, values], np.int64), f"shape{values}"))
        parts = [head(level, f"{name}{index}", values) for index, level in enumerate(levels)]
        nodes.append(helper.make_node("Concat", parts, [name if values != 2 else "logits"], axis=1))
    nodes.append(helper.make_node("Softmax", ["logits"], ["scores"], axis=2))
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    outputs = [value(name, ["N", "A", values]) for name, values in heads.items()]
    graph = helper.make_graph(nodes, "seed", [value("input", ["N", 3, "H", "W"])], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    write("model", "kernels.onnx", model.SerializeToString())
    # Constants that claim more values than can be counted.
    huge = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 33, 1 << 33, 3, 3], raw_data=b"")
    nodes = [helper.make_node("Conv", ["input", "w"], ["scores"], pads=[1] * 4)]
    graph = helper.make_graph(nodes, "seed", [value("input", ["N", 3, "H", "W"])], outputs[1:2], [huge])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    write("model", "huge.onnx", model.SerializeToString())


def frames():
    generator = random.Random(3)
    for index in range(12):
        write("frame", f"seed{index}", generator.randbytes(300))


for make in (texts, tracks, images, mat_files, models, frames):
    make()
