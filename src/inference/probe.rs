//! A model that was opened: run once on a small black picture, and recognised by what that gives.

use std::path::Path;

use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Outlet, TensorElementType, TensorRef, ValueType};

use super::ModelError;
use crate::contract::{Contract, Input, Meaning, Points};
use crate::families::{self, Recognised};
use crate::layout::{Arrangement, Layout, Role, Scores};
use crate::letterbox::INPUT_MULTIPLE;
use crate::overrides::{self, Adjustments, Overrides, PointUnit};
use crate::preprocess::{ChannelOrder, Normalization, Padding};
use crate::provider::Provider;
use crate::session::on_one_line;

/// Width and height of the probe, for detectors that take any: the cells of all strides differ in number.
const PROBE: (usize, usize) = (2 * INPUT_MULTIPLE, INPUT_MULTIPLE);

/// Longest fixed side, and largest area, of an input that is taken.
const MAX_SIDE: i64 = 16_384;
const MAX_AREA: i64 = 1 << 26;

/// What to do about a model that was converted to float16 with its inputs and outputs.
const KEEP_IO_TYPES: &str = "export it with float32 inputs and outputs (`keep_io_types=True` of onnxconverter-common)";

/// Most points that a landmark model may have.
const MAX_POINTS: usize = 4096;

/// Least part of a crop that a face's points cover, and most that they leave it by.
const LEAST_SPREAD: f32 = 0.2;
const BEYOND: f32 = 0.25;

/// What a model is opened as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// To find faces in pictures.
    #[default]
    Faces,
    /// To find points on faces.
    Points,
}

/// A session's outputs for the probe.
struct Probe {
    names: Vec<String>,
    values: Vec<DynValue>,
}

impl Probe {
    fn run(
        session: &mut Session,
        input: &Input,
        count: usize,
        (width, height): (usize, usize),
    ) -> Result<Self, String> {
        let pixels = vec![0.0f32; count * input.channels * width * height];
        let shape = [count, input.channels, height, width];
        let tensor =
            TensorRef::from_array_view((shape, pixels.as_slice())).map_err(|error| on_one_line(error.message()))?;
        let inputs = vec![(input.name.as_str(), SessionInputValue::from(tensor))];
        let outputs = session.run(inputs).map_err(|error| on_one_line(error.message()))?;
        let (names, values) = outputs.into_iter().map(|(name, value)| (name.to_owned(), value)).unzip();
        Ok(Self { names, values })
    }

    /// Shapes of the outputs; none of what is no float32 tensor.
    fn shapes(&self) -> Vec<Vec<i64>> {
        self.values.iter().map(|value| tensor_shape(value).map(<[i64]>::to_vec).unwrap_or_default()).collect()
    }

    /// Whether an output is float16.
    fn has_halves(&self) -> bool {
        let is_half =
            |value: &DynValue| matches!(value.dtype(), ValueType::Tensor { ty: TensorElementType::Float16, .. });
        self.values.iter().any(is_half)
    }

    fn floats(&self, index: usize) -> &[f32] {
        self.values[index].try_extract_tensor::<f32>().map(|(_, values)| values).unwrap_or_default()
    }

    /// Names, types and shapes.
    fn list(&self) -> String {
        let one = |(name, value): (&String, &DynValue)| match tensor_shape(value) {
            Some(shape) => format!("`{name}` {shape:?}"),
            None => format!("`{name}` {}", value.dtype()),
        };
        self.names.iter().zip(&self.values).map(one).collect::<Vec<_>>().join(", ")
    }
}

/// Recognises what `session` is by running it once.
pub(super) fn recognise(
    path: &Path,
    purpose: Purpose,
    provider: Provider,
    said: &Overrides,
    session: &mut Session,
) -> Result<Contract, ModelError> {
    let path_of = || path.to_path_buf();
    let input = input(session, purpose).map_err(|problem| ModelError::Input {
        path: path_of(),
        problem,
        inputs: describe(session.inputs()),
    })?;
    let (of_file, notes) = metadata(path, session)?;
    let overrides = said.clone().or(of_file);
    let adjustments = overrides.adjustments();
    let size = input.fixed_size.unwrap_or(PROBE);
    let declared = describe(session.outputs());
    let probe = Probe::run(session, &input, 1, size)
        .map_err(|reason| ModelError::Run { path: path_of(), reason: format!("{reason} (its outputs: {declared})") })?;
    let mut contract = match purpose {
        Purpose::Faces => faces(path, input.clone(), &probe, size, &adjustments)?,
        Purpose::Points => points(path, input.clone(), &probe, &adjustments)?,
    };
    contract.notes.extend(notes);
    if overrides != Overrides::default() {
        contract.notes.push(format!("said of it in place of the layout's own: {overrides}"));
    }
    // OpenVINO's sessions are made for one shape, and so for one picture: a batch is no faster on a CPU.
    contract.dynamic_batch &= provider != Provider::OpenVino;
    if contract.dynamic_batch {
        // Some exports declare any number of pictures and reshape to one inside.
        let two = Probe::run(session, &input, 2, size);
        let first = |shape: &Vec<i64>| shape.first() == Some(&2);
        let read = |two: &Probe| {
            let shapes = two.names.iter().zip(two.shapes());
            shapes.filter(|(name, _)| contract.outputs.contains(name)).all(|(_, shape)| first(&shape))
        };
        contract.dynamic_batch = two.is_ok_and(|two| read(&two));
    }
    Ok(contract)
}

