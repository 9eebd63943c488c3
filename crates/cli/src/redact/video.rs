//! Videos: the first pass finds the faces of all frames, the second one covers and encodes the frames
//! and copies the other streams.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use face_meta::to_pixel_aspect;
use gst::prelude::*;
use gst_video::{VideoCropMeta, VideoInfo};
use indicatif::ProgressBar;
use retinaface::geometry::{Face, FrameSize, Rect};
use retinaface::track::KnownFaces;

use super::areas::{AnalysedFrame, Areas};
use super::streams::{Interrupt, Player, Reports, type_name};
use super::{Redact, Report, extension};
use crate::args::{model_path, silence_opencv};
use crate::elements;
use crate::status::progress_bar;

pub(super) const SCHEMA: &str = "retinaface.redact/1";

/// How long a pass waits for frames or messages before it looks for others.
const POLL: gst::ClockTime = gst::ClockTime::from_mseconds(100);
/// Ticks per second of MP4 timestamps: the durations of the usual frame rates, 1001/24000 s to 1/120 s,
/// are whole numbers of them.
const MP4_TIMESCALE: u32 = 120_000;
/// AAC as MP4 and Matroska hold it.
const RAW_AAC: &str = "audio/mpeg, mpegversion=(int)4, framed=(boolean)true, stream-format=(string)raw";

/// A format of video files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Container {
    Mp4,
    QuickTime,
    Matroska,
}

impl Container {
    /// The format that the name of a file selects.
    pub(super) fn of(path: &Path) -> Option<Self> {
        match extension(path).as_str() {
            "mp4" | "m4v" => Some(Self::Mp4),
            "mov" => Some(Self::QuickTime),
            "mkv" => Some(Self::Matroska),
            _ => None,
        }
    }

    fn muxer(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4mux",
            Self::QuickTime => "qtmux",
            Self::Matroska => "matroskamux",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Mp4 => "MP4",
            Self::QuickTime => "QuickTime",
            Self::Matroska => "Matroska",
        }
    }
}

impl Redact {
    /// Writes the video to `output`, in this format.
    pub(super) fn redact_video(&self, container: Container, output: &Path) -> anyhow::Result<Report> {
        let interrupt = Interrupt::new()?;
        silence_opencv()?;
        elements::require(&["retinaface", "facetrack", "faceredact"])?;
        // Found to be missing before the first pass, not after it.
        let (encoder, muxer) = (self.encoder()?, make(container.muxer())?);
        let reports = Reports::default();
        let bar = progress_bar(100);
        let analysed = self.analyse(&reports, &interrupt, &bar)?;
        ensure!(!analysed.is_empty(), "{} has no video frames", self.input.display());
        let frames = analysed.len();
        let areas = Areas::new(&analysed, &self.coverage());
        drop(analysed);
        let faces = areas.faces;
        let second = SecondPass { container, muxer, encoder, output, areas, frames };
        let frames_covered_whole = self.cover(second, &reports, &interrupt, &bar)?;
        bar.finish_and_clear();
        Ok(Report { schema: SCHEMA, frames, faces, frames_covered_whole, notes: reports.take_notes() })
    }

    /// The first pass: the faces of all frames.
    fn analyse(
        &self,
        reports: &Reports,
        interrupt: &Interrupt,
        bar: &ProgressBar,
    ) -> anyhow::Result<Vec<AnalysedFrame>> {
        bar.set_message("finding faces");
        let model = model_path(self.model.as_deref())?;
        let detector = elements::retinaface(&model, &self.model_args)
            .property("score-threshold", self.score_threshold)
            .property("input-size", self.input_size)
            .property("scales", &self.scales)
            .property("tiles", &self.tiles)
            .property("inference-interval", self.inference_interval)
            .property_from_str("refine-large-faces", "off")
            .build()?;
        let tracker =
            gst::ElementFactory::make("facetrack").property("score-threshold", self.score_threshold).build()?;
        let sink = gst_app::AppSink::builder().sync(false).max_buffers(4).build();
        let pipeline = gst::Pipeline::new();
        let first = link_frames(&pipeline, &[&detector, &tracker, sink.upcast_ref()])?;
        let weak = pipeline.downgrade();
        // The second pass names the streams that it drops.
        let first_reports = Reports::default();
        let player = Player::new(&self.input, pipeline, &first, &first_reports, interrupt, move |pad, _| {
            drop_stream(&weak.upgrade().context("the pipeline ends")?, pad)
        })?;
        player.start()?;
        let mut frames = Vec::new();
        let mut duration = None;
        let mut is_end = false;
        loop {
            is_end |= player.poll(gst::ClockTime::ZERO)?;
            let Some(sample) = sink.try_pull_sample(POLL) else {
                if is_end && sink.is_eos() {
                    break;
                }
                continue;
            };
            let frame = analysed_frame(&sample).with_context(|| format!("cannot process {}", self.input.display()))?;
            duration = duration.or_else(|| player.duration()).filter(|duration| !duration.is_zero());
            if let (Some(duration), Some(pts)) = (duration, frame.pts) {
                bar.set_position((pts.as_nanos() * 50 / u128::from(duration.nseconds())).min(50) as u64);
            }
            frames.push(frame);
        }
        reports.take_chapters_of(&first_reports);
        Ok(frames)
    }

