//! The files of a sequence.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::Context as _;
use retinaface_sequences::{FrameTime, Sequence, TrueFace};

use crate::y4m;

/// Faces that are less visible have a confidence of 0.
const MIN_VISIBILITY: f32 = 0.1;

/// Name of the video in the directory of a sequence.
const VIDEO: &str = "frames.y4m";

/// Writes the video, its times and its truth to `directory`, which is created. Existing files are
/// overwritten.
pub(crate) fn write(directory: &Path, sequence: &Sequence) -> anyhow::Result<()> {
    fs::create_dir_all(directory.join("gt"))?;
    let create = |name: &str| File::create(directory.join(name)).map(BufWriter::new).context(name.to_owned());
    let scenario = sequence.scenario();
    let mut video =
        y4m::Writer::new(create(VIDEO)?, (scenario.width, scenario.height), scenario.frame_rate).context(VIDEO)?;
    let mut truth = create("gt/gt.txt")?;
    for (index, frame) in sequence.frames().enumerate() {
        let frame = frame?;
        video.write(&frame.rgb).context(VIDEO)?;
        write_truth(&mut truth, index + 1, &frame.faces).context("gt/gt.txt")?;
    }
    video.finish().context(VIDEO)?;
    truth.flush().context("gt/gt.txt")?;
    write_times(create("times.csv")?, sequence.times()).context("times.csv")?;
    let info = format!(
        "[Sequence]\nname={}\nframeRate={}\nseqLength={}\nimWidth={}\nimHeight={}\n",
        scenario.name,
        scenario.frame_rate,
        sequence.len(),
        scenario.width,
        scenario.height
    );
    fs::write(directory.join("seqinfo.ini"), info).context("seqinfo.ini")
}

/// Writes the faces of a frame in the MOT Challenge format: frame, id, left, top, width, height,
/// confidence, class, visibility. Frames and ids count from 1; the first pixel is at 0.
fn write_truth(output: &mut impl Write, frame: usize, faces: &[TrueFace]) -> io::Result<()> {
    for TrueFace { id, rect, visibility, .. } in faces {
        let confidence = u8::from(*visibility >= MIN_VISIBILITY);
        writeln!(
            output,
            "{frame},{id},{:.2},{:.2},{:.2},{:.2},{confidence},1,{visibility:.3}",
            rect.x, rect.y, rect.w, rect.h
        )?;
    }
    Ok(())
}

/// Writes the number of each frame, from 1, and its presentation time.
fn write_times(mut output: impl Write, times: &[FrameTime]) -> io::Result<()> {
    writeln!(output, "frame,pts_ns")?;
    for (index, time) in times.iter().enumerate() {
        writeln!(output, "{},{}", index + 1, time.pts_ns)?;
    }
    output.flush()
}
