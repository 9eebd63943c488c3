//! The settings of views: scales, tiles, regions of interest, and how they are parsed.

use std::str::FromStr;
use std::sync::Arc;

use super::object_regions::ObjectRegion;
use crate::geometry::Rect;

/// Maximum number of scales, of regions, and of tiles per axis.
pub(super) const MAX_PARTS: usize = 64;
/// Valid scales.
const SCALE_RANGE: std::ops::RangeInclusive<f32> = 0.01..=16.0;

/// The scales of a frame, relative to the input size.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// The input size and, if that is large, a second, small scale for faces that fill the frame.
    Auto,
    /// Each of these factors.
    Each(Arc<[f32]>),
}

/// The tiles of a frame, in addition to the whole frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiles {
    /// No tiles.
    #[default]
    None,
    /// As many tiles of the input size as cover the frame at full resolution.
    Auto,
    /// This number of columns and rows, each tile scaled to the input size.
    Grid(usize, usize),
}

/// The views of a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Views {
    /// Scales of the whole frame or of each region.
    pub scales: Scales,
    /// Whether each view is also run on the horizontally flipped image.
    pub flip: bool,
    /// Tiles of the frame or of each region.
    pub tiles: Tiles,
    /// Regions of interest, in frame pixels; empty for the whole frame.
    pub rois: Arc<[Rect]>,
    /// Regions of this frame in which an earlier detector found objects, in place of `rois`, see
    /// [`ObjectRegions::select`](super::ObjectRegions::select). Without any, nothing is found and the
    /// model does not run. `None` to look in `rois` or in the whole frame.
    pub objects: Option<Arc<[ObjectRegion]>>,
}

/// Why scales, tiles or regions cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewsError {
    /// A part of the text is not a finite number.
    #[error("`{text}` is not a number")]
    NotANumber {
        /// The part of the text.
        text: String,
    },
    /// A scale is out of range.
    #[error("{text} is not within {} to {}, the range of scales", SCALE_RANGE.start(), SCALE_RANGE.end())]
    Scale {
        /// The scale.
        text: String,
    },
    /// The text does not describe tiles.
    #[error("`{text}` is neither `none`, `auto` nor columns and rows up to {MAX_PARTS}, as in 3x2")]
    Tiles {
        /// The text.
        text: String,
    },
    /// A part of the text does not describe a region.
    #[error("`{text}` is not x,y,width,height with a width and height above 0")]
    Roi {
        /// The part of the text.
        text: String,
    },
    /// There are too many scales or regions.
    #[error("more than {MAX_PARTS} {what}")]
    TooMany {
        /// `scales` or `regions`.
        what: &'static str,
    },
}

impl Default for Scales {
    fn default() -> Self {
        Self::Each([1.0].into())
    }
}

impl Default for Views {
    fn default() -> Self {
        Self { scales: Scales::default(), flip: false, tiles: Tiles::None, rois: [].into(), objects: None }
    }
}

impl FromStr for Scales {
    type Err = ViewsError;

    /// Parses `auto`, or factors such as `1.0,0.2`.
    fn from_str(text: &str) -> Result<Self, ViewsError> {
        if text.trim() == "auto" {
            return Ok(Self::Auto);
        }
        let factor = |text: &str| {
            let factor = number(text)?;
            let error = || ViewsError::Scale { text: text.trim().to_owned() };
            SCALE_RANGE.contains(&factor).then_some(factor).ok_or_else(error)
        };
        let factors = text.split(',').map(factor).collect::<Result<Vec<_>, _>>()?;
        if factors.len() > MAX_PARTS {
            Err(ViewsError::TooMany { what: "scales" })
        } else {
            Ok(Self::Each(factors.into()))
        }
    }
}

impl FromStr for Tiles {
    type Err = ViewsError;

    /// Parses `none`, `auto`, or columns and rows such as `3x2`.
    fn from_str(text: &str) -> Result<Self, ViewsError> {
        let count = |text: &str| text.trim().parse::<usize>().ok().filter(|count| (1..=MAX_PARTS).contains(count));
        match text.trim() {
            "" | "none" => Ok(Self::None),
            "auto" => Ok(Self::Auto),
            grid => {
                let (cols, rows) = grid.split_once('x').unwrap_or((grid, ""));
                let error = || ViewsError::Tiles { text: grid.to_owned() };
                let (cols, rows) = count(cols).zip(count(rows)).ok_or_else(error)?;
                Ok(Self::Grid(cols, rows))
            }
        }
    }
}

/// A finite number.
fn number(text: &str) -> Result<f32, ViewsError> {
    let text = text.trim();
    let number = text.parse::<f32>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| ViewsError::NotANumber { text: text.to_owned() })
}

/// Parses regions of interest: `x,y,width,height` in frame pixels, with `;` between several
/// regions.
///
/// # Errors
/// If a region does not consist of four numbers or has no area, or if there are more than 64
/// regions.
pub fn parse_rois(text: &str) -> Result<Arc<[Rect]>, ViewsError> {
    let roi = |text: &str| match text.split(',').map(number).collect::<Result<Vec<_>, _>>()?[..] {
        [x, y, w, h] if w > 0.0 && h > 0.0 => Ok(Rect::new(x, y, w, h)),
        _ => Err(ViewsError::Roi { text: text.trim().to_owned() }),
    };
    let parts = text.split(';').filter(|part| !part.trim().is_empty());
    let rois = parts.map(roi).collect::<Result<Vec<_>, _>>()?;
    if rois.len() > MAX_PARTS { Err(ViewsError::TooMany { what: "regions" }) } else { Ok(rois.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_settings_are_errors_with_the_reason() {
        for (error, part) in [
            ("".parse::<Scales>().unwrap_err(), "`` is not a number"),
            ("1,x".parse::<Scales>().unwrap_err(), "`x` is not a number"),
            ("0".parse::<Scales>().unwrap_err(), "0 is not within"),
            (["1"; 99].join(",").parse::<Scales>().unwrap_err(), "more than 64"),
            ("3".parse::<Tiles>().unwrap_err(), "as in 3x2"),
            ("0x2".parse::<Tiles>().unwrap_err(), "as in 3x2"),
            (parse_rois("1,2,3").unwrap_err(), "x,y,width,height"),
            (parse_rois("1,2,3,0").unwrap_err(), "above 0"),
            (parse_rois("1,2,3,nan").unwrap_err(), "`nan` is not a number"),
        ] {
            assert!(error.to_string().contains(part), "{error}");
        }
        assert_eq!(parse_rois(" ; ").unwrap().len(), 0);
    }
}
