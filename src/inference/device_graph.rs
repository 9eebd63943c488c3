//! The device graph: preprocessing, model and decoding in one ONNX graph for a GPU.
//!
//! The inputs of the graph are the 8-bit planes of a frame, the output contains its best
//! candidates. Both are much smaller than the float input and the outputs of the model, so that
//! less data is transferred between CPU and GPU. The graph is built for one frame size and format.
//!
//! The arithmetic equals that of the CPU (`detect::preprocess` and `detect::decode`), except that
//! OpenCV interpolates with integers: a few resized values differ by 1.

use prost::Message as _;

use crate::geometry::Letterbox;
use crate::image::{ImageInfo, PixelFormat, YuvCoding};
use crate::model::{Arrangement, Boxes, ChannelOrder, Layout, ModelSpec, Padding, Role, Scores, priors};
use crate::runtime::onnx::{AttributeValue, Dim, ElementType, GraphBuilder, Model, ValueInfo};

/// Maximum number of candidates per frame that the graph outputs, highest log-odds first: 128 KiB.
pub(super) const MAX_DEVICE_CANDIDATES: usize = 2048;
/// Minimum version of the standard operators that the added nodes use.
const MIN_OPSET: i64 = 11;

/// Name of the graph's output, of shape `[batch, candidates, values]`.
pub(crate) const OUTPUT: &str = "retinaface/candidates";

/// Name of the graph's input for plane `plane`.
pub(crate) fn plane_name(plane: usize) -> String {
    format!("retinaface/plane{plane}")
}

/// The size, format and letterbox of the frames of a device graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameSpec {
    format: PixelFormat,
    coding: YuvCoding,
    letterbox: Letterbox,
}

impl FrameSpec {
    /// Frames with the description `info` and this letterbox.
    ///
    /// # Panics
    /// If the letterbox is for another frame size, or the format is not direct.
    pub fn new(info: &ImageInfo, letterbox: Letterbox) -> Self {
        assert_eq!((info.width, info.height), letterbox.frame(), "the letterbox has the size of the frame");
        assert!(info.format.is_direct(), "{} was converted to a direct format", info.format);
        // Only YUV formats use the coding. Otherwise it must not cause a separate graph.
        let coding = if info.format.is_yuv() { info.coding } else { YuvCoding::default() };
        Self { format: info.format, coding, letterbox }
    }

    /// The mapping between the frame and the model's input.
    pub fn letterbox(&self) -> &Letterbox {
        &self.letterbox
    }

