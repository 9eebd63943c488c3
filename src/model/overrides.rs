//! Overrides of the detected model parameters, set by the user or in the metadata of the ONNX file.
//!
//! | key | value | meaning |
//! |---|---|---|
//! | `color-order` | `RGB` or `BGR` | channel order of the input |
//! | `mean` | one number or three, e.g. `104,117,123` | mean of pixels (0..=255), by channel |
//! | `scale` | a number | factor after the subtraction of the mean |
//! | `padding` | `mean` or `black` | colour of the letterbox padding |
//! | `strides` | e.g. `8,16,32` | distance between the cells of each level, in pixels |
//! | `anchors` | e.g. `16,32/64,128/256,512` | anchor sizes of each level, in pixels |
//! | `anchor-centre` | pixels, or `cell` for the cell centre | offset of anchor centres |
//! | `variances` | two numbers or three, e.g. `0.1,0.2` | factors of centres, sizes and landmarks |
//! | `scores` | `probabilities` or `logits` | whether softmax or sigmoid is part of the model |
//! | `points` | `fraction`, `signed` or `pixels` | landmark models: unit of coordinates |
//! | `point-numbers` | 2 or 3 | landmark models: values per point in an output with one row |
//!
//! With two variances, landmarks use the factor of centres. The units of coordinates are those of
//! [`PointUnit`]. Metadata keys of an ONNX file have the prefix [`METADATA_PREFIX`]; settings of
//! the user take precedence over them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::families::FAMILIES;
use super::input::{ChannelOrder, Normalization, Padding};
use super::layout::{AnchorCentre, Family, Layout, Variances};
use super::priors::Level;

/// Prefix of override keys in the metadata of an ONNX file.
pub const METADATA_PREFIX: &str = "retinaface.";

/// All keys.
pub const OVERRIDE_KEYS: [&str; 11] = [
    "color-order",
    "mean",
    "scale",
    "padding",
    "strides",
    "anchors",
    "anchor-centre",
    "variances",
    "scores",
    "points",
    "point-numbers",
];

/// Maximum number of levels, and of anchors per cell.
const MAX_ITEMS: usize = 16;
/// Maximum stride and anchor size, in pixels.
const MAX_PIXELS: f32 = 16_384.0;

/// Why an override is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("model option {key}={value}: {kind}")]
pub struct OverrideError {
    /// The key, as the user wrote it.
    pub key: String,
    /// The value, as the user wrote it.
    pub value: String,
    /// What is wrong.
    pub kind: OverrideErrorKind,
}

/// What is wrong with an override.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverrideErrorKind {
    /// The key does not exist.
    #[error("unknown key; known keys: {}", OVERRIDE_KEYS.join(", "))]
    UnknownKey,
    /// The text has no `=`.
    #[error("expected key=value, with `;` between several")]
    MissingValue,
    /// The value is none of the names of the key.
    #[error("expected {expected}")]
    UnknownValue {
        /// The names of the key.
        expected: String,
    },
    /// A part of the value is not a finite number.
    #[error("`{text}` is not a number")]
    NotANumber {
        /// The part of the value.
        text: String,
    },
    /// The value has the wrong number of parts.
    #[error("expected {expected}, separated by commas")]
    NumberCount {
        /// The valid numbers of parts.
        expected: &'static str,
    },
    /// A stride is out of range.
    #[error("`{text}` is not a stride; expected a whole number of pixels from 1 to {MAX_PIXELS}")]
    Stride {
        /// The part of the value.
        text: String,
    },
    /// An anchor size is out of range, or a level has too many anchors.
    #[error("expected 1 to {MAX_ITEMS} anchor sizes per level, each above 0 and up to {MAX_PIXELS} pixels")]
    AnchorSizes,
    /// There are too many levels.
    #[error("more than {MAX_ITEMS} levels")]
    TooManyLevels,
    /// Strides and anchors have different numbers of levels.
    #[error("there are {strides} strides and anchors of {anchors} levels; set strides and anchors of the same levels")]
    LevelCount {
        /// Number of strides.
        strides: usize,
        /// Number of levels of anchors.
        anchors: usize,
    },
}

/// Validated overrides: values by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Overrides(BTreeMap<&'static str, String>);

