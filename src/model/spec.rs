//! The specification of an opened model: its input, its outputs and how to decode them.

use std::fmt;

use super::input::{ChannelOrder, Normalization, Padding};
use super::layout::{Arrangement, CANDIDATE_LEN, CANDIDATE_LEN_WITH_LANDMARKS, Family, Layout, Role, Variances};
use super::overrides::PointUnit;
use super::recognise::FamilyMatch;
use crate::geometry::{FrameSize, InputSize, Letterbox};

/// What the outputs of a model contain.
#[derive(Clone, Debug, PartialEq)]
pub enum OutputSpec {
    /// Candidate faces.
    Detection {
        /// How the outputs are decoded.
        layout: Layout,
        /// Whether the outputs have no batch dimension.
        no_batch_dim: bool,
    },
    /// The landmarks of one face.
    Landmarks(LandmarkOutput),
}

/// The output of a landmark model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LandmarkOutput {
    /// Number of points.
    pub count: usize,
    /// Values per point: x, y and further values, which are ignored.
    pub point_dims: usize,
    /// Number of values before the first point, which are ignored.
    pub skipped: usize,
    /// Unit of x and y.
    pub unit: PointUnit,
    /// Shape of the output, without the batch dimension.
    pub shape: Vec<usize>,
}

/// The specification of an opened model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Name of the family, for users.
    pub family: &'static str,
    /// The outputs by which the family was recognised, for users.
    pub signature: String,
    /// Name of the input.
    pub input_name: String,
    /// Number of channels of the input: 3, or 1 for grey.
    pub channels: usize,
    /// Width and height of a fixed input size; `None` if the size is dynamic.
    pub fixed_size: Option<(usize, usize)>,
    /// Width and height of the input must be multiples of this.
    pub size_multiple: usize,
    /// Whether the batch size is dynamic.
    pub dynamic_batch: bool,
    /// Names of the outputs that are decoded; for detectors in the order of [`Layout::heads`].
    pub output_names: Vec<String>,
    /// Normalization of the input.
    pub normalization: Normalization,
    /// What the outputs contain.
    pub output: OutputSpec,
    /// Notes for the user: ignored outputs, overridden parameters.
    pub notes: Vec<String>,
}

impl ModelSpec {
    /// The letterbox of a frame for this model, with the requested input size and a scale relative
    /// to it. A fixed input size of the model takes precedence over `requested`.
    pub fn letterbox(&self, frame: FrameSize, requested: InputSize, scale: f32) -> Letterbox {
        let size = self.fixed_size.map_or(requested, |(width, height)| InputSize::Fixed(width, height));
        Letterbox::scaled(frame, size, scale, self.size_multiple)
    }

    /// The batch size to use if `requested` is requested.
    pub fn batch(&self, requested: usize) -> usize {
        if self.dynamic_batch { requested.max(1) } else { 1 }
    }

    /// The layout of the outputs, if this is a detector.
    pub fn layout(&self) -> Option<&Layout> {
        match &self.output {
            OutputSpec::Detection { layout, .. } => Some(layout),
            OutputSpec::Landmarks(_) => None,
        }
    }

    /// The output, if this is a landmark model.
    pub fn points(&self) -> Option<&LandmarkOutput> {
        match &self.output {
            OutputSpec::Detection { .. } => None,
            OutputSpec::Landmarks(points) => Some(points),
        }
    }

    /// Name and shape of each decoded output, for a batch of `count` inputs of `width` x `height`.
    pub(crate) fn output_shapes(&self, (width, height): (usize, usize), count: usize) -> Vec<(String, Vec<usize>)> {
        let with_batch = |shape: Vec<usize>| std::iter::once(count).chain(shape).collect();
        let shapes = match &self.output {
            OutputSpec::Detection { layout, no_batch_dim } => {
                let shapes = layout.heads().into_iter().map(|head| layout.shape(head, width, height));
                shapes.map(|shape| if *no_batch_dim { shape } else { with_batch(shape) }).collect::<Vec<_>>()
            }
            OutputSpec::Landmarks(points) => vec![with_batch(points.shape.clone())],
        };
        self.output_names.iter().cloned().zip(shapes).collect()
    }

    /// Number of values of a candidate that the device graph decodes.
    pub(crate) fn candidate_len(&self) -> usize {
        if self.layout().is_some_and(|layout| layout.landmarks) { CANDIDATE_LEN_WITH_LANDMARKS } else { CANDIDATE_LEN }
    }

