//! The conversion from pixels to the input values of a model.

/// Channel order of a model's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelOrder {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
}

/// The padding of a frame whose aspect ratio differs from that of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// The mean colour, which is 0.0 in the input.
    Mean,
    /// Black.
    Black,
}

/// Normalization of the input: `(pixel - mean) * scale`, with pixels in 0..=255.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalization {
    /// Channel order of the input.
    pub order: ChannelOrder,
    /// Mean of each channel, in the order of the input.
    pub mean: [f32; 3],
    /// Factor of all channels.
    pub scale: f32,
    /// The padding around the frame.
    pub padding: Padding,
}
