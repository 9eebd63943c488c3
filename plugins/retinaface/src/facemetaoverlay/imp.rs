use std::sync::{LazyLock, Mutex};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use gst_video::VideoInfo;
use retinaface::image::{OverlayBuffers, OverlayStyle, Rgb, draw_faces};
use retinaface::track::Smoother;

use crate::common::errors::Coded;
use crate::common::face_reader::FaceReader;
use crate::common::stream_time::StreamTime;
use crate::common::sync::lock;
use crate::common::{caps, frame};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("facemetaoverlay", gst::DebugColorFlags::empty(), Some("Drawing of faces"))
});

/// 0xRRGGBB.
fn number_from_color([r, g, b]: Rgb) -> u32 {
    u32::from_be_bytes([0, r, g, b])
}

fn color_from_number(number: u32) -> Rgb {
    let [_, r, g, b] = number.to_be_bytes();
    [r, g, b]
}

/// Whether boxes and landmarks are smoothed, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstFaceMetaOverlaySmoothing")]
#[repr(i32)]
pub(crate) enum Smoothing {
    #[default]
    #[enum_value(name = "None: faces are drawn where they were found", nick = "none")]
    None,
    #[enum_value(name = "One Euro filter: a low-pass filter whose cutoff rises with the speed", nick = "one-euro")]
    OneEuro,
}

#[derive(Clone, Copy, Debug, Default)]
struct Settings {
    style: OverlayStyle,
    smoothing: Smoothing,
}

#[derive(Default)]
pub(crate) struct FaceMetaOverlay {
    settings: Mutex<Settings>,
    state: Mutex<Option<State>>,
    faces: FaceReader,
}

/// What exists from the first caps until `stop`.
struct State {
    info: VideoInfo,
    buffers: OverlayBuffers,
    smoother: Smoother,
    time: StreamTime,
}

#[glib::object_subclass]
impl ObjectSubclass for FaceMetaOverlay {
    const NAME: &'static str = "GstFaceMetaOverlay";
    type Type = super::FaceMetaOverlay;
    type ParentType = gst_base::BaseTransform;
}

