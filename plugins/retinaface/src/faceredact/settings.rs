//! The properties of `faceredact`: their defaults, and their values as the library needs them.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use gst::glib;
use gst::prelude::*;
use retinaface::geometry::Point;
use retinaface::image::{
    MAX_MOSAIC_BLOCKS, MIN_BLUR_SIGMA, RedactionMethod, RedactionShape, RedactionStyle, Rgb, parse_polygons,
};
use retinaface::track::{CoverageSettings, DEFAULT_HOLD, DEFAULT_MARGIN, DEFAULT_MAX_FACE_AGE};

use crate::common::model_properties::ParsedProperty;

const DEFAULT_COLOR: u32 = 0;
const DEFAULT_LOOKAHEAD: u32 = 0;
const DEFAULT_STRIP_METADATA: bool = false;
/// Maximum margin, relative to the box.
const MAX_MARGIN: f32 = 4.0;
/// Maximum standard deviation of a blur, relative to the longer side of an area.
const MAX_BLUR_SIGMA: f32 = 4.0;
/// Maximum number of delayed frames.
const MAX_LOOKAHEAD: u32 = 250;

/// How faces are covered, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstFaceRedactMethod")]
#[repr(i32)]
pub(super) enum Method {
    #[default]
    #[enum_value(name = "Solid: a colour; the only method that removes all details of a face", nick = "solid")]
    Solid,
    #[enum_value(
        name = "Pixelate: a mosaic of at most 8 blocks per side; people may still be recognised",
        nick = "pixelate"
    )]
    Pixelate,
    #[enum_value(
        name = "Blur: a Gaussian blur, sigma at least half the longer side of the area; people may still be recognised",
        nick = "blur"
    )]
    Blur,
}

/// The shape of a covered area, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstFaceRedactShape")]
#[repr(i32)]
pub(super) enum Shape {
    #[default]
    #[enum_value(name = "Ellipse: the ellipse in the grown box", nick = "ellipse")]
    Ellipse,
    #[enum_value(name = "Box: the grown box", nick = "box")]
    Box,
}

/// What happens to a frame in doubt, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstFaceRedactOnDoubt")]
#[repr(i32)]
pub(super) enum OnDoubt {
    #[default]
    #[enum_value(name = "Cover: the whole frame is covered", nick = "cover")]
    Cover,
    #[enum_value(name = "Drop: the frame is dropped", nick = "drop")]
    Drop,
    #[enum_value(name = "Error: the stream ends with an error", nick = "error")]
    Error,
}

/// The values that the user set.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    method: Method,
    shape: Shape,
    color: u32,
    blocks: u32,
    blur_sigma: f32,
    margin: f32,
    hold: u32,
    max_face_age: u32,
    exempt_tracks: ParsedProperty<BTreeSet<u64>>,
    masks: ParsedProperty<Vec<Vec<Point>>>,
    pub(super) on_doubt: OnDoubt,
    pub(super) lookahead: u32,
    pub(super) strip_metadata: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            method: Method::default(),
            shape: Shape::default(),
            color: DEFAULT_COLOR,
            blocks: MAX_MOSAIC_BLOCKS,
            blur_sigma: MIN_BLUR_SIGMA,
            margin: DEFAULT_MARGIN,
            hold: milliseconds(DEFAULT_HOLD),
            max_face_age: milliseconds(DEFAULT_MAX_FACE_AGE),
            exempt_tracks: ParsedProperty::new("", BTreeSet::new()),
            masks: ParsedProperty::new("", Vec::new()),
            on_doubt: OnDoubt::default(),
            lookahead: DEFAULT_LOOKAHEAD,
            strip_metadata: DEFAULT_STRIP_METADATA,
        }
    }
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// Parses ids that are separated by commas.
fn parse_ids(text: &str) -> Result<BTreeSet<u64>, String> {
    let id = |text: &str| text.trim().parse().map_err(|_| format!("`{}` is not a track id", text.trim()));
    text.split(',').filter(|part| !part.trim().is_empty()).map(id).collect()
}

