//! Frames whose memory does not match their caps and metas, through all elements.

use std::cell::RefCell;

use arbitrary::Unstructured;
use gst::glib::translate::IntoGlib as _;
use gst::prelude::*;
use gst_check::Harness;
use gst_video::{VideoCropMeta, VideoFormat, VideoInfo, VideoInterlaceMode, VideoRegionOfInterestMeta};
use retinaface::{Face, PixelFormat, Point, Rect};

/// The maximum width and height in the caps.
const MAX_SIDE: u32 = 80;

thread_local! {
    /// The elements; each has its own bus, for the messages of a panic.
    static ELEMENTS: RefCell<Option<Vec<Element>>> = const { RefCell::new(None) };
}

struct Element {
    harness: Harness,
    bus: gst::Bus,
    has_model: bool,
}

fn elements() -> Vec<Element> {
    gst::init().unwrap();
    gstretinaface::plugin_register_static().unwrap();
    let model = |name: &str| crate::root().join("tests/fixtures/models").join(name).display().to_string();
    let detector = format!(
        "retinaface model-file=\"{}\" threads=1 score-threshold=0.9 refine-large-faces=on",
        model("insightface.onnx")
    );
    let descriptions = [
        format!("{detector} inference-region=roi-list input-size=64"),
        detector,
        format!("facelandmarks model-file=\"{}\" threads=1", model("landmarks68.onnx")),
        "facealign".to_owned(),
        "facemetaoverlay".to_owned(),
        "facemetapublish location=/dev/null".to_owned(),
    ];
    let element = |description: &String| {
        let harness = Harness::new_parse(description);
        let bus = gst::Bus::new();
        harness.element().unwrap().set_bus(Some(&bus));
        Element { harness, bus, has_model: description.contains("model-file") }
    };
    descriptions.iter().map(element).collect()
}

/// A frame with any memory, video meta, crop meta, faces and regions of interest, through each
/// element.
pub fn frame(data: &[u8]) {
    // `arbitrary` gives zeros when it runs out of bytes, and no errors.
    let mut input = Unstructured::new(data);
    ELEMENTS.with_borrow_mut(|elements| {
        let elements = elements.get_or_insert_with(self::elements);
        let Ok((info, buffer)) = arbitrary_frame(&mut input) else { return };
        // All elements map frames with the same code, and running a model takes most of the time.
        let with_models = input.ratio(1, 8).unwrap_or(true);
        let chosen = elements.iter_mut().filter(|element| with_models || !element.has_model);
        chosen.for_each(|element| push(element, &info, &buffer));
    });
}

fn push(Element { harness, bus, .. }: &mut Element, info: &VideoInfo, buffer: &gst::Buffer) {
    harness.set_src_caps(info.to_caps().unwrap());
    // A refused frame is an error of this frame only.
    let _ = harness.push(buffer.copy());
    while harness.try_pull().is_some() {}
    for message in bus.iter() {
        if let gst::MessageView::Error(error) = message.view() {
            let text = format!("{} {}", error.error(), error.debug().unwrap_or_default());
            assert!(!text.to_lowercase().contains("panicked"), "{text}");
        }
    }
}

/// Caps, and a buffer that fits them or not.
fn arbitrary_frame(input: &mut Unstructured<'_>) -> arbitrary::Result<(VideoInfo, gst::Buffer)> {
    let format = loop {
        let format = VideoFormat::from_string(input.choose(&PixelFormat::ALL)?.name());
        // Older versions of GStreamer do not know all formats.
        if format != VideoFormat::Unknown {
            break format;
        }
    };
    let (width, height) = (input.int_in_range(1..=MAX_SIDE)?, input.int_in_range(1..=MAX_SIDE)?);
    let aspect = gst::Fraction::new(input.int_in_range(1..=4)?, input.int_in_range(1..=4)?);
    let modes = [VideoInterlaceMode::Progressive, VideoInterlaceMode::Interleaved, VideoInterlaceMode::Mixed];
    let info = VideoInfo::builder(format, width, height).fps(gst::Fraction::new(25, 1)).par(aspect);
    let info = info.interlace_mode(*input.choose(&modes)?).build().map_err(|_| arbitrary::Error::IncorrectFormat)?;

    let mut buffer = gst::Buffer::new();
    let out = buffer.get_mut().unwrap();
    for _ in 0..input.int_in_range(1..=3)? {
        let size = if input.arbitrary()? { info.size() } else { input.int_in_range(0..=2 * info.size())? };
        out.append_memory(gst::Memory::from_mut_slice(vec![input.arbitrary::<u8>()?; size]));
    }
    if input.arbitrary()? {
        add_video_meta(out, &info, input)?;
    }
    if input.arbitrary()? {
        VideoCropMeta::add(out, arbitrary_rect(input)?);
    }
    let faces = (0..input.int_in_range(0..=2)?).map(|_| arbitrary_face(input)).collect::<Result<Vec<_>, _>>()?;
    // Coordinates that are no numbers are refused.
    let _ = face_meta::attach(out, &faces, (width as usize, height as usize));
    for _ in 0..input.int_in_range(0..=3)? {
        let (class, rect) = (*input.choose(&["person", "face", ""])?, arbitrary_rect(input)?);
        VideoRegionOfInterestMeta::add(out, class, rect).set_id(input.arbitrary()?);
    }
    Ok((info, buffer))
}

