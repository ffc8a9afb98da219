//! The last flips over time, as coordinates of an SVG: a lane for each capability.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};

use crate::serve::owner::{Flip, Status};

/// What one lane takes, and where time begins and ends, in units of the drawing.
const LANE: u32 = 26;
const LEFT: f64 = 120.0;
const RIGHT: f64 = 860.0;

/// Flips of the last minutes are not drawn as if they were of a year.
const SHORTEST: Duration = Duration::from_secs(600);

/// Marks on the axis of time.
const TICKS: u32 = 4;

/// Lanes, in the order of the capabilities.
pub(super) struct Timeline {
    pub(super) lanes: Vec<Lane>,
    pub(super) ticks: Vec<Tick>,
    pub(super) height: u32,
}

/// A capability, and who owned it when.
pub(super) struct Lane {
    pub(super) id: String,
    pub(super) y: u32,
    pub(super) spans: Vec<Span>,
}

/// A time with one owner.
pub(super) struct Span {
    pub(super) owner: String,
    pub(super) x: String,
    pub(super) width: String,
    /// For whoever points at it.
    pub(super) text: String,
}

/// A time on the axis.
pub(super) struct Tick {
    pub(super) x: String,
    pub(super) label: String,
}

impl Timeline {
    pub(super) fn new(status: &Status, now: SystemTime) -> Self {
        let first = status.flips.iter().map(Flip::at).min().unwrap_or(now);
        let span = now.duration_since(first).unwrap_or_default().mul_f64(1.1).max(SHORTEST);
        let scale = Scale { from: now.checked_sub(span).unwrap_or(UNIX_EPOCH), span };
        let mut lanes: Vec<Lane> = Vec::new();
        for id in ids(status) {
            let y = u32::try_from(lanes.len()).unwrap_or_default() * LANE;
            let spans = spans(id, status, &scale, now);
            lanes.push(Lane { id: id.to_owned(), y, spans });
        }
        let ticks = (0..=TICKS).map(|tick| {
            let at = scale.from + scale.span * tick / TICKS;
            Tick { x: format!("{:.1}", scale.x(at)), label: label(at, span) }
        });
        let height = u32::try_from(lanes.len()).unwrap_or_default() * LANE;
        Self { lanes, ticks: ticks.collect(), height }
    }
}

/// Capabilities that can be ours, then single routes that have moved.
fn ids(status: &Status) -> Vec<&str> {
    let ours = |line: &&crate::serve::owner::Line| {
        line.kind == "capability" && !["unsupported_capability", "pinned"].contains(&&*line.reason)
    };
    let mut ids: Vec<&str> = status.owners.iter().filter(ours).map(|line| &*line.id).collect();
    for flip in &status.flips {
        if !ids.contains(&&*flip.id) {
            ids.push(&flip.id);
        }
    }
    ids
}

fn spans(id: &str, status: &Status, scale: &Scale, now: SystemTime) -> Vec<Span> {
    let flips: Vec<&Flip> = status.flips.iter().filter(|flip| flip.id == id).collect();
    let current = status.owners.iter().find(|line| line.id == id).map(|line| &*line.owner);
    // Before the first flip that is known it was the other one's.
    let before = match flips.first() {
        Some(first) if first.owner == "python" => "rust",
        Some(_) => "python",
        None => current.unwrap_or("python"),
    };
    let mut owners = vec![(scale.from, before)];
    owners.extend(flips.iter().map(|flip| (flip.at(), &*flip.owner)));
    let ends = owners.iter().skip(1).map(|(at, _)| *at).chain([now]);
    let span = |(&(from, owner), until): (&(SystemTime, &str), SystemTime)| {
        let (x, end) = (scale.x(from), scale.x(until));
        Span {
            owner: owner.to_owned(),
            x: format!("{x:.1}"),
            width: format!("{:.1}", (end - x).max(1.0)),
            text: format!("{id}: {owner} from {}", DateTime::<Utc>::from(from).format("%F %T")),
        }
    };
    owners.iter().zip(ends).map(span).collect()
}

struct Scale {
    from: SystemTime,
    span: Duration,
}

impl Scale {
    fn x(&self, at: SystemTime) -> f64 {
        let passed = at.duration_since(self.from).unwrap_or_default();
        let part = passed.as_secs_f64() / self.span.as_secs_f64();
        LEFT + (RIGHT - LEFT) * part.min(1.0)
    }
}

fn label(at: SystemTime, span: Duration) -> String {
    let format = match span.as_secs() {
        0..=3_600 => "%H:%M:%S",
        3_601..=172_800 => "%H:%M",
        _ => "%d %b",
    };
    DateTime::<Utc>::from(at).format(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_full_from_its_beginning_to_now() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let ago = |seconds: u64| Flip {
            at_ms: (1_800_000_000 - seconds) * 1000,
            id: "V2_PULL".to_owned(),
            owner: if seconds.is_multiple_of(2) { "rust" } else { "python" }.to_owned(),
            reason: "capability".to_owned(),
        };
        let flips = vec![ago(7_200), ago(3_601), ago(600)];
        let timeline = Timeline::new(&Status { flips, ..Status::default() }, now);
        let [lane] = timeline.lanes.as_slice() else { panic!("one lane") };
        let owners: Vec<&str> = lane.spans.iter().map(|span| &*span.owner).collect();
        assert_eq!(owners, ["python", "rust", "python", "rust"]);
        let mut end = LEFT;
        for span in &lane.spans {
            let (x, width): (f64, f64) = (span.x.parse().unwrap(), span.width.parse().unwrap());
            assert!((x - end).abs() < 0.2, "a gap before {x}");
            end = x + width;
        }
        assert!((end - RIGHT).abs() < 0.2, "{end}");
        assert_eq!(timeline.ticks.len(), 5);
    }

    #[test]
    fn without_flips_there_is_who_owns_it_now() {
        let timeline = Timeline::new(&Status::default(), SystemTime::now());
        assert!(timeline.lanes.is_empty());
    }
}