impl Overrides {
    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// If the key is unknown or the value is invalid. The previous value then stays in effect.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), OverrideError> {
        let value = value.trim();
        let error = |kind| OverrideError { key: key.to_owned(), value: value.to_owned(), kind };
        let Some(key) = OVERRIDE_KEYS.iter().find(|known| **known == key) else {
            return Err(error(OverrideErrorKind::UnknownKey));
        };
        ParsedOverrides::default().parse(key, value).map_err(error)?;
        self.0.insert(key, value.to_owned());
        Ok(())
    }

    /// These overrides, with those of `others` for keys that are not set here.
    #[must_use]
    pub fn or(mut self, others: Self) -> Self {
        for (key, value) in others.0 {
            self.0.entry(key).or_insert(value);
        }
        self
    }

    /// The parsed values.
    pub(crate) fn parsed(&self) -> ParsedOverrides {
        let mut parsed = ParsedOverrides::default();
        for (key, value) in &self.0 {
            let result = parsed.parse(key, value);
            debug_assert!(result.is_ok(), "`set` validated the value");
        }
        parsed
    }
}

impl FromStr for Overrides {
    type Err = OverrideError;

    /// Parses `key=value; key=value`.
    fn from_str(text: &str) -> Result<Self, OverrideError> {
        let mut overrides = Self::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((key, value)) = part.split_once('=') else {
                let kind = OverrideErrorKind::MissingValue;
                return Err(OverrideError { key: part.to_owned(), value: String::new(), kind });
            };
            overrides.set(key.trim(), value)?;
        }
        Ok(overrides)
    }
}

impl fmt::Display for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.iter().map(|(key, value)| format!("{key}={value}"));
        f.write_str(&parts.collect::<Vec<_>>().join("; "))
    }
}

/// The unit of the coordinates that a landmark model outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointUnit {
    /// Fractions of the input size: 0 at the left and top edge, 1 at the right and bottom edge.
    Fraction,
    /// Fractions of half the input size: -1 at the left and top edge, 1 at the right and bottom
    /// edge.
    Signed,
    /// Pixels of the input.
    Pixels,
}

/// Overrides with parsed values.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ParsedOverrides {
    order: Option<ChannelOrder>,
    mean: Option<[f32; 3]>,
    scale: Option<f32>,
    padding: Option<Padding>,
    strides: Option<Vec<usize>>,
    anchors: Option<Vec<Vec<f32>>>,
    anchor_centre: Option<AnchorCentre>,
    variances: Option<Variances>,
    pub(crate) logits: Option<bool>,
    pub(crate) points: Option<PointUnit>,
    /// Values per point.
    pub(crate) point_dims: Option<i64>,
}

impl ParsedOverrides {
    /// Parses the value of a known key.
    fn parse(&mut self, key: &str, value: &str) -> Result<(), OverrideErrorKind> {
        match key {
            "color-order" => {
                self.order = Some(one_of(value, &[("RGB", ChannelOrder::Rgb), ("BGR", ChannelOrder::Bgr)])?);
            }
            "mean" => {
                self.mean = Some(match numbers(value)?[..] {
                    [all] => [all; 3],
                    [first, second, third] => [first, second, third],
                    _ => return Err(OverrideErrorKind::NumberCount { expected: "one number or three" }),
                });
            }
            "scale" => self.scale = Some(number(value)?),
            "padding" => self.padding = Some(one_of(value, &[("mean", Padding::Mean), ("black", Padding::Black)])?),
            "strides" => {
                let strides = levels(value.split(','))?.into_iter().map(|text| {
                    let stride = text.parse::<usize>().ok().filter(|stride| (1..=MAX_PIXELS as usize).contains(stride));
                    stride.ok_or_else(|| OverrideErrorKind::Stride { text: text.to_owned() })
                });
                self.strides = Some(strides.collect::<Result<_, _>>()?);
            }
            "anchors" => {
                let anchors = levels(value.split('/'))?.into_iter().map(|level| {
                    let sizes = numbers(level)?;
                    let is_valid =
                        sizes.len() <= MAX_ITEMS && sizes.iter().all(|size| *size > 0.0 && *size <= MAX_PIXELS);
                    if is_valid { Ok(sizes) } else { Err(OverrideErrorKind::AnchorSizes) }
                });
                self.anchors = Some(anchors.collect::<Result<_, _>>()?);
            }
            "anchor-centre" if value == "cell" => self.anchor_centre = Some(AnchorCentre::CellCentre),
            "anchor-centre" => self.anchor_centre = Some(AnchorCentre::Pixels(number(value)?)),
            "variances" => {
                self.variances = Some(match numbers(value)?[..] {
                    [centre, size] => Variances { centre, size, point: centre },
                    [centre, size, point] => Variances { centre, size, point },
                    _ => return Err(OverrideErrorKind::NumberCount { expected: "two numbers or three" }),
                });
            }
            "scores" => self.logits = Some(one_of(value, &[("probabilities", false), ("logits", true)])?),
            "points" => {
                let units =
                    [("fraction", PointUnit::Fraction), ("signed", PointUnit::Signed), ("pixels", PointUnit::Pixels)];
                self.points = Some(one_of(value, &units)?);
            }
            "point-numbers" => self.point_dims = Some(one_of(value, &[("2", 2), ("3", 3)])?),
            _ => return Err(OverrideErrorKind::UnknownKey),
        }
        Ok(())
    }

