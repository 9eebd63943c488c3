//! One graph for a GPU: the camera's planes in, the best candidates out.
//!
//! A frame's 8-bit planes are a third to a sixth of the bytes of the float input that is made of them, and the best
//! candidates are a fraction of what the heads give. So resize, colour, mean and layout go in front of the model, decoding
//! and the choice of the best behind it, in one ONNX graph that is put together when a stream's shape is known.
//!
//! The arithmetic is that of [`crate::preprocess`] and [`crate::decode`], with two differences: nothing is rounded to 8
//! bits in between, and the colour planes of 4:2:0 formats are resized to the whole input instead of half of it.

use prost::Message as _;

use crate::contract::Contract;
use crate::image::{ImageInfo, PixelFormat};
use crate::layout::{Arrangement, Boxes, Layout, Role, Scores};
use crate::letterbox::Letterbox;
use crate::onnx::{Builder, Element, Model, Side, Value, ValueInfo};
use crate::preprocess::{ChannelOrder, Padding};
use crate::priors;
use crate::yuv::YuvCoding;

/// At most so many candidates come back from the device, the best ones: 120 KiB a frame.
pub const TOP_K: usize = 2048;
/// The oldest operators that the graph is made of.
const OPSET: i64 = 11;

/// Name of the output.
pub(crate) const OUTPUT: &str = "retinaface/candidates";

/// Name of the input of plane `plane`.
pub(crate) fn plane_name(plane: usize) -> String {
    format!("retinaface/plane{plane}")
}

/// What a stream's frames look like, and where they lie in the model's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frames {
    format: PixelFormat,
    coding: YuvCoding,
    letterbox: Letterbox,
}

impl Frames {
    /// Frames of `info`, letterboxed so.
    ///
    /// # Panics
    /// If the letterbox is for frames of another size.
    pub fn new(info: &ImageInfo, letterbox: Letterbox) -> Self {
        assert_eq!((info.width, info.height), letterbox.frame(), "the letterbox is of another frame");
        // What does not count for a format must not make another graph.
        let coding = if info.format.is_yuv420() { info.coding } else { YuvCoding::default() };
        Self { format: info.format, coding, letterbox }
    }

    /// Where they lie in the model's input.
    pub fn letterbox(&self) -> &Letterbox {
        &self.letterbox
    }

    /// How many planes a frame has.
    pub fn planes(&self) -> usize {
        self.format.planes()
    }

    /// `[rows, columns, channels]` of plane `plane`.
    pub(crate) fn plane_shape(&self, plane: usize) -> [usize; 3] {
        let (width, height) = self.letterbox.frame();
        let (cols, rows) = self.format.plane_size(plane, width, height);
        [rows, cols, self.format.channels(plane)]
    }
}

/// How many candidates of such frames come back.
pub(crate) fn candidates(contract: &Contract, frames: &Frames) -> usize {
    let (width, height) = frames.letterbox.input();
    TOP_K.min(contract.layout().map_or(0, |layout| priors::count(&layout.levels, width, height)))
}

/// Whether nodes can be put around `file`.
///
/// # Errors
/// With why not.
pub(crate) fn takes(file: &[u8]) -> Result<(), String> {
    parse(file).map(drop)
}

fn parse(file: &[u8]) -> Result<Model, String> {
    let model = Model::parse(file)?;
    match model.opset() {
        OPSET.. => Ok(model),
        opset => Err(format!("the model uses operators of version {opset}, {OPSET} or newer is needed")),
    }
}

/// The graph around `file`, a model of `contract`, for such frames.
///
/// # Errors
/// If the file is not one that nodes can be put around.
pub(crate) fn graph(file: &[u8], contract: &Contract, frames: &Frames) -> Result<Vec<u8>, String> {
    let mut model = parse(file)?;
    let batch = if contract.dynamic_batch { Side::Batch } else { Side::Fixed(1) };
    let plane = |plane: usize| {
        let [rows, cols, channels] = frames.plane_shape(plane).map(Side::Fixed);
        ValueInfo::new(&plane_name(plane), Element::U8, &[batch, rows, cols, channels])
    };
    let inputs = (0..frames.planes()).map(plane).collect();
    let layout = contract.layout().ok_or("the model finds no faces")?;
    let sides = [batch, Side::Fixed(candidates(contract, frames)), Side::Fixed(contract.candidate())];
    let outputs = vec![ValueInfo::new(OUTPUT, Element::F32, &sides)];
    model.enclose(before(contract, frames), after(contract, layout, frames), inputs, outputs);
    Ok(model.encode_to_vec())
}

