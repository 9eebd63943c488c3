//! What is known of a model once it is open.

use std::fmt;

use crate::decode::{CANDIDATE, CANDIDATE_WITH_POINTS};
use crate::families::{Family, Recognised};
use crate::layout::Layout;
use crate::letterbox::{InputSize, Letterbox};
use crate::overrides::PointUnit;
use crate::preprocess::{ChannelOrder, Normalization, Padding};

/// What a model's outputs mean.
#[derive(Clone, Debug, PartialEq)]
pub enum Meaning {
    /// Faces.
    Faces {
        /// How they are decoded.
        layout: Layout,
        /// Whether the outputs lack the batch's side.
        batchless: bool,
    },
    /// Points of one face.
    Points(Points),
}

/// What a landmark model's output means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Points {
    /// How many.
    pub count: usize,
    /// Numbers a point has: x, y, and more that are not read.
    pub numbers: usize,
    /// Numbers in the output before the first point: some models put others first.
    pub skipped: usize,
    /// What x and y are.
    pub unit: PointUnit,
    /// Sides of the output, without the batch.
    pub sides: Vec<usize>,
}

/// What is known of a model once it is open.
#[derive(Clone, Debug, PartialEq)]
pub struct Contract {
    /// The family's name, for people.
    pub family: &'static str,
    /// What it was recognised by, for people.
    pub sign: String,
    /// Name of the input.
    pub input: String,
    /// Channels of the input: 3, or 1 for grey.
    pub channels: usize,
    /// Width and height, for a model that takes one size only.
    pub fixed_size: Option<(usize, usize)>,
    /// What both sides of an input must be a multiple of.
    pub multiple: usize,
    /// Whether several pictures can go through at once.
    pub dynamic_batch: bool,
    /// Names of the outputs that are read, for faces in the order of [`Layout::heads`].
    pub outputs: Vec<String>,
    /// What is done to the pixels.
    pub normalization: Normalization,
    /// What the outputs mean.
    pub meaning: Meaning,
    /// What a user should know: outputs that are not read, what was said in place of the family's own.
    pub notes: Vec<String>,
}

impl Contract {
    /// Where a frame of `width` x `height` lies in the input, where `wanted` was asked for, `scale` times as large.
    pub fn letterbox(&self, width: usize, height: usize, wanted: InputSize, scale: f32) -> Letterbox {
        let wanted = self.fixed_size.map_or(wanted, |(width, height)| InputSize::Fixed(width, height));
        Letterbox::scaled(width, height, wanted, scale, self.multiple)
    }

    /// How many pictures may go through at once where `wanted` were asked for.
    pub fn batch(&self, wanted: usize) -> usize {
        if self.dynamic_batch { wanted.max(1) } else { 1 }
    }

    /// How faces are decoded, if it finds any.
    pub fn layout(&self) -> Option<&Layout> {
        match &self.meaning {
            Meaning::Faces { layout, .. } => Some(layout),
            Meaning::Points(_) => None,
        }
    }

    /// What its points are, if it is a landmark model.
    pub fn points(&self) -> Option<&Points> {
        match &self.meaning {
            Meaning::Faces { .. } => None,
            Meaning::Points(points) => Some(points),
        }
    }

    /// Name and sides of each output that is read, for `count` inputs of `width` x `height`.
    pub(crate) fn output_sides(&self, (width, height): (usize, usize), count: usize) -> Vec<(String, Vec<usize>)> {
        let with_batch = |sides: Vec<usize>| std::iter::once(count).chain(sides).collect();
        let sides = match &self.meaning {
            Meaning::Faces { layout, batchless } => {
                let sides = layout.heads().into_iter().map(|head| layout.sides(head, width, height));
                sides.map(|sides| if *batchless { sides } else { with_batch(sides) }).collect::<Vec<_>>()
            }
            Meaning::Points(points) => vec![with_batch(points.sides.clone())],
        };
        self.outputs.iter().cloned().zip(sides).collect()
    }

    /// Numbers of each candidate that is decoded on a device.
    pub(crate) fn candidate(&self) -> usize {
        if self.layout().is_some_and(|layout| layout.landmarks) { CANDIDATE_WITH_POINTS } else { CANDIDATE }
    }