    /// The specification of a recognised detector. `names` are the names of all its outputs.
    pub(crate) fn for_detector(
        input: Input,
        names: &[String],
        recognised: FamilyMatch,
        no_batch_dim: bool,
        normalization: Normalization,
    ) -> Self {
        let FamilyMatch { family, layout, outputs } = recognised;
        let Family { name, signature, size_multiple, .. } = *family;
        let ignored = names.iter().enumerate().filter(|(index, _)| !outputs.contains(index));
        let notes = ignored.map(|(_, name)| format!("output `{name}` does not belong to the layout and is ignored"));
        Self {
            family: name,
            signature: format!("{} outputs: {signature}", outputs.len()),
            input_name: input.name,
            channels: input.channels,
            fixed_size: input.fixed_size,
            size_multiple,
            dynamic_batch: input.dynamic_batch && !no_batch_dim,
            notes: notes.collect(),
            output_names: outputs.into_iter().map(|index| names[index].clone()).collect(),
            normalization,
            output: OutputSpec::Detection { layout, no_batch_dim },
        }
    }
}

/// The input of a model.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) channels: usize,
    /// Width and height; `None` if the size is dynamic.
    pub(crate) fixed_size: Option<(usize, usize)>,
    pub(crate) dynamic_batch: bool,
}

impl fmt::Display for ModelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Normalization { order, mean, scale, padding } = &self.normalization;
        let batch = if self.dynamic_batch { "N" } else { "1" };
        let size = match (self.fixed_size, self.size_multiple) {
            (Some((width, height)), _) => format!("{height}, {width}"),
            (None, 1) => "height, width".to_owned(),
            (None, multiple) => format!("height, width (multiples of {multiple})"),
        };
        let pixels = match (self.channels, order) {
            (1, _) => format!("(grey - {})", mean[0]),
            (_, ChannelOrder::Rgb) => format!("(RGB - {mean:?})"),
            (_, ChannelOrder::Bgr) => format!("(BGR - {mean:?})"),
        };
        let padding = match padding {
            Padding::Mean => "the mean colour",
            Padding::Black => "black",
        };
        writeln!(f, "layout:     {}", self.family)?;
        writeln!(f, "signature:  {}", self.signature)?;
        write!(f, "input:      {} [{batch}, {}, {size}] float32, ", self.input_name, self.channels)?;
        write!(f, "{pixels} * {scale}")?;
        match &self.output {
            OutputSpec::Detection { layout, no_batch_dim } => {
                writeln!(f, ", padded with {padding}")?;
                self.write_heads(f, layout, if *no_batch_dim { "" } else { batch })?;
            }
            OutputSpec::Landmarks(points) => {
                let unit = match points.unit {
                    PointUnit::Fraction => "fractions of the input size, 0 to 1",
                    PointUnit::Signed => "relative to the centre, -1 to 1",
                    PointUnit::Pixels => "pixels of the input",
                };
                write!(f, "\npoints:     {} [{batch}, ", self.output_names[0])?;
                write!(f, "{}]: {} points, {unit}", list(&points.shape), points.count)?;
            }
        }
        for note in &self.notes {
            write!(f, "\nnote:       {note}")?;
        }
        Ok(())
    }
}

impl ModelSpec {
    /// Writes a line for each head, and the parameters of the layout.
    fn write_heads(&self, f: &mut fmt::Formatter<'_>, layout: &Layout, batch: &str) -> fmt::Result {
        for (head, name) in layout.heads().into_iter().zip(&self.output_names) {
            let channels = layout.channels(head.role);
            let level = head.level.map(|level| &layout.levels[level]);
            let shape = match (level, layout.arrangement) {
                (Some(level), Arrangement::Nchw) => format!("{}, rows, columns", level.anchors.len() * channels),
                _ => format!("A, {channels}"),
            };
            let stride = level.map(|level| format!(" of stride {}", level.stride)).unwrap_or_default();
            let comma = if batch.is_empty() { "" } else { ", " };
            let kind = match (head.role, layout.logits) {
                (Role::Score, true) => ", logits",
                (Role::Score, false) => ", probabilities",
                _ => "",
            };
            writeln!(f, "{:<11} {name} [{batch}{comma}{shape}]{stride}{kind}", format!("{}:", head.role))?;
        }
        let levels = layout.levels.iter().map(|level| {
            let sizes = level.anchors.iter().map(f32::to_string).collect::<Vec<_>>().join(" and ");
            format!("{} (anchors of {sizes} px, centred {} px into the cell)", level.stride, level.centre_offset)
        });
        writeln!(f, "strides:    {}", levels.collect::<Vec<_>>().join(", "))?;
        let Variances { centre, size, point } = layout.variances;
        write!(f, "variances:  {centre} (centres), {size} (sizes), {point} (landmarks)")
    }
}

fn list(dims: &[usize]) -> String {
    dims.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}