/// From planes to the model's input.
fn before(contract: &Contract, frames: &Frames) -> Builder {
    let mut builder = Builder::new("retinaface/before/");
    let letterbox = &frames.letterbox;
    let (content_cols, content_rows) = letterbox.content();
    let planes = (0..frames.planes()).map(|plane| {
        let floats = builder.node("Cast", &[&plane_name(plane)], &[("to", Value::Int(Element::F32 as i64))]);
        let channels_first = builder.node("Transpose", &[&floats], &[("perm", Value::Ints(&[0, 3, 1, 2]))]);
        let [rows, cols, _] = frames.plane_shape(plane);
        resize(&mut builder, channels_first, (cols, rows), (content_cols, content_rows))
    });
    let planes = planes.collect::<Vec<_>>();
    let normalization = &contract.normalization;
    // Red, green, blue in the order of the model's input.
    let order = match normalization.order {
        ChannelOrder::Rgb => [0, 1, 2],
        ChannelOrder::Bgr => [2, 1, 0],
    };
    let names = planes.iter().map(String::as_str).collect::<Vec<_>>();
    let along_channels = [("axis", Value::Int(1))];
    let pixels = match frames.format.rgb_offsets() {
        Some(offsets) => {
            let wanted = builder.ints(&order.map(|channel| offsets[channel] as i64));
            builder.node("Gather", &[names[0], &wanted], &along_channels)
        }
        None if frames.format.is_yuv420() => {
            let yuv = builder.node("Concat", &names, &along_channels);
            let coding = frames.coding.rgb_from_yuv();
            let luma = coding.luma_scale;
            let rows =
                [[luma, 0.0, coding.red_cr], [luma, coding.green_cb, coding.green_cr], [luma, coding.blue_cb, 0.0]];
            let rows = order.map(|channel| rows[channel]);
            let bias = rows.map(|[luma, cb, cr]| -(luma * coding.luma_offset + (cb + cr) * 128.0));
            let weights = builder.floats(&[3, 3, 1, 1], rows.as_flattened());
            let bias = builder.floats(&[3], &bias);
            let rgb = builder.node("Conv", &[&yuv, &weights, &bias], &[]);
            let (least, most) = (builder.floats(&[], &[0.0]), builder.floats(&[], &[255.0]));
            builder.node("Clip", &[&rgb, &least, &most], &[])
        }
        None => builder.node("Concat", &[names[0]; 3], &along_channels),
    };
    let (cols, rows) = letterbox.input();
    let pads = builder.ints(&[0, 0, 0, 0, 0, 0, (rows - content_rows) as i64, (cols - content_cols) as i64]);
    let mean = builder.floats(&[1, 3, 1, 1], &normalization.mean);
    let scale = builder.floats(&[], &[normalization.scale]);
    // Zeros are black before the mean is taken off, and the mean afterwards.
    let pixels = match normalization.padding {
        Padding::Black => builder.node("Pad", &[&pixels, &pads], &[]),
        Padding::Mean => pixels,
    };
    let centred = builder.node("Sub", &[&pixels, &mean], &[]);
    match normalization.padding {
        Padding::Black => builder.node_named(&contract.input, "Mul", &[&centred, &scale], &[]),
        Padding::Mean => {
            let scaled = builder.node("Mul", &[&centred, &scale], &[]);
            builder.node_named(&contract.input, "Pad", &[&scaled, &pads], &[]);
        }
    }
    builder
}

/// Bilinear, pixel centres at halves, as OpenCV's `INTER_LINEAR`; sizes are (columns, rows).
fn resize(builder: &mut Builder, input: String, from: (usize, usize), to: (usize, usize)) -> String {
    if from == to {
        return input;
    }
    let unused = builder.floats(&[0], &[]);
    let factors = builder.floats(&[4], &[1.0, 1.0, factor(from.1, to.1), factor(from.0, to.0)]);
    let mode = [("mode", Value::Text("linear")), ("coordinate_transformation_mode", Value::Text("half_pixel"))];
    builder.node("Resize", &[&input, &unused, &factors], &mode)
}

/// What takes a side of `from` to `to`. The number of pictures is open, so that the target cannot be given as a size: the
/// operator rounds down what comes of the factor.
fn factor(from: usize, to: usize) -> f32 {
    let mut factor = to as f32 / from as f32;
    // In either precision: shapes are inferred in one and computed in the other.
    while (from as f32 * factor).floor() < to as f32 || (from as f64 * f64::from(factor)).floor() < to as f64 {
        factor = factor.next_up();
    }
    factor
}