    /// Number of planes of a frame.
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

/// Number of candidates that the graph outputs for each frame.
pub(crate) fn candidates(spec: &ModelSpec, frame_spec: &FrameSpec) -> usize {
    let (width, height) = frame_spec.letterbox.input();
    MAX_DEVICE_CANDIDATES.min(spec.layout().map_or(0, |layout| priors::count(&layout.levels, width, height)))
}

/// Checks whether nodes can be added to the model `file`.
///
/// # Errors
/// The reason why not.
pub(crate) fn check_model(file: &[u8]) -> Result<(), String> {
    parse(file).map(drop)
}

fn parse(file: &[u8]) -> Result<Model, String> {
    let model = Model::parse(file)?;
    match model.opset() {
        MIN_OPSET.. => Ok(model),
        opset => Err(format!("the model uses operator set {opset}, but operator set {MIN_OPSET} or newer is required")),
    }
}

/// The model `file` with added nodes for preprocessing and decoding, as an ONNX file. `spec` is the
/// specification of the model.
///
/// # Errors
/// If the model is not a detector, or nodes cannot be added to it.
pub(crate) fn graph(file: &[u8], spec: &ModelSpec, frame_spec: &FrameSpec) -> Result<Vec<u8>, String> {
    let mut model = parse(file)?;
    let batch = if spec.dynamic_batch { Dim::Batch } else { Dim::Fixed(1) };
    let plane = |plane: usize| {
        let [rows, cols, channels] = frame_spec.plane_shape(plane).map(Dim::Fixed);
        ValueInfo::new(&plane_name(plane), ElementType::U8, &[batch, rows, cols, channels])
    };
    let inputs = (0..frame_spec.planes()).map(plane).collect();
    let layout = spec.layout().ok_or("the model is not a detector")?;
    let shape = [batch, Dim::Fixed(candidates(spec, frame_spec)), Dim::Fixed(spec.candidate_len())];
    let outputs = vec![ValueInfo::new(OUTPUT, ElementType::F32, &shape)];
    model.enclose(build_input_nodes(spec, frame_spec), build_output_nodes(spec, layout, frame_spec), inputs, outputs);
    Ok(model.encode_to_vec())
}

/// The nodes from the planes to the model's input.
fn build_input_nodes(spec: &ModelSpec, frame_spec: &FrameSpec) -> GraphBuilder {
    let mut builder = GraphBuilder::new("retinaface/preprocess/");
    let letterbox = &frame_spec.letterbox;
    let (content_cols, content_rows) = letterbox.content();
    let planes = (0..frame_spec.planes()).map(|plane| {
        let floats =
            builder.node("Cast", &[&plane_name(plane)], &[("to", AttributeValue::Int(ElementType::F32 as i64))]);
        let channels_first = builder.node("Transpose", &[&floats], &[("perm", AttributeValue::Ints(&[0, 3, 1, 2]))]);
        let [rows, cols, _] = frame_spec.plane_shape(plane);
        // As on the CPU, a subsampled plane is resized to the size that it has in the content, and
        // each of its samples then applies to several pixels.
        let size = frame_spec.format.plane_size(plane, content_cols, content_rows);
        let resized = resize(&mut builder, channels_first, (cols, rows), size);
        repeat_samples(&mut builder, resized, size, (content_cols, content_rows))
    });
    let planes = planes.collect::<Vec<_>>();
    let normalization = &spec.normalization;
    // Index into (red, green, blue) of each channel of the model's input.
    let order = match normalization.order {
        ChannelOrder::Rgb => [0, 1, 2],
        ChannelOrder::Bgr => [2, 1, 0],
    };
    let names = planes.iter().map(String::as_str).collect::<Vec<_>>();
    let channel_axis = [("axis", AttributeValue::Int(1))];
    let pixels = match frame_spec.format.rgb_offsets() {
        Some(offsets) => {
            let indices = builder.ints(&order.map(|channel| offsets[channel] as i64));
            builder.node("Gather", &[names[0], &indices], &channel_axis)
        }
        None if frame_spec.format.is_yuv() => {
            let yuv = builder.node("Concat", &names, &channel_axis);
            let coding = frame_spec.coding.rgb_from_yuv();
            let luma = coding.luma_scale;
            let matrix =
                [[luma, 0.0, coding.red_cr], [luma, coding.green_cb, coding.green_cr], [luma, coding.blue_cb, 0.0]];
            let mut rows = order.map(|channel| matrix[channel]);
            let bias = rows.map(|[luma, cb, cr]| -(luma * coding.luma_offset + (cb + cr) * 128.0));
            if frame_spec.format.is_cr_first() {
                rows.iter_mut().for_each(|row| row.swap(1, 2));
            }
            let weights = builder.floats(&[3, 3, 1, 1], rows.as_flattened());
            let bias = builder.floats(&[3], &bias);
            let rgb = builder.node("Conv", &[&yuv, &weights, &bias], &[]);
            let (min, max) = (builder.floats(&[], &[0.0]), builder.floats(&[], &[255.0]));
            builder.node("Clip", &[&rgb, &min, &max], &[])
        }
        None => builder.node("Concat", &[names[0]; 3], &channel_axis),
    };
    let (cols, rows) = letterbox.input();
    let pads = builder.ints(&[0, 0, 0, 0, 0, 0, (rows - content_rows) as i64, (cols - content_cols) as i64]);
    let mean = builder.floats(&[1, 3, 1, 1], &normalization.mean);
    let scale = builder.floats(&[], &[normalization.scale]);
    // Padding with 0 is black before the mean is subtracted, and the mean colour afterwards.
    let pixels = match normalization.padding {
        Padding::Black => builder.node("Pad", &[&pixels, &pads], &[]),
        Padding::Mean => pixels,
    };
    let centred = builder.node("Sub", &[&pixels, &mean], &[]);
    match normalization.padding {
        Padding::Black => builder.node_named(&spec.input_name, "Mul", &[&centred, &scale], &[]),
        Padding::Mean => {
            let scaled = builder.node("Mul", &[&centred, &scale], &[]);
            builder.node_named(&spec.input_name, "Pad", &[&scaled, &pads], &[]);
        }
    }
    builder
}

/// Bilinear resize of 8-bit values with half-pixel centres, as OpenCV's `INTER_LINEAR`. Sizes are
/// (columns, rows).
fn resize(builder: &mut GraphBuilder, input: String, from: (usize, usize), to: (usize, usize)) -> String {
    if from == to {
        return input;
    }
    let unused = builder.floats(&[0], &[]);
    let factors = builder.floats(&[4], &[1.0, 1.0, factor(from.1, to.1), factor(from.0, to.0)]);
    let mode = [
        ("mode", AttributeValue::Text("linear")),
        ("coordinate_transformation_mode", AttributeValue::Text("half_pixel")),
    ];
    let resized = builder.node("Resize", &[&input, &unused, &factors], &mode);
    // As on the CPU, resized planes have 8 bits. `Round` would round halves to even numbers.
    let half = builder.floats(&[], &[0.5]);
    let sum = builder.node("Add", &[&resized, &half], &[]);
    builder.node("Floor", &[&sum], &[])
}

/// Repeats samples, so that a plane of size `from` gets the size `to`. Sizes are (columns, rows).
fn repeat_samples(builder: &mut GraphBuilder, input: String, from: (usize, usize), to: (usize, usize)) -> String {
    if from == to {
        return input;
    }
    let repeats = (to.0.div_ceil(from.0), to.1.div_ceil(from.1));
    let unused = builder.floats(&[0], &[]);
    let factors = builder.floats(&[4], &[1.0, 1.0, repeats.1 as f32, repeats.0 as f32]);
    let mode = [
        ("mode", AttributeValue::Text("nearest")),
        ("coordinate_transformation_mode", AttributeValue::Text("asymmetric")),
        ("nearest_mode", AttributeValue::Text("floor")),
    ];
    let repeated = builder.node("Resize", &[&input, &unused, &factors], &mode);
    if (from.0 * repeats.0, from.1 * repeats.1) == to {
        return repeated;
    }
    let starts = builder.ints(&[0, 0]);
    let ends = builder.ints(&[to.1 as i64, to.0 as i64]);
    let axes = builder.ints(&[2, 3]);
    builder.node("Slice", &[&repeated, &starts, &ends, &axes], &[])
}

/// The factor by which `Resize` scales a side of `from` to exactly `to`. The operator multiplies
/// and rounds down. It would also accept the target size, but only together with a fixed batch
/// size.
fn factor(from: usize, to: usize) -> f32 {
    let mut factor = to as f32 / from as f32;
    // ONNX Runtime infers the shape in one precision and computes it in the other.
    while (from as f32 * factor).floor() < to as f32 || (from as f64 * f64::from(factor)).floor() < to as f64 {
        factor = factor.next_up();
    }
    factor
}

/// The nodes after the model. Their tensors have the shape `[batch, anchors, values]`.
struct OutputNodes {
    builder: GraphBuilder,
    /// Number of anchors of all levels.
    anchors: i64,
}

impl OutputNodes {
    /// Elements `from..to` of an axis.
    fn slice(&mut self, tensor: &str, axis: i64, from: i64, to: i64) -> String {
        let [from, to, axis] = [from, to, axis].map(|value| self.builder.ints(&[value]));
        self.builder.node("Slice", &[tensor, &from, &to, &axis], &[])
    }

