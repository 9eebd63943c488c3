//! A pipeline that decodes the video of a file and hands the other streams over as they are.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, anyhow, bail, ensure};
use gst::prelude::*;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Notices that the user ends the program. SIGINT and SIGTERM no longer end it while this exists, so
/// that it can remove its files.
pub(super) struct Interrupt {
    signals: SigSet,
    queue: SignalFd,
}

impl Interrupt {
    /// Must be called before threads are started: they inherit which signals they do not receive.
    pub(super) fn new() -> anyhow::Result<Self> {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        signals.thread_block()?;
        Ok(Self { signals, queue: SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)? })
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.queue.read_signal()?.is_none(), "interrupted");
        Ok(())
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        // Only a wrong argument could fail.
        let _ = self.signals.thread_unblock();
    }
}

/// What the threads of a pipeline report.
#[derive(Clone, Default)]
pub(super) struct Reports(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    failure: Option<anyhow::Error>,
    notes: Vec<String>,
    chapters: Option<gst::Toc>,
}

impl Reports {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the pipeline with the first error.
    pub(super) fn fail(&self, error: anyhow::Error) {
        self.inner().failure.get_or_insert(error);
    }

    /// Adds what the output does not have, once.
    pub(super) fn note(&self, note: String) {
        let mut inner = self.inner();
        if !inner.notes.contains(&note) {
            inner.notes.push(note);
        }
    }

    pub(super) fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.inner().notes)
    }

    /// Takes over the chapters that another pass has found.
    pub(super) fn take_chapters_of(&self, other: &Self) {
        let chapters = other.inner().chapters.take();
        self.inner().chapters = chapters;
    }

    /// The table of contents of the file, if it has entries.
    pub(super) fn chapters(&self) -> Option<gst::Toc> {
        self.inner().chapters.clone()
    }
}

/// A pipeline that reads a file.
pub(super) struct Player<'a> {
    pipeline: gst::Pipeline,
    bus: gst::Bus,
    reports: Reports,
    interrupt: &'a Interrupt,
    failure: String,
}

