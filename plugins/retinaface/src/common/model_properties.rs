//! What a user sets of a model, in each element that runs one: the properties, and what the library calls them.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use gst::glib;
use gst::prelude::*;
use retinaface::contract::Contract;
use retinaface::model::{Kernels as ModelKernels, ModelError, Options, Progress, Running};
use retinaface::overrides::Overrides;
use retinaface::provider::{Precision as ModelPrecision, Provider};
use retinaface::runtime::RuntimeError;

const DEFAULT_DEVICE_ID: u32 = 0;
const DEFAULT_ALLOW_CPU_FALLBACK: bool = false;
const DEFAULT_THREADS: u32 = 0;

/// What the model runs on, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFaceExecutionProvider")]
#[repr(i32)]
pub(crate) enum ExecutionProvider {
    #[default]
    #[enum_value(name = "Auto: the best that works, of CUDA, OpenVINO and the CPU", nick = "auto")]
    Auto,
    #[enum_value(name = "CPU", nick = "cpu")]
    Cpu,
    #[enum_value(name = "NVIDIA CUDA", nick = "cuda")]
    Cuda,
    #[enum_value(name = "NVIDIA TensorRT", nick = "tensorrt")]
    TensorRt,
    #[enum_value(name = "Intel OpenVINO", nick = "openvino")]
    OpenVino,
}

impl From<ExecutionProvider> for Provider {
    fn from(provider: ExecutionProvider) -> Self {
        match provider {
            ExecutionProvider::Auto => Self::Auto,
            ExecutionProvider::Cpu => Self::Cpu,
            ExecutionProvider::Cuda => Self::Cuda,
            ExecutionProvider::TensorRt => Self::TensorRt,
            ExecutionProvider::OpenVino => Self::OpenVino,
        }
    }
}

/// In which arithmetic the model runs, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFacePrecision")]
#[repr(i32)]
pub(crate) enum Precision {
    #[default]
    #[enum_value(name = "Full: 32 bits", nick = "full")]
    Full,
    #[enum_value(name = "Reduced: 16 bits, where the provider has them", nick = "reduced")]
    Reduced,
}

impl From<Precision> for ModelPrecision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Full => Self::Full,
            Precision::Reduced => Self::Reduced,
        }
    }
}

/// What does the convolutions on the CPU, as a property's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, glib::Enum)]
#[enum_type(name = "GstRetinaFaceKernels")]
#[repr(i32)]
pub(crate) enum Kernels {
    #[default]
    #[enum_value(name = "Auto: this plugin's where they are faster, else ONNX Runtime's", nick = "auto")]
    Auto,
    #[enum_value(name = "ONNX Runtime's alone", nick = "runtime")]
    Runtime,
}

impl From<Kernels> for ModelKernels {
    fn from(kernels: Kernels) -> Self {
        match kernels {
            Kernels::Auto => Self::Auto,
            Kernels::Runtime => Self::Runtime,
        }
    }
}

/// A text and what it means. GObject's setters cannot refuse: of a text that makes no sense the problem is kept, for the
/// start to fail with, and the meaning of before stays in force, so that a slip does not end a stream.
#[derive(Clone, Debug)]
pub(crate) struct Said<T> {
    text: String,
    meaning: T,
    problem: Option<String>,
}

impl<T: Clone + Default> Said<T> {
    /// A default.
    pub(crate) fn new(text: &str, meaning: T) -> Self {
        Self { text: text.to_owned(), meaning, problem: None }
    }

    /// Takes a property's value.
    pub(crate) fn set(&mut self, value: &glib::Value, read: impl Fn(&str) -> Result<T, String>) {
        let text = value.get::<Option<String>>().expect("GObject checks a property's type").unwrap_or_default();
        let read = if text.is_empty() { Ok(T::default()) } else { read(&text) };
        self.problem = match read {
            Ok(meaning) => {
                self.meaning = meaning;
                None
            }
            Err(problem) => Some(problem),
        };
        self.text = text;
    }

