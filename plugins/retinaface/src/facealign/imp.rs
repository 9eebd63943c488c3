use std::sync::{LazyLock, Mutex};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::{VideoFormat, VideoInfo};
use retinaface::align::{self, ARCFACE_SIZE, AlignError, Scratch, Similarity};
use retinaface::face::Face;
use retinaface::image::ImageView;

use crate::lock::lock;
use crate::meta::{self, CropOrigin, FrameFace};
use crate::{caps, frame};

const DEFAULT_SIZE: u32 = ARCFACE_SIZE as u32;
const DEFAULT_MIN_FACE_SIZE: u32 = 0;
const DEFAULT_MIN_SCORE: f32 = 0.0;
const DEFAULT_MAX_FACES: u32 = 0;
const DEFAULT_GAP_INTERVAL: u32 = 0;
const DEFAULT_ALIGN_WITHOUT_LANDMARKS: bool = false;
/// Sides of a crop, in pixels.
const SIZE: std::ops::RangeInclusive<u32> = 16..=1024;

static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("facealign", gst::DebugColorFlags::empty(), Some("Alignment of faces")));

#[derive(Clone, Copy, Debug)]
struct Settings {
    size: u32,
    min_face_size: u32,
    min_score: f32,
    max_faces: u32,
    gap_interval: u32,
    align_without_landmarks: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            size: DEFAULT_SIZE,
            min_face_size: DEFAULT_MIN_FACE_SIZE,
            min_score: DEFAULT_MIN_SCORE,
            max_faces: DEFAULT_MAX_FACES,
            gap_interval: DEFAULT_GAP_INTERVAL,
            align_without_landmarks: DEFAULT_ALIGN_WITHOUT_LANDMARKS,
        }
    }
}

impl Settings {
    fn wants(&self, face: &Face) -> bool {
        face.score >= self.min_score && face.rect.w.min(face.rect.h) >= self.min_face_size as f32
    }

    fn most(&self) -> usize {
        if self.max_faces == 0 { usize::MAX } else { self.max_faces as usize }
    }
}

/// Time without a crop of which downstream has not been told yet.
#[derive(Clone, Copy, Debug, Default)]
struct Gap {
    /// Whether downstream was told of a gap since the last crop.
    told: bool,
    /// Where what was not told begins and ends.
    span: Option<(gst::ClockTime, gst::ClockTime)>,
}

impl Gap {
    /// Adds a frame without a crop; gives the start and duration of the gap to tell of now. The first is told at
    /// once, so that sinks need not wait; then one for each `interval`, or for each frame where that is zero.
    fn add(
        &mut self,
        pts: gst::ClockTime,
        duration: Option<gst::ClockTime>,
        interval: gst::ClockTime,
    ) -> Option<(gst::ClockTime, Option<gst::ClockTime>)> {
        if !std::mem::replace(&mut self.told, true) || interval.is_zero() {
            return Some((pts, duration));
        }
        let end = pts.saturating_add(duration.unwrap_or_default());
        let (start, _) = *self.span.get_or_insert((pts, end));
        self.span = Some((start, end));
        if end.checked_sub(start)? < interval {
            return None;
        }
        self.rest()
    }

    /// What has not been told yet.
    fn rest(&mut self) -> Option<(gst::ClockTime, Option<gst::ClockTime>)> {
        let (start, end) = self.span.take()?;
        Some((start, end.checked_sub(start)))
    }
}

/// What exists once crops were agreed on with downstream.
struct State {
    crop: VideoInfo,
    pool: gst::BufferPool,
    scratch: Scratch,
}

pub(crate) struct FaceAlign {
    sink: gst::Pad,
    src: gst::Pad,
    settings: Mutex<Settings>,
    /// The frames' caps, there once they have come.
    frame: Mutex<Option<VideoInfo>>,
    state: Mutex<Option<State>>,
    gap: Mutex<Gap>,
}

#[glib::object_subclass]
impl ObjectSubclass for FaceAlign {
    const NAME: &'static str = "GstFaceAlign";
    type Type = super::FaceAlign;
    type ParentType = gst::Element;

