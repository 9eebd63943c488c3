//! Regions of interest of other detectors.

use std::collections::HashSet;
use std::ffi::CStr;

use gst::glib;
use gst::meta::CustomMeta;
use gst_video::{VideoRegionOfInterestMeta, ffi};
use retinaface::detect::ObjectRegion;
use retinaface::geometry::Rect;

use crate::frame::entries;
use crate::{FRAME_META, ROI_TYPE, register};

/// The regions of interest on a buffer whose type `is_wanted`, except those of faces that this crate
/// attached. The type is empty if the detector set none.
pub fn object_regions(buffer: &gst::BufferRef, mut is_wanted: impl FnMut(&str) -> bool) -> Vec<ObjectRegion> {
    register();
    let own = own_ids(buffer);
    let region = |roi: gst::MetaRef<'_, VideoRegionOfInterestMeta>| {
        let name = roi_type(&roi);
        if !is_wanted(name) || (name == ROI_TYPE && own.contains(&roi.id())) {
            return None;
        }
        let (x, y, w, h) = roi.rect();
        // Beyond 2^24 a position is rounded, and lies outside of any frame.
        Some(ObjectRegion { rect: Rect::new(x as f32, y as f32, w as f32, h as f32), id: roi.id() })
    };
    buffer.iter_meta::<VideoRegionOfInterestMeta>().filter_map(region).collect()
}

/// The ids of the regions of interest of faces that this crate attached.
fn own_ids(buffer: &gst::BufferRef) -> HashSet<i32> {
    let Ok(meta) = CustomMeta::from_buffer(buffer, FRAME_META) else { return HashSet::new() };
    entries(meta.structure()).iter().filter_map(|entry| entry.get::<i32>("roi-id").ok()).collect()
}

/// The type of a region of interest; empty if the detector set none, or one that is not UTF-8.
#[expect(unsafe_code, reason = "the binding dereferences the name of the quark 0, which is a null pointer")]
pub(crate) fn roi_type(roi: &VideoRegionOfInterestMeta) -> &str {
    // The binding is a transparent wrapper of the C structure. Names of quarks live as long as the
    // process.
    let name = unsafe {
        let quark = (*std::ptr::from_ref(roi).cast::<ffi::GstVideoRegionOfInterestMeta>()).roi_type;
        let name = glib::ffi::g_quark_to_string(quark);
        if name.is_null() { None } else { Some(CStr::from_ptr(name)) }
    };
    name.and_then(|name| name.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use retinaface::Face;

    use super::*;

    fn add(buffer: &mut gst::BufferRef, name: &str, id: i32) {
        VideoRegionOfInterestMeta::add(buffer, name, (1, 2, u32::MAX, 4)).set_id(id);
    }

    fn ids(buffer: &gst::BufferRef, is_wanted: impl Fn(&str) -> bool) -> Vec<i32> {
        object_regions(buffer, is_wanted).iter().map(|region| region.id).collect()
    }

    #[test]
    fn own_faces_are_no_objects_and_faces_of_other_detectors_are() {
        gst::init().unwrap();
        let mut buffer = gst::Buffer::new();
        let buffer = buffer.get_mut().unwrap();
        add(buffer, "person", 3);
        let face = Face { rect: Rect::new(10.0, 10.0, 20.0, 20.0), ..Face::default() };
        crate::attach(buffer, &[face], (640, 360)).unwrap();
        add(buffer, "face", 4);
        add(buffer, "car", -5);
        assert_eq!(ids(buffer, |_| true), [3, 4, -5]);
        assert_eq!(ids(buffer, |name| name == "face"), [4]);
        let rect = Rect::new(1.0, 2.0, u32::MAX as f32, 4.0);
        assert_eq!(object_regions(buffer, |name| name == "car"), [ObjectRegion { rect, id: -5 }]);
    }

    /// Crashed: the binding reads the name of the type.
    #[test]
    #[expect(unsafe_code, reason = "only the C function adds a region without a type")]
    fn a_region_without_a_type_has_an_empty_one_and_faces_are_still_read() {
        gst::init().unwrap();
        let mut buffer = gst::Buffer::new();
        let buffer = buffer.get_mut().unwrap();
        let face = Face { rect: Rect::new(10.0, 10.0, 20.0, 20.0), ..Face::default() };
        crate::attach(buffer, &[face], (640, 360)).unwrap();
        unsafe { ffi::gst_buffer_add_video_region_of_interest_meta_id(buffer.as_mut_ptr(), 0, 1, 2, 3, 4) };
        assert_eq!((ids(buffer, str::is_empty), ids(buffer, |name| name == "person")), (vec![0], vec![]));
        assert_eq!(crate::read(buffer, (640, 360)).faces.len(), 1);
        crate::strip(buffer);
        assert_eq!(ids(buffer, |_| true), [0]);
    }

    #[test]
    fn the_parent_is_on_the_region_only_in_the_frame_in_which_the_face_was_found() {
        use crate::Prediction;
        gst::init().unwrap();
        let mut buffer = gst::Buffer::new();
        let buffer = buffer.get_mut().unwrap();
        let face = Face { rect: Rect::new(10.0, 10.0, 20.0, 20.0), parent_id: Some(7), ..Face::default() };
        let parents = |buffer: &gst::BufferRef| {
            let of_region = buffer.iter_meta::<VideoRegionOfInterestMeta>().map(|roi| roi.parent_id());
            (of_region.collect::<Vec<_>>(), crate::read(buffer, (640, 360)).faces[0].face.parent_id)
        };
        crate::attach(buffer, std::slice::from_ref(&face), (640, 360)).unwrap();
        assert_eq!(parents(buffer), (vec![7], Some(7)));
        crate::attach_predicted(buffer, std::slice::from_ref(&face), (640, 360), &Prediction::default()).unwrap();
        assert_eq!(parents(buffer), (vec![0], Some(7)));
        crate::attach(buffer, &[Face { parent_id: None, ..face }], (640, 360)).unwrap();
        assert_eq!(parents(buffer), (vec![0], None));
    }
}
