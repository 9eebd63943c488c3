//! Images: they are decoded, covered and encoded again, so that no metadata of the file remains.

use std::path::Path;
use std::time::Duration;

use retinaface::detect::{DetectionSettings, Views};
use retinaface::geometry::InputSize;
use retinaface::image::{RedactionBuffers, redact, redact_all, redact_polygons};
use retinaface::track::{Coverage, KnownFaces};

use super::{Redact, Report, extension};
use crate::args::check_settings;
use crate::image_file::{self, InputImage};

/// Whether the name is that of an image that can be written.
pub(super) fn is_image_name(path: &Path) -> bool {
    ["jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp"].contains(&extension(path).as_str())
}

impl Redact {
    /// Writes an upright copy of the image without its metadata, with the faces covered.
    pub(super) fn redact_image(&self, output: &Path) -> anyhow::Result<Report> {
        let detector = self.model_args.open_detector(self.model.as_deref())?;
        let InputImage { mut image, warning } = image_file::read(&self.input)?;
        let settings = DetectionSettings {
            score_threshold: self.score_threshold,
            input_size: InputSize::from(self.input_size),
            views: Views { scales: self.scales.parse()?, tiles: self.tiles.parse()?, ..Views::default() },
            refine_large_faces: false,
            ..DetectionSettings::default()
        };
        check_settings(&detector, &settings, &image)?;
        let faces = detector.detect(&image.view(), &settings)?.faces;
        let found = faces.len();
        let known = KnownFaces { has_result: true, age: Duration::ZERO, lost: 0, faces };
        let coverage = Coverage::new().update(Duration::ZERO, &known, &self.coverage());
        let mut buffers = RedactionBuffers::default();
        let areas = coverage.areas.iter().map(|area| self.area(*area)).collect::<Vec<_>>();
        redact(&mut image.view_mut(), &areas, &self.style(), &mut buffers);
        redact_polygons(&mut image.view_mut(), &self.mask.polygons, self.color, &mut buffers);
        if coverage.doubt.is_some() {
            redact_all(&mut image.view_mut(), self.color);
        }
        image_file::write_as(output, &extension(&self.output), &image)?;
        Ok(Report {
            schema: super::video::SCHEMA,
            frames: 1,
            faces: found,
            frames_covered_whole: usize::from(coverage.doubt.is_some()),
            notes: Vec::from_iter(warning),
        })
    }
}
