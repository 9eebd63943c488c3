//! What is said of a model in place of what its layout says: by the user, or by the ONNX file's own metadata.
//!
//! | key | value | what it says |
//! |---|---|---|
//! | `color-order` | `RGB` or `BGR` | order of the input's channels |
//! | `mean` | one number or three, as `104,117,123` | taken from the pixels 0..=255, in the input's order |
//! | `scale` | a number | what they are then multiplied by |
//! | `padding` | `mean` or `black` | what surrounds a frame of another shape than the input's |
//! | `strides` | as `8,16,32` | pixels between the cells of each level |
//! | `anchors` | as `16,32/64,128/256,512` | sides of each cell's anchors in pixels, level by level |
//! | `anchor-centre` | a number of pixels, or `cell` | where in their cell the anchors lie; `cell`: in its middle |
//! | `variances` | two numbers or three, as `0.1,0.2` | factors of centres, sizes and landmarks (none: as centres) |
//! | `scores` | `probabilities` or `logits` | whether a softmax or sigmoid is in the model |
//! | `points` | `fraction`, `signed` or `pixels` | landmark models: coordinates of 0..1, of -1..1, or pixels of the input |
//! | `point-numbers` | 2 or 3 | landmark models: numbers of a point, where the output is one row of them |
//!
//! In an ONNX file's metadata each key begins with [`PREFIX`]. What the user says counts before that.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::families::{Centre, FAMILIES, Family};
use crate::layout::{Layout, Variances};
use crate::preprocess::{ChannelOrder, Normalization, Padding};
use crate::priors::Level;

/// What keys begin with in an ONNX file's metadata.
pub const PREFIX: &str = "retinaface.";

/// All keys.
pub const KEYS: [&str; 11] = [
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

/// Most levels and anchors that are taken, and the longest stride and anchor in pixels.
const MOST: usize = 16;
const LONGEST: f32 = 16_384.0;

/// Why a value is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("model option {key}={value}: {problem}")]
pub struct OverrideError {
    key: String,
    value: String,
    problem: String,
}

/// Values by their keys. Equal ones make equal models.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Overrides(BTreeMap<&'static str, String>);

impl Overrides {
    /// Sets `key`.
    ///
    /// # Errors
    /// If there is no such key, or the value is none of its.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), OverrideError> {
        let value = value.trim();
        let error = |problem: String| OverrideError { key: key.to_owned(), value: value.to_owned(), problem };
        let Some(key) = KEYS.iter().find(|known| **known == key) else {
            return Err(error(format!("there is no such key; they are {}", KEYS.join(", "))));
        };
        Adjustments::default().read(key, value).map_err(error)?;
        self.0.insert(key, value.to_owned());
        Ok(())
    }

    /// These, and of `others` what these do not say.
    #[must_use]
    pub fn or(mut self, others: Self) -> Self {
        for (key, value) in others.0 {
            self.0.entry(key).or_insert(value);
        }
        self
    }

    /// The values, read.
    pub(crate) fn adjustments(&self) -> Adjustments {
        let mut adjustments = Adjustments::default();
        for (key, value) in &self.0 {
            let read = adjustments.read(key, value);
            debug_assert!(read.is_ok(), "values were read when they were set");
        }
        adjustments
    }
}

impl FromStr for Overrides {
    type Err = OverrideError;

