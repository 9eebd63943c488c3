//! Writes the aligned crops of a video as PPM files and prints where each comes from.
//!
//! ```sh
//! . ./env.sh
//! cargo run --release -p face-meta --example crops -- clip.mp4 crops
//! ```
//!
//! The program reaches the elements by name and does not link the plugin; the crate `face-meta`
//! reads the metadata of a crop. A line has the time of the frame, the score, the box (x, y, width
//! and height), the nose tip in the frame and in the crop, and the file:
//!
//! ```text
//! 0.000 s  score 0.9998  box 192.6 147.6 179.5 252.1  nose 264.2 298.0 -> 52.8 77.0  crop-00000.ppm
//! ```

use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use gst::prelude::*;
use gst_video::prelude::*;
use retinaface::Rect;

/// Takes a video in any format and any orientation. `videoconvert` copies no frame in a format that
/// the next element takes. With a full queue, `appsink` lets the pipeline wait: no crop is lost.
const PIPELINE: &str = "uridecodebin name=source ! videoconvert ! videoflip video-direction=auto ! videoconvert \
                        ! retinaface ! facealign ! video/x-raw,format=RGB \
                        ! appsink name=crops sync=false max-buffers=16";
/// How often the program looks for errors while no crop arrives.
const POLL_INTERVAL: gst::ClockTime = gst::ClockTime::from_mseconds(100);

fn main() -> ExitCode {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let [video, directory] = &arguments[..] else {
        eprintln!("usage: crops VIDEO_OR_URI DIRECTORY");
        return ExitCode::from(2);
    };
    match run(video, Path::new(directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crops: {video}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(video: &str, directory: &Path) -> Result<(), Box<dyn Error>> {
    gst::init()?;
    let uri = match video.contains("://") {
        true => video.into(),
        false => gst::glib::filename_to_uri(std::path::absolute(video)?, None)?,
    };
    fs::create_dir_all(directory)?;

    let pipeline = gst::parse::launch(PIPELINE)?.downcast::<gst::Pipeline>().map_err(|_| "PIPELINE is one element")?;
    let named = |name| pipeline.by_name(name).ok_or("PIPELINE does not name this element");
    named("source")?.set_property("uri", uri);
    let sink = named("crops")?.downcast::<gst_app::AppSink>().map_err(|_| "`crops` is no appsink")?;
    let bus = pipeline.bus().ok_or("a pipeline has a bus")?;

    // If the start fails, the bus has the reason.
    let _ = pipeline.set_state(gst::State::Playing);
    let result = write_crops(&sink, &bus, directory);
    pipeline.set_state(gst::State::Null)?;
    result
}

fn write_crops(sink: &gst_app::AppSink, bus: &gst::Bus, directory: &Path) -> Result<(), Box<dyn Error>> {
    let mut number = 0;
    loop {
        if let Some(sample) = sink.try_pull_sample(POLL_INTERVAL) {
            write_crop(&sample, directory, &format!("crop-{number:05}.ppm"))?;
            number += 1;
        } else if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error]) {
            let gst::MessageView::Error(error) = message.view() else { continue };
            return Err(error.error().into());
        } else if sink.is_eos() {
            return Ok(());
        }
    }
}

fn write_crop(sample: &gst::Sample, directory: &Path, name: &str) -> Result<(), Box<dyn Error>> {
    let (buffer, caps) = sample.buffer().zip(sample.caps()).ok_or("a sample of raw video has both")?;
    let origin = face_meta::read_crop(buffer).ok_or("every crop of facealign has its origin")?;
    let time = origin.frame_pts.map_or(f64::NAN, |pts| pts.nseconds() as f64 / 1e9);
    // Eyes, nose tip and mouth corners. Only with align-without-landmarks=true a face may have none.
    let [.., nose, _, _] = origin.face.landmarks.ok_or("the detector finds no landmarks")?;
    let Rect { x, y, w, h } = origin.face.rect;
    let in_crop = origin.crop_from_frame.apply(nose);
    let mut out = std::io::stdout();
    write!(out, "{time:.3} s  score {:.4}  box {x:.1} {y:.1} {w:.1} {h:.1}", origin.face.score)?;
    writeln!(out, "  nose {:.1} {:.1} -> {:.1} {:.1}  {name}", nose.x, nose.y, in_crop.x, in_crop.y)?;

    let info = gst_video::VideoInfo::from_caps(caps)?;
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info)?;
    let mut file = fs::File::create(directory.join(name))?;
    write!(file, "P6\n{} {}\n255\n", frame.width(), frame.height())?;
    // A row can end with padding.
    let (stride, width) = (frame.plane_stride()[0] as usize, 3 * frame.width() as usize);
    for row in frame.plane_data(0)?.chunks(stride).take(frame.height() as usize) {
        file.write_all(&row[..width])?;
    }
    Ok(())
}