    /// A property's value: none where nothing is said.
    pub(crate) fn to_value(&self) -> glib::Value {
        Some(&self.text).filter(|text| !text.is_empty()).to_value()
    }

    /// What is in force.
    pub(crate) fn meaning(&self) -> T {
        self.meaning.clone()
    }

    /// What is wrong with what was said last.
    pub(crate) fn problem(&self, property: &str) -> Option<String> {
        self.problem.as_ref().map(|problem| format!("property {property}=\"{}\": {problem}", self.text))
    }
}

fn overrides(text: &str) -> Result<Overrides, String> {
    text.parse::<Overrides>().map_err(|error| error.to_string())
}

/// What the user set.
#[derive(Clone, Debug)]
pub(crate) struct ModelSettings {
    pub(crate) model_file: Option<PathBuf>,
    execution_provider: ExecutionProvider,
    device_id: u32,
    precision: Precision,
    kernels: Kernels,
    allow_cpu_fallback: bool,
    threads: u32,
    model_options: Said<Overrides>,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            model_file: None,
            execution_provider: ExecutionProvider::default(),
            device_id: DEFAULT_DEVICE_ID,
            precision: Precision::default(),
            kernels: Kernels::default(),
            allow_cpu_fallback: DEFAULT_ALLOW_CPU_FALLBACK,
            threads: DEFAULT_THREADS,
            model_options: Said::new("", Overrides::default()),
        }
    }
}

impl ModelSettings {
    /// The properties, `active-provider` among them; `model-file` has that blurb.
    pub(crate) fn properties(model_file: &'static str) -> Vec<glib::ParamSpec> {
        static OPTIONS: LazyLock<String> = LazyLock::new(|| {
            format!(
                "What to believe of the model in place of what its layout says: key=value, `;` between several; keys: {}",
                retinaface::overrides::KEYS.join(", ")
            )
        });
        vec![
            glib::ParamSpecString::builder("model-file").nick("Model file").blurb(model_file).mutable_ready().build(),
            glib::ParamSpecEnum::builder_with_default("execution-provider", ExecutionProvider::default())
                .nick("Execution provider")
                .blurb("What the model runs on; one that is named and not there is an error at start")
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("device-id")
                .nick("Device")
                .blurb("Which GPU, for the execution providers cuda and tensorrt")
                .maximum(255)
                .default_value(DEFAULT_DEVICE_ID)
                .mutable_ready()
                .build(),
            glib::ParamSpecEnum::builder_with_default("precision", Precision::default())
                .nick("Precision")
                .blurb("Arithmetic of the model; reduced is faster on OpenVINO (bfloat16), TensorRT (fp16) and CUDA (TF32)")
                .mutable_ready()
                .build(),
            glib::ParamSpecEnum::builder_with_default("kernels", Kernels::default())
                .nick("Kernels")
                .blurb("What does the convolutions on the CPU; results differ by rounding")
                .mutable_ready()
                .build(),
            glib::ParamSpecBoolean::builder("allow-cpu-fallback")
                .nick("Allow CPU fallback")
                .blurb("Run on the CPU where the execution provider is not there, instead of failing; a message says so")
                .default_value(DEFAULT_ALLOW_CPU_FALLBACK)
                .mutable_ready()
                .build(),
            glib::ParamSpecUInt::builder("threads")
                .nick("Threads")
                .blurb("Threads of one run of the model; 0: one a physical core")
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
                .blurb("What the model runs on, once the element has started")
                .read_only()
                .build(),
        ]
    }