    /// Reads `key=value; key=value`.
    fn from_str(text: &str) -> Result<Self, OverrideError> {
        let mut overrides = Self::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((key, value)) = part.split_once('=') else {
                let problem = "expected key=value, and `;` between several".to_owned();
                return Err(OverrideError { key: part.to_owned(), value: String::new(), problem });
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

/// What coordinates a landmark model gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointUnit {
    /// Parts of the input's sides, 0 at the left and top.
    Fraction,
    /// Halves of the input's sides, 0 in the middle.
    Signed,
    /// Pixels of the input.
    Pixels,
}

/// Overrides as what they mean.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Adjustments {
    order: Option<ChannelOrder>,
    mean: Option<[f32; 3]>,
    scale: Option<f32>,
    padding: Option<Padding>,
    strides: Option<Vec<usize>>,
    anchors: Option<Vec<Vec<f32>>>,
    centre: Option<Centre>,
    variances: Option<Variances>,
    pub(crate) logits: Option<bool>,
    pub(crate) points: Option<PointUnit>,
    pub(crate) point_numbers: Option<i64>,
}

impl Adjustments {
    fn read(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "color-order" => {
                self.order = Some(one_of(value, &[("RGB", ChannelOrder::Rgb), ("BGR", ChannelOrder::Bgr)])?);
            }
            "mean" => {
                self.mean = Some(match numbers(value)?[..] {
                    [all] => [all; 3],
                    [first, second, third] => [first, second, third],
                    _ => return Err("expected one number or three".to_owned()),
                });
            }
            "scale" => self.scale = Some(number(value)?),
            "padding" => self.padding = Some(one_of(value, &[("mean", Padding::Mean), ("black", Padding::Black)])?),
            "strides" => {
                let strides = levels(value.split(','))?.into_iter().map(|text| {
                    let stride = text.parse::<usize>().ok().filter(|stride| (1..=LONGEST as usize).contains(stride));
                    stride.ok_or_else(|| format!("{text} is not a number of pixels from 1 to {LONGEST}"))
                });
                self.strides = Some(strides.collect::<Result<_, _>>()?);
            }
            "anchors" => {
                let anchors = levels(value.split('/'))?.into_iter().map(|level| {
                    let sides = numbers(level)?;
                    let fits = sides.len() <= MOST && sides.iter().all(|side| *side > 0.0 && *side <= LONGEST);
                    if fits { Ok(sides) } else { Err(format!("expected 1 to {MOST} sides up to {LONGEST} a level")) }
                });
                self.anchors = Some(anchors.collect::<Result<_, _>>()?);
            }
            "anchor-centre" if value == "cell" => self.centre = Some(Centre::OfCell),
            "anchor-centre" => self.centre = Some(Centre::Pixels(number(value)?)),
            "variances" => {
                self.variances = Some(match numbers(value)?[..] {
                    [centre, size] => Variances { centre, size, point: centre },
                    [centre, size, point] => Variances { centre, size, point },
                    _ => return Err("expected two numbers or three".to_owned()),
                });
            }
            "scores" => self.logits = Some(one_of(value, &[("probabilities", false), ("logits", true)])?),
            "points" => {
                let units =
                    [("fraction", PointUnit::Fraction), ("signed", PointUnit::Signed), ("pixels", PointUnit::Pixels)];
                self.points = Some(one_of(value, &units)?);
            }
            "point-numbers" => self.point_numbers = Some(one_of(value, &[("2", 2), ("3", 3)])?),
            _ => unreachable!("keys are looked up first"),
        }
        Ok(())
    }

    /// Whether the anchors' sides were said.
    pub(crate) fn says_anchors(&self) -> bool {
        self.anchors.is_some()
    }

    /// What is done to the pixels.
    pub(crate) fn normalization(&self, own: Normalization) -> Normalization {
        Normalization {
            order: self.order.unwrap_or(own.order),
            mean: self.mean.unwrap_or(own.mean),
            scale: self.scale.unwrap_or(own.scale),
            padding: self.padding.unwrap_or(own.padding),
        }
    }

    /// Whether strides and anchors that were said are of as many levels, those of the families where only one was said.
    pub(crate) fn check_levels(&self) -> Result<(), OverrideError> {
        for family in &FAMILIES {
            self.layout(family).map_err(|problem| {
                let (key, value) = if self.strides.is_some() { ("strides", "…") } else { ("anchors", "…") };
                OverrideError { key: key.to_owned(), value: value.to_owned(), problem }
            })?;
        }
        Ok(())
    }

    /// A family's layout. Levels that are said in part keep the family's other part.
    pub(crate) fn layout(&self, family: &Family) -> Result<Layout, String> {
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
            return Err(format!(
                "there are {} strides and anchors of {} levels: model options strides and anchors go together",
                strides.len(),
                anchors.len()
            ));
        }
        let centre = self.centre.unwrap_or(family.centre);
        let levels = strides.into_iter().zip(anchors);
        let levels = levels.map(|(stride, anchors)| Level { stride, centre: centre.of(stride), anchors }).collect();
        let variances = self.variances.unwrap_or(own.variances);
        Ok(Layout { levels, variances, logits: self.logits.unwrap_or(own.logits), ..own })
    }
}