/// Nodes behind the model; their tensors are `[pictures, anchors, numbers]`.
struct After {
    builder: Builder,
    anchors: i64,
}

impl After {
    fn slice(&mut self, tensor: &str, axis: i64, from: i64, to: i64) -> String {
        let [from, to, axis] = [from, to, axis].map(|number| self.builder.ints(&[number]));
        self.builder.node("Slice", &[tensor, &from, &to, &axis], &[])
    }

    fn reshape(&mut self, tensor: &str, shape: &[i64]) -> String {
        let shape = self.builder.ints(shape);
        self.builder.node("Reshape", &[tensor, &shape], &[])
    }

    fn times(&mut self, tensor: &str, factor: f32) -> String {
        if factor == 1.0 {
            return tensor.to_owned();
        }
        let factor = self.builder.floats(&[], &[factor]);
        self.builder.node("Mul", &[tensor, &factor], &[])
    }

    fn both(&mut self, kind: &str, first: &str, second: &str) -> String {
        self.builder.node(kind, &[first, second], &[])
    }

    fn along(&mut self, kind: &str, tensors: &[&str], axis: i64) -> String {
        match tensors {
            [only] if kind == "Concat" => (*only).to_owned(),
            _ => self.builder.node(kind, tensors, &[("axis", Value::Int(axis))]),
        }
    }

    /// One role's tensors, `[pictures, anchors of all levels, numbers]`: the `nth` of those with that role.
    fn gather(&mut self, contract: &Contract, layout: &Layout, frames: &Frames, role: Role, nth: usize) -> String {
        let (width, height) = frames.letterbox.input();
        let heads = layout.heads();
        let of_role = heads.iter().zip(&contract.outputs).filter(|(head, _)| head.role == role);
        let per_nth = if layout.arrangement == Arrangement::Together { 1 } else { layout.levels.len() };
        let numbers = layout.numbers(role) as i64;
        let parts = of_role.skip(nth * per_nth).take(per_nth).map(|(head, output)| {
            let Some(level) = head.level.map(|level| &layout.levels[level]) else { return output.clone() };
            let count = level.count(width, height) as i64;
            if layout.arrangement != Arrangement::Planes {
                // Also where the batch's side is left out: it is one picture's then.
                let pictures = if contract.dynamic_batch { 0 } else { 1 };
                return self.reshape(output, &[pictures, count, numbers]);
            }
            let (cols, rows) = level.cells(width, height);
            let anchors = level.anchors.len() as i64;
            // Backgrounds of all anchors come before their faces; else each anchor's numbers follow each other.
            let (outer, inner, order) = if role == Role::Score && layout.scores == Scores::Pairs {
                (numbers, anchors, [0, 3, 2, 1])
            } else {
                (anchors, numbers, [0, 3, 1, 2])
            };
            let split = self.reshape(output, &[0, outer, inner, (rows * cols) as i64]);
            let turned = self.builder.node("Transpose", &[&split], &[("perm", Value::Ints(&order))]);
            self.reshape(&turned, &[0, count, numbers])
        });
        let parts = parts.collect::<Vec<_>>();
        self.along("Concat", &parts.iter().map(String::as_str).collect::<Vec<_>>(), 1)
    }

    /// Each anchor's probability of a face, `[pictures, anchors]`.
    fn scores(&mut self, contract: &Contract, layout: &Layout, frames: &Frames) -> String {
        let first = self.gather(contract, layout, frames, Role::Score, 0);
        let probability = |this: &mut Self, tensor: &str| {
            if layout.logits { this.builder.node("Sigmoid", &[tensor], &[]) } else { tensor.to_owned() }
        };
        let scores = match layout.scores {
            Scores::Pairs => {
                let face = self.slice(&first, 2, 1, 2);
                if layout.logits {
                    let background = self.slice(&first, 2, 0, 1);
                    let margin = self.both("Sub", &face, &background);
                    probability(self, &margin)
                } else {
                    face
                }
            }
            Scores::Single => probability(self, &first),
            Scores::Product => {
                let second = self.gather(contract, layout, frames, Role::Score, 1);
                let (least, most) = (self.builder.floats(&[], &[0.0]), self.builder.floats(&[], &[1.0]));
                let parts = [first, second].map(|tensor| {
                    let tensor = probability(self, &tensor);
                    self.builder.node("Clip", &[&tensor, &least, &most], &[])
                });
                let product = self.both("Mul", &parts[0], &parts[1]);
                self.builder.node("Sqrt", &[&product], &[])
            }
        };
        self.reshape(&scores, &[0, self.anchors])
    }

