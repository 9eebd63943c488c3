//! RetinaFace face detection and ArcFace alignment on raw video frames.
//!
//! This is the core library under the `retinaface` GStreamer plugin and the `retinaface` program.
//! It depends on neither GStreamer nor a command line.
//!
//! ```no_run
//! use std::path::Path;
//! use retinaface::{DetectionSettings, Detector, ImageInfo, ImageView, ModelOptions, PixelFormat, SharedModel};
//!
//! let model = SharedModel::open(Path::new("retinaface_mnet025.onnx"), &ModelOptions::default())?;
//! let detector = Detector::new(&model);
//! let pixels = vec![0u8; 640 * 480 * 3];
//! let frame = ImageView::new(ImageInfo::new(PixelFormat::Rgb, 640, 480), &[&pixels], &[640 * 3])?;
//! for face in detector.detect(&frame, &DetectionSettings::default())?.faces {
//!     println!("{:.2} at {:?}", face.score, face.rect);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Modules
//! Each module depends only on those above it; a test checks this.
//!
//! | module | content |
//! |---|---|
//! | [`geometry`] | points, boxes, faces, head pose, letterbox, IoU, non-maximum suppression |
//! | [`image`] | pixel formats, stride-aware views, YUV coding, drawing, redaction |
//! | [`model`] | what a model is: its input, its output layout, the known detector families |
//! | [`record`] | the JSON-lines schema |
//! | [`track`] | [`Tracker`]: ids across frames and predictions between inferences; what redaction covers; smoothing; the best crop of each track |
//! | [`runtime`] | ONNX Runtime: locating and loading it, execution providers, the ONNX file format, CPU kernels |
//! | [`inference`] | opening a model and running it: options, sessions, tensors, the batching engine |
//! | [`detect`] | [`Detector`]: from an image to faces |
//! | [`crops`] | alignment, the quality of a crop, and models that run on a crop of each face |

pub mod crops;
pub mod detect;
pub mod geometry;
pub mod image;
pub mod inference;
pub mod model;
pub mod record;
pub mod runtime;
mod sync;
pub mod track;

pub use crops::align;
pub use crops::{LandmarkSettings, Landmarker};
pub use detect::{DetectError, Detection, DetectionSettings, Detector};
pub use geometry::{Face, HeadPose, Landmarks, Point, Rect};
pub use image::{ImageInfo, ImageView, PixelFormat, draw_faces};
pub use inference::{ModelError, ModelOptions, SharedModel};
pub use record::FrameRecord;
pub use runtime::Provider;
pub use track::{Tracker, TrackerSettings};