/// What the file says of itself, and what to tell of it.
fn metadata(path: &Path, session: &Session) -> Result<(Overrides, Vec<String>), ModelError> {
    let (mut overrides, mut notes) = (Overrides::default(), Vec::new());
    let Ok(metadata) = session.metadata() else { return Ok((overrides, notes)) };
    for name in metadata.custom_keys().unwrap_or_default() {
        let Some(key) = name.strip_prefix(overrides::PREFIX) else { continue };
        // How tools/variants made it.
        if key == "variant" || key.starts_with("variant.") {
            continue;
        }
        // It may be spelled wrong, or a newer version's.
        if !overrides::KEYS.contains(&key) {
            notes.push(format!("metadata key {name} is not known; known are {}", overrides::KEYS.join(", ")));
            continue;
        }
        let value = metadata.custom(&name).unwrap_or_default();
        overrides.set(key, &value).map_err(|cause| ModelError::Override {
            path: path.to_path_buf(),
            place: "the file's own metadata",
            cause,
        })?;
    }
    Ok((overrides, notes))
}

fn faces(
    path: &Path,
    input: Input,
    probe: &Probe,
    size: (usize, usize),
    adjustments: &Adjustments,
) -> Result<Contract, ModelError> {
    let path = path.to_path_buf();
    let shapes = probe.shapes();
    adjustments.check_levels().map_err(|cause| ModelError::Override {
        path: path.clone(),
        place: "model options or the file's metadata",
        cause,
    })?;
    let recognised = families::recognise(&shapes, size, adjustments).map_err(|mut detail| {
        if probe.has_halves() {
            detail = format!("its outputs are float16: {KEEP_IO_TYPES}");
        } else if points(&path, input.clone(), probe, adjustments).is_ok() {
            detail = format!("it looks like a landmark model, which the element facelandmarks takes; {detail}");
        }
        ModelError::Outputs { path: path.clone(), outputs: probe.list(), detail }
    })?;
    let Recognised { mut layout, family, outputs } = recognised;
    let not_finite = outputs.iter().find(|index| !probe.floats(**index).iter().all(|value| value.is_finite()));
    if let Some(index) = not_finite {
        return Err(ModelError::NotFinite { path, output: probe.names[*index].clone() });
    }
    let scores = layout.heads().into_iter().zip(&outputs).filter(|(head, _)| head.role == Role::Score);
    let mut scores = scores.map(|(_, index)| probe.floats(*index));
    let seem_logits = !scores.all(|values| are_probabilities(&layout, values));
    layout.logits = adjustments.logits.unwrap_or(seem_logits);
    let batchless = layout.arrangement == Arrangement::Rows && outputs.iter().any(|index| shapes[*index].len() == 2);
    let normalization = adjustments.normalization(family.normalization);
    let recognised = Recognised { layout, family, outputs };
    Ok(Contract::of_faces(input, &probe.names, recognised, batchless, normalization))
}

/// Whether a head's scores are probabilities: the others are what comes before a softmax or sigmoid.
fn are_probabilities(layout: &Layout, values: &[f32]) -> bool {
    const NEAR: f32 = 1e-3;
    let sum_to_one = |(background, face): (&f32, &f32)| (background + face - 1.0).abs() < NEAR;
    match (layout.scores, layout.arrangement) {
        (Scores::Pairs, Arrangement::Planes) => {
            let (backgrounds, faces) = values.split_at(values.len() / 2);
            backgrounds.iter().zip(faces).all(sum_to_one)
        }
        (Scores::Pairs, _) => values.as_chunks::<2>().0.iter().all(|[background, face]| sum_to_one((background, face))),
        (Scores::Single | Scores::Product, _) => values.iter().all(|value| (-NEAR..=1.0 + NEAR).contains(value)),
    }
}

/// What landmark models are trained on where they say nothing else: RGB, or grey, of 0..=1.
const PARTS: Normalization =
    Normalization { order: ChannelOrder::Rgb, mean: [0.0; 3], scale: 1.0 / 255.0, padding: Padding::Black };