    /// Whether the anchor sizes are overridden.
    pub(crate) fn overrides_anchors(&self) -> bool {
        self.anchors.is_some()
    }

    /// The normalization of a model whose family has `own`.
    pub(crate) fn normalization(&self, own: Normalization) -> Normalization {
        Normalization {
            order: self.order.unwrap_or(own.order),
            mean: self.mean.unwrap_or(own.mean),
            scale: self.scale.unwrap_or(own.scale),
            padding: self.padding.unwrap_or(own.padding),
        }
    }

    /// Checks that strides and anchors have the same number of levels in every family.
    ///
    /// # Errors
    /// If they do not, also if only one of both is overridden.
    pub(crate) fn check_levels(&self) -> Result<(), OverrideError> {
        for family in &FAMILIES {
            self.layout(family).map_err(|kind| {
                let (key, value) = match (&self.strides, &self.anchors) {
                    (Some(strides), _) => ("strides", join(strides, ",")),
                    (None, Some(levels)) => {
                        let levels = levels.iter().map(|anchors| join(anchors, ",")).collect::<Vec<_>>();
                        ("anchors", join(&levels, "/"))
                    }
                    (None, None) => ("strides", String::new()),
                };
                OverrideError { key: key.to_owned(), value, kind }
            })?;
        }
        Ok(())
    }

    /// The layout of a family with these overrides.
    ///
    /// # Errors
    /// If strides and anchors have different numbers of levels.
    pub(crate) fn layout(&self, family: &Family) -> Result<Layout, OverrideErrorKind> {
        let own = family.layout();
        let strides = match &self.strides {
            Some(strides) => strides.clone(),
            None => own.levels.iter().map(|level| level.stride).collect(),
        };
        let anchors = match &self.anchors {
            Some(anchors) => anchors.clone(),
            None => own.levels.iter().map(|level| level.anchors.clone()).collect(),
        };
        if strides.len() != anchors.len() {
            return Err(OverrideErrorKind::LevelCount { strides: strides.len(), anchors: anchors.len() });
        }
        let centre = self.anchor_centre.unwrap_or(family.anchor_centre);
        let level = |(stride, anchors)| Level { stride, centre_offset: centre.offset(stride), anchors };
        let levels = strides.into_iter().zip(anchors).map(level).collect();
        let variances = self.variances.unwrap_or(own.variances);
        Ok(Layout { levels, variances, logits: self.logits.unwrap_or(own.logits), ..own })
    }
}

fn join(values: &[impl ToString], separator: &str) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}

/// The value of a name, compared without case.
fn one_of<T: Copy>(name: &str, known: &[(&str, T)]) -> Result<T, OverrideErrorKind> {
    let found = known.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names = known.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        OverrideErrorKind::UnknownValue { expected: names.join(" or ") }
    })
}

/// A finite number.
fn number(text: &str) -> Result<f32, OverrideErrorKind> {
    let text = text.trim();
    let number = text.parse::<f32>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| OverrideErrorKind::NotANumber { text: text.to_owned() })
}

