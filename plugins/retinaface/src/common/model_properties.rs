//! The properties of a model, in each element that runs one, and their values as the library needs
//! them.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use gst::glib;
use gst::prelude::*;
use retinaface::inference::{BackendInfo, Kernels as LibraryKernels, ModelOptions, OpenContext, Progress};
use retinaface::model::{ModelSpec, Overrides};
use retinaface::runtime::{Precision as LibraryPrecision, Provider};

use super::errors::ErrorCode;

const DEFAULT_DEVICE_ID: u32 = 0;
const DEFAULT_ALLOW_CPU_FALLBACK: bool = false;
const DEFAULT_THREADS: u32 = 0;

/// The execution provider, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFaceExecutionProvider")]
#[repr(i32)]
pub(crate) enum ExecutionProvider {
    // The numbers are part of the plugin's interface.
    #[default]
    #[enum_value(
        name = "Auto: the first of CUDA, TensorRT for RTX, WebGPU and the CPU that is available; with precision=reduced, CUDA or OpenVINO",
        nick = "auto"
    )]
    Auto = 0,
    #[enum_value(name = "CPU", nick = "cpu")]
    Cpu = 1,
    #[enum_value(name = "Intel OpenVINO", nick = "openvino")]
    OpenVino = 4,
    #[enum_value(name = "WebGPU, on GPUs with a Vulkan driver", nick = "webgpu")]
    WebGpu = 5,
    #[enum_value(name = "NVIDIA CUDA", nick = "cuda")]
    Cuda = 2,
    #[enum_value(name = "NVIDIA TensorRT", nick = "tensorrt")]
    TensorRt = 3,
    #[enum_value(name = "NVIDIA TensorRT for RTX", nick = "nv-tensorrt-rtx")]
    NvTensorRtRtx = 6,
}

impl From<ExecutionProvider> for Provider {
    fn from(provider: ExecutionProvider) -> Self {
        match provider {
            ExecutionProvider::Auto => Self::Auto,
            ExecutionProvider::Cpu => Self::Cpu,
            ExecutionProvider::OpenVino => Self::OpenVino,
            ExecutionProvider::WebGpu => Self::WebGpu,
            ExecutionProvider::Cuda => Self::Cuda,
            ExecutionProvider::TensorRt => Self::TensorRt,
            ExecutionProvider::NvTensorRtRtx => Self::NvTensorRtRtx,
        }
    }
}

/// The precision, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFacePrecision")]
#[repr(i32)]
pub(crate) enum Precision {
    #[default]
    #[enum_value(name = "Full: 32 bits", nick = "full")]
    Full,
    #[enum_value(name = "Reduced: bfloat16, float16 or TF32; a start error if the provider has none", nick = "reduced")]
    Reduced,
}

impl From<Precision> for LibraryPrecision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Full => Self::Full,
            Precision::Reduced => Self::Reduced,
        }
    }
}

/// The kernels for convolutions on the CPU, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFaceKernels")]
#[repr(i32)]
pub(crate) enum Kernels {
    #[default]
    #[enum_value(
        name = "Auto: kernels of this plugin where they are faster, else those of ONNX Runtime",
        nick = "auto"
    )]
    Auto,
    #[enum_value(name = "Kernels of ONNX Runtime only", nick = "runtime")]
    Runtime,
}

impl From<Kernels> for LibraryKernels {
    fn from(kernels: Kernels) -> Self {
        match kernels {
            Kernels::Auto => Self::Auto,
            Kernels::Runtime => Self::Runtime,
        }
    }
}

/// A property whose text is parsed. GObject's setters cannot refuse a value: of a text that is not
/// valid the problem is kept, so that `start` can fail with it, and the previous value stays in
/// effect, so that a typing error does not end a stream.
#[derive(Clone, Debug)]
pub(crate) struct ParsedProperty<T> {
    text: String,
    value: T,
    problem: Option<String>,
}

impl<T: Clone + Default> ParsedProperty<T> {
    /// A default.
    pub(crate) fn new(text: &str, value: T) -> Self {
        Self { text: text.to_owned(), value, problem: None }
    }