    /// The second pass. Returns the number of frames that were covered whole.
    fn cover(
        &self,
        second: SecondPass<'_>,
        reports: &Reports,
        interrupt: &Interrupt,
        bar: &ProgressBar,
    ) -> anyhow::Result<usize> {
        bar.set_message("covering");
        let SecondPass { container, muxer, encoder, output, areas, frames } = second;
        let [r, g, b] = self.color;
        let redactor = gst::ElementFactory::make("faceredact")
            .property_from_str("method", &value_name(&self.method))
            .property_from_str("shape", &value_name(&self.shape))
            .property("color", u32::from_be_bytes([0, r, g, b]))
            .property("masks", &self.mask.text)
            // The areas are final.
            .property("margin", 1.0f32)
            .property("hold", 0u32)
            .property("lookahead", 0u32)
            .property_from_str("on-doubt", "cover")
            .property("strip-metadata", true)
            .build()?;
        let covered = Arc::new(Counts::default());
        attach_areas(&redactor, areas, &covered)?;
        let converter = make("videoconvert")?;
        let format = gst::Caps::builder("video/x-raw").field("format", gst::List::new(["I420", "I420_10LE"])).build();
        let format = gst::ElementFactory::make("capsfilter").property("caps", format).build()?;
        let parser = make("h264parse")?;
        let sink =
            gst::ElementFactory::make("filesink").property("location", output).property("async", false).build()?;
        let pipeline = gst::Pipeline::new();
        let first = link_frames(&pipeline, &[&redactor, &converter, &format, &encoder, &parser])?;
        pipeline.add_many([&muxer, &sink])?;
        muxer.link(&sink)?;
        let video = muxer.request_pad_simple("video_%u").context("the muxer takes video")?;
        if container != Container::Matroska {
            video.set_property("trak-timescale", MP4_TIMESCALE);
        }
        keep_no_pictures(&video, reports);
        if let Some(chapters) = reports.chapters() {
            if muxer.is::<gst::TocSetter>() {
                set_chapters(&video, &muxer, chapters);
            } else {
                let name = container.name();
                reports.note(format!("the chapters are dropped: write .mkv to keep them, {name} has none here"));
            }
        }
        parser.static_pad("src").context("h264parse has a source pad")?.link(&video)?;

        let (weak, stream_reports) = (pipeline.downgrade(), reports.clone());
        let player = Player::new(&self.input, pipeline, &first, reports, interrupt, move |pad, caps| {
            let pipeline = weak.upgrade().context("the pipeline ends")?;
            copy_stream(&pipeline, &muxer, container, pad, caps, &stream_reports)
        })?;
        player.start()?;
        while !player.poll(POLL)? {
            let done = covered.frames.load(Ordering::Relaxed);
            bar.set_position(50 + (done * 50 / frames).min(50) as u64);
        }
        let done = covered.frames.load(Ordering::Relaxed);
        ensure!(
            done == frames,
            "{}: the first pass has seen {frames} frames, and the second one {done}: the file has changed",
            self.input.display()
        );
        Ok(covered.whole.load(Ordering::Relaxed))
    }