    fn reshape(&mut self, tensor: &str, shape: &[i64]) -> String {
        let shape = self.builder.ints(shape);
        self.builder.node("Reshape", &[tensor, &shape], &[])
    }

    /// `tensor * factor`.
    fn scale(&mut self, tensor: &str, factor: f32) -> String {
        if factor == 1.0 {
            return tensor.to_owned();
        }
        let factor = self.builder.floats(&[], &[factor]);
        self.builder.node("Mul", &[tensor, &factor], &[])
    }

    /// A binary element-wise operator.
    fn binary(&mut self, op_type: &str, first: &str, second: &str) -> String {
        self.builder.node(op_type, &[first, second], &[])
    }

    /// An operator with the attribute `axis`.
    fn with_axis(&mut self, op_type: &str, tensors: &[&str], axis: i64) -> String {
        match tensors {
            [only] if op_type == "Concat" => (*only).to_owned(),
            _ => self.builder.node(op_type, tensors, &[("axis", AttributeValue::Int(axis))]),
        }
    }

    /// The model's outputs of a role, concatenated to `[batch, anchors of all levels, values]`.
    /// `set` is 1 for the second factor of [`Scores::Product`], otherwise 0.
    fn concat_levels(
        &mut self,
        spec: &ModelSpec,
        layout: &Layout,
        frame_spec: &FrameSpec,
        role: Role,
        set: usize,
    ) -> String {
        let (width, height) = frame_spec.letterbox.input();
        let heads = layout.heads();
        let of_role = heads.iter().zip(&spec.output_names).filter(|(head, _)| head.role == role);
        let per_set = if layout.arrangement == Arrangement::Concatenated { 1 } else { layout.levels.len() };
        let channels = layout.channels(role) as i64;
        let parts = of_role.skip(set * per_set).take(per_set).map(|(head, output)| {
            let Some(level) = head.level.map(|level| &layout.levels[level]) else { return output.clone() };
            let count = level.count(width, height) as i64;
            if layout.arrangement != Arrangement::Nchw {
                // 0 copies the batch size of the output. Outputs without a batch dimension get one.
                let batch = if spec.dynamic_batch { 0 } else { 1 };
                return self.reshape(output, &[batch, count, channels]);
            }
            let (cols, rows) = level.cells(width, height);
            let anchors = level.anchors.len() as i64;
            // The background planes of all anchors precede the face planes. In other heads the
            // planes of an anchor are adjacent.
            let (outer, inner, order) = if role == Role::Score && layout.scores == Scores::Pairs {
                (channels, anchors, [0, 3, 2, 1])
            } else {
                (anchors, channels, [0, 3, 1, 2])
            };
            let split = self.reshape(output, &[0, outer, inner, (rows * cols) as i64]);
            let transposed = self.builder.node("Transpose", &[&split], &[("perm", AttributeValue::Ints(&order))]);
            self.reshape(&transposed, &[0, count, channels])
        });
        let parts = parts.collect::<Vec<_>>();
        self.with_axis("Concat", &parts.iter().map(String::as_str).collect::<Vec<_>>(), 1)
    }

