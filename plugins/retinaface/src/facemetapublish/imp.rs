use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use gst_video::VideoInfo;
use retinaface::record::{FrameRecord, Origin, TrackRecord};

use super::sink::{LineSink, OpenError, Written};
use crate::common::face_reader::FaceReader;
use crate::common::sync::lock;
use crate::common::{caps, frame};

const DEFAULT_APPEND: bool = false;
const DEFAULT_ADD_EMPTY_RESULTS: bool = true;
/// The `location` of standard output, as in other programs.
const STDOUT: &str = "-";
/// Seconds from NTP's epoch, 1900, to Unix's.
const NTP_TO_UNIX: gst::ClockTime = gst::ClockTime::from_seconds(2_208_988_800);

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("facemetapublish", gst::DebugColorFlags::empty(), Some("Publishing of faces"))
});

#[derive(Clone, Debug)]
struct Settings {
    location: Option<PathBuf>,
    append: bool,
    add_empty_results: bool,
    stream_id: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { location: None, append: DEFAULT_APPEND, add_empty_results: DEFAULT_ADD_EMPTY_RESULTS, stream_id: None }
    }
}

struct State {
    sink: LineSink,
    /// The sink's name in errors.
    name: String,
    info: Option<VideoInfo>,
    frames: u64,
}

#[derive(Default)]
pub(crate) struct FaceMetaPublish {
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
    faces: FaceReader,
    /// The element is stopping: a write that waits for a slow reader must give up.
    stopping: AtomicBool,
    /// The same during a flush.
    flushing: AtomicBool,
}

#[glib::object_subclass]
impl ObjectSubclass for FaceMetaPublish {
    const NAME: &'static str = "GstFaceMetaPublish";
    type Type = super::FaceMetaPublish;
    type ParentType = gst_base::BaseTransform;
}

impl ObjectImpl for FaceMetaPublish {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            vec![
                glib::ParamSpecString::builder("location")
                    .nick("Location")
                    .blurb(
                        "File or named pipe to write to; a file is locked, and truncated at start unless append=true; \
                         none or \"-\": standard output",
                    )
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoolean::builder("append")
                    .nick("Append")
                    .blurb("Continue an existing file at its end instead of truncating it at start")
                    .default_value(DEFAULT_APPEND)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecBoolean::builder("add-empty-results")
                    .nick("Add empty results")
                    .blurb("Also write a line for frames with neither faces nor lost faces")
                    .default_value(DEFAULT_ADD_EMPTY_RESULTS)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecString::builder("stream-id")
                    .nick("Stream id")
                    .blurb("Name of the stream in each line; none: GStreamer's stream id")
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
            "location" => {
                let location = value.get::<Option<String>>().expect(CHECKED);
                settings.location = location.filter(|name| !name.is_empty()).map(PathBuf::from);
            }
            "append" => settings.append = value.get().expect(CHECKED),
            "add-empty-results" => settings.add_empty_results = value.get().expect(CHECKED),
            "stream-id" => settings.stream_id = value.get().expect(CHECKED),
            _ => unreachable!("GObject sets writable properties only"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let settings = lock(&self.settings);
        match pspec.name() {
            "location" => settings.location.as_ref().map(|path| path.to_string_lossy().into_owned()).to_value(),
            "append" => settings.append.to_value(),
            "add-empty-results" => settings.add_empty_results.to_value(),
            "stream-id" => settings.stream_id.to_value(),
            _ => unreachable!("GObject reads listed properties only"),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        self.obj().set_passthrough(true);
        caps::report_unsupported_caps(&*self.obj(), self.obj().sink_pad());
    }
}

impl GstObjectImpl for FaceMetaPublish {}

impl ElementImpl for FaceMetaPublish {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Face metadata publisher",
                "Filter/Analyzer/Video",
                "Writes one JSON line per frame with the faces that it carries, and one per event of a track",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            vec![caps::frame_pad("sink", gst::PadDirection::Sink), caps::frame_pad("src", gst::PadDirection::Src)]
        });
        &TEMPLATES
    }

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            // Set before the parent class waits for the streaming thread.
            gst::StateChange::PausedToReady => self.stopping.store(true, Ordering::Relaxed),
            gst::StateChange::ReadyToPaused => {
                self.stopping.store(false, Ordering::Relaxed);
                self.flushing.store(false, Ordering::Relaxed);
            }
            _ => {}
        }
        self.parent_change_state(transition)
    }
}