    fn with_class(class: &Self::Class) -> Self {
        let template = |name: &str| class.pad_template(name).expect("the templates below");
        let sink = gst::Pad::builder_from_template(&template("sink"))
            .chain_function(|pad, parent, buffer| {
                Self::catch_panic_pad_function(parent, || Err(gst::FlowError::Error), |this| this.chain(pad, buffer))
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |this| this.sink_event(pad, event))
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |this| this.sink_query(pad, query))
            })
            .build();
        let src = gst::Pad::builder_from_template(&template("src")).build();
        Self {
            sink,
            src,
            settings: Mutex::default(),
            frame: Mutex::default(),
            state: Mutex::default(),
            gap: Mutex::default(),
        }
    }
}

impl ObjectImpl for FaceAlign {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            vec![
                glib::ParamSpecUInt::builder("size")
                    .nick("Size")
                    .blurb("Width and height of a crop in pixels")
                    .minimum(*SIZE.start())
                    .maximum(*SIZE.end())
                    .default_value(DEFAULT_SIZE)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("min-face-size")
                    .nick("Smallest face")
                    .blurb("Faces whose shorter side is below this many pixels of the frame are left out")
                    .maximum(16384)
                    .default_value(DEFAULT_MIN_FACE_SIZE)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecFloat::builder("min-score")
                    .nick("Smallest score")
                    .blurb("Faces scored below this are left out")
                    .minimum(0.0)
                    .maximum(1.0)
                    .default_value(DEFAULT_MIN_SCORE)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("max-faces")
                    .nick("Largest number of faces")
                    .blurb("At most so many crops a frame, best scores first; 0: all")
                    .default_value(DEFAULT_MAX_FACES)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("gap-interval")
                    .nick("Gap interval")
                    .blurb(
                        "While no face comes, send a GAP event for each so many ms after the first; 0: for each frame",
                    )
                    .maximum(60_000)
                    .default_value(DEFAULT_GAP_INTERVAL)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoolean::builder("align-without-landmarks")
                    .nick("Align without landmarks")
                    .blurb("Cut the square around the box of faces that have no landmarks, instead of failing")
                    .default_value(DEFAULT_ALIGN_WITHOUT_LANDMARKS)
                    .mutable_playing()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        const CHECKED: &str = "GObject checks a property's type";
        let mut settings = lock(&self.settings);
        match pspec.name() {
            "size" => settings.size = value.get().expect(CHECKED),
            "min-face-size" => settings.min_face_size = value.get().expect(CHECKED),
            "min-score" => settings.min_score = value.get().expect(CHECKED),
            "max-faces" => settings.max_faces = value.get().expect(CHECKED),
            "gap-interval" => settings.gap_interval = value.get().expect(CHECKED),
            "align-without-landmarks" => settings.align_without_landmarks = value.get().expect(CHECKED),
            _ => unreachable!("GObject sets the properties above only"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let settings = lock(&self.settings);
        match pspec.name() {
            "size" => settings.size.to_value(),
            "min-face-size" => settings.min_face_size.to_value(),
            "min-score" => settings.min_score.to_value(),
            "max-faces" => settings.max_faces.to_value(),
            "gap-interval" => settings.gap_interval.to_value(),
            "align-without-landmarks" => settings.align_without_landmarks.to_value(),
            _ => unreachable!("GObject reads the properties above only"),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        for pad in [&self.sink, &self.src] {
            self.obj().add_pad(pad).expect("a new element has no pads yet");
        }
        caps::explain_refusals(&*self.obj(), &self.sink);
    }
}

impl GstObjectImpl for FaceAlign {}

impl ElementImpl for FaceAlign {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Face aligner",
                "Filter/Converter/Video",
                "Gives every face as an aligned square crop, a buffer of its own",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let side = *SIZE.start() as i32..=*SIZE.end() as i32;
            let crops = gst_video::VideoCapsBuilder::new()
                .format_list([VideoFormat::Rgb, VideoFormat::Bgr])
                .width_range(side.clone())
                .height_range(side)
                .build();
            let src = gst::PadTemplate::new("src", gst::PadDirection::Src, gst::PadPresence::Always, &crops);
            vec![caps::frame_pad("sink", gst::PadDirection::Sink), src.expect("the caps and the name are constants")]
        });
        &TEMPLATES
    }

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        let result = self.parent_change_state(transition);
        if transition == gst::StateChange::PausedToReady {
            self.drop_state();
            *lock(&self.frame) = None;
        }
        result
    }
}

