//! Models run with this library's kernels give the same outputs as with ONNX Runtime's kernels.

use std::path::{Path, PathBuf};

use crate::common;
use retinaface::inference::{InputSpec, Kernels, Model, ModelOptions, ModelTask, RunOutput};
use retinaface::runtime::Provider;

/// Number of `f32` lanes of the kernels on this CPU: 16 with AVX-512, 8 with AVX2, otherwise 0.
#[cfg(target_arch = "x86_64")]
fn simd_lanes() -> usize {
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
fn simd_lanes() -> usize {
    0
}

fn open(path: &Path, kernels: Kernels, threads: usize, task: ModelTask) -> Model {
    let options = ModelOptions { provider: Provider::Cpu, kernels, threads, task, ..ModelOptions::default() };
    Model::open(path, &options).unwrap()
}

/// The outputs for `count` images with noise on a horizontal gradient, in order.
fn outputs(model: &mut Model, (width, height): (usize, usize), count: usize) -> Vec<Vec<f32>> {
    let input_spec = InputSpec::Floats { width, height };
    let mut images = (0..count).map(|_| model.allocator().tensors(input_spec).unwrap()).collect::<Vec<_>>();
    for (seed, image) in images.iter_mut().enumerate() {
        let mut state = seed as u32 + 1;
        for (index, float) in image.floats().unwrap().iter_mut().enumerate() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *float = (state >> 24) as f32 * 0.5 + (index % width) as f32 / width as f32 * 100.0 - 110.0;
        }
    }
    model.run(&mut images).unwrap();
    let values = |output| match output {
        RunOutput::Heads(heads) => heads.values().iter().map(|values| values.to_vec()).collect::<Vec<_>>(),
        RunOutput::Candidates(values) => vec![values.to_vec()],
    };
    images.iter().flat_map(|image| values(image.output().unwrap())).collect()
}

/// Asserts that outputs with and without kernels are equal within 2e-4 of the largest value of each
/// output. Returns the number of kernels.
fn assert_same_outputs(path: &Path, task: ModelTask, sizes: &[(usize, usize)]) -> usize {
    let mut reference = open(path, Kernels::Runtime, 1, task);
    assert_eq!(reference.backend().kernels, 0);
    let mut with_kernels = [1, 0].map(|threads| open(path, Kernels::Auto, threads, task));
    let max_batch = if reference.spec().dynamic_batch { 3 } else { 1 };
    let fixed = reference.spec().fixed_size;
    for size in sizes.iter().map(|size| fixed.unwrap_or(*size)) {
        for count in [1, max_batch] {
            let expected = outputs(&mut reference, size, count);
            for model in &mut with_kernels {
                let found = outputs(model, size, count);
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(&expected) {
                    assert_eq!(found.len(), expected.len());
                    let largest = expected.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
                    for (found, expected) in found.iter().zip(expected) {
                        let close = (found - expected).abs() <= 2e-4 * largest;
                        assert!(close, "{} at {size:?}: {found} is not {expected}", path.display());
                    }
                }
            }
        }
    }
    with_kernels[0].backend().kernels
}

#[test]
fn kernels_do_not_change_outputs_of_default_model() {
    let kernels = assert_same_outputs(
        &common::default_model(),
        ModelTask::Detection,
        &[(640, 384), (96, 64), (352, 608), (32, 32)],
    );
    // Two in the feature pyramid, two per level in the SSH context modules; with AVX-512 the stem.
    let expected = match simd_lanes() {
        16 => 9,
        8 => 8,
        _ => 0,
    };
    assert_eq!(kernels, expected);
}

#[test]
fn kernels_do_not_change_outputs_of_other_models() {
    // Number of kernels with 16 and with 8 lanes.
    let models = [
        ("retinaface_biubug6_fixed640.onnx", ModelTask::Detection, [3, 3]),
        ("retinaface_insightface_mnet025.onnx", ModelTask::Detection, [9, 8]),
        ("retinaface_insightface_deconv0517.onnx", ModelTask::Detection, [8, 8]),
        ("scrfd_500m_kps.onnx", ModelTask::Detection, [1, 0]),
        ("ssh_layout_boxonly.onnx", ModelTask::Detection, [8, 8]),
        ("yunet_n_dynamic.onnx", ModelTask::Detection, [0, 0]),
        ("landmarks68_faceplugin.onnx", ModelTask::Landmarks, [1, 0]),
    ];
    for (name, task, [wide, narrow]) in models {
        let Some(path) = common::shared(&format!("models/{name}")) else { continue };
        let kernels = assert_same_outputs(&path, task, &[(320, 256), (96, 64)]);
        assert_eq!(kernels, [0, narrow, wide][simd_lanes() / 8], "{name}");
    }
}

#[test]
fn foreign_node_in_kernel_domain_is_refused() {
    let file = std::fs::read(common::default_model()).unwrap();
    // An additional node in the domain of the kernels: NodeProto with input, output, op_type and
    // domain.
    let field = |tag: u8, bytes: &[u8]| [&[tag << 3 | 2], varint(bytes.len()).as_slice(), bytes].concat();
    let node = [field(1, b"input"), field(2, b"extra"), field(4, b"Stem"), field(7, b"retinaface")].concat();
    let graph = field(7, &field(1, &node));
    // Protocol buffers merge a field that occurs twice, so that the node is added to the graph.
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("foreign_node.onnx");
    std::fs::write(&path, [file, graph].concat()).unwrap();
    let error = Model::open(&path, &ModelOptions { provider: Provider::Cpu, ..ModelOptions::default() })
        .unwrap_err()
        .to_string();
    assert!(error.contains("retinaface") && error.contains("Stem"), "{error}");
}

/// The encoding of a length in protocol buffers.
fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 128 {
        bytes.push((value % 128) as u8 | 128);
        value /= 128;
    }
    bytes.push(value as u8);
    bytes
}