    /// Sets the property.
    pub(crate) fn set<E: std::fmt::Display>(&mut self, value: &glib::Value, parse: impl Fn(&str) -> Result<T, E>) {
        let text = value.get::<Option<String>>().expect("GObject checks the type of a property").unwrap_or_default();
        let parsed = if text.is_empty() { Ok(T::default()) } else { parse(&text) };
        self.problem = match parsed {
            Ok(value) => {
                self.value = value;
                None
            }
            Err(problem) => Some(problem.to_string()),
        };
        self.text = text;
    }

    /// The property's text; null if it is empty.
    pub(crate) fn to_value(&self) -> glib::Value {
        Some(&self.text).filter(|text| !text.is_empty()).to_value()
    }

    /// The value in effect.
    pub(crate) fn value(&self) -> T {
        self.value.clone()
    }

    /// The problem of the last text.
    pub(crate) fn problem(&self, property: &str) -> Option<String> {
        self.problem.as_ref().map(|problem| format!("property {property}=\"{}\": {problem}", self.text))
    }
}

/// The values that the user set.
#[derive(Clone, Debug)]
pub(crate) struct ModelProperties {
    pub(crate) model_file: Option<PathBuf>,
    execution_provider: ExecutionProvider,
    device_id: u32,
    precision: Precision,
    kernels: Kernels,
    allow_cpu_fallback: bool,
    threads: u32,
    model_options: ParsedProperty<Overrides>,
}

impl Default for ModelProperties {
    fn default() -> Self {
        Self {
            model_file: None,
            execution_provider: ExecutionProvider::default(),
            device_id: DEFAULT_DEVICE_ID,
            precision: Precision::default(),
            kernels: Kernels::default(),
            allow_cpu_fallback: DEFAULT_ALLOW_CPU_FALLBACK,
            threads: DEFAULT_THREADS,
            model_options: ParsedProperty::new("", Overrides::default()),
        }
    }
}

impl ModelProperties {
    /// The properties, with the read-only `active-provider`; `model_file` is the blurb of
    /// `model-file`.
    pub(crate) fn properties(model_file: &'static str) -> Vec<glib::ParamSpec> {
        static OPTIONS: LazyLock<String> = LazyLock::new(|| {
            format!(
                "Overrides for the detected model parameters: key=value, separated by `;`; keys: {}",
                retinaface::model::OVERRIDE_KEYS.join(", ")
            )
        });
        vec![
            glib::ParamSpecString::builder("model-file").nick("Model file").blurb(model_file).mutable_ready().build(),
            glib::ParamSpecEnum::builder_with_default("execution-provider", ExecutionProvider::default())
                .nick("Execution provider")
                .blurb("Execution provider of the model; a named provider that is not available is a start error")
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("device-id")
                .nick("Device")
                .blurb("Index of the device among those of the execution provider; `retinaface devices` lists them")
                .maximum(255)
                .default_value(DEFAULT_DEVICE_ID)
                .mutable_ready()
                .build(),
            glib::ParamSpecEnum::builder_with_default("precision", Precision::default())
                .nick("Precision")
                .blurb("Precision of the arithmetic; reduced is faster on OpenVINO (bfloat16, on GPUs float16), TensorRT (float16) and CUDA (TF32)")
                .mutable_ready()
                .build(),
            glib::ParamSpecEnum::builder_with_default("kernels", Kernels::default())
                .nick("Kernels")
                .blurb("Kernels for convolutions on the CPU; results differ by rounding")
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("allow-cpu-fallback")
                .nick("Allow CPU fallback")
                .blurb("Run on the CPU if the execution provider is not available, instead of failing; a message reports it")
                .default_value(DEFAULT_ALLOW_CPU_FALLBACK)
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("threads")
                .nick("Threads")
                .blurb("Number of threads per inference; 0: one per physical core")
                .maximum(1024)
                .default_value(DEFAULT_THREADS)
                .mutable_ready()
                .build(),
            glib::ParamSpecString::builder("model-options")
                .nick("Model options")
                .blurb(&OPTIONS)
                .mutable_ready()
                .build(),
            glib::ParamSpecString::builder("active-provider")
                .nick("Active provider")
                .blurb("Execution provider in use, once the element has started")
                .read_only()
                .build(),
        ]
    }

