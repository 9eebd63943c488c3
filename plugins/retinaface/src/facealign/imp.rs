use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use face_meta::{CropOrigin, FrameFace};
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::{VideoFormat, VideoInfo};
use retinaface::align::{self, Affine, AlignError, WarpBuffers};
use retinaface::detect::SettingsProblem;
use retinaface::geometry::{ARCFACE_SIZE, Face, PixelAspect};
use retinaface::image::ImageView;

use super::negotiation;
use crate::common::errors::{Coded, ElementError, ErrorCode};
use crate::common::face_reader::{FaceReader, FacesToCrop};
use crate::common::settings_report::SettingsReport;
use crate::common::sync::lock;
use crate::common::{caps, frame};

const DEFAULT_SIZE: u32 = ARCFACE_SIZE as u32;
const DEFAULT_MIN_FACE_SIZE: u32 = 0;
const DEFAULT_MIN_SCORE: f32 = 0.0;
const DEFAULT_MAX_FACES: u32 = 0;
const DEFAULT_GAP_INTERVAL: u32 = 0;
const DEFAULT_ALIGN_WITHOUT_LANDMARKS: bool = false;
const DEFAULT_ANTIALIAS: bool = false;
const DEFAULT_ALIGN_PREDICTED: bool = false;
/// Range of the width and height of a crop, in pixels.
pub(super) const SIZE: std::ops::RangeInclusive<u32> = 16..=1024;

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
    antialias: bool,
    align_predicted: bool,
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
            antialias: DEFAULT_ANTIALIAS,
            align_predicted: DEFAULT_ALIGN_PREDICTED,
        }
    }
}

impl Settings {
    fn wants(&self, face: &Face) -> bool {
        let is_wanted = self.align_predicted || face.uncertainty.is_none();
        is_wanted && face.score >= self.min_score && face.rect.w.min(face.rect.h) >= self.min_face_size as f32
    }

    fn max_faces(&self) -> usize {
        if self.max_faces == 0 { usize::MAX } else { self.max_faces as usize }
    }
}

/// Time without a crop for which downstream has received no GAP event yet.
#[derive(Clone, Copy, Debug, Default)]
struct Gap {
    /// Whether a GAP event was sent since the last crop.
    sent: bool,
    /// Start and end of the time without an event.
    span: Option<(gst::ClockTime, gst::ClockTime)>,
}

impl Gap {
    /// Adds a frame without a crop. Returns start and duration of the GAP event to send now: the
    /// first one at once, so that sinks do not wait, then one per `interval`, or per frame if that
    /// is zero.
    fn add(
        &mut self,
        pts: gst::ClockTime,
        duration: Option<gst::ClockTime>,
        interval: gst::ClockTime,
    ) -> Option<(gst::ClockTime, Option<gst::ClockTime>)> {
        if !std::mem::replace(&mut self.sent, true) || interval.is_zero() {
            return Some((pts, duration));
        }
        let end = pts.saturating_add(duration.unwrap_or_default());
        let (start, _) = *self.span.get_or_insert((pts, end));
        self.span = Some((start, end));
        if end.checked_sub(start)? < interval {
            return None;
        }
        self.take_rest()
    }

    /// The time without an event so far.
    fn take_rest(&mut self) -> Option<(gst::ClockTime, Option<gst::ClockTime>)> {
        let (start, end) = self.span.take()?;
        Some((start, end.checked_sub(start)))
    }
}

/// What exists once the format of the crops is negotiated.
struct State {
    crop: VideoInfo,
    pool: gst::BufferPool,
    scratch: WarpBuffers,
}

