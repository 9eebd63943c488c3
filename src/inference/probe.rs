//! The probe: runs a newly opened model once on a small black image, and derives the model's
//! specification from the shapes and values of its outputs.

use std::ops::RangeInclusive;
use std::path::Path;

use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Outlet, TensorElementType, TensorRef, ValueType};

use super::ModelError;
use super::options::ModelTask;
use crate::geometry::INPUT_MULTIPLE;
use crate::model::{
    Arrangement, ChannelOrder, FamilyMatch, Input, LandmarkOutput, Layout, METADATA_PREFIX, ModelSpec, Normalization,
    OVERRIDE_KEYS, OutputSpec, Overrides, Padding, ParsedOverrides, PointUnit, Role, Scores, recognise_family,
};
use crate::runtime::{Provider, single_line};

/// Width and height of the probe image for models with a dynamic input size. At this size each
/// stride has a different number of cells, so that shapes identify the levels.
const PROBE_SIZE: (usize, usize) = (2 * INPUT_MULTIPLE, INPUT_MULTIPLE);

/// Maximum width and height of a fixed input size, in pixels.
const MAX_SIDE: i64 = 16_384;
/// Maximum area of a fixed input size, in pixels.
const MAX_AREA: i64 = 1 << 26;

/// The remedy for a model with float16 inputs or outputs.
const KEEP_IO_TYPES: &str =
    "export the model with float32 inputs and outputs (`keep_io_types=True` of onnxconverter-common)";

/// Range of the number of points of a landmark model.
const POINT_COUNTS: RangeInclusive<usize> = 5..=4096;

/// Minimum extent of the points of a face on each axis, as a fraction of the input size.
const MIN_EXTENT: f32 = 0.2;
/// Maximum distance of a point from the input image on each axis, as a fraction of the input size.
const MAX_OVERHANG: f32 = 0.25;

/// The outputs of a probe run.
struct Probe {
    names: Vec<String>,
    values: Vec<DynValue>,
}

impl Probe {
    /// Runs `session` on `count` black images of `width` x `height`.
    fn run(
        session: &mut Session,
        input: &Input,
        count: usize,
        (width, height): (usize, usize),
    ) -> Result<Self, String> {
        let pixels = vec![0.0f32; count * input.channels * width * height];
        let shape = [count, input.channels, height, width];
        let tensor =
            TensorRef::from_array_view((shape, pixels.as_slice())).map_err(|error| single_line(error.message()))?;
        let inputs = vec![(input.name.as_str(), SessionInputValue::from(tensor))];
        let outputs = session.run(inputs).map_err(|error| single_line(error.message()))?;
        let (names, values) = outputs.into_iter().map(|(name, value)| (name.to_owned(), value)).unzip();
        Ok(Self { names, values })
    }

    /// The shape of each output; empty for an output that is not a float32 tensor.
    fn shapes(&self) -> Vec<Vec<i64>> {
        self.values.iter().map(|value| tensor_shape(value).map(<[i64]>::to_vec).unwrap_or_default()).collect()
    }

    /// Whether an output is float16.
    fn has_float16_output(&self) -> bool {
        let is_float16 =
            |value: &DynValue| matches!(value.dtype(), ValueType::Tensor { ty: TensorElementType::Float16, .. });
        self.values.iter().any(is_float16)
    }

    /// The values of an output; empty if it is not a float32 tensor.
    fn floats(&self, index: usize) -> &[f32] {
        self.values[index].try_extract_tensor::<f32>().map(|(_, values)| values).unwrap_or_default()
    }

    /// Name, and shape or type, of each output, for error messages.
    fn describe_outputs(&self) -> String {
        let one = |(name, value): (&String, &DynValue)| match tensor_shape(value) {
            Some(shape) => format!("`{name}` {shape:?}"),
            None => format!("`{name}` {}", value.dtype()),
        };
        self.names.iter().zip(&self.values).map(one).collect::<Vec<_>>().join(", ")
    }
}