    /// The first H.264 encoder that is installed.
    fn encoder(&self) -> anyhow::Result<gst::Element> {
        if gst::ElementFactory::find("x264enc").is_some() {
            let encoder = gst::ElementFactory::make("x264enc").property("quantizer", self.quality);
            // Reordered frames need an edit list in MP4. The one that mp4mux of GStreamer 1.22 writes cuts
            // off the last frame.
            return Ok(encoder.property_from_str("pass", "qual").property("bframes", 0u32).build()?);
        }
        if gst::ElementFactory::find("openh264enc").is_some() {
            // It has no constant rate factor.
            let encoder = gst::ElementFactory::make("openh264enc").property_from_str("rate-control", "quality");
            return Ok(encoder.property("qp-min", self.quality).property("qp-max", self.quality).build()?);
        }
        bail!("GStreamer has no H.264 encoder: install x264enc (gst-plugins-ugly) or openh264enc (gst-plugins-bad)")
    }
}

/// What the second pass needs.
struct SecondPass<'a> {
    container: Container,
    muxer: gst::Element,
    encoder: gst::Element,
    output: &'a Path,
    areas: Areas,
    /// Number of frames of the first pass.
    frames: usize,
}

/// Numbers of frames.
#[derive(Default)]
struct Counts {
    frames: AtomicUsize,
    whole: AtomicUsize,
}