pub(crate) struct FaceAlign {
    sink: gst::Pad,
    src: gst::Pad,
    settings: Mutex<Settings>,
    /// Format of the frames, known from the first caps on.
    frame: Mutex<Option<VideoInfo>>,
    state: Mutex<Option<State>>,
    gap: Mutex<Gap>,
    /// Number of the latest analysis whose faces have crops.
    analysis: Mutex<Option<u64>>,
    faces: FaceReader,
    report: SettingsReport,
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
            analysis: Mutex::default(),
            faces: FaceReader::default(),
            report: SettingsReport::default(),
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
                    .nick("Minimum face size")
                    .blurb("Minimum length of a face's shorter side in frame pixels; smaller faces have no crop; 0: no limit")
                    .maximum(16384)
                    .default_value(DEFAULT_MIN_FACE_SIZE)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecFloat::builder("min-score")
                    .nick("Minimum score")
                    .blurb("Minimum score; faces with a lower score have no crop")
                    .minimum(0.0)
                    .maximum(1.0)
                    .default_value(DEFAULT_MIN_SCORE)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("max-faces")
                    .nick("Maximum faces")
                    .blurb("Maximum number of crops per frame, best scores first; 0: no limit")
                    .default_value(DEFAULT_MAX_FACES)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("gap-interval")
                    .nick("Gap interval")
                    .blurb(
                        "Interval in ms of GAP events while there is no face, after the first one; 0: one event per frame",
                    )
                    .maximum(60_000)
                    .default_value(DEFAULT_GAP_INTERVAL)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoolean::builder("align-without-landmarks")
                    .nick("Align without landmarks")
                    .blurb("Crop the square around the box of faces without landmarks, instead of failing")
                    .default_value(DEFAULT_ALIGN_WITHOUT_LANDMARKS)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoolean::builder("antialias")
                    .nick("Antialias")
                    .blurb("Average all frame pixels that a crop pixel covers, where it covers 1.5 or more per axis, to reduce noise in crops of large faces; off: bilinear interpolation, as InsightFace's norm_crop")
                    .default_value(DEFAULT_ANTIALIAS)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoolean::builder("align-predicted")
                    .nick("Align predicted faces")
                    .blurb(
                        "Also crop faces whose position facetrack predicted, between inferences; their landmarks are less \
                         exact",
                    )
                    .default_value(DEFAULT_ALIGN_PREDICTED)
                    .mutable_playing()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        const CHECKED: &str = "GObject checks the type of a property";
        let mut settings = lock(&self.settings);
        match pspec.name() {
            "size" => settings.size = value.get().expect(CHECKED),
            "min-face-size" => settings.min_face_size = value.get().expect(CHECKED),
            "min-score" => settings.min_score = value.get().expect(CHECKED),
            "max-faces" => settings.max_faces = value.get().expect(CHECKED),
            "gap-interval" => settings.gap_interval = value.get().expect(CHECKED),
            "align-without-landmarks" => settings.align_without_landmarks = value.get().expect(CHECKED),
            "antialias" => settings.antialias = value.get().expect(CHECKED),
            "align-predicted" => settings.align_predicted = value.get().expect(CHECKED),
            _ => unreachable!("GObject sets writable properties only"),
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
            "antialias" => settings.antialias.to_value(),
            "align-predicted" => settings.align_predicted.to_value(),
            _ => unreachable!("GObject reads listed properties only"),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        for pad in [&self.sink, &self.src] {
            self.obj().add_pad(pad).expect("a new element has no pads yet");
        }
        caps::report_unsupported_caps(&*self.obj(), &self.sink);
    }
}

impl GstObjectImpl for FaceAlign {}

impl ElementImpl for FaceAlign {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Face aligner",
                "Filter/Converter/Video",
                "Outputs each face as an aligned square crop in a buffer of its own",
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
            self.report.clear();
        }
        result
    }
}

impl FaceAlign {
    fn drop_state(&self) {
        *lock(&self.gap) = Gap::default();
        if let Some(state) = lock(&self.state).take() {
            // Crops that downstream still uses return to an inactive pool, which frees them.
            let _ = state.pool.set_active(false);
        }
    }

    fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        if let gst::QueryViewMut::Allocation(allocation) = query.view_mut() {
            // Every stride and crop is supported, so that decoders need not copy.
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
                let rest = std::mem::take(&mut *lock(&self.gap)).take_rest();
                self.push_gap(rest);
            }
            _ => {}
        }
        // All events pass unchanged.
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    /// Negotiates the format of the crops with downstream, RGB if it accepts both; posts an error
    /// if that fails.
    fn negotiate(&self) -> Result<(), gst::FlowError> {
        let size = lock(&self.settings).size;
        let mut caps = self.src.peer_query_caps(Some(&negotiation::crop_caps(size)));
        if caps.is_empty() {
            let reason = negotiation::explain(size, &self.src.peer_query_caps(None));
            return Err(self.negotiation_error(&reason));
        }
        caps.fixate();
        let crop = VideoInfo::from_caps(&caps).map_err(|_| gst::FlowError::NotNegotiated)?;
        if !self.src.push_event(gst::event::Caps::new(&caps)) {
            return Err(if self.src.pad_flags().contains(gst::PadFlags::FLUSHING) {
                gst::FlowError::Flushing
            } else {
                self.negotiation_error(&format!("an element after this one refused {caps}; its own error says why"))
            });
        }
        self.drop_state();
        let pool = crop_pool(&caps, &crop).map_err(|error| {
            self.negotiation_error(&format!("the buffer pool for {caps} cannot be created: {error}"))
        })?;
        gst::debug!(CAT, imp = self, "crops: {caps}");
        *lock(&self.state) = Some(State { crop, pool, scratch: WarpBuffers::default() });
        Ok(())
    }

    fn negotiation_error(&self, reason: &str) -> gst::FlowError {
        gst::element_imp_error!(self, gst::CoreError::Negotiation, ("Aligned crops cannot be negotiated: {reason}"));
        gst::FlowError::NotNegotiated
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
        let known = *lock(&self.analysis);
        let found = self.faces.read_to_crop(&*self.obj(), &buffer, &frame, "aligned", known);
        let size = frame::frame_size(&buffer, &frame);
        let too_large = SettingsProblem::of_min_face_size(settings.min_face_size as f32, (size.width, size.height));
        self.report.post(&*self.obj(), too_large);
        // The lock is released before a push.
        let crops = {
            let mut state = lock(&self.state);
            let state = state.as_mut().ok_or(gst::FlowError::NotNegotiated)?;
            self.crops(&buffer, &frame, found, state, &settings)
        };
        // Posted without a lock: a handler of the bus may call the element.
        let crops = crops.map_err(|failure| match failure {
            CropFailure::Flow(error) => error,
            CropFailure::Error(error) => self.fail(&*error),
        })?;
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

    /// Sends a GAP event: there is no crop for a while.
    fn push_gap(&self, gap: Option<(gst::ClockTime, Option<gst::ClockTime>)>) {
        if let Some((start, duration)) = gap {
            // A refused GAP event changes nothing; the push of the next crop returns flushing or
            // EOS.
            self.src.push_event(gst::event::Gap::builder(start).duration(duration).build());
        }
    }

    fn crops(
        &self,
        buffer: &gst::BufferRef,
        frame: &VideoInfo,
        found: FacesToCrop,
        state: &mut State,
        settings: &Settings,
    ) -> Result<Vec<gst::Buffer>, CropFailure> {
        let (analysed, info);
        let (source, faces) = match found {
            // Several frames carry the faces of one analysis.
            FacesToCrop::Unknown | FacesToCrop::Known => return Ok(Vec::new()),
            FacesToCrop::Here(found) => (Source { buffer, info: frame, age: Duration::ZERO }, found.faces),
            FacesToCrop::Earlier(found, format) => {
                (analysed, info) = (found.frame, format);
                *lock(&self.analysis) = Some(analysed.number());
                let Some(buffer) = analysed.buffer() else { return Ok(Vec::new()) };
                (Source { buffer, info: &info, age: found.age }, found.faces)
            }
        };
        self.crops_from(buffer, &source, faces, state, settings)
    }

    /// The crops of faces that were found in `source` and that `buffer` carries.
    fn crops_from(
        &self,
        buffer: &gst::BufferRef,
        source: &Source<'_>,
        faces: Vec<FrameFace>,
        state: &mut State,
        settings: &Settings,
    ) -> Result<Vec<gst::Buffer>, CropFailure> {
        let wanted = faces
            .into_iter()
            .filter(|found| settings.wants(&found.face))
            .take(settings.max_faces())
            .collect::<Vec<_>>();
        if !settings.align_without_landmarks && wanted.iter().any(|found| found.face.landmarks.is_none()) {
            return Err(CropFailure::from(ElementError {
                code: ErrorCode::WrongType,
                text: "a face has no landmarks, because the detector finds boxes only; set align-without-landmarks=true to \
                       crop the square around each box instead",
            }));
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let stream = self.sink.stream_id().map(|id| id.to_string()).unwrap_or_default();
        let cut = frame::read(source.buffer, source.info, |view| {
            let crop = |found| self.crop(buffer, source, view, found, &stream, state).transpose();
            wanted.iter().filter_map(crop).collect()
        });
        cut?
    }

    /// The crop of a face; `None` if its landmarks do not determine one.
    fn crop(
        &self,
        buffer: &gst::BufferRef,
        source: &Source<'_>,
        view: &ImageView<'_>,
        found: &FrameFace,
        stream: &str,
        state: &mut State,
    ) -> Result<Option<gst::Buffer>, CropFailure> {
        let antialias = lock(&self.settings).antialias;
        let frame_size = view.info().size();
        let transform = match transform(&found.face, frame_size.pixel_aspect, state.crop.width() as usize) {
            Ok(transform) => transform,
            Err(reason) => {
                gst::debug!(CAT, imp = self, "face {} has no crop: {reason}", found.roi_id);
                return Ok(None);
            }
        };
        let (crop_from_frame, frame_from_crop) = transform;
        let mut crop = state.pool.acquire_buffer(None).map_err(CropFailure::Flow)?;
        let out = crop.make_mut();
        let scratch = &mut state.scratch;
        let warp = if antialias { align::warp_antialiased } else { align::warp };
        frame::write(out, &state.crop, |crop| warp(view, &crop_from_frame, crop, scratch))??;
        out.set_pts(buffer.pts());
        out.set_duration(buffer.duration());
        let origin = CropOrigin {
            stream: stream.to_owned(),
            frame_pts: source.buffer.pts(),
            age: source.age,
            frame_size,
            roi_id: found.roi_id,
            face: found.face.clone(),
            crop_from_frame,
            frame_from_crop,
        };
        face_meta::attach_crop(out, &origin)?;
        Ok(Some(crop))
    }

    fn fail(&self, error: &dyn Coded) -> gst::FlowError {
        self.post_error_message(error.code().message(&format!("Faces cannot be aligned: {error}")));
        gst::FlowError::Error
    }
}

/// Why a frame has no crops.
enum CropFailure {
    /// The flow return of the pool of crops.
    Flow(gst::FlowError),
    /// An error to post.
    Error(Box<dyn Coded>),
}

impl<E: Coded + 'static> From<E> for CropFailure {
    fn from(error: E) -> Self {
        Self::Error(Box::new(error))
    }
}

/// The frame in which faces were found.
struct Source<'a> {
    buffer: &'a gst::BufferRef,
    info: &'a VideoInfo,
    /// The time since then.
    age: Duration,
}

/// The transform to a crop and its inverse.
fn transform(face: &Face, pixel_aspect: PixelAspect, size: usize) -> Result<(Affine, Affine), AlignError> {
    let crop_from_frame = align::crop_of_face(face, pixel_aspect, size)?;
    let frame_from_crop = crop_from_frame.inverse().ok_or(AlignError::OutOfRange)?;
    Ok((crop_from_frame, frame_from_crop))
}

fn crop_pool(caps: &gst::Caps, info: &VideoInfo) -> Result<gst::BufferPool, glib::BoolError> {
    let pool = gst_video::VideoBufferPool::new();
    let mut config = pool.config();
    config.set_params(Some(caps), info.size() as u32, 0, 0);
    pool.set_config(config)?;
    pool.set_active(true)?;
    Ok(pool.upcast())
}
