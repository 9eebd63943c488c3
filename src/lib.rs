//! RetinaFace face detection and ArcFace alignment on raw video frames.
//!
//! This is the core library under the `retinaface` GStreamer plugin and the `retinaface` program. It
//! knows pixels, models and faces; it knows nothing of GStreamer.
//!
//! One frame's way through:
//!
//! ```text
//! ImageView -> letterbox, preprocess -> [3, H, W] -- queue --> Engine: [N, 3, H, W] -> ONNX Runtime
//!   -> head outputs -- reply --> decode -> nms -> frame pixels -> Vec<Face> -> align -> crops
//! on a GPU: planes -- queue --> Engine: one graph resizes, converts, runs the model, decodes, takes the best
//! ```
//!
//! [`detector::Detector`] goes the whole way; the modules it is made of can be used alone. Which numbers of a model mean what
//! is said by a [`layout::Layout`]; [`families`] has those that are known. [`landmarks::Landmarker`] adds another model's
//! points to faces.

pub mod align;
pub mod contract;
#[cfg(feature = "cuda-memory")]
pub mod cuda;
mod cv;
pub mod decode;
pub mod detector;
pub mod device;
pub mod draw;
pub mod engine;
pub mod face;
pub mod families;
pub mod image;
mod kernels;
pub mod landmarks;
pub mod layout;
pub mod letterbox;
pub mod locate;
mod lock;
pub mod looks;
pub mod merge;
pub mod model;
pub mod nms;
mod onnx;
pub mod overrides;
pub mod pose;
pub mod preprocess;
pub mod priors;
pub mod provider;
pub mod record;
pub mod runtime;
mod session;
mod shared;
mod simd;
pub mod tensors;
pub mod yuv;