impl ObjectImpl for FaceMetaOverlay {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            let default = OverlayStyle::default();
            let switch = |name: &str, nick: &str, blurb: &str, default: bool| {
                glib::ParamSpecBoolean::builder(name)
                    .nick(nick)
                    .blurb(blurb)
                    .default_value(default)
                    .mutable_playing()
                    .build()
            };
            let color = |name: &str, nick: &str, blurb: &str, default: Rgb| {
                glib::ParamSpecUInt::builder(name)
                    .nick(nick)
                    .blurb(&format!("{blurb}, 0xRRGGBB; default: 0x{:06X}", number_from_color(default)))
                    .maximum(0x00FF_FFFF)
                    .default_value(number_from_color(default))
                    .mutable_playing()
                    .build()
            };
            vec![
                switch("draw-boxes", "Draw boxes", "Draw each face's bounding box", default.boxes),
                switch("draw-landmarks", "Draw landmarks", "Draw each face's landmarks", default.landmarks),
                switch(
                    "draw-points",
                    "Draw points",
                    "Draw the points of a landmark model, if a face has them",
                    default.points,
                ),
                switch("draw-score", "Draw scores", "Write each face's score", default.score),
                switch("draw-id", "Draw ids", "Write each face's track id, if it has one", default.id),
                color("box-color", "Box colour", "Colour of boxes and labels", default.box_color),
                color("landmark-color", "Landmark colour", "Colour of landmarks and points", default.landmark_color),
                glib::ParamSpecUInt::builder("line-width")
                    .nick("Line width")
                    .blurb("Width of lines in pixels; 0: proportional to the frame")
                    .maximum(64)
                    .default_value(default.line_width)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("smoothing", Smoothing::default())
                    .nick("Smoothing")
                    .blurb(
                        "Smooth the drawn boxes and landmarks over time, per track; needs facetrack. Metadata is not changed",
                    )
                    .mutable_playing()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        const CHECKED: &str = "GObject checks the type of a property";
        let mut settings = lock(&self.settings);
        let style = &mut settings.style;
        match pspec.name() {
            "draw-boxes" => style.boxes = value.get().expect(CHECKED),
            "draw-landmarks" => style.landmarks = value.get().expect(CHECKED),
            "draw-points" => style.points = value.get().expect(CHECKED),
            "draw-score" => style.score = value.get().expect(CHECKED),
            "draw-id" => style.id = value.get().expect(CHECKED),
            "box-color" => style.box_color = color_from_number(value.get().expect(CHECKED)),
            "landmark-color" => style.landmark_color = color_from_number(value.get().expect(CHECKED)),
            "line-width" => style.line_width = value.get().expect(CHECKED),
            "smoothing" => settings.smoothing = value.get().expect(CHECKED),
            _ => unreachable!("GObject sets writable properties only"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let Settings { style, smoothing } = *lock(&self.settings);
        match pspec.name() {
            "draw-boxes" => style.boxes.to_value(),
            "draw-landmarks" => style.landmarks.to_value(),
            "draw-points" => style.points.to_value(),
            "draw-score" => style.score.to_value(),
            "draw-id" => style.id.to_value(),
            "box-color" => number_from_color(style.box_color).to_value(),
            "landmark-color" => number_from_color(style.landmark_color).to_value(),
            "line-width" => style.line_width.to_value(),
            "smoothing" => smoothing.to_value(),
            _ => unreachable!("GObject reads listed properties only"),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        caps::report_unsupported_caps(&*self.obj(), self.obj().sink_pad());
    }
}

impl GstObjectImpl for FaceMetaOverlay {}

impl ElementImpl for FaceMetaOverlay {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Face overlay",
                "Filter/Editor/Video",
                "Draws boxes, landmarks, scores and ids of the faces that a frame carries",
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
}

impl BaseTransformImpl for FaceMetaOverlay {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::AlwaysInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *lock(&self.state) = None;
        Ok(())
    }

    fn set_caps(&self, incaps: &gst::Caps, _outcaps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let info = VideoInfo::from_caps(incaps).map_err(|_| gst::loggable_error!(CAT, "{incaps} is not raw video"))?;
        let mut time = StreamTime::default();
        time.set_info(&info);
        *lock(&self.state) = Some(State { info, buffers: OverlayBuffers::default(), smoother: Smoother::new(), time });
        Ok(())
    }

    fn query(&self, direction: gst::PadDirection, query: &mut gst::QueryRef) -> bool {
        match (direction, query.view_mut()) {
            // Every stride and crop is supported, so downstream decides which memory upstream may
            // use.
            (gst::PadDirection::Sink, gst::QueryViewMut::Allocation(_)) => self.obj().src_pad().peer_query(query),
            _ => BaseTransformImplExt::parent_query(self, direction, query),
        }
    }

    fn transform_ip(&self, buffer: &mut gst::BufferRef) -> Result<gst::FlowSuccess, gst::FlowError> {
        let Settings { style, smoothing } = *lock(&self.settings);
        let info = lock(&self.state).as_ref().map(|state| state.info.clone()).ok_or(gst::FlowError::NotNegotiated)?;
        let mut faces = self.faces.read(&*self.obj(), buffer, &info, "drawn").into_faces();
        if let (Smoothing::OneEuro, Some(state)) = (smoothing, &mut *lock(&self.state)) {
            let time = state.time.next(buffer.pts());
            state.smoother.smooth(time, &mut faces);
        }
        if faces.is_empty() {
            return Ok(gst::FlowSuccess::Ok);
        }
        let drawn = {
            let mut state = lock(&self.state);
            let state = state.as_mut().ok_or(gst::FlowError::Flushing)?;
            frame::write(buffer, &info, |view| draw_faces(view, &faces, &style, &mut state.buffers))
        };
        match drawn {
            Ok(Ok(())) => Ok(gst::FlowSuccess::Ok),
            Ok(Err(error)) => Err(self.fail(&error)),
            Err(error) => Err(self.fail(&error)),
        }
    }
}

impl FaceMetaOverlay {
    fn fail(&self, error: &dyn Coded) -> gst::FlowError {
        self.post_error_message(error.code().message(&format!("Faces cannot be drawn: {error}")));
        gst::FlowError::Error
    }
}