/// Models that count from the middle come from InsightFace, which feeds pixels as they are.
const PIXELS: Normalization = Normalization { scale: 1.0, ..PARTS };

fn points(path: &Path, input: Input, probe: &Probe, adjustments: &Adjustments) -> Result<Contract, ModelError> {
    let path = path.to_path_buf();
    let shapes = probe.shapes();
    let refuse =
        |detail: &str| ModelError::NoLandmarks { path: path.clone(), outputs: probe.list(), detail: detail.to_owned() };
    let fitting = shapes
        .iter()
        .enumerate()
        .filter_map(|(index, shape)| Some((index, point_numbers(shape, adjustments.point_numbers)?)));
    // A model may give other numbers beside its points; the longest output has them.
    let Some((index, PointNumbers { count, numbers, skipped })) = fitting.max_by_key(|(_, numbers)| numbers.count)
    else {
        return Err(refuse("no output has pairs or triples of numbers"));
    };
    let values = probe.floats(index);
    if !values.iter().all(|value| value.is_finite()) {
        return Err(ModelError::NotFinite { path, output: probe.names[index].clone() });
    }
    let unit = match adjustments.points {
        Some(unit) => unit,
        None => {
            let unit = seeming_unit(values);
            let size = input.fixed_size.unwrap_or(PROBE);
            if !are_of_a_face(&values[skipped.min(values.len())..], numbers, unit, size) {
                return Err(refuse(
                    "its numbers for a black picture are not spread over the picture as a face's points are; if they are \
                     points, say what by the model option points",
                ));
            }
            unit
        }
    };
    let own = if unit == PointUnit::Signed { PIXELS } else { PARTS };
    let unread = probe.names.iter().enumerate().filter(|(other, _)| *other != index);
    let notes = unread.map(|(_, name)| format!("output `{name}` is not read"));
    let sides = shapes[index][1..].iter().map(|side| usize::try_from(*side).unwrap_or(0)).collect();
    Ok(Contract {
        family: "landmarks",
        sign: format!("an output of {count} points, {numbers} numbers each"),
        input: input.name,
        channels: input.channels,
        fixed_size: input.fixed_size,
        multiple: 1,
        dynamic_batch: input.dynamic_batch,
        outputs: vec![probe.names[index].clone()],
        normalization: adjustments.normalization(own),
        meaning: Meaning::Points(Points { count, numbers, skipped, unit, sides }),
        notes: notes.collect(),
    })
}

/// How an output's numbers are points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PointNumbers {
    count: usize,
    /// Of each point.
    numbers: usize,
    /// Before the first point.
    skipped: usize,
}

/// How the numbers of an output of that shape are points, if they are.
fn point_numbers(shape: &[i64], said: Option<i64>) -> Option<PointNumbers> {
    let (count, numbers) = match *shape {
        // InsightFace's 1k3d68: 1103 points of a head, of which the last 68 are the face's.
        [1, 3309] => return Some(PointNumbers { count: 68, numbers: 3, skipped: 3309 - 3 * 68 }),
        [1, all] => {
            // The meshes of MediaPipe, of 468 and 478 points, are of three numbers a point.
            let numbers = said.unwrap_or(if matches!(all, 1404 | 1434) || all % 2 != 0 { 3 } else { 2 });
            if all % numbers != 0 {
                return None;
            }
            (all / numbers, numbers)
        }
        [1, count, numbers @ (2 | 3)] => (count, numbers),
        _ => return None,
    };
    let (count, numbers) = (usize::try_from(count).ok()?, usize::try_from(numbers).ok()?);
    (5..=MAX_POINTS).contains(&count).then_some(PointNumbers { count, numbers, skipped: 0 })
}

/// What coordinates seem to be: even on a black picture models give about the mean of all faces.
fn seeming_unit(values: &[f32]) -> PointUnit {
    let (least, most) =
        values.iter().fold((f32::MAX, f32::MIN), |(least, most), value| (least.min(*value), most.max(*value)));
    if most > 2.0 {
        PointUnit::Pixels
    } else if least < -0.15 {
        PointUnit::Signed
    } else {
        PointUnit::Fraction
    }
}

/// Whether coordinates cover a good part of the crop and do not leave it by far, as a mean face's do and an embedding's
/// do not.
fn are_of_a_face(values: &[f32], numbers: usize, unit: PointUnit, (width, height): (usize, usize)) -> bool {
    let along = |value: f32, side: usize| match unit {
        PointUnit::Fraction => value,
        PointUnit::Signed => (value + 1.0) / 2.0,
        PointUnit::Pixels => value / side as f32,
    };
    [width, height].into_iter().enumerate().all(|(axis, side)| {
        let coordinates = values.chunks_exact(numbers).map(|point| along(point[axis], side));
        let (least, most) =
            coordinates.fold((f32::MAX, f32::MIN), |(least, most), value| (least.min(value), most.max(value)));
        most - least > LEAST_SPREAD && least > -BEYOND && most < 1.0 + BEYOND
    })
}

