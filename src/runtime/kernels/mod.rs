//! Convolution kernels for ONNX Runtime's CPU execution provider.
//!
//! [`with_kernels`] replaces the convolutions of a model for which these kernels are faster. ONNX
//! Runtime calls the kernels as custom operators, which [`domain`] registers. A CPU without AVX2,
//! or a model without suitable convolutions, uses only ONNX Runtime's own kernels.

mod context;
mod graph;
mod lanes;
mod stem;
#[cfg(test)]
pub(crate) mod tests;
mod winograd;

use std::cell::RefCell;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::available_parallelism;

use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput};
use ort::value::{TensorElementType, TensorValueType};
use prost::Message as _;

use crate::runtime::onnx::Model;
use context::KernelCall;
use lanes::{SharedOutput, SimdLevel};
use stem::{ConvParams, SeparableLayer, Stem};
use winograd::{ConvOutput, Convolution, TensorLayout};

/// The domain of the custom operators.
const DOMAIN: &str = "retinaface";
const CONVOLUTION: &str = "Convolution";
const STEM: &str = "Stem";
/// Maximum number of outputs of the convolution operator.
const MAX_OUTPUTS: usize = 4;

/// Names of the operators' attributes.
mod attributes {
    /// Slope of the activation: one per output channel for a convolution, one per layer for a stem.
    pub(super) const SLOPES: &str = "slopes";
    /// Channels of each output of a convolution.
    pub(super) const OUTPUT_CHANNELS: &str = "output_channels";
    /// Whether the input of a convolution is NHWC (1) or NCHW (0).
    pub(super) const NHWC_INPUT: &str = "nhwc_input";
    /// The same for each output.
    pub(super) const NHWC_OUTPUTS: &str = "nhwc_outputs";
    /// Stride of each separable layer of a stem.
    pub(super) const STRIDES: &str = "strides";
}

/// Replaces convolutions in the model `file`. Returns the new file and the number of custom nodes.
///
/// `None` if the CPU does not support the kernels, or if the model has no suitable convolution.
pub fn with_kernels(file: &[u8]) -> Option<(Vec<u8>, usize)> {
    let level = SimdLevel::detect()?;
    let mut model = Model::parse(file).ok()?;
    let count = graph::rewrite(&mut model, level)?;
    Some((model.encode_to_vec(), count))
}

/// The custom operators that [`with_kernels`] uses. `threads` is the session's number of intra-op
/// threads, 0 means one per core.
pub(crate) fn domain(threads: usize) -> ort::Result<OperatorDomain> {
    let threads = if threads == 0 { available_parallelism().map_or(1, NonZero::get) } else { threads };
    OperatorDomain::new(DOMAIN)?.add(ConvolutionOperator)?.add(StemOperator { threads })
}

/// Whether this CPU supports the kernels.
#[cfg(test)]
pub(crate) fn are_supported() -> bool {
    SimdLevel::detect().is_some()
}

/// Turns a panic of `function` into an error. ONNX Runtime calls kernels from C++, and a panic must
/// not unwind through C++.
fn catch_panic<T>(function: impl FnOnce() -> ort::Result<T>) -> ort::Result<T> {
    let to_error = |_| Err(ort::Error::new("a convolution kernel panicked; this is a bug in retinaface"));
    catch_unwind(AssertUnwindSafe(function)).unwrap_or_else(to_error)
}

thread_local! {
    static SCRATCH: RefCell<(winograd::Scratch, stem::Scratch)> = RefCell::default();
}

fn detect_simd_level() -> ort::Result<SimdLevel> {
    SimdLevel::detect().ok_or_else(|| ort::Error::new("this CPU has no AVX2 or no FMA"))
}

/// The values of a constant `float` input.
fn constant_input(context: &KernelContext<'_>, index: usize) -> ort::Result<Vec<f32>> {
    let value = context.constant_input::<TensorValueType<f32>>(index)?;
    Ok(value.try_extract_tensor::<f32>()?.1.to_vec())
}