impl BaseTransformImpl for FaceMetaPublish {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::AlwaysInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = true;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let Settings { location, append, .. } = lock(&self.settings).clone();
        let location = location.filter(|path| path != Path::new(STDOUT));
        let name = location.as_ref().map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
        let (sink, note) = LineSink::open(location.as_deref(), append).map_err(|error| match error {
            OpenError::Busy => gst::error_msg!(
                gst::ResourceError::Busy,
                (
                    "Face metadata cannot be written to {name}: another facemetapublish, in this process or in another \
                     one, is writing this file; give each its own `location` and join the files by `stream` afterwards, \
                     or set location=- for all elements of one process, which then share standard output"
                )
            ),
            OpenError::Io(error) => gst::error_msg!(
                gst::ResourceError::OpenWrite,
                ("Face metadata cannot be written to {name}: {error}; set `location` to a file that can be created")
            ),
        })?;
        if let Some(note) = note {
            gst::element_imp_warning!(self, gst::ResourceError::Settings, ("{}: {note}", self.obj().name()));
        }
        *lock(&self.state) = Some(State { sink, name, info: None, frames: 0 });
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *lock(&self.state) = None;
        Ok(())
    }

    fn set_caps(&self, incaps: &gst::Caps, _outcaps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let info = VideoInfo::from_caps(incaps).map_err(|_| gst::loggable_error!(CAT, "{incaps} is not raw video"))?;
        if let Some(state) = &mut *lock(&self.state) {
            state.info = Some(info);
        }
        Ok(())
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        match event.type_() {
            gst::EventType::FlushStart => self.flushing.store(true, Ordering::Relaxed),
            gst::EventType::FlushStop => self.flushing.store(false, Ordering::Relaxed),
            gst::EventType::CustomDownstream => self.publish_track_event(&event),
            _ => {}
        }
        self.parent_sink_event(event)
    }

    fn transform_ip_passthrough(&self, buffer: &gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let add_empty_results = lock(&self.settings).add_empty_results;
        let stream = self.stream();
        let info = lock(&self.state).as_ref().ok_or(gst::FlowError::Flushing)?.info.clone();
        let info = info.ok_or(gst::FlowError::NotNegotiated)?;
        let size = frame::frame_size(buffer, &info);
        let found = self.faces.read(&*self.obj(), buffer, &info, "published");
        let number = {
            let mut state = lock(&self.state);
            let state = state.as_mut().ok_or(gst::FlowError::Flushing)?;
            state.frames += 1;
            state.frames - 1
        };
        let (age, state, lost) = (found.known_age(), found.state, found.lost);
        let faces = found.into_faces();
        // A frame that has lost its faces is not an empty one.
        if faces.is_empty() && lost == 0 && !add_empty_results {
            return Ok(gst::FlowSuccess::Ok);
        }
        let record = FrameRecord::new(Origin::Stream(&stream), number, size, &faces)
            .with_pts(buffer.pts().map(gst::ClockTime::nseconds))
            .with_utc(utc(buffer).map(gst::ClockTime::nseconds))
            .with_state(state)
            .with_age(age)
            .with_lost(lost);
        self.write(&record.to_line()).map(|()| gst::FlowSuccess::Ok)
    }
}

impl FaceMetaPublish {
    /// Name of the stream in lines.
    fn stream(&self) -> String {
        let name = lock(&self.settings).stream_id.clone();
        name.or_else(|| self.obj().sink_pad().stream_id().map(|id| id.to_string())).unwrap_or_default()
    }

    /// Writes a line for an event of a track, as `facetrack` sends it.
    fn publish_track_event(&self, event: &gst::Event) {
        if let Some(event) = event.structure().and_then(face_meta::read_track_event) {
            // A failure is posted. The next frame ends the stream with the same one.
            let _ = self.write(&TrackRecord::new(&self.stream(), &event).to_line());
        }
    }

    fn write(&self, line: &str) -> Result<(), gst::FlowError> {
        let (error, name) = {
            // Held during the write: only this thread uses the state.
            let mut state = lock(&self.state);
            let state = state.as_mut().ok_or(gst::FlowError::Flushing)?;
            match state
                .sink
                .write(line, || self.stopping.load(Ordering::Relaxed) || self.flushing.load(Ordering::Relaxed))
            {
                Ok(Written::Whole) => return Ok(()),
                Ok(Written::GivenUp) => return Err(gst::FlowError::Flushing),
                Err(error) => (error, state.name.clone()),
            }
        };
        Err(self.write_error(&error, &name))
    }

    fn write_error(&self, error: &io::Error, name: &str) -> gst::FlowError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                gst::element_imp_error!(
                    self,
                    gst::ResourceError::NoSpaceLeft,
                    ("No space left for face metadata at {name}: {error}; free some space, or set `location` to another file system")
                );
            }
            io::ErrorKind::BrokenPipe => {
                gst::element_imp_error!(
                    self,
                    gst::ResourceError::Write,
                    ("The reader of the face metadata at {name} has closed it: {error}")
                );
            }
            _ => {
                gst::element_imp_error!(
                    self,
                    gst::ResourceError::Write,
                    ("Face metadata cannot be written to {name}: {error}")
                );
            }
        }
        gst::FlowError::Error
    }
}

/// The capture time since 1970, if the source provides it
/// (`rtspsrc add-reference-timestamp-meta=true`).
fn utc(buffer: &gst::BufferRef) -> Option<gst::ClockTime> {
    buffer.iter_meta::<gst::ReferenceTimestampMeta>().find_map(|meta| {
        let time = meta.timestamp();
        match meta.reference().structure(0)?.name().as_str() {
            "timestamp/x-unix" => Some(time),
            "timestamp/x-ntp" => time.checked_sub(NTP_TO_UNIX),
            _ => None,
        }
    })
}
