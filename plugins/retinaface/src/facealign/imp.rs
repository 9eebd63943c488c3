use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use face_meta::FrameFace;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::{VideoFormat, VideoInfo};
use retinaface::crops::FaceQuality;
use retinaface::detect::SettingsProblem;
use retinaface::track::{TrackEvent, TrackEventKind};

use super::best_shot::TrackCrops;
use super::cropper::{CropFailure, Cropper, Source, Timing};
use super::gap::Gap;
use super::settings::{self, SIZE, Settings};
use super::{CAT, negotiation};
use crate::common::errors::{Coded, ElementError, ErrorCode};
use crate::common::face_reader::{FaceReader, FacesToCrop};
use crate::common::settings_report::SettingsReport;
use crate::common::sync::lock;
use crate::common::{caps, frame};

pub(crate) struct FaceAlign {
    sink: gst::Pad,
    src: gst::Pad,
    settings: Mutex<Settings>,
    /// Format of the frames, known from the first caps on.
    frame: Mutex<Option<VideoInfo>>,
    cropper: Mutex<Option<Cropper>>,
    /// The crops that `best-shot` keeps.
    tracks: Mutex<TrackCrops>,
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
            cropper: Mutex::default(),
            tracks: Mutex::default(),
            gap: Mutex::default(),
            analysis: Mutex::default(),
            faces: FaceReader::default(),
            report: SettingsReport::default(),
        }
    }
}

impl ObjectImpl for FaceAlign {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(settings::properties);
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        lock(&self.settings).set_property(value, pspec);
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        lock(&self.settings).property(pspec)
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
            *lock(&self.gap) = Gap::default();
            *lock(&self.cropper) = None;
            *lock(&self.tracks) = TrackCrops::default();
            *lock(&self.frame) = None;
            self.report.clear();
        }
        result
    }
}