impl FaceAlign {
    fn drop_state(&self) {
        *lock(&self.gap) = Gap::default();
        if let Some(state) = lock(&self.state).take() {
            // Crops that are still in use downstream go back to a pool that frees them.
            let _ = state.pool.set_active(false);
        }
    }

    fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        if let gst::QueryViewMut::Allocation(allocation) = query.view_mut() {
            // Any stride and any crop will do: decoders then need not copy.
            allocation.add_allocation_meta::<gst_video::VideoMeta>(None);
            allocation.add_allocation_meta::<gst_video::VideoCropMeta>(None);
            return true;
        }
        gst::Pad::query_default(pad, Some(&*self.obj()), query)
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Caps(caps) => {
                let Ok(frame) = VideoInfo::from_caps(caps.caps()) else {
                    gst::error!(CAT, imp = self, "{} is not raw video", caps.caps());
                    return false;
                };
                *lock(&self.frame) = Some(frame);
                return self.negotiate().is_ok();
            }
            gst::EventView::FlushStop(_) => *lock(&self.gap) = Gap::default(),
            gst::EventView::Eos(_) | gst::EventView::Segment(_) => {
                let rest = std::mem::take(&mut *lock(&self.gap)).rest();
                self.push_gap(rest);
            }
            _ => {}
        }
        // Segment, flush, EOS and the rest go on as they are.
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    /// Agrees with downstream on the crops' format; says on the bus why it cannot.
    fn negotiate(&self) -> Result<(), gst::FlowError> {
        let result = self.try_negotiate();
        match result {
            Ok(()) | Err(gst::FlowError::Flushing) => {}
            Err(_) => gst::element_imp_error!(
                self,
                gst::CoreError::Negotiation,
                ("No format for aligned crops: what follows takes neither RGB nor BGR of this size; put `videoconvert` after it")
            ),
        }
        result
    }

    /// Agrees with downstream on the crops' format, RGB if it does not care.
    fn try_negotiate(&self) -> Result<(), gst::FlowError> {
        let size = lock(&self.settings).size;
        let formats = [VideoFormat::Rgb, VideoFormat::Bgr].into_iter().map(|format| {
            gst_video::VideoCapsBuilder::new()
                .format(format)
                .width(size as i32)
                .height(size as i32)
                // As many crops a frame as there are faces.
                .framerate(gst::Fraction::new(0, 1))
                .pixel_aspect_ratio(gst::Fraction::new(1, 1))
                .build()
        });
        let ours = formats.collect::<gst::Caps>();
        let mut caps = self.src.peer_query_caps(Some(&ours));
        if caps.is_empty() {
            return Err(gst::FlowError::NotNegotiated);
        }
        caps.fixate();
        let crop = VideoInfo::from_caps(&caps).map_err(|_| gst::FlowError::NotNegotiated)?;
        if !self.src.push_event(gst::event::Caps::new(&caps)) {
            return Err(if self.src.pad_flags().contains(gst::PadFlags::FLUSHING) {
                gst::FlowError::Flushing
            } else {
                gst::FlowError::NotNegotiated
            });
        }
        self.drop_state();
        let pool = crop_pool(&caps, &crop).map_err(|error| {
            gst::error!(CAT, imp = self, "no pool of crops: {error}");
            gst::FlowError::Error
        })?;
        gst::debug!(CAT, imp = self, "crops: {caps}");
        *lock(&self.state) = Some(State { crop, pool, scratch: Scratch::default() });
        Ok(())
    }

    fn chain(&self, _pad: &gst::Pad, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let frame = lock(&self.frame).clone().ok_or(gst::FlowError::NotNegotiated)?;
        if self.src.check_reconfigure()
            && let Err(error) = self.negotiate()
        {
            self.src.mark_reconfigure();
            return Err(error);
        }
        let settings = *lock(&self.settings);
        // The lock ends before anything is pushed.
        let crops = {
            let mut state = lock(&self.state);
            let state = state.as_mut().ok_or(gst::FlowError::NotNegotiated)?;
            self.crops(&buffer, &frame, state, &settings)?
        };
        if crops.is_empty() {
            if let Some(pts) = buffer.pts() {
                let interval = gst::ClockTime::from_mseconds(settings.gap_interval.into());
                let gap = lock(&self.gap).add(pts, buffer.duration(), interval);
                self.push_gap(gap);
            }
            return Ok(gst::FlowSuccess::Ok);
        }
        *lock(&self.gap) = Gap::default();
        for crop in crops {
            self.src.push(crop)?;
        }
        Ok(gst::FlowSuccess::Ok)
    }

    /// Tells downstream that no crop comes for a while.
    fn push_gap(&self, gap: Option<(gst::ClockTime, Option<gst::ClockTime>)>) {
        if let Some((start, duration)) = gap {
            // A gap that nobody takes changes nothing; the next crop's push tells of flushing or EOS.
            self.src.push_event(gst::event::Gap::builder(start).duration(duration).build());
        }
    }

    fn crops(
        &self,
        buffer: &gst::BufferRef,
        frame: &VideoInfo,
        state: &mut State,
        settings: &Settings,
    ) -> Result<Vec<gst::Buffer>, gst::FlowError> {
        let faces = meta::read(buffer, frame::frame_size(buffer, frame)).faces;
        let wanted =
            faces.into_iter().filter(|found| settings.wants(&found.face)).take(settings.most()).collect::<Vec<_>>();
        if !settings.align_without_landmarks && wanted.iter().any(|found| found.face.landmarks.is_none()) {
            return Err(self.failed(
                &"a face has no landmarks, as from a detector that finds boxes only; set align-without-landmarks=true to \
                  get the square around each box instead",
            ));
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let stream = self.sink.stream_id().map(|id| id.to_string()).unwrap_or_default();
        let cut = frame::read(buffer, frame, |view| {
            wanted.iter().filter_map(|found| self.crop(buffer, view, found, &stream, state).transpose()).collect()
        });
        cut.map_err(|error| self.failed(&error))?
    }

    /// One face's crop, or `None` if its landmarks do not determine one.
    fn crop(
        &self,
        buffer: &gst::BufferRef,
        view: &ImageView<'_>,
        found: &FrameFace,
        stream: &str,
        state: &mut State,
    ) -> Result<Option<gst::Buffer>, gst::FlowError> {
        let transform = match transform(&found.face, state.crop.width() as usize) {
            Ok(transform) => transform,
            Err(reason) => {
                gst::debug!(CAT, imp = self, "face {} has no crop: {reason}", found.roi_id);
                return Ok(None);
            }
        };
        let (crop_from_frame, frame_from_crop) = transform;
        let mut crop = state.pool.acquire_buffer(None)?;
        let out = crop.make_mut();
        let scratch = &mut state.scratch;
        let warped = frame::write(out, &state.crop, |crop| align::warp(view, &crop_from_frame, crop, scratch));
        match warped {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(self.failed(&error)),
            Err(error) => return Err(self.failed(&error)),
        }
        out.set_pts(buffer.pts());
        out.set_duration(buffer.duration());
        let origin = CropOrigin {
            stream: stream.to_owned(),
            frame_pts: buffer.pts(),
            frame_size: (view.width() as u32, view.height() as u32),
            roi_id: found.roi_id,
            face: found.face.clone(),
            crop_from_frame,
            frame_from_crop,
        };
        meta::attach_crop(out, &origin).map_err(|error| self.failed(&error))?;
        Ok(Some(crop))
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> gst::FlowError {
        gst::element_imp_error!(self, gst::StreamError::Failed, ("Faces cannot be aligned: {error}"));
        gst::FlowError::Error
    }
}

/// To the crop and back.
fn transform(face: &Face, size: usize) -> Result<(Similarity, Similarity), String> {
    let there = match &face.landmarks {
        Some(landmarks) => align::crop_from_frame(landmarks, size),
        None => align::crop_of_box(face.rect, size),
    };
    let there = there.map_err(|error| error.to_string())?;
    let back = there.inverse().ok_or_else(|| AlignError::OutOfRange.to_string())?;
    Ok((there, back))
}

fn crop_pool(caps: &gst::Caps, info: &VideoInfo) -> Result<gst::BufferPool, glib::BoolError> {
    let pool = gst_video::VideoBufferPool::new();
    let mut config = pool.config();
    config.set_params(Some(caps), info.size() as u32, 0, 0);
    pool.set_config(config)?;
    pool.set_active(true)?;
    Ok(pool.upcast())
}