fn required<T>(attribute: Option<T>, name: &str) -> ort::Result<T> {
    attribute.ok_or_else(|| ort::Error::new(format!("the attribute {name} is missing or too short")))
}

fn float_inputs(count: usize) -> Vec<OperatorInput> {
    (0..count).map(|_| OperatorInput::required(TensorElementType::Float32)).collect()
}

fn check_channels(channels: usize, expected: usize) -> ort::Result<()> {
    if channels == expected {
        Ok(())
    } else {
        Err(ort::Error::new(format!("the input has {channels} channels instead of {expected}")))
    }
}

struct ConvolutionOperator;

struct ConvolutionKernel {
    level: SimdLevel,
    convolution: Convolution,
    input_layout: TensorLayout,
    /// Channels and layout of each output.
    outputs: Vec<(usize, TensorLayout)>,
}

impl Operator for ConvolutionOperator {
    type Kernel<'a> = ConvolutionKernel;

    fn name(&self) -> &str {
        CONVOLUTION
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        float_inputs(3)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        let optional = (1..MAX_OUTPUTS).map(|_| OperatorOutput::optional(TensorElementType::Float32));
        std::iter::once(OperatorOutput::required(TensorElementType::Float32)).chain(optional)
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<Self::Kernel<'a>> {
        use attributes::{NHWC_INPUT, NHWC_OUTPUTS, OUTPUT_CHANNELS, SLOPES};
        catch_panic(|| {
            let level = detect_simd_level()?;
            let (weights, bias) = (constant_input(context, 1)?, constant_input(context, 2)?);
            let slopes = required(context.get::<Vec<f32>>(SLOPES), SLOPES)?;
            let output_channels = required(context.get::<Vec<i64>>(OUTPUT_CHANNELS), OUTPUT_CHANNELS)?;
            let nhwc_outputs = required(context.get::<Vec<i64>>(NHWC_OUTPUTS), NHWC_OUTPUTS)?;
            let nhwc_input = required(context.get::<i64>(NHWC_INPUT), NHWC_INPUT)?;
            let layout = |flag| if flag == 0 { TensorLayout::Nchw } else { TensorLayout::Nhwc };
            let input_channels = weights.len() / 9 / bias.len().max(1);
            let outputs = output_channels.iter().zip(nhwc_outputs);
            let outputs = outputs.map(|(count, flag)| (*count as usize, layout(flag))).collect::<Vec<_>>();
            if outputs.iter().map(|(count, _)| count).sum::<usize>() != bias.len() || slopes.len() != bias.len() {
                return Err(ort::Error::new("the output channels do not match the weights"));
            }
            let convolution = Convolution::new(&weights, input_channels, bias, slopes);
            Ok(ConvolutionKernel { level, convolution, input_layout: layout(nhwc_input), outputs })
        })
    }
}

impl Kernel for ConvolutionKernel {
    #[expect(unsafe_code, reason = "ONNX Runtime calls `compute`; the operator has no in-place outputs")]
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        catch_panic(|| self.run(unsafe { KernelCall::new(context) }))
    }
}

impl ConvolutionKernel {
    fn run(&self, mut call: KernelCall<'_>) -> ort::Result<()> {
        let Self { level, ref convolution, input_layout, ref outputs } = *self;
        let (shape, input) = call.input(0)?;
        let (batch, channels, height, width) = match (shape, input_layout) {
            ([n, c, h, w], TensorLayout::Nchw) | ([n, h, w, c], TensorLayout::Nhwc) => (n, c, h, w),
        };
        check_channels(channels, convolution.input_channels())?;
        let mut output_values = [const { None }; MAX_OUTPUTS];
        for (index, (values, (channels, layout))) in output_values.iter_mut().zip(outputs).enumerate() {
            let shape = match layout {
                TensorLayout::Nchw => [batch, *channels, height, width],
                TensorLayout::Nhwc => [batch, height, width, *channels],
            };
            *values = Some(call.output(index, shape)?);
        }
        let pixels = height * width;
        if batch * pixels == 0 {
            return Ok(());
        }
        let jobs = winograd::Jobs::new(height, width);
        for image in 0..batch {
            let input = &input[image * channels * pixels..][..channels * pixels];
            let mut first_channel = 0;
            let mut image_outputs = [const { None }; MAX_OUTPUTS];
            let values_and_formats = output_values.iter_mut().flatten().zip(outputs);
            for (output, (values, &(channels, layout))) in image_outputs.iter_mut().zip(values_and_formats) {
                let values = SharedOutput::new(&mut values[image * channels * pixels..][..channels * pixels]);
                *output = Some(ConvOutput { first_channel, channels, layout, values });
                first_channel += channels;
            }
            call.parallel_for(jobs.count(), |index| {
                #[expect(unsafe_code, reason = "`parallel_for` runs each index once")]
                SCRATCH.with_borrow_mut(|(scratch, _)| unsafe {
                    convolution.run(level, &jobs, index, input, input_layout, &image_outputs, scratch);
                });
            })?;
        }
        Ok(())
    }
}

