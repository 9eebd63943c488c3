//! The caps of crops, and why downstream does not accept them.

use gst::glib;
use gst::prelude::*;
use gst_video::VideoFormat;

use super::settings::SIZE;

/// The formats of crops in the order of preference.
const FORMATS: [VideoFormat; 2] = [VideoFormat::Rgb, VideoFormat::Bgr];
/// The media type of crops.
const MEDIA_TYPE: &str = "video/x-raw";

/// The caps that crops of `size` x `size` pixels can have.
pub(super) fn crop_caps(size: u32) -> gst::Caps {
    let caps = FORMATS.map(|format| {
        gst_video::VideoCapsBuilder::new()
            .format(format)
            .width(size as i32)
            .height(size as i32)
            // The number of crops per frame varies.
            .framerate(gst::Fraction::new(0, 1))
            .pixel_aspect_ratio(gst::Fraction::new(1, 1))
            .build()
    });
    caps.into_iter().collect()
}

/// A part of the caps that downstream does not accept.
struct Mismatch {
    /// What crops have and what downstream accepts.
    text: String,
    remedy: String,
}

/// Why downstream, which accepts `accepted`, takes no crops of `size` x `size` pixels, and what to
/// do. Of several caps that downstream accepts, those with the fewest mismatches count.
pub(super) fn explain(size: u32, accepted: &gst::CapsRef) -> String {
    let mismatches = accepted.iter_with_features().map(|(structure, features)| mismatches(size, structure, features));
    let Some(nearest) = mismatches.min_by_key(Vec::len).filter(|nearest| !nearest.is_empty()) else {
        return "the elements after this one accept no common caps; check their caps filters and converters".to_owned();
    };
    let (texts, mut remedies): (Vec<_>, Vec<_>) =
        nearest.into_iter().map(|mismatch| (mismatch.text, mismatch.remedy)).unzip();
    // Width and height have the same remedy.
    remedies.dedup();
    format!("{}; {}", texts.join(", "), remedies.join(", and "))
}

fn mismatches(size: u32, accepted: &gst::StructureRef, features: &gst::CapsFeaturesRef) -> Vec<Mismatch> {
    if accepted.name() != MEDIA_TYPE {
        return vec![Mismatch {
            text: format!("crops are {MEDIA_TYPE}, but downstream accepts {}", accepted.name()),
            remedy: format!("put the encoder of {} after this element", accepted.name()),
        }];
    }
    let mut found = Vec::new();
    if !features.is_any() && !features.contains("memory:SystemMemory") {
        found.push(Mismatch {
            text: format!("crops are in system memory, but downstream accepts {features}"),
            remedy: "put the upload element of that memory, such as `cudaupload` or `glupload`, after this element"
                .to_owned(),
        });
    }
    let caps = crop_caps(size);
    let crop = caps.structure(0).expect("crops have caps");
    for field in ["format", "width", "height", "framerate", "pixel-aspect-ratio"] {
        let Ok(accepted_value) = accepted.value(field) else { continue };
        let wanted = match field {
            "format" => gst::List::new(FORMATS.map(|format| format.to_str().as_str())).to_value(),
            _ => crop.value(field).expect("the caps of crops have these fields").clone().into(),
        };
        if wanted.intersect(accepted_value).is_some() {
            continue;
        }
        let (wanted, accepts) = (text(&wanted), text(accepted_value));
        found.push(Mismatch {
            text: format!("crops have {field} {wanted}, but downstream accepts {accepts}"),
            remedy: match field {
                "format" => "put `videoconvert` after this element".to_owned(),
                "framerate" => {
                    "remove the framerate from the caps filter (the number of crops varies), or put `videorate` after this \
                     element"
                        .to_owned()
                }
                "pixel-aspect-ratio" => {
                    "remove the pixel-aspect-ratio from the caps filter, or put `videoscale` after this element".to_owned()
                }
                _ => match common_size(accepted) {
                    Some(size) => format!("set size={size}"),
                    None => "put `videoscale` after this element".to_owned(),
                },
            },
        });
    }
    found
}

/// A value as in caps, without its type.
fn text(value: &glib::Value) -> String {
    let text = value.serialize().map_or_else(|_| "another value".to_owned(), |text| text.to_string());
    // The values of a list carry their types.
    ["(string)", "(int)", "(fraction)"].into_iter().fold(text, |text, name| text.replace(name, ""))
}

/// A size of crops that downstream accepts for both the width and the height.
fn common_size(accepted: &gst::StructureRef) -> Option<i32> {
    let range = gst::IntRange::new(*SIZE.start() as i32, *SIZE.end() as i32).to_value();
    let side = |field: &str| match accepted.value(field) {
        Ok(value) => range.intersect(value),
        Err(_) => Some(range.clone()),
    };
    let common = side("width")?.intersect(&side("height")?)?;
    let first = common.get::<gst::List>().ok().and_then(|list| list.first().map(|value| value.to_value()));
    let common = first.unwrap_or(common);
    common.get::<i32>().ok().or_else(|| common.get::<gst::IntRange<i32>>().ok().map(|range| range.min()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_that_cannot_be_met_is_named_with_its_remedy() {
        gst::init().unwrap();
        for (accepted, expected) in [
            (
                "video/x-raw,format=I420",
                "crops have format { RGB, BGR }, but downstream accepts I420; put `videoconvert`",
            ),
            (
                "video/x-raw,format={NV12,I420},width=112,height=112",
                "crops have format { RGB, BGR }, but downstream accepts { NV12, I420 }; put `videoconvert`",
            ),
            (
                "video/x-raw,width=224,height=224",
                "crops have width 112, but downstream accepts 224, crops have height 112, but downstream accepts 224; set size=224",
            ),
            ("video/x-raw,width=160", "crops have width 112, but downstream accepts 160; set size=160"),
            (
                "video/x-raw,height=[128,256]",
                "crops have height 112, but downstream accepts [ 128, 256 ]; set size=128",
            ),
            ("video/x-raw,width=160,height=120", "downstream accepts 120; put `videoscale` after"),
            ("video/x-raw,width=4000,height=4000", "downstream accepts 4000; put `videoscale` after"),
            (
                "video/x-raw,framerate=25/1",
                "crops have framerate 0/1, but downstream accepts 25/1; remove the framerate",
            ),
            (
                "video/x-raw,pixel-aspect-ratio=2/1",
                "crops have pixel-aspect-ratio 1/1, but downstream accepts 2/1; remove the pixel-aspect-ratio",
            ),
            (
                "video/x-raw(memory:CUDAMemory),format=RGB",
                "crops are in system memory, but downstream accepts memory:CUDAMemory; put the upload element",
            ),
            ("image/jpeg", "crops are video/x-raw, but downstream accepts image/jpeg; put the encoder of image/jpeg"),
            ("EMPTY", "accept no common caps"),
            // Two fields, and the nearest of several caps.
            (
                "video/x-raw,format=GRAY8,framerate=30/1",
                "put `videoconvert` after this element, and remove the framerate",
            ),
            (
                "video/x-raw,format=GRAY8,width=9;video/x-raw,format=RGB,width=96;image/png,width=1",
                "crops have width 112, but downstream accepts 96; set size=96",
            ),
        ] {
            let accepted = accepted.parse::<gst::Caps>().unwrap();
            assert!(!accepted.can_intersect(&crop_caps(112)));
            let text = explain(112, &accepted);
            assert!(text.contains(expected), "{text}\n{expected}");
        }
    }
}