    /// Sets a property, if it is one of these.
    pub(crate) fn set(&mut self, name: &str, value: &glib::Value) -> bool {
        const CHECKED: &str = "GObject checks the type of a property";
        match name {
            "model-file" => {
                let file = value.get::<Option<String>>().expect(CHECKED);
                self.model_file = file.filter(|file| !file.is_empty()).map(PathBuf::from);
            }
            "execution-provider" => self.execution_provider = value.get().expect(CHECKED),
            "device-id" => self.device_id = value.get().expect(CHECKED),
            "precision" => self.precision = value.get().expect(CHECKED),
            "kernels" => self.kernels = value.get().expect(CHECKED),
            "allow-cpu-fallback" => self.allow_cpu_fallback = value.get().expect(CHECKED),
            "threads" => self.threads = value.get().expect(CHECKED),
            "model-options" => self.model_options.set(value, str::parse::<Overrides>),
            _ => return false,
        }
        true
    }

    /// A property's value, if it is one of these that can be set.
    pub(crate) fn get(&self, name: &str) -> Option<glib::Value> {
        Some(match name {
            "model-file" => self.model_file.as_ref().map(|file| file.to_string_lossy().into_owned()).to_value(),
            "execution-provider" => self.execution_provider.to_value(),
            "device-id" => self.device_id.to_value(),
            "precision" => self.precision.to_value(),
            "kernels" => self.kernels.to_value(),
            "allow-cpu-fallback" => self.allow_cpu_fallback.to_value(),
            "threads" => self.threads.to_value(),
            "model-options" => self.model_options.to_value(),
            _ => return None,
        })
    }

    /// How the model is opened.
    pub(crate) fn options(&self) -> Result<ModelOptions, gst::ErrorMessage> {
        if let Some(problem) = self.model_options.problem("model-options") {
            return Err(ErrorCode::Settings.message(&problem));
        }
        Ok(ModelOptions {
            provider: self.execution_provider.into(),
            device_id: self.device_id,
            precision: self.precision.into(),
            kernels: self.kernels.into(),
            allow_cpu_fallback: self.allow_cpu_fallback,
            threads: self.threads as usize,
            overrides: self.model_options.value(),
            ..ModelOptions::default()
        })
    }
}

/// Where `element` opens its model: the plugin's directory, and progress messages of the element.
pub(crate) fn open_context(element: &gst::Element) -> OpenContext {
    let plugin = element.factory().and_then(|factory| factory.plugin()).and_then(|plugin| plugin.filename());
    let base_dir = plugin.and_then(|file| file.parent().map(Path::to_path_buf));
    OpenContext { base_dir, progress: Some(progress(element)) }
}

/// Posts progress messages.
fn progress(element: &gst::Element) -> Progress {
    let element = element.downgrade();
    Progress::new(move |step, done| {
        let Some(element) = element.upgrade() else { return };
        let (kind, text) = if done { (gst::ProgressType::Complete, "done") } else { (gst::ProgressType::Start, step) };
        gst::info!(gst::CAT_DEFAULT, obj = element, "{step}{}", if done { ": done" } else { "" });
        let message = gst::message::Progress::builder(kind, "retinaface-engine", text).src(&element).build();
        // Without a bus there is no receiver.
        let _ = element.post_message(message);
    })
}

/// Reports what the model is and what it runs on: in the log, and as an element message.
pub(crate) fn post_provider_message(
    element: &gst::Element,
    category: gst::DebugCategory,
    path: &Path,
    spec: &ModelSpec,
    backend: &BackendInfo,
) {
    let BackendInfo { provider, device, library, kernels, notes } = backend;
    let library = library.display().to_string();
    let notes = notes.iter().chain(&spec.notes).collect::<Vec<_>>();
    gst::info!(
        category,
        obj = element,
        "{}: {} on {provider}, device {device}, of {library}, {kernels} kernels of this plugin",
        path.display(),
        spec.family
    );
    for note in &notes {
        gst::warning!(category, obj = element, "{}: {note}", path.display());
    }
    let structure = gst::Structure::builder("retinaface-provider")
        .field("provider", provider.name())
        .field("device", device.to_string())
        .field("library", library)
        .field("notes", gst::Array::new(notes))
        .build();
    let _ = element.post_message(gst::message::Element::builder(structure).src(element).build());
}
