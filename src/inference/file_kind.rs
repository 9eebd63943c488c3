//! What a file is that ONNX Runtime does not load, from its first bytes.

/// Length of the beginning that is searched for names.
const BEGINNING: usize = 64 << 10;

const ARCHIVE: &str = "it is a compressed archive; unpack it and give the ONNX file";
const TO_BINARY: &str = "convert it with `onnx.load(FILE, format=FORMAT)` and `onnx.save` in Python";

/// What a file with these bytes is, and what to do; `None` if it can be ONNX or is unknown.
pub(super) fn describe(bytes: &[u8]) -> Option<String> {
    let beginning = &bytes[..bytes.len().min(BEGINNING)];
    let mentions = |name: &str| beginning.windows(name.len()).any(|part| part == name.as_bytes());
    if bytes.is_empty() {
        return Some("it is empty".to_owned());
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return Some("it is a Git LFS pointer; `git lfs pull` downloads the file itself".to_owned());
    }
    let text = bytes.trim_ascii_start();
    if text.starts_with(b"<") {
        return Some(if mentions("<net ") || mentions("<layers>") {
            "it is an OpenVINO model; give the ONNX file that it was made from, and set execution-provider=openvino"
                .to_owned()
        } else if mentions("ir_version") {
            format!("it is ONNX in text form (onnxtxt); {TO_BINARY}")
        } else {
            "it is a web page; download the file itself".to_owned()
        });
    }
    if text.starts_with(b"{") || text.starts_with(b"[") {
        return Some(if mentions("\"irVersion\"") || mentions("\"ir_version\"") {
            format!("it is ONNX as JSON; {TO_BINARY}")
        } else if mentions("\"arg_nodes\"") {
            "it is the symbol file of an MXNet model; convert the model with scripts/mxnet-to-onnx.py".to_owned()
        } else {
            "it is a JSON file; give the ONNX file itself".to_owned()
        });
    }
    if text.starts_with(b"ir_version:") || text.starts_with(b"producer_name:") {
        return Some(format!("it is ONNX in text form (textproto); {TO_BINARY}"));
    }
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let known = if at(0, b"PK\x03\x04") {
        if mentions("data.pkl") { "it is a PyTorch file; export the model with `torch.onnx.export`" } else { ARCHIVE }
    } else if at(0, b"\x80") && bytes.get(1).is_some_and(|version| (2..=5).contains(version)) {
        "it is a Python pickle, as PyTorch writes (.pt, .pth); export the model with `torch.onnx.export`"
    } else if at(4, b"TFL3") {
        "it is a TensorFlow Lite model; convert it with `python -m tf2onnx.convert --tflite`"
    } else if at(4, b"ORTM") {
        "it is an ORT format model that this ONNX Runtime does not load; give the ONNX file that it was made from"
    } else if at(0, b"ftrt") {
        "it is a TensorRT engine; give the ONNX file that it was built from, and set execution-provider=tensorrt"
    } else if at(0, b"\x89HDF") {
        "it is an HDF5 file, as Keras writes; export the model with `python -m tf2onnx.convert --keras`"
    } else if at(8, b"{") && bytes.first_chunk().is_some_and(|len| u64::from_le_bytes(*len) < bytes.len() as u64) {
        "it is a safetensors file, which has weights without a graph; export the model with `torch.onnx.export`"
    } else if at(0, &0x112u64.to_le_bytes()) {
        "it is the weights file of an MXNet model; convert the model with scripts/mxnet-to-onnx.py"
    } else if at(0, b"7767517") {
        "it is an ncnn model; give the ONNX file that it was made from"
    } else if [&b"\x1f\x8b"[..], b"\xfd7zXZ", b"BZh", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd"]
        .iter()
        .any(|magic| at(0, magic))
        || at(257, b"ustar")
    {
        ARCHIVE
    } else if at(0, b"\xff\xd8\xff") || at(0, b"\x89PNG") {
        "it is an image; give the ONNX file of a model"
    } else if at(0, b"\x0a") && std::str::from_utf8(beginning).is_err() {
        "it is a protocol buffer of another format, such as a TensorFlow graph or a Caffe model; convert the model to ONNX"
    } else if beginning.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        "it is text, such as the error message of a server; download the file again"
    } else {
        return None;
    };
    Some(known.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_other_format_is_named_with_its_remedy() {
        let tar = [&[b'm'; 257][..], b"ustar"].concat();
        let safetensors = [&9u64.to_le_bytes()[..], b"{\"a\": 12}", &[0; 9]].concat();
        let mxnet = [&0x112u64.to_le_bytes()[..], &[0; 9]].concat();
        for (bytes, expected) in [
            (&b""[..], "it is empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "`git lfs pull`"),
            (b"\n<!DOCTYPE html><html>", "web page"),
            (b"<?xml version=\"1.0\"?>\n<net name=\"m\" version=\"11\">", "OpenVINO model"),
            (b"<\n  ir_version: 8,\n  opset_import: [\"\" : 17]\n>\nagraph (", "onnxtxt"),
            (b"ir_version: 8\nproducer_name: \"pytorch\"", "textproto"),
            (b"{\"irVersion\": \"8\", \"graph\": {", "ONNX as JSON"),
            (b"{\n  \"ir_version\": \"8\",\n  \"graph\": {", "ONNX as JSON"),
            (b"{\n  \"nodes\": [{\"op\": \"null\"}], \"arg_nodes\": [0]", "scripts/mxnet-to-onnx.py"),
            (&mxnet, "scripts/mxnet-to-onnx.py"),
            (b"{\"message\": \"Not Found\"}", "JSON file"),
            (b"PK\x03\x04\0\0\0\0archive/data.pklFB", "torch.onnx.export"),
            (b"PK\x03\x04\0\0\0\0model.onnx", "unpack it"),
            (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "Python pickle"),
            (b"\x1c\0\0\0TFL3\x14\0 \0", "TensorFlow Lite"),
            (b"\x1c\0\0\0ORTM\x14\0 \0", "ORT format"),
            (b"ftrt\0\0\0\xff", "TensorRT engine"),
            (b"\x89HDF\r\n\x1a\n", "HDF5"),
            (&safetensors, "safetensors"),
            (b"7767517\n75 83\n", "ncnn"),
            (b"\x1f\x8b\x08\0\0", "archive"),
            (&tar, "archive"),
            (b"\xff\xd8\xff\xe0\0", "image"),
            (b"\n\x07\xff\xfe\x12\x05Const", "TensorFlow graph or a Caffe model"),
            (b"404: Not Found", "error message of a server"),
        ] {
            let text = describe(bytes).unwrap_or_default();
            assert!(text.contains(expected), "{:?}: {text}", String::from_utf8_lossy(bytes));
        }
        let onnx = std::fs::read(".fetch/models/retinaface_mnet025.onnx").unwrap();
        assert_eq!(describe(&onnx), None);
        assert_eq!(describe(&onnx[..onnx.len() / 2]), None);
    }
}
