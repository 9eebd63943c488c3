//! Convolutions of our own, for ONNX Runtime's CPU provider: where a model has some that they do faster, they take their
//! place when it is loaded.
//!
//! ONNX Runtime takes them as custom operators. A model without such convolutions, and a machine without AVX2, keep to
//! ONNX Runtime's own.

mod context;
mod graph;
mod lanes;
mod stem;
#[cfg(test)]
mod tests;
mod winograd;

use std::cell::RefCell;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::available_parallelism;

use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput};
use ort::value::{TensorElementType, TensorValueType};
use prost::Message as _;

use crate::onnx::Model;
use lanes::{Target, Width};
use stem::{Layer, Pair, Stem};
use winograd::{Convolution, Jobs, Order, Output};

const DOMAIN: &str = "retinaface";
const CONVOLUTION: &str = "Convolution";
const STEM: &str = "Stem";
/// Most convolutions that are done as one.
const OUTPUTS: usize = 4;

/// `file` with kernels of ours in it, and how many; none if there is nothing for them to do, or no machine for them.
pub(crate) fn with_kernels(file: &[u8]) -> Option<(Vec<u8>, usize)> {
    let width = lanes::width()?;
    let mut model = Model::parse(file).ok()?;
    let count = graph::rewrite(&mut model, width)?;
    Some((model.encode_to_vec(), count))
}

/// The operators that [`with_kernels`] uses, for runs of so many threads; 0: one a core.
pub(crate) fn domain(threads: usize) -> ort::Result<OperatorDomain> {
    let threads = if threads == 0 { available_parallelism().map_or(1, NonZero::get) } else { threads };
    OperatorDomain::new(DOMAIN)?.add(ConvolutionOperator)?.add(StemOperator { threads })
}

/// What `work` gives. The binding calls kernels from C, where nothing may unwind.
fn guarded<T>(work: impl FnOnce() -> ort::Result<T>) -> ort::Result<T> {
    let bug = |_| Err(ort::Error::new("a kernel of retinaface failed"));
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(bug)
}

thread_local! {
    static SCRATCH: RefCell<(winograd::Scratch, stem::Scratch)> = RefCell::default();
}

/// The floats of an input that is part of the model.
fn constant(context: &KernelContext<'_>, index: usize) -> ort::Result<Vec<f32>> {
    let value = context.constant_input::<TensorValueType<f32>>(index)?;
    Ok(value.try_extract_tensor::<f32>()?.1.to_vec())
}

fn attribute<T>(value: Option<T>, name: &str) -> ort::Result<T> {
    value.ok_or_else(|| ort::Error::new(format!("the attribute {name} is missing")))
}

fn float(count: usize) -> Vec<OperatorInput> {
    (0..count).map(|_| OperatorInput::required(TensorElementType::Float32)).collect()
}

struct ConvolutionOperator;

struct ConvolutionKernel {
    lanes: Width,
    convolution: Convolution,
    order: Order,
    /// Channels of each output, and how they lie.
    outputs: Vec<(usize, Order)>,
}

impl Operator for ConvolutionOperator {
    type Kernel<'a> = ConvolutionKernel;

    fn name(&self) -> &str {
        CONVOLUTION
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        float(3)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        let more = (1..OUTPUTS).map(|_| OperatorOutput::optional(TensorElementType::Float32));
        std::iter::once(OperatorOutput::required(TensorElementType::Float32)).chain(more)
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<Self::Kernel<'a>> {
        guarded(|| {
            let lanes = lanes::width().ok_or_else(|| ort::Error::new("this machine has no AVX2"))?;
            let (weights, bias) = (constant(context, 1)?, constant(context, 2)?);
            let slopes = attribute(context.get::<Vec<f32>>("slopes"), "slopes")?;
            let counts = attribute(context.get::<Vec<i64>>("outputs"), "outputs")?;
            let flags = attribute(context.get::<Vec<i64>>("interleaved_outputs"), "interleaved_outputs")?;
            let interleaved = attribute(context.get::<i64>("interleaved_input"), "interleaved_input")?;
            let order = |flag| if flag == 0 { Order::Planar } else { Order::Interleaved };
            let inputs = weights.len() / 9 / bias.len().max(1);
            let outputs =
                counts.iter().zip(flags).map(|(count, flag)| (*count as usize, order(flag))).collect::<Vec<_>>();
            if outputs.iter().map(|(count, _)| count).sum::<usize>() != bias.len() || slopes.len() != bias.len() {
                return Err(ort::Error::new("its outputs do not fit its weights"));
            }
            let convolution = Convolution::new(&weights, inputs, bias, slopes);
            Ok(ConvolutionKernel { lanes, convolution, order: order(interleaved), outputs })
        })
    }
}

