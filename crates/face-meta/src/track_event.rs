//! Events of tracks: serialized custom events downstream, and element messages on the bus.

use std::time::Duration;

use retinaface::track::{TrackEvent, TrackEventKind};

/// Name of the structure of events and messages.
pub const TRACK_EVENT: &str = "retinaface-track";

/// The structure of an event of a track: `event` (string), `track-id`, `pts`, `first-seen` and
/// `last-seen` (uint64, times in ns) and `confirmed` (boolean).
pub fn track_event(event: &TrackEvent) -> gst::Structure {
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    gst::Structure::builder(TRACK_EVENT)
        .field("event", event.kind.name())
        .field("track-id", event.track_id)
        .field("pts", nanoseconds(event.time))
        .field("first-seen", nanoseconds(event.first_seen))
        .field("last-seen", nanoseconds(event.last_seen))
        .field("confirmed", event.is_confirmed)
        .build()
}

/// The event of a track in such a structure; `None` for any other structure.
pub fn read_track_event(structure: &gst::StructureRef) -> Option<TrackEvent> {
    if structure.name() != TRACK_EVENT {
        return None;
    }
    let time = |field: &str| structure.get::<u64>(field).ok().map(Duration::from_nanos);
    Some(TrackEvent {
        kind: TrackEventKind::from_name(structure.get("event").ok()?)?,
        track_id: structure.get("track-id").ok()?,
        time: time("pts")?,
        first_seen: time("first-seen")?,
        last_seen: time("last-seen")?,
        is_confirmed: structure.get("confirmed").ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_read_back() {
        gst::init().unwrap();
        for kind in TrackEventKind::ALL {
            let [time, first_seen, last_seen] = [9, 1, 8].map(Duration::from_millis);
            let event = TrackEvent { kind, track_id: 7, time, first_seen, last_seen, is_confirmed: true };
            assert_eq!(read_track_event(&track_event(&event)), Some(event));
        }
        assert_eq!(read_track_event(&gst::Structure::new_empty("other")), None);
        assert_eq!(read_track_event(&gst::Structure::new_empty(TRACK_EVENT)), None);
    }
}