fn numbers(text: &str) -> Result<Vec<f32>, OverrideErrorKind> {
    text.split(',').map(number).collect()
}

fn levels<'a>(parts: impl Iterator<Item = &'a str>) -> Result<Vec<&'a str>, OverrideErrorKind> {
    let parts = parts.map(str::trim).take(MAX_ITEMS + 1).collect::<Vec<_>>();
    if parts.len() <= MAX_ITEMS { Ok(parts) } else { Err(OverrideErrorKind::TooManyLevels) }
}

#[cfg(test)]
mod tests {
    use super::super::families::RETINAFACE;
    use super::*;

    fn overrides(text: &str) -> Overrides {
        text.parse().unwrap()
    }

    #[test]
    fn parameters_without_an_override_are_those_of_the_family() {
        let parsed = overrides("color-order=rgb; mean = 127.5; variances=1,1,0.2;anchor-centre=3.5").parsed();
        let own = RETINAFACE.normalization;
        let normalization = parsed.normalization(own);
        assert_eq!(normalization, Normalization { order: ChannelOrder::Rgb, mean: [127.5; 3], ..own });
        let layout = parsed.layout(&RETINAFACE).unwrap();
        assert_eq!(layout.variances, Variances { centre: 1.0, size: 1.0, point: 0.2 });
        assert_eq!(layout.levels[1], Level { stride: 16, centre_offset: 3.5, anchors: vec![64.0, 128.0] });
        let layout = overrides("variances=0.1,0.3").parsed().layout(&RETINAFACE).unwrap();
        assert_eq!(layout.variances, Variances { centre: 0.1, size: 0.3, point: 0.1 });
    }

    #[test]
    fn strides_and_anchors_must_have_the_same_number_of_levels() {
        let layout = |text: &str| overrides(text).parsed().layout(&RETINAFACE);
        let two = layout("strides=4,8; anchors=8/16,32,64").unwrap().levels;
        assert_eq!(two[0], Level { stride: 4, centre_offset: 2.0, anchors: vec![8.0] });
        assert_eq!(two[1], Level { stride: 8, centre_offset: 4.0, anchors: vec![16.0, 32.0, 64.0] });
        let error = layout("strides=4,8").unwrap_err();
        assert_eq!(error, OverrideErrorKind::LevelCount { strides: 2, anchors: 3 });
        let error = overrides("strides=4,8").parsed().check_levels().unwrap_err().to_string();
        assert!(error.contains("strides=4,8: there are 2 strides and anchors of 3 levels"), "{error}");
        let error = overrides("anchors=8/16,32").parsed().check_levels().unwrap_err().to_string();
        assert!(error.contains("anchors=8/16,32: there are 3 strides and anchors of 2 levels"), "{error}");
    }

    #[test]
    fn overrides_take_precedence_over_those_passed_to_or() {
        let both = overrides("mean=1").or(overrides("mean=2; scale=3"));
        assert_eq!(both.to_string(), "mean=1; scale=3");
        assert_eq!(both, overrides("scale=3;mean=1;"));
    }

    #[test]
    fn invalid_overrides_are_errors_with_the_reason() {
        for (text, problem) in [
            ("means=1", "unknown key; known keys: color-order"),
            ("mean", "expected key=value"),
            ("mean=red", "`red` is not a number"),
            ("mean=1,2", "one number or three"),
            ("mean=nan", "`nan` is not a number"),
            ("scale=1e99", "is not a number"),
            ("color-order=GRB", "expected RGB or BGR"),
            ("strides=8,0", "`0` is not a stride"),
            ("strides=8,99999", "`99999` is not a stride"),
            ("anchors=16/-1", "anchor sizes per level"),
            ("anchors=", "`` is not a number"),
            ("variances=1", "two numbers or three"),
            ("scores=maybe", "probabilities or logits"),
            ("points=inches", "fraction or signed or pixels"),
            (&format!("strides={}", ["8"; 99].join(",")), "more than 16 levels"),
        ] {
            let error = text.parse::<Overrides>().unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("model option"), "{text}: {error}");
        }
    }
}