/// Determines the specification of the model in `session` by a probe run. `user_overrides` take
/// precedence over the overrides in the file's metadata.
///
/// # Errors
/// If the input has an unsupported type or shape, the model does not run, its outputs do not fit
/// `task`, or an override in the metadata is invalid.
pub(super) fn recognise(
    path: &Path,
    task: ModelTask,
    provider: Provider,
    user_overrides: &Overrides,
    session: &mut Session,
) -> Result<ModelSpec, ModelError> {
    let path_of = || path.to_path_buf();
    let input = check_input(session, task).map_err(|problem| ModelError::Input {
        path: path_of(),
        problem,
        inputs: describe_declared(session.inputs()),
    })?;
    let (file_overrides, notes) = read_metadata(path, session)?;
    let overrides = user_overrides.clone().or(file_overrides);
    let parsed = overrides.parsed();
    let size = input.fixed_size.unwrap_or(PROBE_SIZE);
    let declared = describe_declared(session.outputs());
    let probe = Probe::run(session, &input, 1, size).map_err(|reason| ModelError::Run {
        path: path_of(),
        reason: format!("{reason} (declared outputs: {declared})"),
    })?;
    let mut spec = match task {
        ModelTask::Detection => detector_spec(path, input.clone(), &probe, size, &parsed)?,
        ModelTask::Landmarks => landmark_spec(path, input.clone(), &probe, &parsed)?,
    };
    spec.notes.extend(notes);
    if overrides != Overrides::default() {
        spec.notes.push(format!("overridden model parameters: {overrides}"));
    }
    // A session of OpenVINO has one fixed shape. A batch of one is as fast as larger ones on a CPU.
    spec.dynamic_batch &= provider != Provider::OpenVino;
    if spec.dynamic_batch {
        // Some exports declare a dynamic batch size, but contain a reshape to a batch of one.
        let batch_of_two = Probe::run(session, &input, 2, size);
        let all_outputs_have_two_items = |probe: Probe| {
            let shapes = probe.names.iter().zip(probe.shapes());
            shapes.filter(|(name, _)| spec.output_names.contains(name)).all(|(_, shape)| shape.first() == Some(&2))
        };
        spec.dynamic_batch = batch_of_two.is_ok_and(all_outputs_have_two_items);
    }
    Ok(spec)
}

/// The overrides in the file's metadata, and notes about unknown keys.
fn read_metadata(path: &Path, session: &Session) -> Result<(Overrides, Vec<String>), ModelError> {
    let (mut overrides, mut notes) = (Overrides::default(), Vec::new());
    let Ok(metadata) = session.metadata() else { return Ok((overrides, notes)) };
    for name in metadata.custom_keys().unwrap_or_default() {
        let Some(key) = name.strip_prefix(METADATA_PREFIX) else { continue };
        // Written by tools/variants: how the file was converted.
        if key == "variant" || key.starts_with("variant.") {
            continue;
        }
        // Not an error: a newer version of this library may know the key.
        if !OVERRIDE_KEYS.contains(&key) {
            notes.push(format!("unknown metadata key {name} is ignored; known keys: {}", OVERRIDE_KEYS.join(", ")));
            continue;
        }
        let value = metadata.custom(&name).unwrap_or_default();
        overrides.set(key, &value).map_err(|source| ModelError::Override {
            path: path.to_path_buf(),
            place: "the file's own metadata",
            source,
        })?;
    }
    Ok((overrides, notes))
}