impl FaceAlign {
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
                lock(&self.tracks).set_info(&frame);
                *lock(&self.frame) = Some(frame);
                return self.negotiate().is_ok();
            }
            gst::EventView::FlushStop(_) => {
                *lock(&self.gap) = Gap::default();
                lock(&self.tracks).flush();
            }
            gst::EventView::StreamStart(_) => {
                self.end_tracks();
                lock(&self.tracks).flush();
            }
            gst::EventView::Eos(_) => {
                self.end_tracks();
                self.push_rest_of_gap();
                let is_without_ids = lock(&self.tracks).ids().end();
                self.report_missing_ids(is_without_ids);
            }
            gst::EventView::Segment(segment) => {
                let rate = segment.segment().rate();
                let turns = lock(&self.tracks).turns(rate);
                if turns {
                    self.end_tracks();
                    lock(&self.tracks).set_rate(rate);
                }
                self.push_rest_of_gap();
            }
            gst::EventView::CustomDownstream(custom) => {
                if let Some(event) = custom.structure().and_then(face_meta::read_track_event) {
                    self.track_event(&event);
                }
            }
            _ => {}
        }
        // All events pass unchanged.
        gst::Pad::event_default(pad, Some(&*self.obj()), event)
    }

    fn track_event(&self, event: &TrackEvent) {
        let mut tracks = lock(&self.tracks);
        tracks.ids().see_track();
        if event.kind == TrackEventKind::Ended {
            tracks.end_track(event.track_id);
        }
    }

    /// Outputs the final crop of every track.
    fn end_tracks(&self) {
        // The lock is released before a push.
        let crops = lock(&self.tracks).end();
        // A failed push has an error message of its own, or downstream wants nothing more; the next
        // push fails, too.
        let _ = crops.map_err(|error| self.fail(&error)).and_then(|crops| self.push_all(crops));
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
        let is_new = lock(&self.cropper).as_ref().is_none_or(|cropper| *cropper.caps() != caps);
        if is_new {
            // The crops that are kept have the previous format.
            self.end_tracks();
        }
        if !self.src.push_event(gst::event::Caps::new(&caps)) {
            return Err(if self.src.pad_flags().contains(gst::PadFlags::FLUSHING) {
                gst::FlowError::Flushing
            } else {
                self.negotiation_error(&format!("an element after this one refused {caps}; its own error says why"))
            });
        }
        *lock(&self.gap) = Gap::default();
        if is_new {
            lock(&self.tracks).set_crop_size(crop.size());
            let cropper = Cropper::new(caps.clone(), crop).map_err(|error| {
                self.negotiation_error(&format!("the buffer pool for {caps} cannot be created: {error}"))
            })?;
            gst::debug!(CAT, imp = self, "crops: {caps}");
            *lock(&self.cropper) = Some(cropper);
        }
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
        let output = self.output(&buffer, &frame, found, &settings);
        // Posted without a lock: a handler of the bus may call the element.
        let Output { crops, is_without_ids } = output.map_err(|failure| match failure {
            CropFailure::Flow(error) => error,
            CropFailure::Error(error) => self.fail(&*error),
        })?;
        self.report_missing_ids(is_without_ids);
        if crops.is_empty() {
            if let Some(pts) = buffer.pts() {
                let interval = gst::ClockTime::from_mseconds(settings.gap_interval.into());
                let gap = lock(&self.gap).add(pts, buffer.duration(), interval);
                self.push_gap(gap);
            }
            return Ok(gst::FlowSuccess::Ok);
        }
        self.push_all(crops)
    }

    fn push_all(&self, crops: Vec<gst::Buffer>) -> Result<gst::FlowSuccess, gst::FlowError> {
        if !crops.is_empty() {
            *lock(&self.gap) = Gap::default();
        }
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

    fn push_rest_of_gap(&self) {
        let rest = std::mem::take(&mut *lock(&self.gap)).take_rest();
        self.push_gap(rest);
    }

    /// The crops that leave with a frame. Its locks are released before they are pushed.
    fn output(
        &self,
        buffer: &gst::BufferRef,
        frame: &VideoInfo,
        found: FacesToCrop,
        settings: &Settings,
    ) -> Result<Output, CropFailure> {
        let mut cropper = lock(&self.cropper);
        let cropper = cropper.as_mut().ok_or(CropFailure::Flow(gst::FlowError::NotNegotiated))?;
        let mut tracks = lock(&self.tracks);
        tracks.start_frame(buffer);
        let mut output = Output::default();
        let (analysed, info);
        let found = match found {
            // Several frames carry the faces of one analysis.
            FacesToCrop::Unknown | FacesToCrop::Known => None,
            FacesToCrop::Here(found) => Some((buffer, frame, Duration::ZERO, found.faces)),
            FacesToCrop::Earlier(found, format) => {
                (analysed, info) = (found.frame, format);
                *lock(&self.analysis) = Some(analysed.number());
                analysed.buffer().map(|buffer| (buffer, &info, found.age, found.faces))
            }
        };
        if let Some((source, info, age, faces)) = found {
            let stream = self.sink.stream_id().map(|id| id.to_string()).unwrap_or_default();
            let source = Source { buffer: source, info, age, stream: &stream, timing: Timing::of(buffer) };
            let wanted = wanted(faces, settings)?;
            if settings.best_shot {
                output.is_without_ids = tracks.ids().count(&wanted);
            }
            let tracks = settings.best_shot.then_some(&mut *tracks);
            output.crops = crops(&source, &wanted, cropper, tracks, settings)?;
        }
        output.crops.extend(tracks.finish_frame(&settings.best_shots)?);
        Ok(output)
    }

    fn report_missing_ids(&self, is_without_ids: bool) {
        if is_without_ids {
            let name = self.obj().name();
            gst::element_imp_warning!(
                self,
                gst::ResourceError::Settings,
                ("{name}: best-shot=true outputs nothing, because no face has a track id: put `facetrack` between \
                  `retinaface` and {name}, or lower its score-threshold; or set best-shot=false to get all crops")
            );
        }
    }

    fn fail(&self, error: &dyn Coded) -> gst::FlowError {
        self.post_error_message(error.code().message(&format!("Faces cannot be aligned: {error}")));
        gst::FlowError::Error
    }
}

/// What leaves with a frame.
#[derive(Default)]
struct Output {
    crops: Vec<gst::Buffer>,
    /// It is time to report that no face has an id.
    is_without_ids: bool,
}

/// The faces that have a crop by their box and score.
fn wanted(faces: Vec<FrameFace>, settings: &Settings) -> Result<Vec<FrameFace>, CropFailure> {
    let wanted = faces.into_iter().filter(|found| settings.wants(&found.face)).take(settings.max_faces());
    let wanted = wanted.collect::<Vec<_>>();
    if !settings.align_without_landmarks && wanted.iter().any(|found| found.face.landmarks.is_none()) {
        return Err(CropFailure::from(ElementError {
            code: ErrorCode::WrongType,
            text: "a face has no landmarks, because the detector finds boxes only; set align-without-landmarks=true to \
                   crop the square around each box instead",
        }));
    }
    Ok(wanted)
}

/// The crops of faces that were found in `source`; with `tracks`, they are kept there instead.
fn crops(
    source: &Source<'_>,
    wanted: &[FrameFace],
    cropper: &mut Cropper,
    mut tracks: Option<&mut TrackCrops>,
    settings: &Settings,
) -> Result<Vec<gst::Buffer>, CropFailure> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    frame::read(source.buffer, source.info, |view| {
        let mut crops = Vec::new();
        for found in wanted {
            let highest = FaceQuality::without_sharpness(&found.face, view.info().size());
            let mut crop = || cropper.crop(source, view, found, highest, settings);
            if let Some(tracks) = &mut tracks {
                tracks.offer(found, highest, source.age, crop)?;
            } else if let Some(crop) = crop()? {
                crops.push(crop.finish(source.timing)?);
            }
        }
        Ok(crops)
    })?
}
