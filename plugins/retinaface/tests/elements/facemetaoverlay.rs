//! The element `facemetaoverlay`.

use crate::common::{self, face, frame_with_faces, info, with_watchdog};
use gst_video::VideoFormat;
use retinaface::geometry::{Face, Point};

#[test]
fn boxes_are_drawn_in_each_format_with_box_color() {
    with_watchdog(|| {
        for format in
            ["NV12", "I420", "RGB", "BGR", "RGBx", "BGRx", "RGBA", "BGRA", "GRAY8"].map(VideoFormat::from_string)
        {
            let info = info(format, 322, 181);
            let mut harness = gst_check::Harness::new_parse(
                "facemetaoverlay box-color=0xFF0000 line-width=4 draw-landmarks=false draw-score=false",
            );
            harness.set_src_caps(info.to_caps().unwrap());
            let out =
                harness.push_and_pull(frame_with_faces(&info, 0, &[face(0.9, 60.0, 40.0, 100.0, 100.0)])).unwrap();
            // After conversion to RGB by GStreamer, the left edge of the box is red.
            let sample = gst::Sample::builder().buffer(&out).caps(&info.to_caps().unwrap()).build();
            let rgb = gst_video::convert_sample(
                &sample,
                &"video/x-raw,format=RGB".parse().unwrap(),
                Some(gst::ClockTime::from_seconds(10)),
            )
            .unwrap();
            let stride = gst_video::VideoInfo::from_caps(rgb.caps().unwrap()).unwrap().stride()[0] as usize;
            let map = rgb.buffer().unwrap().map_readable().unwrap();
            let [r, g, b] = [0, 1, 2].map(|c| map[90 * stride + 60 * 3 + c]);
            if format == VideoFormat::Gray8 {
                assert_eq!((r, g), (76, 76), "the luma of red");
            } else {
                assert!(r > 235 && g < 20 && b < 20, "{format:?}: {r} {g} {b}");
            }
        }
    });
}

#[test]
fn points_are_drawn_unless_draw_points_is_false() {
    with_watchdog(|| {
        let info = info(VideoFormat::Gray8, 320, 180);
        let faces = [Face { points: vec![Point::new(200.0, 100.0)], ..face(0.9, 60.0, 40.0, 60.0, 60.0) }];
        let pixel = |properties: &str| {
            let mut harness = gst_check::Harness::new_parse(&format!(
                "facemetaoverlay draw-boxes=false draw-landmarks=false draw-score=false landmark-color=0xFFFFFF {properties}"
            ));
            harness.set_src_caps(info.to_caps().unwrap());
            let plain = common::frame(&info, 0).map_readable().unwrap()[100 * 320 + 200];
            let out = harness.push_and_pull(frame_with_faces(&info, 0, &faces)).unwrap();
            (plain, out.map_readable().unwrap()[100 * 320 + 200])
        };
        assert_eq!(pixel("").1, 255);
        let (plain, drawn) = pixel("draw-points=false");
        assert_eq!(plain, drawn);
    });
}

#[test]
fn frame_without_faces_is_not_copied() {
    with_watchdog(|| {
        let info = info(VideoFormat::I420, 320, 180);
        let mut harness = gst_check::Harness::new("facemetaoverlay");
        harness.set_src_caps(info.to_caps().unwrap());
        let buffer = frame_with_faces(&info, 0, &[]);
        let other_branch = buffer.clone();
        let out = harness.push_and_pull(buffer).unwrap();
        assert_eq!(out.map_readable().unwrap().as_ptr(), other_branch.map_readable().unwrap().as_ptr());
    });
}

#[test]
fn drawing_leaves_other_tee_branch_unchanged() {
    with_watchdog(|| {
        let info = info(VideoFormat::I420, 320, 180);
        let mut harness = gst_check::Harness::new("facemetaoverlay");
        harness.set_src_caps(info.to_caps().unwrap());
        let buffer = frame_with_faces(&info, 0, &[face(0.9, 60.0, 40.0, 100.0, 100.0)]);
        let (other_branch, before) = (buffer.clone(), buffer.map_readable().unwrap().to_vec());
        let out = harness.push_and_pull(buffer).unwrap();
        assert_eq!(other_branch.map_readable().unwrap().as_slice(), before);
        assert_ne!(out.map_readable().unwrap().as_slice(), before);
        assert_eq!(face_meta::read(&out, (320, 180)).faces.len(), 1, "the metadata stays on the frame");
    });
}