/// The specification of a detector.
fn detector_spec(
    path: &Path,
    input: Input,
    probe: &Probe,
    size: (usize, usize),
    overrides: &ParsedOverrides,
) -> Result<ModelSpec, ModelError> {
    let path = path.to_path_buf();
    let shapes = probe.shapes();
    overrides.check_levels().map_err(|source| ModelError::Override {
        path: path.clone(),
        place: "model options or the file's metadata",
        source,
    })?;
    let recognised = recognise_family(&shapes, size, overrides).map_err(|mut detail| {
        if probe.has_float16_output() {
            detail = format!("its outputs are float16: {KEEP_IO_TYPES}");
        } else if landmark_spec(&path, input.clone(), probe, overrides).is_ok() {
            detail = format!("it is probably a landmark model: use it with the element facelandmarks; {detail}");
        }
        ModelError::Outputs { path: path.clone(), outputs: probe.describe_outputs(), detail }
    })?;
    let FamilyMatch { mut layout, family, outputs } = recognised;
    let not_finite = outputs.iter().find(|index| !probe.floats(**index).iter().all(|value| value.is_finite()));
    if let Some(index) = not_finite {
        return Err(ModelError::NotFinite { path, output: probe.names[*index].clone() });
    }
    let scores = layout.heads().into_iter().zip(&outputs).filter(|(head, _)| head.role == Role::Score);
    let mut scores = scores.map(|(_, index)| probe.floats(*index));
    let are_logits = !scores.all(|values| are_probabilities(&layout, values));
    layout.logits = overrides.logits.unwrap_or(are_logits);
    let no_batch_dim = layout.arrangement == Arrangement::Rows && outputs.iter().any(|index| shapes[*index].len() == 2);
    let normalization = overrides.normalization(family.normalization);
    let recognised = FamilyMatch { layout, family, outputs };
    Ok(ModelSpec::for_detector(input, &probe.names, recognised, no_batch_dim, normalization))
}

/// Whether the values of a score head are probabilities: pairs sum to 1, single values are within
/// 0.0..=1.0. Otherwise they are logits.
fn are_probabilities(layout: &Layout, values: &[f32]) -> bool {
    const TOLERANCE: f32 = 1e-3;
    let sum_to_one = |(background, face): (&f32, &f32)| (background + face - 1.0).abs() < TOLERANCE;
    match (layout.scores, layout.arrangement) {
        (Scores::Pairs, Arrangement::Nchw) => {
            let (backgrounds, faces) = values.split_at(values.len() / 2);
            backgrounds.iter().zip(faces).all(sum_to_one)
        }
        (Scores::Pairs, _) => values.as_chunks::<2>().0.iter().all(|[background, face]| sum_to_one((background, face))),
        (Scores::Single | Scores::Product, _) => {
            values.iter().all(|value| (-TOLERANCE..=1.0 + TOLERANCE).contains(value))
        }
    }
}

/// The default normalization of landmark models: RGB or grey in 0.0..=1.0.
const UNIT_RANGE: Normalization =
    Normalization { order: ChannelOrder::Rgb, mean: [0.0; 3], scale: 1.0 / 255.0, padding: Padding::Black };
/// The normalization of models with [`PointUnit::Signed`]: RGB in 0..=255, as InsightFace's
/// `model_zoo/landmark.py` feeds them.
const PIXEL_RANGE: Normalization = Normalization { scale: 1.0, ..UNIT_RANGE };