    /// The log-odds of the score of each anchor, and the score if the model outputs probabilities, as
    /// `[batch, anchors]`; of [`Scores::Product`] both are those of the square of the score. See
    /// [`RankedFace`](crate::detect::RankedFace).
    fn log_odds(&mut self, spec: &ModelSpec, layout: &Layout, frame_spec: &FrameSpec) -> (String, Option<String>) {
        let first = self.concat_levels(spec, layout, frame_spec, Role::Score, 0);
        let (log_odds, probability) = match (layout.scores, layout.logits) {
            (Scores::Pairs, logits) => {
                let (background, face) = (self.slice(&first, 2, 0, 1), self.slice(&first, 2, 1, 2));
                // The softmax of two values is the sigmoid of their difference.
                match logits {
                    true => (self.binary("Sub", &face, &background), None),
                    false => (self.log_ratio(&face, &background), Some(face)),
                }
            }
            (Scores::Single, true) => (first, None),
            (Scores::Single, false) => {
                let complement = self.complement(&first);
                (self.log_ratio(&first, &complement), Some(first))
            }
            (Scores::Product, logits) => {
                let second = self.concat_levels(spec, layout, frame_spec, Role::Score, 1);
                let parts = [first, second].map(|tensor| {
                    if logits {
                        let negative = self.builder.node("Neg", &[&tensor], &[]);
                        [tensor, negative].map(|tensor| self.builder.node("Sigmoid", &[&tensor], &[]))
                    } else {
                        let (min, max) = (self.builder.floats(&[], &[0.0]), self.builder.floats(&[], &[1.0]));
                        let clipped = self.builder.node("Clip", &[&tensor, &min, &max], &[]);
                        let complement = self.complement(&clipped);
                        [clipped, complement]
                    }
                });
                let [[first, not_first], [second, not_second]] = parts;
                let product = self.binary("Mul", &first, &second);
                let sum = self.binary("Add", &not_first, &not_second);
                let neither = self.binary("Mul", &not_first, &not_second);
                let complement = self.binary("Sub", &sum, &neither);
                (self.log_ratio(&product, &complement), Some(product))
            }
        };
        let anchors = [0, self.anchors];
        (self.reshape(&log_odds, &anchors), probability.map(|probability| self.reshape(&probability, &anchors)))
    }

    /// `1 - tensor`.
    fn complement(&mut self, tensor: &str) -> String {
        let one = self.builder.floats(&[], &[1.0]);
        self.binary("Sub", &one, tensor)
    }

    /// The logarithm of the ratio of two tensors of probabilities.
    fn log_ratio(&mut self, first: &str, second: &str) -> String {
        let [first, second] = [first, second].map(|tensor| {
            let min = self.builder.floats(&[], &[f32::MIN_POSITIVE]);
            let positive = self.binary("Max", tensor, &min);
            self.builder.node("Log", &[&positive], &[])
        });
        self.binary("Sub", &first, &second)
    }