impl Settings {
    /// How areas are covered.
    pub(super) fn style(&self) -> RedactionStyle {
        let method = match self.method {
            Method::Solid => RedactionMethod::Solid,
            Method::Pixelate => RedactionMethod::Pixelate { blocks: self.blocks },
            Method::Blur => RedactionMethod::Blur { sigma: self.blur_sigma },
        };
        RedactionStyle { method, color: self.color() }
    }

    pub(super) fn color(&self) -> Rgb {
        let [_, r, g, b] = self.color.to_be_bytes();
        [r, g, b]
    }

    pub(super) fn shape(&self) -> RedactionShape {
        match self.shape {
            Shape::Ellipse => RedactionShape::Ellipse,
            Shape::Box => RedactionShape::Box,
        }
    }

    pub(super) fn masks(&self) -> Vec<Vec<Point>> {
        self.masks.value()
    }

    /// Which areas are covered. Ids that cannot be parsed exempt nobody.
    pub(super) fn coverage(&self) -> CoverageSettings {
        let is_valid = self.exempt_tracks.problem("exempt-tracks").is_none();
        CoverageSettings {
            margin: self.margin,
            hold: Duration::from_millis(self.hold.into()),
            max_age: Duration::from_millis(self.max_face_age.into()),
            exempt: if is_valid { self.exempt_tracks.value() } else { BTreeSet::new() },
        }
    }

    /// The first problem of the properties that are parsed.
    pub(super) fn problem(&self) -> Option<String> {
        ["exempt-tracks", "masks"].into_iter().find_map(|name| self.problem_with(name))
    }

    /// The problem of the last value of a property.
    pub(super) fn problem_with(&self, name: &str) -> Option<String> {
        match name {
            "exempt-tracks" => self.exempt_tracks.problem(name),
            "masks" => self.masks.problem(name),
            _ => None,
        }
    }

    pub(super) fn set(&mut self, name: &str, value: &glib::Value) {
        const CHECKED: &str = "GObject checks the type of a property";
        match name {
            "method" => self.method = value.get().expect(CHECKED),
            "shape" => self.shape = value.get().expect(CHECKED),
            "color" => self.color = value.get().expect(CHECKED),
            "blocks" => self.blocks = value.get().expect(CHECKED),
            "blur-sigma" => self.blur_sigma = value.get().expect(CHECKED),
            "margin" => self.margin = value.get().expect(CHECKED),
            "hold" => self.hold = value.get().expect(CHECKED),
            "max-face-age" => self.max_face_age = value.get().expect(CHECKED),
            "exempt-tracks" => self.exempt_tracks.set(value, parse_ids),
            "masks" => self.masks.set(value, parse_polygons),
            "on-doubt" => self.on_doubt = value.get().expect(CHECKED),
            "lookahead" => self.lookahead = value.get().expect(CHECKED),
            "strip-metadata" => self.strip_metadata = value.get().expect(CHECKED),
            _ => unreachable!("GObject sets writable properties only"),
        }
    }

    pub(super) fn get(&self, name: &str) -> glib::Value {
        match name {
            "method" => self.method.to_value(),
            "shape" => self.shape.to_value(),
            "color" => self.color.to_value(),
            "blocks" => self.blocks.to_value(),
            "blur-sigma" => self.blur_sigma.to_value(),
            "margin" => self.margin.to_value(),
            "hold" => self.hold.to_value(),
            "max-face-age" => self.max_face_age.to_value(),
            "exempt-tracks" => self.exempt_tracks.to_value(),
            "masks" => self.masks.to_value(),
            "on-doubt" => self.on_doubt.to_value(),
            "lookahead" => self.lookahead.to_value(),
            "strip-metadata" => self.strip_metadata.to_value(),
            _ => unreachable!("GObject reads listed properties only"),
        }
    }
}