/// The specification of a landmark model.
fn landmark_spec(
    path: &Path,
    input: Input,
    probe: &Probe,
    overrides: &ParsedOverrides,
) -> Result<ModelSpec, ModelError> {
    let path = path.to_path_buf();
    let shapes = probe.shapes();
    let not_landmarks = |detail: &str| ModelError::NoLandmarks {
        path: path.clone(),
        outputs: probe.describe_outputs(),
        detail: detail.to_owned(),
    };
    let candidates = shapes
        .iter()
        .enumerate()
        .filter_map(|(index, shape)| Some((index, point_layout(shape, overrides.point_dims)?)));
    // Outputs with fewer points contain other values, such as angles or visibilities.
    let Some((index, PointLayout { count, dims, skipped })) = candidates.max_by_key(|(_, layout)| layout.count) else {
        return Err(not_landmarks(&if probe.has_float16_output() {
            format!("its outputs are float16: {KEEP_IO_TYPES}")
        } else {
            "no output consists of pairs or triples of values".to_owned()
        }));
    };
    let values = probe.floats(index);
    if !values.iter().all(|value| value.is_finite()) {
        return Err(ModelError::NotFinite { path, output: probe.names[index].clone() });
    }
    let unit = match overrides.points {
        Some(unit) => unit,
        None => {
            let unit = detect_unit(values);
            let size = input.fixed_size.unwrap_or(PROBE_SIZE);
            if !is_face_shape(&values[skipped.min(values.len())..], dims, unit, size) {
                return Err(not_landmarks(
                    "its values for a black image are not spread over the image as the points of a face are; if they are \
                     coordinates, set their unit with the model option points",
                ));
            }
            unit
        }
    };
    let normalization = if unit == PointUnit::Signed { PIXEL_RANGE } else { UNIT_RANGE };
    let ignored = probe.names.iter().enumerate().filter(|(other, _)| *other != index);
    let notes = ignored.map(|(_, name)| format!("output `{name}` is ignored"));
    let shape = shapes[index][1..].iter().map(|dim| usize::try_from(*dim).unwrap_or(0)).collect();
    Ok(ModelSpec {
        family: "landmarks",
        signature: format!("one output of {count} points with {dims} values each"),
        input_name: input.name,
        channels: input.channels,
        fixed_size: input.fixed_size,
        size_multiple: 1,
        dynamic_batch: input.dynamic_batch,
        output_names: vec![probe.names[index].clone()],
        normalization: overrides.normalization(normalization),
        output: OutputSpec::Landmarks(LandmarkOutput { count, point_dims: dims, skipped, unit, shape }),
        notes: notes.collect(),
    })
}

/// The position of the points in an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PointLayout {
    /// Number of points.
    count: usize,
    /// Values per point.
    dims: usize,
    /// Number of values before the first point.
    skipped: usize,
}

/// The layout of an output of this shape; `None` if it cannot contain points. `overridden_dims` are
/// the values per point that the overrides set for outputs with one row.
fn point_layout(shape: &[i64], overridden_dims: Option<i64>) -> Option<PointLayout> {
    let (count, dims) = match *shape {
        // InsightFace's 1k3d68: 1103 points of a head, the last 68 of which are facial landmarks.
        [1, 3309] => return Some(PointLayout { count: 68, dims: 3, skipped: 3309 - 3 * 68 }),
        [1, len] => {
            // MediaPipe's face meshes have 468 or 478 points with three values each.
            let dims = overridden_dims.unwrap_or(if matches!(len, 1404 | 1434) || len % 2 != 0 { 3 } else { 2 });
            if len % dims != 0 {
                return None;
            }
            (len / dims, dims)
        }
        [1, count, dims @ (2 | 3)] => (count, dims),
        _ => return None,
    };
    let (count, dims) = (usize::try_from(count).ok()?, usize::try_from(dims).ok()?);
    POINT_COUNTS.contains(&count).then_some(PointLayout { count, dims, skipped: 0 })
}

/// The unit of coordinates, from their range. For a black image, landmark models output
/// approximately the mean face of their training set.
fn detect_unit(values: &[f32]) -> PointUnit {
    let (min, max) = range(values.iter().copied());
    if max > 2.0 {
        PointUnit::Pixels
    } else if min < -0.15 {
        PointUnit::Signed
    } else {
        PointUnit::Fraction
    }
}

/// The minimum and maximum of values.
fn range(values: impl Iterator<Item = f32>) -> (f32, f32) {
    values.fold((f32::MAX, f32::MIN), |(min, max), value| (min.min(value), max.max(value)))
}

