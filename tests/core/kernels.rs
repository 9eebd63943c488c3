//! Models with kernels of this library give what they give with ONNX Runtime's alone.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::path::{Path, PathBuf};

use retinaface::model::{Kernels, Model, Options, Purpose};
use retinaface::provider::Provider;
use retinaface::tensors::{Feed, Found};

mod common;

/// Whether this machine has kernels at all; with AVX-512 it has more of them.
#[cfg(target_arch = "x86_64")]
fn lanes() -> usize {
    use std::arch::is_x86_feature_detected as has;
    if cfg!(coverage) {
        return 0;
    }
    match (has!("avx2") && has!("fma"), has!("avx512f") && has!("avx512vl") && has!("avx512bw") && has!("avx512dq")) {
        (true, true) => 16,
        (true, false) => 8,
        (false, _) => 0,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn lanes() -> usize {
    0
}

fn open(path: &Path, kernels: Kernels, threads: usize, purpose: Purpose) -> Model {
    let options = Options { provider: Provider::Cpu, kernels, threads, purpose, ..Options::default() };
    Model::open(path, &options).unwrap()
}

/// The outputs for pictures that look like noise on a slope, one after the other.
fn outputs(model: &mut Model, (width, height): (usize, usize), count: usize) -> Vec<Vec<f32>> {
    let feed = Feed::Floats { width, height };
    let mut pictures = (0..count).map(|_| model.maker().tensors(feed).unwrap()).collect::<Vec<_>>();
    for (number, picture) in pictures.iter_mut().enumerate() {
        let mut state = number as u32 + 1;
        for (index, float) in picture.floats().unwrap().iter_mut().enumerate() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *float = (state >> 24) as f32 * 0.5 + (index % width) as f32 / width as f32 * 100.0 - 110.0;
        }
    }
    model.run(&mut pictures).unwrap();
    let found = |picture| match picture {
        Found::Heads(heads) => heads.values().iter().map(|values| values.to_vec()).collect::<Vec<_>>(),
        Found::Candidates(values) => vec![values.to_vec()],
    };
    pictures.iter().flat_map(|picture| found(picture.found().unwrap())).collect()
}

fn assert_alike(path: &Path, purpose: Purpose, sizes: &[(usize, usize)]) -> usize {
    let mut alone = open(path, Kernels::Runtime, 1, purpose);
    assert_eq!(alone.running().kernels, 0);
    let mut ours = [1, 0].map(|threads| open(path, Kernels::Auto, threads, purpose));
    let most = if alone.contract().dynamic_batch { 3 } else { 1 };
    let fixed = alone.contract().fixed_size;
    for size in sizes.iter().map(|size| fixed.unwrap_or(*size)) {
        for count in [1, most] {
            let expected = outputs(&mut alone, size, count);
            for ours in &mut ours {
                let found = outputs(ours, size, count);
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(&expected) {
                    assert_eq!(found.len(), expected.len());
                    let largest = expected.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
                    for (found, expected) in found.iter().zip(expected) {
                        let close = (found - expected).abs() <= 2e-4 * largest;
                        assert!(close, "{} at {size:?}: {found}, not {expected}", path.display());
                    }
                }
            }
        }
    }
    ours[0].running().kernels
}

#[test]
fn the_default_model_gives_what_it_gives_without() {
    let kernels = assert_alike(&common::default_model(), Purpose::Faces, &[(640, 384), (96, 64), (352, 608), (32, 32)]);
    // Two of the pyramid's, three of each of its levels' two pairs, and the first layers.
    let expected = match lanes() {
        16 => 9,
        8 => 8,
        _ => 0,
    };
    assert_eq!(kernels, expected);
}

#[test]
fn every_other_model_gives_what_it_gives_without() {
    // With sixteen lanes, and with eight.
    let models = [
        ("retinaface_biubug6_fixed640.onnx", Purpose::Faces, [3, 3]),
        ("retinaface_insightface_mnet025.onnx", Purpose::Faces, [9, 8]),
        ("retinaface_insightface_deconv0517.onnx", Purpose::Faces, [8, 8]),
        ("scrfd_500m_kps.onnx", Purpose::Faces, [1, 0]),
        ("ssh_layout_boxonly.onnx", Purpose::Faces, [8, 8]),
        ("yunet_n_dynamic.onnx", Purpose::Faces, [0, 0]),
        ("landmarks68_faceplugin.onnx", Purpose::Points, [1, 0]),
    ];
    for (name, purpose, [wide, narrow]) in models {
        let Some(path) = common::shared(&format!("models/{name}")) else { continue };
        let kernels = assert_alike(&path, purpose, &[(320, 256), (96, 64)]);
        assert_eq!(kernels, [0, narrow, wide][lanes() / 8], "{name}");
    }
}

#[test]
fn a_model_whose_nodes_pass_for_ours_is_left_to_onnx_runtime() {
    let file = std::fs::read(common::default_model()).unwrap();
    // A node more, of our domain, in front of the graph's others: NodeProto with input, output, op_type and domain.
    let field = |tag: u8, bytes: &[u8]| [&[tag << 3 | 2], varint(bytes.len()).as_slice(), bytes].concat();
    let node = [field(1, b"input"), field(2, b"mine"), field(4, b"Stem"), field(7, b"retinaface")].concat();
    let graph = field(7, &field(1, &node));
    // Protocol buffers merge a message that comes twice.
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("passing.onnx");
    std::fs::write(&path, [file, graph].concat()).unwrap();
    let error = Model::open(&path, &Options { provider: Provider::Cpu, ..Options::default() }).unwrap_err().to_string();
    assert!(error.contains("retinaface") && error.contains("Stem"), "{error}");
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 128 {
        bytes.push((value % 128) as u8 | 128);
        value /= 128;
    }
    bytes.push(value as u8);
    bytes
}