/// The session's one input, or why it cannot be fed.
fn input(session: &Session, purpose: Purpose) -> Result<Input, String> {
    let channels = match purpose {
        Purpose::Faces => "3",
        Purpose::Points => "1 or 3",
    };
    let wanted = format!("expected one float32 picture [N, {channels}, height, width]");
    let [input] = session.inputs() else {
        return Err(format!("it has {} inputs; {wanted}", session.inputs().len()));
    };
    let ValueType::Tensor { ty, shape, .. } = input.dtype() else {
        return Err(format!("its input is no tensor; {wanted}"));
    };
    match ty {
        TensorElementType::Float32 => {}
        TensorElementType::Float16 => {
            return Err(format!("its input is float16: {KEEP_IO_TYPES}"));
        }
        TensorElementType::Uint8 | TensorElementType::Int8 | TensorElementType::Int32 | TensorElementType::Int64 => {
            return Err(format!("its input is of whole numbers, {ty}: export it with a float32 input; {wanted}"));
        }
        other => return Err(format!("its input is {other}; {wanted}")),
    }
    let [batch, channels, height, width] = shape[..] else {
        return Err(format!("its input has {} sides; {wanted}", shape.len()));
    };
    let channels = match (purpose, channels) {
        (_, 3 | -1) => 3,
        (Purpose::Points, 1) => 1,
        (Purpose::Faces, 1) => {
            return Err(format!(
                "its input has 1 channels; {wanted}; if it is a landmark model, the element facelandmarks takes it"
            ));
        }
        (_, channels) => return Err(format!("its input has {channels} channels; {wanted}")),
    };
    if !matches!(batch, 1 | -1) {
        return Err(format!("its input takes {batch} pictures at once; export it for one, or for any number"));
    }
    let fixed_size = match (width, height) {
        (-1, -1) if purpose == Purpose::Faces => None,
        // More than any frame's, or than memory has: a file that says so is damaged or means harm.
        (1..=MAX_SIDE, 1..=MAX_SIDE) if width * height <= MAX_AREA => {
            Some((usize::try_from(width).unwrap_or(1), usize::try_from(height).unwrap_or(1)))
        }
        (1.., 1..) => {
            return Err(format!("its input of {width}x{height} is larger than {MAX_SIDE} a side or 64 megapixels"));
        }
        _ if purpose == Purpose::Points => return Err("its input must have a fixed height and width".to_owned()),
        _ => return Err("its input must have a height and width that are both open or both fixed".to_owned()),
    };
    Ok(Input { name: input.name().to_owned(), channels, fixed_size, dynamic_batch: batch == -1 })
}

fn tensor_shape(value: &DynValue) -> Option<&[i64]> {
    match value.dtype() {
        ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } => Some(shape),
        _ => None,
    }
}

/// Names, types and shapes, as declared.
fn describe(outlets: &[Outlet]) -> String {
    let one = |outlet: &Outlet| format!("`{}` {}", outlet.name(), outlet.dtype());
    outlets.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_counted_by_shape_and_told_by_their_range() {
        let plain = |count, numbers| Some(PointNumbers { count, numbers, skipped: 0 });
        assert_eq!(point_numbers(&[1, 136], None), plain(68, 2));
        assert_eq!(point_numbers(&[1, 204], None), plain(102, 2));
        assert_eq!(point_numbers(&[1, 204], Some(3)), plain(68, 3));
        assert_eq!(point_numbers(&[1, 1404], None), plain(468, 3));
        assert_eq!(point_numbers(&[1, 98, 2], None), plain(98, 2));
        assert_eq!(point_numbers(&[1, 478, 3], None), plain(478, 3));
        assert_eq!(point_numbers(&[1, 3309], None), Some(PointNumbers { count: 68, numbers: 3, skipped: 3105 }));
        for shape in [&[1, 7][..], &[2, 136], &[1, 4], &[136], &[1, 98, 5], &[1, 100_000]] {
            assert_eq!(point_numbers(shape, None), None, "{shape:?}");
        }
        assert_eq!(seeming_unit(&[0.1, 0.9, -0.02]), PointUnit::Fraction);
        assert_eq!(seeming_unit(&[-0.4, 0.5]), PointUnit::Signed);
        assert_eq!(seeming_unit(&[-3.0, 88.0]), PointUnit::Pixels);
    }
}