/// x, y, width and height, in the frame or anywhere.
fn arbitrary_rect(input: &mut Unstructured<'_>) -> arbitrary::Result<(u32, u32, u32, u32)> {
    let number = |input: &mut Unstructured<'_>| match input.arbitrary::<bool>()? {
        true => input.int_in_range(0..=MAX_SIDE),
        false => input.arbitrary::<u32>(),
    };
    Ok((number(input)?, number(input)?, number(input)?, number(input)?))
}

fn arbitrary_face(input: &mut Unstructured<'_>) -> arbitrary::Result<Face> {
    let coordinate = |input: &mut Unstructured<'_>| match input.arbitrary::<bool>()? {
        true => input.int_in_range(-100..=200i16).map(f32::from),
        false => input.arbitrary::<f32>(),
    };
    let rect = Rect::new(coordinate(input)?, coordinate(input)?, coordinate(input)?, coordinate(input)?);
    let mut landmarks = [Point::default(); 5];
    for point in &mut landmarks {
        *point = Point::new(coordinate(input)?, coordinate(input)?);
    }
    let landmarks = input.arbitrary::<bool>()?.then_some(landmarks);
    Ok(Face { score: input.arbitrary()?, rect, landmarks, ..Face::default() })
}

/// Adds a video meta with any size, planes, offsets and strides, as an upstream element with a fault
/// could. The safe binding checks them.
#[expect(unsafe_code, reason = "the binding refuses the metas that this target is about")]
fn add_video_meta(
    buffer: &mut gst::BufferRef,
    info: &VideoInfo,
    input: &mut Unstructured<'_>,
) -> arbitrary::Result<()> {
    let format = if input.ratio(7, 8)? { info.format() } else { VideoFormat::Rgb };
    let side = |input: &mut Unstructured<'_>, side: u32| match input.int_in_range(0..=2u8)? {
        0 => Ok(side),
        1 => input.int_in_range(side..=2 * side),
        _ => input.arbitrary(),
    };
    let (width, height) = (side(input, info.width())?, side(input, info.height())?);
    let planes = if input.ratio(7, 8)? { info.n_planes() } else { input.int_in_range(1..=4)? };
    let (mut offsets, mut strides) = ([0usize; 4], [0i32; 4]);
    for plane in 0..planes as usize {
        let (offset, stride) = match plane < info.n_planes() as usize {
            true => (info.offset()[plane], info.stride()[plane]),
            false => (0, 0),
        };
        offsets[plane] = match input.int_in_range(0..=2u8)? {
            0 => offset,
            1 => input.int_in_range(0..=2 * info.size())?,
            _ => input.arbitrary()?,
        };
        strides[plane] = match input.int_in_range(0..=3u8)? {
            0 => stride,
            1 => stride.saturating_add(input.int_in_range(0..=64)?),
            2 => input.int_in_range(-200..=200)?,
            _ => input.arbitrary()?,
        };
    }
    // The buffer is writable, and the arrays have the length that GStreamer reads.
    unsafe {
        gst_video::ffi::gst_buffer_add_video_meta_full(
            buffer.as_mut_ptr(),
            gst_video::ffi::GST_VIDEO_FRAME_FLAG_NONE,
            format.into_glib(),
            width,
            height,
            planes,
            &raw const offsets,
            &raw const strides,
        );
    }
    Ok(())
}