impl Kernel for ConvolutionKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        guarded(|| self.run(context))
    }
}

impl ConvolutionKernel {
    fn run(&self, context: &ComputeContext) -> ort::Result<()> {
        let Self { lanes, ref convolution, order, ref outputs } = *self;
        let (sides, input) = context::input(context, 0)?;
        let (pictures, channels, height, width) = match (sides, order) {
            ([n, c, h, w], Order::Planar) | ([n, h, w, c], Order::Interleaved) => (n, c, h, w),
        };
        if channels != convolution.inputs() {
            return Err(ort::Error::new(format!("{channels} channels, not {}", convolution.inputs())));
        }
        let mut floats = [const { None }; OUTPUTS];
        for (index, (floats, (channels, order))) in floats.iter_mut().zip(outputs).enumerate() {
            let sides = match order {
                Order::Planar => [pictures, *channels, height, width],
                Order::Interleaved => [pictures, height, width, *channels],
            };
            *floats = Some(context::output(context, index, sides)?);
        }
        let size = height * width;
        if pictures * size == 0 {
            return Ok(());
        }
        let jobs = Jobs::of(height, width);
        for picture in 0..pictures {
            let input = &input[picture * channels * size..][..channels * size];
            let mut first = 0;
            let mut targets = [const { None }; OUTPUTS];
            for (target, (floats, (channels, order))) in
                targets.iter_mut().zip(floats.iter_mut().flatten().zip(outputs))
            {
                let floats = Target::new(&mut floats[picture * channels * size..][..channels * size]);
                *target = Some(Output { first, channels: *channels, order: *order, target: floats });
                first += channels;
            }
            context::on_all_threads(context, jobs.count(), |number| {
                SCRATCH.with_borrow_mut(|(scratch, _)| {
                    convolution.run(lanes, &jobs, number, input, order, &targets, scratch);
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
    lanes: Width,
    threads: usize,
    stem: Stem,
}

impl Operator for StemOperator {
    type Kernel<'a> = StemKernel;

    fn name(&self) -> &str {
        STEM
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        float(5).into_iter().chain([OperatorInput::variadic(2).homogenous(TensorElementType::Float32)])
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<Self::Kernel<'a>> {
        guarded(|| {
            let lanes = lanes::width().ok_or_else(|| ort::Error::new("this machine has no AVX2"))?;
            let slopes = attribute(context.get::<Vec<f32>>("slopes"), "slopes")?;
            let steps = attribute(context.get::<Vec<i64>>("steps"), "steps")?;
            let layer = |index: usize| -> ort::Result<Layer> {
                let (weights, bias) = (constant(context, 2 * index + 1)?, constant(context, 2 * index + 2)?);
                let slope = *attribute(slopes.get(index), "slopes")?;
                Ok(Layer { weights, slope: vec![slope; bias.len()], bias })
            };
            let first = layer(0)?;
            let inputs = first.weights.len() / 9 / first.bias.len().max(1);
            let pairs = steps.iter().enumerate();
            let pairs =
                pairs.map(|(index, step)| Ok(Pair::new(*step as usize, layer(2 * index + 1)?, layer(2 * index + 2)?)));
            let stem = Stem::new(inputs, first, pairs.collect::<ort::Result<_>>()?);
            Ok(StemKernel { lanes, threads: self.threads, stem })
        })
    }
}

impl Kernel for StemKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        guarded(|| self.run(context))
    }
}

impl StemKernel {
    fn run(&self, context: &ComputeContext) -> ort::Result<()> {
        let Self { lanes, threads, ref stem } = *self;
        let ([pictures, channels, height, width], input) = context::input(context, 0)?;
        if channels != stem.inputs() {
            return Err(ort::Error::new(format!("{channels} channels, not {}", stem.inputs())));
        }
        let (high, wide) = stem.size(height, width);
        let floats = context::output(context, 0, [pictures, stem.outputs(), high, wide])?;
        let (taken, given) = (channels * height * width, stem.outputs() * high * wide);
        if pictures * taken == 0 {
            return Ok(());
        }
        let jobs = stem::Jobs::of(high, threads);
        for picture in 0..pictures {
            let input = &input[picture * taken..][..taken];
            let target = Target::new(&mut floats[picture * given..][..given]);
            context::on_all_threads(context, jobs.count(), |number| {
                SCRATCH.with_borrow_mut(|(_, scratch)| {
                    stem.run(lanes, (height, width), &jobs, number, input, &target, scratch);
                });
            })?;
        }
        Ok(())
    }
}