/// Whether points cover a large part of the input image and do not extend far beyond it. This holds
/// for a mean face, but not for an embedding.
fn is_face_shape(values: &[f32], dims: usize, unit: PointUnit, (width, height): (usize, usize)) -> bool {
    let fraction = |value: f32, side: usize| match unit {
        PointUnit::Fraction => value,
        PointUnit::Signed => (value + 1.0) / 2.0,
        PointUnit::Pixels => value / side as f32,
    };
    [width, height].into_iter().enumerate().all(|(axis, side)| {
        let (min, max) = range(values.chunks_exact(dims).map(|point| fraction(point[axis], side)));
        max - min > MIN_EXTENT && min > -MAX_OVERHANG && max < 1.0 + MAX_OVERHANG
    })
}

/// The only input of the model.
///
/// # Errors
/// The reason why this library cannot fill the input, with the remedy.
fn check_input(session: &Session, task: ModelTask) -> Result<Input, String> {
    let channels = match task {
        ModelTask::Detection => "3",
        ModelTask::Landmarks => "1 or 3",
    };
    let expected = format!("expected one float32 image [N, {channels}, height, width]");
    let [input] = session.inputs() else {
        return Err(format!("it has {} inputs; {expected}", session.inputs().len()));
    };
    let ValueType::Tensor { ty, shape, .. } = input.dtype() else {
        return Err(format!("its input is not a tensor; {expected}"));
    };
    match ty {
        TensorElementType::Float32 => {}
        TensorElementType::Float16 => {
            return Err(format!("its input is float16: {KEEP_IO_TYPES}"));
        }
        TensorElementType::Uint8 | TensorElementType::Int8 | TensorElementType::Int32 | TensorElementType::Int64 => {
            return Err(format!(
                "its input has the integer type {ty}: export the model with a float32 input; {expected}"
            ));
        }
        other => return Err(format!("its input has the type {other}; {expected}")),
    }
    let (channels, fixed_size) = check_shape(shape, task)?;
    Ok(Input { name: input.name().to_owned(), channels, fixed_size, dynamic_batch: shape[0] == -1 })
}

/// The number of channels and, if it is fixed, width and height of an input of this shape, in which
/// -1 is a dynamic dimension.
///
/// # Errors
/// The reason why this library cannot fill the input, with the remedy.
fn check_shape(shape: &[i64], task: ModelTask) -> Result<(usize, Option<(usize, usize)>), String> {
    let (expected_channels, is_channels): (_, fn(i64) -> bool) = match task {
        ModelTask::Detection => ("3", |dim| dim == 3),
        ModelTask::Landmarks => ("1 or 3", |dim| dim == 1 || dim == 3),
    };
    let expected = format!("expected one float32 image [N, {expected_channels}, height, width]");
    let [batch, channels, height, width] = *shape else {
        return Err(match shape.len() {
            0 => format!("its input declares no dimensions: export the model with the shape of its input; {expected}"),
            3 => format!("its input has 3 dimensions: export the model with a batch dimension; {expected}"),
            len => format!("its input has {len} dimensions; {expected}"),
        });
    };
    if is_channels(width) && !is_channels(channels) {
        return Err(format!(
            "its input is NHWC, with the channels last: export the model with NCHW input (`--inputs-as-nchw` of tf2onnx), \
             or put a Transpose node in front of it; {expected}"
        ));
    }
    let channels = match (task, channels) {
        (_, 3 | -1) => 3,
        (ModelTask::Landmarks, 1) => 1,
        (ModelTask::Detection, 1) => {
            return Err(format!(
                "its input has 1 channel; {expected}; use a landmark model with the element facelandmarks"
            ));
        }
        (_, channels) => return Err(format!("its input has {channels} channels; {expected}")),
    };
    if !matches!(batch, 1 | -1) {
        return Err(format!(
            "its input has a fixed batch size of {batch}; export the model with batch size 1 or a dynamic batch size"
        ));
    }
    let fixed_size = match (width, height) {
        (-1, -1) if task == ModelTask::Detection => None,
        // A damaged or malicious file must not cause a huge allocation.
        (1..=MAX_SIDE, 1..=MAX_SIDE) if width * height <= MAX_AREA => {
            Some((usize::try_from(width).unwrap_or(1), usize::try_from(height).unwrap_or(1)))
        }
        (1.., 1..) => {
            return Err(format!(
                "its input of {width}x{height} exceeds the maximum of {MAX_SIDE} pixels per side and 64 megapixels"
            ));
        }
        _ if task == ModelTask::Landmarks => {
            return Err(
                "its input must have a fixed height and width: export the model with a fixed input size".to_owned()
            );
        }
        _ => return Err("its input must have a height and width that are both dynamic or both fixed".to_owned()),
    };
    Ok((channels, fixed_size))
}

