//! One graph for a GPU: the camera's planes in, the best candidates out.
//!
//! A frame's 8-bit planes are a third to a sixth of the bytes of the float input that is made of them, and the best
//! candidates are a fraction of what the heads give. So resize, colour, mean and layout go in front of the model, decoding
//! and the choice of the best behind it, in one ONNX graph that is put together when a stream's shape is known.
//!
//! The arithmetic is that of [`crate::preprocess`] and [`crate::decode`], with two differences: nothing is rounded to 8
//! bits in between, and the colour planes of 4:2:0 formats are resized to the whole input instead of half of it.

use prost::Message as _;

use crate::decode::{CENTRE_VARIANCE, SIZE_VARIANCE};
use crate::image::{ImageInfo, PixelFormat};
use crate::letterbox::Letterbox;
use crate::model::Contract;
use crate::onnx::{Builder, Element, Model, Side, Value, ValueInfo};
use crate::preprocess::ChannelOrder;
use crate::priors;
use crate::yuv::YuvCoding;

/// At most so many candidates come back from the device, the best ones: 120 KiB a frame.
pub const TOP_K: usize = 2048;
/// Numbers of a candidate: score, box (x, y, w, h), five points (x, y), in input pixels.
pub const CANDIDATE: usize = 15;
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

    /// How many candidates come back.
    pub(crate) fn candidates(&self) -> usize {
        let (width, height) = self.letterbox.input();
        TOP_K.min(priors::count(width, height))
    }
}

/// The graph around `file`, a model of `contract`, for such frames.
///
/// # Errors
/// If the file is not one that nodes can be put around.
pub(crate) fn graph(file: &[u8], contract: &Contract, frames: &Frames) -> Result<Vec<u8>, String> {
    let mut model = Model::parse(file)?;
    if model.opset() < OPSET {
        return Err(format!("the model uses operators of version {}, {OPSET} or newer is needed", model.opset()));
    }
    let batch = if contract.dynamic_batch { Side::Batch } else { Side::Fixed(1) };
    let plane = |plane: usize| {
        let [rows, cols, channels] = frames.plane_shape(plane).map(Side::Fixed);
        ValueInfo::new(&plane_name(plane), Element::U8, &[batch, rows, cols, channels])
    };
    let inputs = (0..frames.planes()).map(plane).collect();
    let sides = [batch, Side::Fixed(frames.candidates()), Side::Fixed(CANDIDATE)];
    let outputs = vec![ValueInfo::new(OUTPUT, Element::F32, &sides)];
    model.enclose(before(contract, frames), after(contract, frames), inputs, outputs);
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
    let mean = builder.floats(&[1, 3, 1, 1], &normalization.mean);
    let centred = builder.node("Sub", &[&pixels, &mean], &[]);
    let scale = builder.floats(&[], &[normalization.scale]);
    let scaled = builder.node("Mul", &[&centred, &scale], &[]);
    let (cols, rows) = letterbox.input();
    let pads = builder.ints(&[0, 0, 0, 0, 0, 0, (rows - content_rows) as i64, (cols - content_cols) as i64]);
    builder.node_named(&contract.input, "Pad", &[&scaled, &pads], &[]);
    builder
}

/// Bilinear, pixel centres at halves, as OpenCV's `INTER_LINEAR`; sizes are (columns, rows).
fn resize(builder: &mut Builder, input: String, from: (usize, usize), to: (usize, usize)) -> String {
    if from == to {
        return input;
    }
    // The number of pictures is open, so that the target cannot be given as a size: the operator rounds down what comes
    // of the factor.
    let factor = |from: usize, to: usize| {
        let mut factor = to as f32 / from as f32;
        while (from as f32 * factor).floor() < to as f32 {
            factor = factor.next_up();
        }
        factor
    };
    let unused = builder.floats(&[0], &[]);
    let factors = builder.floats(&[4], &[1.0, 1.0, factor(from.1, to.1), factor(from.0, to.0)]);
    let mode = [("mode", Value::Text("linear")), ("coordinate_transformation_mode", Value::Text("half_pixel"))];
    builder.node("Resize", &[&input, &unused, &factors], &mode)
}

