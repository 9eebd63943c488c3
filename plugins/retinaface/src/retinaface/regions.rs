//! The regions of interest of an earlier detector, in which detection runs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use retinaface::detect::{MAX_OBJECT_REGIONS, ObjectRegion, ObjectRegions};
use retinaface::geometry::{FrameSize, Rect};

/// Number of analysed frames after which it is reported that none of them had a region.
const FRAMES_WITHOUT_REGION: u32 = 300;

/// Maximum number of classes that a message names.
const MAX_NAMED_CLASSES: usize = 10;

/// The classes of objects in whose regions detection runs; all of them if it is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ObjectClasses(Arc<[String]>);

impl std::str::FromStr for ObjectClasses {
    type Err = std::convert::Infallible;

    /// Parses classes that are separated by commas.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Ok(Self(names.map(str::to_owned).collect()))
    }
}

impl std::fmt::Display for ObjectClasses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl ObjectClasses {
    fn contains(&self, class: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|name| name == class)
    }
}

/// Reads the regions of frames, and knows what was reported about them since start.
#[derive(Debug, Default)]
pub(super) struct RegionReader {
    /// Analysed frames without a region so far, until the first frame with one.
    without_region: AtomicU32,
    has_reported_left_out: AtomicBool,
}

impl RegionReader {
    pub(super) fn reset(&self) {
        self.without_region.store(0, Ordering::Relaxed);
        self.has_reported_left_out.store(false, Ordering::Relaxed);
    }

    /// The regions of objects of these classes in a frame of `size`, and what is to be logged about
    /// them.
    pub(super) fn read(
        &self,
        buffer: &gst::BufferRef,
        size: FrameSize,
        classes: &ObjectClasses,
        rois: &[Rect],
    ) -> (ObjectRegions, Option<String>) {
        let found = face_meta::object_regions(buffer, |class| classes.contains(class));
        let regions = ObjectRegions::select(found, (size.width, size.height), rois);
        let note = if regions.regions.is_empty() {
            self.report_missing(buffer, classes)
        } else {
            self.without_region.store(u32::MAX, Ordering::Relaxed);
            self.report_left_out(regions.left_out)
        };
        (regions, note)
    }

    /// Once, if none of the first frames has a region.
    fn report_missing(&self, buffer: &gst::BufferRef, classes: &ObjectClasses) -> Option<String> {
        let count = |frames: u32| (frames < FRAMES_WITHOUT_REGION).then(|| frames + 1);
        let before = self.without_region.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count);
        if before != Ok(FRAMES_WITHOUT_REGION - 1) {
            return None;
        }
        let mut others = BTreeSet::new();
        face_meta::object_regions(buffer, |class| {
            others.insert(class.to_owned());
            false
        });
        let wanted = if classes.0.is_empty() { String::new() } else { format!(" of the class {classes}") };
        let others = if others.is_empty() {
            "put a detector that attaches GstVideoRegionOfInterestMeta before the element".to_owned()
        } else {
            let others = others.into_iter().take(MAX_NAMED_CLASSES).collect::<Vec<_>>().join(", ");
            format!("this frame has regions of {others}: check object-class")
        };
        Some(format!(
            "none of the first {FRAMES_WITHOUT_REGION} frames has a region{wanted} in it, so no face was found; {others}"
        ))
    }

    /// Once, if a frame has too many regions; `stats` counts all of them.
    fn report_left_out(&self, left_out: usize) -> Option<String> {
        if left_out == 0 || self.has_reported_left_out.swap(true, Ordering::Relaxed) {
            return None;
        }
        Some(format!(
            "a frame has {left_out} more regions than the {MAX_OBJECT_REGIONS} in which detection runs; the largest \
             ones are taken, and `regions-left-out` of the property `stats` counts the others"
        ))
    }
}

/// The region of a whole frame, for the first runs of the model.
pub(super) fn whole_frame(width: usize, height: usize) -> Arc<[ObjectRegion]> {
    [ObjectRegion { rect: Rect::new(0.0, 0.0, width as f32, height as f32), id: 0 }].into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gst_video::VideoRegionOfInterestMeta;

    const SIZE: (usize, usize) = (640, 360);

    /// A buffer with `count` regions of this type.
    fn buffer(class: &str, count: u32) -> gst::Buffer {
        gst::init().unwrap();
        let mut buffer = gst::Buffer::new();
        for index in 0..count {
            VideoRegionOfInterestMeta::add(buffer.get_mut().unwrap(), class, (index, 0, 20, 20));
        }
        buffer
    }

    fn notes(reader: &RegionReader, buffer: &gst::BufferRef, classes: &str, frames: u32) -> Vec<String> {
        let classes = classes.parse().unwrap();
        (0..frames).filter_map(|_| reader.read(buffer, SIZE.into(), &classes, &[]).1).collect()
    }

    #[test]
    fn classes_are_separated_by_commas_and_none_means_all() {
        let classes = |text: &str| text.parse::<ObjectClasses>().unwrap();
        assert!(classes("").contains("car") && classes(" , ").contains(""));
        assert!(classes("person, car").contains("car") && !classes("person, car").contains("cart"));
        assert!(!classes("person").contains(""));
    }

    #[test]
    fn frames_that_never_have_a_region_are_reported_once_with_the_classes_that_they_have() {
        let reader = RegionReader::default();
        let cars = buffer("car", 2);
        assert_eq!(notes(&reader, &cars, "person,face", FRAMES_WITHOUT_REGION - 1), [""; 0]);
        let [note] = &notes(&reader, &cars, "person,face", 1000)[..] else { panic!("not once") };
        assert!(note.contains("person,face") && note.contains("regions of car: check object-class"), "{note}");
        reader.reset();
        let [note] = &notes(&reader, &buffer("car", 0), "", 1000)[..] else { panic!("not once") };
        assert!(note.contains("put a detector"), "{note}");
        // One frame with a region is enough.
        reader.reset();
        notes(&reader, &cars, "", 1);
        assert_eq!(notes(&reader, &cars, "person", 1000), [""; 0]);
    }

    #[test]
    fn regions_that_are_left_out_are_reported_once() {
        let reader = RegionReader::default();
        let crowd = buffer("person", 100);
        let (regions, _) = reader.read(&crowd, SIZE.into(), &ObjectClasses::default(), &[]);
        assert_eq!((regions.regions.len(), regions.left_out), (64, 36));
        reader.reset();
        let [note] = &notes(&reader, &crowd, "person", 10)[..] else { panic!("not once") };
        assert!(note.contains("36 more regions than the 64"), "{note}");
    }
}