/// The shape of a float32 tensor.
fn tensor_shape(value: &DynValue) -> Option<&[i64]> {
    match value.dtype() {
        ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } => Some(shape),
        _ => None,
    }
}

/// Name, type and declared shape of each input or output, for error messages.
fn describe_declared(outlets: &[Outlet]) -> String {
    let one = |outlet: &Outlet| format!("`{}` {}", outlet.name(), outlet.dtype());
    outlets.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_with_the_channels_last_or_an_unknown_rank_is_named() {
        let error = |shape: &[i64], task| check_shape(shape, task).unwrap_err();
        for shape in [[1, 640, 640, 3], [-1, -1, -1, 3], [1, 320, 320, 3], [-1, 1, 640, 3]] {
            let error = error(&shape, ModelTask::Detection);
            assert!(error.contains("is NHWC") && error.contains("`--inputs-as-nchw`"), "{shape:?}: {error}");
        }
        for shape in [[1, 192, 192, 3], [1, 112, 112, 1]] {
            assert!(error(&shape, ModelTask::Landmarks).contains("is NHWC"), "{shape:?}");
        }
        assert!(error(&[], ModelTask::Detection).contains("declares no dimensions"));
        assert!(error(&[3, 640, 640], ModelTask::Detection).contains("batch dimension"));
        assert!(error(&[1, 4, 640, 640], ModelTask::Detection).contains("4 channels"));
        assert_eq!(check_shape(&[-1, 3, -1, -1], ModelTask::Detection), Ok((3, None)));
        assert_eq!(check_shape(&[1, -1, 480, 640], ModelTask::Detection), Ok((3, Some((640, 480)))));
        assert_eq!(check_shape(&[1, 1, 112, 112], ModelTask::Landmarks), Ok((1, Some((112, 112)))));
    }

    #[test]
    fn point_layout_and_unit_are_detected() {
        let layout = |count, dims| Some(PointLayout { count, dims, skipped: 0 });
        assert_eq!(point_layout(&[1, 136], None), layout(68, 2));
        assert_eq!(point_layout(&[1, 204], None), layout(102, 2));
        assert_eq!(point_layout(&[1, 204], Some(3)), layout(68, 3));
        assert_eq!(point_layout(&[1, 1404], None), layout(468, 3));
        assert_eq!(point_layout(&[1, 98, 2], None), layout(98, 2));
        assert_eq!(point_layout(&[1, 478, 3], None), layout(478, 3));
        assert_eq!(point_layout(&[1, 3309], None), Some(PointLayout { count: 68, dims: 3, skipped: 3105 }));
        for shape in [&[1, 7][..], &[2, 136], &[1, 4], &[136], &[1, 98, 5], &[1, 100_000]] {
            assert_eq!(point_layout(shape, None), None, "{shape:?}");
        }
        assert_eq!(detect_unit(&[0.1, 0.9, -0.02]), PointUnit::Fraction);
        assert_eq!(detect_unit(&[-0.4, 0.5]), PointUnit::Signed);
        assert_eq!(detect_unit(&[-3.0, 88.0]), PointUnit::Pixels);
    }
}