/// The name of a value, which is also that of the element's property.
fn value_name(value: &impl clap::ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn make(name: &str) -> anyhow::Result<gst::Element> {
    gst::ElementFactory::make(name)
        .build()
        .with_context(|| format!("GStreamer has no element {name}: install its plugin"))
}

/// Adds elements for upright frames, followed by `elements`. Returns the first of them.
fn link_frames(pipeline: &gst::Pipeline, elements: &[&gst::Element]) -> anyhow::Result<gst::Element> {
    let converter = make("videoconvert")?;
    let flip = gst::ElementFactory::make("videoflip").property_from_str("video-direction", "auto").build()?;
    let chain = [&[&converter, &flip][..], elements].concat();
    pipeline.add_many(chain.iter().copied())?;
    gst::Element::link_many(chain.iter().copied())?;
    Ok(converter)
}

/// The size of the picture of a frame.
fn frame_size(buffer: &gst::BufferRef, info: &VideoInfo) -> FrameSize {
    let crop = buffer.meta::<VideoCropMeta>().map(|crop| crop.rect());
    let (width, height) = crop.map_or((info.width(), info.height()), |(_, _, width, height)| (width, height));
    FrameSize { width: width as usize, height: height as usize, pixel_aspect: to_pixel_aspect(info.par()) }
}

fn analysed_frame(sample: &gst::Sample) -> anyhow::Result<AnalysedFrame> {
    let buffer = sample.buffer().context("a sample without a frame")?;
    let info = VideoInfo::from_caps(sample.caps().context("a sample without caps")?)?;
    let found = face_meta::read(buffer, frame_size(buffer, &info));
    let known = KnownFaces {
        has_result: found.state.has_result(),
        age: found.age,
        lost: found.lost,
        faces: found.into_faces(),
    };
    Ok(AnalysedFrame { pts: buffer.pts().map(Duration::from), known })
}

/// Gives each frame that enters `redactor` its areas. It covers a frame without areas whole.
fn attach_areas(redactor: &gst::Element, areas: Areas, counts: &Arc<Counts>) -> anyhow::Result<()> {
    let counts = Arc::clone(counts);
    let pad = redactor.static_pad("sink").context("faceredact has a sink pad")?;
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let Some(buffer) = info.buffer_mut() else { return gst::PadProbeReturn::Ok };
        let areas = areas.of(buffer.pts().map(Duration::from));
        let info = pad.current_caps().and_then(|caps| VideoInfo::from_caps(&caps).ok());
        let buffer = buffer.make_mut();
        let is_attached = areas.zip(info).is_some_and(|(areas, info)| {
            let face = |rect: &Rect| Face { score: 1.0, rect: *rect, ..Face::default() };
            let size = frame_size(buffer, &info);
            face_meta::attach(buffer, &areas.iter().map(face).collect::<Vec<_>>(), size).is_ok()
        });
        if !is_attached {
            face_meta::strip(buffer);
            counts.whole.fetch_add(1, Ordering::Relaxed);
        }
        counts.frames.fetch_add(1, Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// Links a stream to the muxer, as it is.
fn copy_stream(
    pipeline: &gst::Pipeline,
    muxer: &gst::Element,
    container: Container,
    pad: &gst::Pad,
    caps: &gst::Caps,
    reports: &Reports,
) -> anyhow::Result<()> {
    let raw_aac = RAW_AAC.parse::<gst::Caps>()?;
    let is_aac = caps.structure(0).is_some_and(|caps| caps.name() == "audio/mpeg" && caps.get("mpegversion") == Ok(4));
    if let Some(target) = request_pad(muxer, caps) {
        keep_no_pictures(&target, reports);
        pad.link(&target)?;
    } else if is_aac && let Some(target) = request_pad(muxer, &raw_aac) {
        // Transport streams have headers in the packets.
        let parser = make("aacparse")?;
        pipeline.add(&parser)?;
        keep_no_pictures(&target, reports);
        parser.static_pad("src").context("aacparse has a source pad")?.link(&target)?;
        parser.sync_state_with_parent()?;
        pad.link(&parser.static_pad("sink").context("aacparse has a sink pad")?)?;
    } else {
        let name = type_name(caps);
        ensure!(
            !name.starts_with("audio/"),
            "{} holds no audio of type {name}: write .mkv, which holds more types",
            container.name()
        );
        reports.note(format!("a stream of type {name} is dropped: {} does not hold it", container.name()));
        drop_stream(pipeline, pad)?;
    }
    Ok(())
}

/// Links a stream to a sink that drops it. A stream that ends nowhere would stop the others.
fn drop_stream(pipeline: &gst::Pipeline, pad: &gst::Pad) -> anyhow::Result<()> {
    let sink = gst::ElementFactory::make("fakesink").property("sync", false).property("async", false).build()?;
    pipeline.add(&sink)?;
    sink.sync_state_with_parent()?;
    pad.link(&sink.static_pad("sink").context("fakesink has a sink pad")?)?;
    Ok(())
}

/// A new pad of the muxer for a stream with these caps.
fn request_pad(muxer: &gst::Element, caps: &gst::Caps) -> Option<gst::Pad> {
    let is_for = |template: &gst::PadTemplate| {
        template.direction() == gst::PadDirection::Sink
            && template.presence() == gst::PadPresence::Request
            && template.caps().can_intersect(caps)
    };
    let template = muxer.pad_template_list().into_iter().find(is_for)?;
    muxer.request_pad(&template, None, None)
}

/// Gives the muxer chapters before it writes the header. It forgets those that it has before it starts.
fn set_chapters(pad: &gst::Pad, muxer: &gst::Element, chapters: gst::Toc) {
    let muxer = muxer.downgrade();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        if let Some(muxer) = muxer.upgrade().and_then(|muxer| muxer.dynamic_cast::<gst::TocSetter>().ok()) {
            muxer.set_toc(Some(&chapters));
        }
        gst::PadProbeReturn::Remove
    });
}

/// Removes pictures from the tags that enter the muxer, such as cover art and thumbnails, which show
/// faces. Removes the orientation, too: the frames are upright.
fn keep_no_pictures(pad: &gst::Pad, reports: &Reports) {
    let reports = reports.clone();
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        let Some(gst::PadProbeData::Event(event)) = &mut info.data else { return gst::PadProbeReturn::Ok };
        match event.view() {
            gst::EventView::Tag(tags) => {
                let (kept, has_pictures) = without_pictures(tags.tag());
                if has_pictures {
                    reports.note("cover art, thumbnails and attachments are dropped".to_owned());
                }
                *event = gst::event::Tag::new(kept);
                gst::PadProbeReturn::Ok
            }
            gst::EventView::Toc(_) => {
                // The chapters of the first pass are set. A sticky event cannot be dropped: GStreamer 1.22
                // writes a critical message.
                *event = gst::event::Tag::new(gst::TagList::new());
                gst::PadProbeReturn::Ok
            }
            _ => gst::PadProbeReturn::Ok,
        }
    });
}

/// The tags without those that hold data of any kind, and whether there were such.
fn without_pictures(tags: &gst::TagListRef) -> (gst::TagList, bool) {
    let mut kept = tags.to_owned();
    let mut has_pictures = false;
    for (name, mut values) in tags.iter_generic() {
        let is_data = values.any(|value| value.type_() == gst::Sample::static_type());
        has_pictures |= is_data;
        if is_data || name == "image-orientation" {
            kept.make_mut().remove_generic(name);
        }
    }
    (kept, has_pictures)
}