fn one_of<T: Copy>(value: &str, known: &[(&str, T)]) -> Result<T, String> {
    let found = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(value));
    found.map(|(_, meaning)| *meaning).ok_or_else(|| {
        let names = known.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        format!("expected {}", names.join(" or "))
    })
}

/// A finite number.
pub(crate) fn number(text: &str) -> Result<f32, String> {
    let number = text.trim().parse::<f32>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| format!("`{}` is not a number", text.trim()))
}

fn numbers(text: &str) -> Result<Vec<f32>, String> {
    text.split(',').map(number).collect()
}

fn levels<'a>(parts: impl Iterator<Item = &'a str>) -> Result<Vec<&'a str>, String> {
    let parts = parts.map(str::trim).take(MOST + 1).collect::<Vec<_>>();
    if parts.len() <= MOST { Ok(parts) } else { Err(format!("more than {MOST} levels")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families;

    fn read(text: &str) -> Result<Overrides, String> {
        text.parse().map_err(|error: OverrideError| error.to_string())
    }

    #[test]
    fn what_is_said_counts_and_the_rest_is_the_familys() {
        let overrides = read("color-order=rgb; mean = 127.5; variances=1,1,0.2;anchor-centre=3.5").unwrap();
        let adjustments = overrides.adjustments();
        let own = families::RETINAFACE.normalization;
        let normalization = adjustments.normalization(own);
        assert_eq!(normalization, Normalization { order: ChannelOrder::Rgb, mean: [127.5; 3], ..own });
        let layout = adjustments.layout(&families::RETINAFACE).unwrap();
        assert_eq!(layout.variances, Variances { centre: 1.0, size: 1.0, point: 0.2 });
        assert_eq!(layout.levels[1], Level { stride: 16, centre: 3.5, anchors: vec![64.0, 128.0] });
        let of_two = read("variances=0.1,0.3").unwrap().adjustments().layout(&families::RETINAFACE).unwrap();
        assert_eq!(of_two.variances, Variances { centre: 0.1, size: 0.3, point: 0.1 });
    }

    #[test]
    fn levels_are_said_together() {
        let layout = |text: &str| read(text).unwrap().adjustments().layout(&families::RETINAFACE);
        let two = layout("strides=4,8; anchors=8/16,32,64").unwrap().levels;
        assert_eq!(two[0], Level { stride: 4, centre: 2.0, anchors: vec![8.0] });
        assert_eq!(two[1], Level { stride: 8, centre: 4.0, anchors: vec![16.0, 32.0, 64.0] });
        let error = layout("strides=4,8").unwrap_err();
        assert!(error.contains("2 strides") && error.contains("3 levels"), "{error}");
    }

    #[test]
    fn the_users_word_counts_before_the_files() {
        let both = read("mean=1").unwrap().or(read("mean=2; scale=3").unwrap());
        assert_eq!(both.to_string(), "mean=1; scale=3");
        assert_eq!(both, read("scale=3;mean=1;").unwrap());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, problem) in [
            ("means=1", "there is no such key; they are color-order"),
            ("mean", "expected key=value"),
            ("mean=red", "`red` is not a number"),
            ("mean=1,2", "one number or three"),
            ("mean=nan", "`nan` is not a number"),
            ("scale=1e99", "is not a number"),
            ("color-order=GRB", "expected RGB or BGR"),
            ("strides=8,0", "0 is not a number of pixels"),
            ("strides=8,99999", "99999 is not a number of pixels"),
            ("anchors=16/-1", "sides up to"),
            ("anchors=", "`` is not a number"),
            ("variances=1", "two numbers or three"),
            ("scores=maybe", "probabilities or logits"),
            ("points=inches", "fraction or signed or pixels"),
            (&format!("strides={}", ["8"; 99].join(",")), "more than 16 levels"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(problem) && error.contains("model option"), "{text}: {error}");
        }
    }
}