    /// Top left corner and size of the boxes with the encoded `values`, `[batch, anchors, 2]` each.
    /// `centre` and `size` are those of the priors.
    fn boxes(&mut self, layout: &Layout, values: &str, centre: &str, size: &str) -> [String; 2] {
        let unit = self.scale(size, layout.variances.centre);
        let (first, second) = (self.slice(values, 2, 0, 2), self.slice(values, 2, 2, 4));
        let zero = self.builder.floats(&[], &[0.0]);
        match layout.boxes {
            Boxes::Distances => {
                let left_top = self.binary("Mul", &first, &unit);
                let corner = self.binary("Sub", centre, &left_top);
                let sum = self.binary("Add", &first, &second);
                let extent = self.binary("Mul", &sum, &unit);
                [corner, self.binary("Max", &extent, &zero)]
            }
            Boxes::CentreSize | Boxes::CentreSizeInclusive => {
                let offset = self.binary("Mul", &first, &unit);
                let box_centre = self.binary("Add", centre, &offset);
                let extent = self.scale(&second, layout.variances.size);
                let extent = self.builder.node("Exp", &[&extent], &[]);
                let mut extent = self.binary("Mul", &extent, size);
                let mut clamped = extent.clone();
                if layout.boxes == Boxes::CentreSizeInclusive {
                    let one = self.builder.floats(&[], &[1.0]);
                    extent = self.binary("Sub", &extent, &one);
                    clamped = self.binary("Max", &extent, &zero);
                }
                let half = self.scale(&extent, 0.5);
                [self.binary("Sub", &box_centre, &half), clamped]
            }
        }
    }
}

/// The nodes from the model's outputs to the best candidates.
fn build_output_nodes(spec: &ModelSpec, layout: &Layout, frame_spec: &FrameSpec) -> GraphBuilder {
    let (width, height) = frame_spec.letterbox.input();
    let priors = layout.priors(width, height);
    let candidates = candidates(spec, frame_spec) as i64;
    let mut nodes = OutputNodes { builder: GraphBuilder::new("retinaface/decode/"), anchors: priors.len() as i64 };

    let (log_odds, probabilities) = nodes.log_odds(spec, layout, frame_spec);
    let count = nodes.builder.ints(&[candidates]);
    // Of equal values, TopK takes the one with the lower index first, as the CPU does.
    let [log_odds, indices] =
        nodes.builder.node_with("TopK", &[&log_odds, &count], &[("axis", AttributeValue::Int(1))]);
    let mut scores = match probabilities {
        Some(all) => nodes.with_axis("GatherElements", &[&all, &indices], 1),
        None => nodes.builder.node("Sigmoid", &[&log_odds], &[]),
    };
    if layout.scores == Scores::Product {
        scores = nodes.builder.node("Sqrt", &[&scores], &[]);
    }
    let [scores, log_odds] = [scores, log_odds].map(|tensor| nodes.reshape(&tensor, &[0, candidates, 1]));
    let column = nodes.reshape(&indices, &[0, candidates, 1]);
    let select = |nodes: &mut OutputNodes, role: Role| {
        let all = nodes.concat_levels(spec, layout, frame_spec, role, 0);
        let repeats = nodes.builder.ints(&[1, 1, layout.channels(role) as i64]);
        let indices = nodes.builder.node("Tile", &[&column, &repeats], &[]);
        nodes.with_axis("GatherElements", &[&all, &indices], 1)
    };
    let values = priors.iter().flat_map(|prior| [prior.cx, prior.cy, prior.size]).collect::<Vec<_>>();
    let priors = nodes.builder.floats(&[priors.len(), 3], &values);
    let priors = nodes.with_axis("Gather", &[&priors, &indices], 0);
    let (centre, size) = (nodes.slice(&priors, 2, 0, 2), nodes.slice(&priors, 2, 2, 3));
    let values = select(&mut nodes, Role::Box);
    let [corner, extent] = nodes.boxes(layout, &values, &centre, &size);
    let mut columns = vec![scores, log_odds, corner, extent];
    if layout.landmarks {
        let xy_of_five_points = nodes.builder.ints(&[0, 1, 0, 1, 0, 1, 0, 1, 0, 1]);
        let centres = nodes.with_axis("Gather", &[&centre, &xy_of_five_points], 2);
        let unit = nodes.scale(&size, layout.variances.point);
        let values = select(&mut nodes, Role::Landmarks);
        let offsets = nodes.binary("Mul", &values, &unit);
        columns.push(nodes.binary("Add", &centres, &offsets));
    }
    let columns = columns.iter().map(String::as_str).collect::<Vec<_>>();
    nodes.builder.node_named(OUTPUT, "Concat", &columns, &[("axis", AttributeValue::Int(2))]);
    nodes.builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn factor_gives_exact_size_in_both_precisions(from in 1usize..9000, to in 1usize..4096) {
            let factor = factor(from, to);
            prop_assert_eq!((from as f32 * factor).floor() as usize, to);
            prop_assert_eq!((from as f64 * f64::from(factor)).floor() as usize, to);
        }
    }
}