    /// As the family says, with what was said in its place.
    pub(crate) fn of_faces(
        input: Input,
        names: &[String],
        recognised: Recognised,
        batchless: bool,
        normalization: Normalization,
    ) -> Self {
        let Recognised { family, layout, outputs } = recognised;
        let Family { name, sign, multiple, .. } = *family;
        let unread = names.iter().enumerate().filter(|(index, _)| !outputs.contains(index));
        let notes = unread.map(|(_, name)| format!("output `{name}` is no part of the layout and is not read"));
        Self {
            family: name,
            sign: format!("{} outputs: {sign}", outputs.len()),
            input: input.name,
            channels: input.channels,
            fixed_size: input.fixed_size,
            multiple,
            dynamic_batch: input.dynamic_batch && !batchless,
            notes: notes.collect(),
            outputs: outputs.into_iter().map(|index| names[index].clone()).collect(),
            normalization,
            meaning: Meaning::Faces { layout, batchless },
        }
    }
}

/// A model's one input.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) channels: usize,
    pub(crate) fixed_size: Option<(usize, usize)>,
    pub(crate) dynamic_batch: bool,
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Normalization { order, mean, scale, padding } = &self.normalization;
        let batch = if self.dynamic_batch { "N" } else { "1" };
        let size = match (self.fixed_size, self.multiple) {
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
        writeln!(f, "because:    {}", self.sign)?;
        write!(f, "input:      {} [{batch}, {}, {size}] float32, {pixels} * {scale}", self.input, self.channels)?;
        match &self.meaning {
            Meaning::Faces { layout, batchless } => {
                writeln!(f, ", padded with {padding}")?;
                self.write_heads(f, layout, if *batchless { "" } else { batch })?;
            }
            Meaning::Points(points) => {
                let unit = match points.unit {
                    PointUnit::Fraction => "parts of the crop, 0 to 1",
                    PointUnit::Signed => "from its middle, -1 to 1",
                    PointUnit::Pixels => "pixels of the input",
                };
                write!(f, "\npoints:     {} [{batch}, ", self.outputs[0])?;
                write!(f, "{}]: {} points, {unit}", list(&points.sides), points.count)?;
            }
        }
        for note in &self.notes {
            write!(f, "\nnote:       {note}")?;
        }
        Ok(())
    }
}

impl Contract {
    fn write_heads(&self, f: &mut fmt::Formatter<'_>, layout: &Layout, batch: &str) -> fmt::Result {
        for (head, name) in layout.heads().into_iter().zip(&self.outputs) {
            let numbers = layout.numbers(head.role);
            let (of, sides) = match head.level.map(|level| &layout.levels[level]) {
                None => (String::new(), format!("A, {numbers}")),
                Some(level) => {
                    let of = format!(" of stride {}", level.stride);
                    match layout.arrangement {
                        crate::layout::Arrangement::Planes => {
                            (of, format!("{}, rows, columns", level.anchors.len() * numbers))
                        }
                        _ => (of, format!("A, {numbers}")),
                    }
                }
            };
            let comma = if batch.is_empty() { "" } else { ", " };
            let kind = match (head.role, layout.logits) {
                (crate::layout::Role::Score, true) => ", logits",
                (crate::layout::Role::Score, false) => ", probabilities",
                _ => "",
            };
            writeln!(f, "{:<11} {name} [{batch}{comma}{sides}]{of}{kind}", format!("{}:", head.role))?;
        }
        let levels = layout.levels.iter().map(|level| {
            let sides = level.anchors.iter().map(f32::to_string).collect::<Vec<_>>().join(" and ");
            format!("{} (anchors of {sides} px, {} px into their cell)", level.stride, level.centre)
        });
        writeln!(f, "strides:    {}", levels.collect::<Vec<_>>().join(", "))?;
        let crate::layout::Variances { centre, size, point } = layout.variances;
        write!(f, "variances:  {centre} (centres), {size} (sizes), {point} (landmarks)")
    }
}

fn list(sides: &[usize]) -> String {
    sides.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}