impl<'a> Player<'a> {
    /// `pipeline` has the element `video`, which receives the decoded frames of the first video stream.
    /// `other` links each other stream, which has these caps, to an element of the pipeline.
    pub(super) fn new(
        input: &Path,
        pipeline: gst::Pipeline,
        video: &gst::Element,
        reports: &Reports,
        interrupt: &'a Interrupt,
        other: impl Fn(&gst::Pad, &gst::Caps) -> anyhow::Result<()> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let source = gst::ElementFactory::make("filesrc").property("location", input).build()?;
        let parser = gst::ElementFactory::make("parsebin").build()?;
        let decoder = gst::ElementFactory::make("decodebin").build()?;
        // The muxer takes the packets of all streams in turn, and the encoder delays those of the video. Only
        // the number of packets is limited, because a multiqueue exceeds this limit rather than stop all
        // streams.
        let queue = gst::ElementFactory::make("multiqueue")
            .property("max-size-buffers", 64u32)
            .property("max-size-bytes", 0u32)
            .property("max-size-time", 0u64)
            .build()?;
        pipeline.add_many([&source, &parser, &queue, &decoder])?;
        source.link(&parser)?;

        let frames = video.static_pad("sink").context("the first element of the video has a sink pad")?;
        let decoder_reports = reports.clone();
        decoder.connect_pad_added(move |_, pad| {
            if let Err(error) = pad.link(&frames) {
                decoder_reports.fail(anyhow!("its video cannot be decoded into frames: {error}"));
            }
        });
        let unknown_reports = reports.clone();
        parser.connect("unknown-type", false, move |values| {
            let caps = values.get(2).and_then(|value| value.get::<gst::Caps>().ok());
            let name = caps.as_ref().map_or("unknown", |caps| type_name(caps));
            unknown_reports.note(format!("a stream of type {name} is dropped: GStreamer does not know it"));
            None
        });
        // parsebin adds the pads of all streams before it sends data through one of them. It does not
        // report that the last one was added.
        let streams = Arc::new(Mutex::new(Some(Vec::new())));
        let elements = (queue.downgrade(), decoder.downgrade());
        let (stream_reports, other) = (reports.clone(), Arc::new(other));
        parser.connect_pad_added(move |_, pad| {
            match &mut *streams.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(pads) => pads.push(pad.clone()),
                None => stream_reports.fail(anyhow!("the streams of the file change within it")),
            }
            let (streams, elements, reports) = (Arc::clone(&streams), elements.clone(), stream_reports.clone());
            let other = Arc::clone(&other);
            pad.add_probe(gst::PadProbeType::BLOCK_DOWNSTREAM, move |_, _| {
                // The other pads wait here until the streams are linked.
                let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(pads) = streams.take() {
                    let elements = elements.0.upgrade().zip(elements.1.upgrade());
                    let linked = elements.context("the pipeline ends").and_then(|(queue, decoder)| {
                        let decoder = decoder.static_pad("sink").context("decodebin has a sink pad")?;
                        link_streams(&pads, &queue, &decoder, &reports, &*other)
                    });
                    if let Err(error) = linked {
                        reports.fail(error);
                    }
                }
                gst::PadProbeReturn::Remove
            });
        });
        let bus = pipeline.bus().context("a pipeline has a bus")?;
        let failure = format!("cannot process {}", input.display());
        Ok(Self { pipeline, bus, reports: reports.clone(), interrupt, failure })
    }

    pub(super) fn start(&self) -> anyhow::Result<()> {
        if let Err(error) = self.pipeline.set_state(gst::State::Playing) {
            self.poll(gst::ClockTime::ZERO)?;
            bail!("{}: {error}", self.failure);
        }
        Ok(())
    }

    /// The duration of the file, as far as it is known.
    pub(super) fn duration(&self) -> Option<gst::ClockTime> {
        self.pipeline.query_duration::<gst::ClockTime>()
    }

    /// Handles the messages of the pipeline. Waits for the first one at most this long. Returns whether
    /// the end of the file was reached.
    pub(super) fn poll(&self, mut timeout: gst::ClockTime) -> anyhow::Result<bool> {
        let mut is_end = false;
        let mut missing = Vec::<String>::new();
        while let Some(message) = self.bus.timed_pop(timeout) {
            timeout = gst::ClockTime::ZERO;
            match message.view() {
                gst::MessageView::Eos(_) => is_end = true,
                gst::MessageView::Error(error) => {
                    // What a thread of this program has found comes first: it is the cause.
                    self.check_failure()?;
                    let missing = match missing.as_slice() {
                        [] => String::new(),
                        names => format!(" (missing: {})", names.join(", ")),
                    };
                    bail!("{}: {}{missing}", self.failure, error.error().message());
                }
                gst::MessageView::Toc(toc) => {
                    let (toc, _) = toc.toc();
                    if toc.scope() == gst::TocScope::Global && !toc.entries().is_empty() {
                        self.reports.inner().chapters.get_or_insert(toc);
                    }
                }
                gst::MessageView::Element(element) => {
                    let structure = element.structure().filter(|structure| structure.name() == "missing-plugin");
                    missing.extend(structure.and_then(|structure| structure.get::<String>("name").ok()));
                }
                _ => {}
            }
        }
        self.check_failure()?;
        self.interrupt.check()?;
        Ok(is_end)
    }

    fn check_failure(&self) -> anyhow::Result<()> {
        match self.reports.inner().failure.take() {
            Some(error) => Err(error.context(self.failure.clone())),
            None => Ok(()),
        }
    }
}

impl Drop for Player<'_> {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// The media type of caps, such as `audio/mpeg`.
pub(super) fn type_name(caps: &gst::Caps) -> &str {
    caps.structure(0).map_or("unknown", |structure| structure.name().as_str())
}

/// Links the first video stream to the decoder, and the others as `other` says. Further video streams
/// are dropped: they would show faces.
fn link_streams(
    pads: &[gst::Pad],
    queue: &gst::Element,
    decoder: &gst::Pad,
    reports: &Reports,
    other: &impl Fn(&gst::Pad, &gst::Caps) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let caps = |pad: &gst::Pad| pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    let streams = pads.iter().map(|pad| (pad, caps(pad))).collect::<Vec<_>>();
    let first = |kind: &str| streams.iter().position(|(_, caps)| type_name(caps).starts_with(kind));
    let video = first("video/").or_else(|| first("image/")).context("the file has no video stream")?;
    for (index, (pad, caps)) in streams.iter().enumerate() {
        let name = type_name(caps);
        if index == video {
            let link = queued(pad, queue)?.link(decoder);
            link.map_err(|error| anyhow!("{name} cannot be decoded: {error}"))?;
        } else if name.starts_with("video/") || name.starts_with("image/") {
            reports.note(format!("stream {index} ({name}) is dropped: only the first video is redacted"));
        } else {
            other(&queued(pad, queue)?, caps)?;
        }
    }
    Ok(())
}

/// Links a pad to the multiqueue. Returns the pad where its stream leaves it.
fn queued(pad: &gst::Pad, queue: &gst::Element) -> anyhow::Result<gst::Pad> {
    let sink = queue.request_pad_simple("sink_%u").context("multiqueue has a pad for each stream")?;
    pad.link(&sink)?;
    let name = sink.name().replace("sink", "src");
    queue.static_pad(&name).context("multiqueue has a source pad for each sink pad")
}