struct StemOperator {
    threads: usize,
}

struct StemKernel {
    level: SimdLevel,
    threads: usize,
    stem: Stem,
}

impl Operator for StemOperator {
    type Kernel<'a> = StemKernel;

    fn name(&self) -> &str {
        STEM
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        float_inputs(5).into_iter().chain([OperatorInput::variadic(2).homogenous(TensorElementType::Float32)])
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<Self::Kernel<'a>> {
        use attributes::{SLOPES, STRIDES};
        catch_panic(|| {
            let level = detect_simd_level()?;
            let slopes = required(context.get::<Vec<f32>>(SLOPES), SLOPES)?;
            let strides = required(context.get::<Vec<i64>>(STRIDES), STRIDES)?;
            let params = |index: usize| -> ort::Result<ConvParams> {
                let (weights, bias) =
                    (constant_input(context, 2 * index + 1)?, constant_input(context, 2 * index + 2)?);
                let slope = *required(slopes.get(index), SLOPES)?;
                Ok(ConvParams { weights, slopes: vec![slope; bias.len()], bias })
            };
            let first = params(0)?;
            let input_channels = first.weights.len() / 9 / first.bias.len().max(1);
            let layers = strides.iter().enumerate().map(|(index, stride)| {
                let (depthwise, pointwise) = (params(2 * index + 1)?, params(2 * index + 2)?);
                Ok(SeparableLayer::new(depthwise, pointwise, *stride as usize))
            });
            let stem = Stem::new(input_channels, first, layers.collect::<ort::Result<_>>()?);
            Ok(StemKernel { level, threads: self.threads, stem })
        })
    }
}

impl Kernel for StemKernel {
    #[expect(unsafe_code, reason = "ONNX Runtime calls `compute`; the operator has no in-place outputs")]
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        catch_panic(|| self.run(unsafe { KernelCall::new(context) }))
    }
}

impl StemKernel {
    fn run(&self, mut call: KernelCall<'_>) -> ort::Result<()> {
        let Self { level, threads, ref stem } = *self;
        let ([batch, channels, height, width], input) = call.input(0)?;
        check_channels(channels, stem.input_channels())?;
        let (out_height, out_width) = stem.output_size(height, width);
        let output = call.output(0, [batch, stem.output_channels(), out_height, out_width])?;
        let (input_len, output_len) = (channels * height * width, stem.output_channels() * out_height * out_width);
        if batch * input_len == 0 {
            return Ok(());
        }
        let jobs = stem::Jobs::new(out_height, threads);
        for image in 0..batch {
            let input = &input[image * input_len..][..input_len];
            let output = SharedOutput::new(&mut output[image * output_len..][..output_len]);
            call.parallel_for(jobs.count(), |index| {
                #[expect(unsafe_code, reason = "`parallel_for` runs each index once")]
                SCRATCH.with_borrow_mut(|(_, scratch)| unsafe {
                    stem.run(level, (height, width), &jobs, index, input, &output, scratch);
                });
            })?;
        }
        Ok(())
    }
}