/// From the heads to the best candidates.
fn after(contract: &Contract, frames: &Frames) -> Builder {
    let mut builder = Builder::new("retinaface/after/");
    let [loc, conf, landmarks] = &contract.outputs;
    let (width, height) = frames.letterbox.input();
    let priors = priors::generate(width, height);
    let (all, best) = (priors.len() as i64, frames.candidates() as i64);

    let slice = |builder: &mut Builder, tensor: &str, from: i64, to: i64| {
        let (from, to, axis) = (builder.ints(&[from]), builder.ints(&[to]), builder.ints(&[2]));
        builder.node("Slice", &[tensor, &from, &to, &axis], &[])
    };
    let reshape = |builder: &mut Builder, tensor: &str, shape: &[i64]| {
        let shape = builder.ints(shape);
        builder.node("Reshape", &[tensor, &shape], &[])
    };
    let faces = slice(&mut builder, conf, 1, 2);
    let faces = reshape(&mut builder, &faces, &[0, all]);
    let count = builder.ints(&[best]);
    let [scores, places] = builder.node_with("TopK", &[&faces, &count], &[("axis", Value::Int(1))]);
    let scores = reshape(&mut builder, &scores, &[0, best, 1]);
    let column = reshape(&mut builder, &places, &[0, best, 1]);
    let chosen = |builder: &mut Builder, tensor: &str, columns: i64| {
        let times = builder.ints(&[1, 1, columns]);
        let places = builder.node("Tile", &[&column, &times], &[]);
        builder.node("GatherElements", &[tensor, &places], &[("axis", Value::Int(1))])
    };
    let loc = chosen(&mut builder, loc, 4);
    let landmarks = chosen(&mut builder, landmarks, 10);
    let flat = priors.iter().flat_map(|prior| [prior.cx, prior.cy, prior.size]).collect::<Vec<_>>();
    let priors = builder.floats(&[priors.len(), 3], &flat);
    let priors = builder.node("Gather", &[&priors, &places], &[("axis", Value::Int(0))]);
    let (centre, size) = (slice(&mut builder, &priors, 0, 2), slice(&mut builder, &priors, 2, 3));
    let (centre_variance, size_variance) =
        (builder.floats(&[], &[CENTRE_VARIANCE]), builder.floats(&[], &[SIZE_VARIANCE]));
    let unit = builder.node("Mul", &[&size, &centre_variance], &[]);

    let (offset, extent) = (slice(&mut builder, &loc, 0, 2), slice(&mut builder, &loc, 2, 4));
    let offset = builder.node("Mul", &[&offset, &unit], &[]);
    let middle = builder.node("Add", &[&centre, &offset], &[]);
    let extent = builder.node("Mul", &[&extent, &size_variance], &[]);
    let extent = builder.node("Exp", &[&extent], &[]);
    let extent = builder.node("Mul", &[&extent, &size], &[]);
    let half = builder.floats(&[], &[0.5]);
    let half = builder.node("Mul", &[&extent, &half], &[]);
    let corner = builder.node("Sub", &[&middle, &half], &[]);

    let alternating = builder.ints(&[0, 1, 0, 1, 0, 1, 0, 1, 0, 1]);
    let centres = builder.node("Gather", &[&centre, &alternating], &[("axis", Value::Int(2))]);
    let landmarks = builder.node("Mul", &[&landmarks, &unit], &[]);
    let points = builder.node("Add", &[&centres, &landmarks], &[]);
    builder.node_named(OUTPUT, "Concat", &[&scores, &corner, &extent, &points], &[("axis", Value::Int(2))]);
    builder
}