    /// Corner and extent of boxes of which these are the numbers, `[pictures, anchors, 2]` each.
    fn boxes(&mut self, layout: &Layout, numbers: &str, centre: &str, size: &str) -> [String; 2] {
        let unit = self.times(size, layout.variances.centre);
        let (first, second) = (self.slice(numbers, 2, 0, 2), self.slice(numbers, 2, 2, 4));
        let zero = self.builder.floats(&[], &[0.0]);
        match layout.boxes {
            Boxes::Distances => {
                let before = self.both("Mul", &first, &unit);
                let corner = self.both("Sub", centre, &before);
                let sum = self.both("Add", &first, &second);
                let extent = self.both("Mul", &sum, &unit);
                [corner, self.both("Max", &extent, &zero)]
            }
            Boxes::CentreSize | Boxes::CentreSizeInclusive => {
                let offset = self.both("Mul", &first, &unit);
                let middle = self.both("Add", centre, &offset);
                let extent = self.times(&second, layout.variances.size);
                let extent = self.builder.node("Exp", &[&extent], &[]);
                let mut extent = self.both("Mul", &extent, size);
                let mut area = extent.clone();
                if layout.boxes == Boxes::CentreSizeInclusive {
                    let last = self.builder.floats(&[], &[1.0]);
                    extent = self.both("Sub", &extent, &last);
                    area = self.both("Max", &extent, &zero);
                }
                let half = self.times(&extent, 0.5);
                [self.both("Sub", &middle, &half), area]
            }
        }
    }
}

/// From the heads to the best candidates.
fn after(contract: &Contract, layout: &Layout, frames: &Frames) -> Builder {
    let (width, height) = frames.letterbox.input();
    let priors = layout.priors(width, height);
    let best = candidates(contract, frames) as i64;
    let mut after = After { builder: Builder::new("retinaface/after/"), anchors: priors.len() as i64 };

    let faces = after.scores(contract, layout, frames);
    let count = after.builder.ints(&[best]);
    let [scores, places] = after.builder.node_with("TopK", &[&faces, &count], &[("axis", Value::Int(1))]);
    let scores = after.reshape(&scores, &[0, best, 1]);
    let column = after.reshape(&places, &[0, best, 1]);
    let chosen = |after: &mut After, role: Role| {
        let all = after.gather(contract, layout, frames, role, 0);
        let times = after.builder.ints(&[1, 1, layout.numbers(role) as i64]);
        let places = after.builder.node("Tile", &[&column, &times], &[]);
        after.along("GatherElements", &[&all, &places], 1)
    };
    let flat = priors.iter().flat_map(|prior| [prior.cx, prior.cy, prior.size]).collect::<Vec<_>>();
    let priors = after.builder.floats(&[priors.len(), 3], &flat);
    let priors = after.along("Gather", &[&priors, &places], 0);
    let (centre, size) = (after.slice(&priors, 2, 0, 2), after.slice(&priors, 2, 2, 3));
    let numbers = chosen(&mut after, Role::Box);
    let [corner, extent] = after.boxes(layout, &numbers, &centre, &size);
    let mut columns = vec![scores, corner, extent];
    if layout.landmarks {
        let alternating = after.builder.ints(&[0, 1, 0, 1, 0, 1, 0, 1, 0, 1]);
        let centres = after.along("Gather", &[&centre, &alternating], 2);
        let unit = after.times(&size, layout.variances.point);
        let numbers = chosen(&mut after, Role::Landmarks);
        let offsets = after.both("Mul", &numbers, &unit);
        columns.push(after.both("Add", &centres, &offsets));
    }
    let columns = columns.iter().map(String::as_str).collect::<Vec<_>>();
    after.builder.node_named(OUTPUT, "Concat", &columns, &[("axis", Value::Int(2))]);
    after.builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_factor_gives_the_size_in_either_precision(from in 1usize..9000, to in 1usize..4096) {
            let factor = factor(from, to);
            prop_assert_eq!((from as f32 * factor).floor() as usize, to);
            prop_assert_eq!((from as f64 * f64::from(factor)).floor() as usize, to);
        }
    }
}