    /// Sets a property, if it is one of these.
    pub(crate) fn set(&mut self, name: &str, value: &glib::Value) -> bool {
        const CHECKED: &str = "GObject checks a property's type";
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
            "model-options" => self.model_options.set(value, overrides),
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

    /// How the model is opened for `element`, which is told of what takes long.
    pub(crate) fn options(&self, element: &gst::Element) -> Result<Options, gst::ErrorMessage> {
        if let Some(problem) = self.model_options.problem("model-options") {
            return Err(senseless(problem));
        }
        Ok(Options {
            provider: self.execution_provider.into(),
            device_id: self.device_id,
            precision: self.precision.into(),
            kernels: self.kernels.into(),
            allow_cpu_fallback: self.allow_cpu_fallback,
            threads: self.threads as usize,
            overrides: self.model_options.meaning(),
            home: home(element),
            progress: Some(progress(element)),
            ..Options::default()
        })
    }
}

/// A start error for a property that makes no sense.
pub(crate) fn senseless(problem: String) -> gst::ErrorMessage {
    gst::error_msg!(gst::ResourceError::Settings, ("{problem}"))
}

/// The folder of the plugin's file.
pub(crate) fn home(element: &gst::Element) -> Option<PathBuf> {
    let file = element.factory()?.plugin()?.filename()?;
    file.parent().map(Path::to_path_buf)
}

/// Says what takes long, as progress messages.
fn progress(element: &gst::Element) -> Progress {
    let element = element.downgrade();
    Progress::new(move |what, ended| {
        let Some(element) = element.upgrade() else { return };
        let (kind, text) = if ended { (gst::ProgressType::Complete, "done") } else { (gst::ProgressType::Start, what) };
        gst::info!(gst::CAT_DEFAULT, obj = element, "{what}{}", if ended { ": done" } else { "" });
        let message = gst::message::Progress::builder(kind, "retinaface-engine", text).src(&element).build();
        // Without a bus there is nobody to tell.
        let _ = element.post_message(message);
    })
}

/// Says what the model is and runs on: a line in the log, and an element message.
pub(crate) fn tell_provider(
    element: &gst::Element,
    category: gst::DebugCategory,
    path: &Path,
    contract: &Contract,
    running: &Running,
) {
    let Running { provider, library, kernels, notes } = running;
    let library = library.display().to_string();
    let notes = notes.iter().chain(&contract.notes).collect::<Vec<_>>();
    gst::info!(
        category,
        obj = element,
        "{}: {} on {provider} of {library}, {kernels} kernels of this plugin",
        path.display(),
        contract.family
    );
    for note in &notes {
        gst::warning!(category, obj = element, "{}: {note}", path.display());
    }
    let structure = gst::Structure::builder("retinaface-provider")
        .field("provider", provider.name())
        .field("library", library)
        .field("notes", gst::Array::new(notes))
        .build();
    let _ = element.post_message(gst::message::Element::builder(structure).src(element).build());
}

/// A start error whose domain and code a program can act on.
pub(crate) fn start_error(path: &Path, error: &ModelError) -> gst::ErrorMessage {
    match error {
        ModelError::Read { .. } if !path.exists() => gst::error_msg!(gst::ResourceError::NotFound, ("{error}")),
        ModelError::Read { .. } => gst::error_msg!(gst::ResourceError::OpenRead, ("{error}")),
        ModelError::Override { .. }
        | ModelError::Graph { .. }
        | ModelError::Runtime(
            RuntimeError::Provider { .. }
            | RuntimeError::ProviderStart { .. }
            | RuntimeError::OneRuntime { .. }
            | RuntimeError::Precision { .. },
        ) => {
            gst::error_msg!(gst::ResourceError::Settings, ("{error}"))
        }
        ModelError::Runtime(_) => gst::error_msg!(gst::LibraryError::Init, ("{error}")),
        ModelError::TooLarge { .. }
        | ModelError::NotOnnx { .. }
        | ModelError::Opset { .. }
        | ModelError::Input { .. }
        | ModelError::Outputs { .. }
        | ModelError::NoLandmarks { .. }
        | ModelError::NotFinite { .. }
        | ModelError::Run { .. } => gst::error_msg!(gst::StreamError::WrongType, ("{error}")),
    }
}