pub(super) fn properties() -> &'static [glib::ParamSpec] {
    static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
        let default = Settings::default();
        vec![
            glib::ParamSpecEnum::builder_with_default("method", default.method)
                .nick("Method")
                .blurb("How faces are covered")
                .mutable_playing()
                .build(),
            glib::ParamSpecEnum::builder_with_default("shape", default.shape)
                .nick("Shape")
                .blurb("Shape of the covered area")
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt::builder("color")
                .nick("Colour")
                .blurb("Colour of method solid, of masks, of whole frames, and of areas that the other methods cannot cover, 0xRRGGBB; default: black")
                .maximum(0x00FF_FFFF)
                .default_value(default.color)
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt::builder("blocks")
                .nick("Blocks")
                .blurb("Number of blocks along the longer side of an area with method pixelate")
                .minimum(1)
                .maximum(MAX_MOSAIC_BLOCKS)
                .default_value(default.blocks)
                .mutable_playing()
                .build(),
            glib::ParamSpecFloat::builder("blur-sigma")
                .nick("Blur sigma")
                .blurb("Standard deviation of method blur, relative to the longer side of an area")
                .minimum(MIN_BLUR_SIGMA)
                .maximum(MAX_BLUR_SIGMA)
                .default_value(default.blur_sigma)
                .mutable_playing()
                .build(),
            glib::ParamSpecFloat::builder("margin")
                .nick("Margin")
                .blurb("Factor for width and height of the box of a face; 1: the box itself")
                .minimum(1.0)
                .maximum(MAX_MARGIN)
                .default_value(default.margin)
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt::builder("hold")
                .nick("Hold")
                .blurb("Time in ms for which a face stays covered after its last detection or prediction. The area grows with the uncertainty of the position. 0: no hold")
                .default_value(default.hold)
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt::builder("max-face-age")
                .nick("Maximum face age")
                .blurb("Maximum age in ms of the detection that a frame's faces come from; older: the frame is in doubt. 0: only faces detected in the frame itself")
                .default_value(default.max_face_age)
                .mutable_playing()
                .build(),
            glib::ParamSpecEnum::builder_with_default("on-doubt", default.on_doubt)
                .nick("On doubt")
                .blurb("What to do with a frame without a detection result, with lost or invalid faces, with a result older than max-face-age, or with more than 1024 faces")
                .mutable_playing()
                .build(),
            glib::ParamSpecUInt::builder("lookahead")
                .nick("Lookahead")
                .blurb("Number of frames by which the stream is delayed, so that a face is covered before the frame in which it is found first; 0: no delay")
                .maximum(MAX_LOOKAHEAD)
                .default_value(default.lookahead)
                .mutable_ready()
                .build(),
            glib::ParamSpecString::builder("exempt-tracks")
                .nick("Exempt tracks")
                .blurb("Comma-separated ids of tracks that are not covered. A track that was lost or overlapped another face is covered again until this property changes. Empty or invalid: all faces are covered")
                .mutable_playing()
                .build(),
            glib::ParamSpecString::builder("masks")
                .nick("Masks")
                .blurb("Polygons that are always covered: x,y of each corner in frame pixels (\"10,10,200,10,100,150\"), separated by `;`; empty: no masks; an invalid value keeps the previous one")
                .mutable_playing()
                .build(),
            glib::ParamSpecBoolean::builder("strip-metadata")
                .nick("Strip metadata")
                .blurb("Remove the metadata of faces from the frames; the frame in which faces were found is always removed")
                .default_value(default.strip_metadata)
                .mutable_playing()
                .build(),
            glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                .nick("Statistics")
                .blurb("Counts since start: `frames`; `frames-covered` and `frames-dropped` in doubt; `faces` covered and `exempt`, counted once per frame")
                .read_only()
                .build(),
        ]
    });
    &PROPERTIES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_cannot_be_parsed_exempt_nobody() {
        let mut settings = Settings::default();
        settings.set("exempt-tracks", &"3, 17".to_value());
        assert_eq!(settings.coverage().exempt, BTreeSet::from([3, 17]));
        settings.set("exempt-tracks", &"3,x".to_value());
        assert!(settings.coverage().exempt.is_empty());
        assert!(settings.problem().unwrap().contains("`x` is not a track id"));
    }
}
