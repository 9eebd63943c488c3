//! `retinaface eval track`: accuracy of a tracker.
//!
//! The metrics and the rules are those of TrackEval, which the MOT challenge uses. The tests compare
//! with values of TrackEval 1.3.0 (`tests/reference/make_tracks.py`). If several assignments of
//! boxes are equally good, TrackEval may take another one, and the values differ.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::Serialize;

use self::clear::Clear;
use self::files::SequenceFiles;
use self::hota::Hota;
use self::identity::Identity;
use self::sequence::Sequence;
use crate::status::{Outcome, report};

mod assignment;
mod clear;
mod files;
mod hota;
mod identity;
mod json_lines;
mod mot;
mod sequence;
mod tracks;

#[derive(Debug, Args)]
#[command(
    after_help = "PATH is a file, or a directory of one file per sequence; both are of the same kind. A truth is NAME.txt or \
                        NAME/gt/gt.txt with lines `frame,id,x,y,w,h,conf,class,visibility`, predictions are NAME.txt with \
                        lines `frame,id,x,y,w,h,conf,-1,-1,-1`, or NAME.jsonl with the lines of facemetapublish.\n\n\
                        Exit status: 0, or 2 on an error."
)]
pub(super) struct Track {
    /// True tracks in the format of the MOT challenge: a file or a directory
    #[arg(long, value_name = "PATH")]
    truth: PathBuf,
    /// Tracks of a tracker in the format of the MOT challenge, or as JSON lines: a file or a
    /// directory
    #[arg(long, value_name = "PATH")]
    predictions: PathBuf,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What is summed over sequences.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    clear: Clear,
    identity: Identity,
    hota: Hota,
    truth_ids: usize,
    predicted_ids: usize,
    truth_boxes: usize,
    predicted_boxes: usize,
    ignored_truth: usize,
    ignored_predictions: usize,
    untracked: usize,
}

impl Sums {
    fn new(sequence: &Sequence, untracked: usize) -> anyhow::Result<Self> {
        Ok(Self {
            clear: Clear::new(sequence)?,
            identity: Identity::new(sequence)?,
            hota: Hota::new(sequence)?,
            truth_ids: sequence.truth.len(),
            predicted_ids: sequence.predicted.len(),
            truth_boxes: sequence.truth.iter().sum(),
            predicted_boxes: sequence.predicted.iter().sum(),
            ignored_truth: sequence.ignored_truth,
            ignored_predictions: sequence.ignored_predictions,
            untracked,
        })
    }

    fn add(&mut self, other: &Self) {
        self.clear += other.clear;
        self.identity += other.identity;
        self.hota += other.hota;
        self.truth_ids += other.truth_ids;
        self.predicted_ids += other.predicted_ids;
        self.truth_boxes += other.truth_boxes;
        self.predicted_boxes += other.predicted_boxes;
        self.ignored_truth += other.ignored_truth;
        self.ignored_predictions += other.ignored_predictions;
        self.untracked += other.untracked;
    }
}

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    sequences: Vec<SequenceReport>,
    combined: Scores,
}

#[derive(Debug, Serialize)]
struct SequenceReport {
    name: String,
    #[serde(flatten)]
    scores: Scores,
}

/// Metrics are in 0.0..=1.0; MOTA may be negative.
#[derive(Debug, Serialize)]
struct Scores {
    hota: f64,
    deta: f64,
    assa: f64,
    loca: f64,
    mota: f64,
    motp: f64,
    idf1: f64,
    idp: f64,
    idr: f64,
    id_switches: usize,
    fragmentations: usize,
    false_positives: usize,
    false_negatives: usize,
    /// Evaluated tracks.
    truth_ids: usize,
    predicted_ids: usize,
    /// Evaluated boxes.
    truth_boxes: usize,
    predicted_boxes: usize,
    /// Boxes of the truth that are not evaluated.
    ignored_truth: usize,
    /// Predictions that do not count, since they are assigned to a distractor.
    ignored_predictions: usize,
    /// Faces of JSON lines without a track id, which do not count.
    faces_without_track_id: usize,
}

impl Scores {
    fn new(sums: &Sums) -> Self {
        let Sums { clear, identity, hota, .. } = sums;
        Self {
            hota: hota.hota(),
            deta: hota.deta(),
            assa: hota.assa(),
            loca: hota.loca(),
            mota: clear.mota(),
            motp: clear.motp(),
            idf1: identity.idf1(),
            idp: identity.idp(),
            idr: identity.idr(),
            id_switches: clear.id_switches,
            fragmentations: clear.fragmentations,
            false_positives: clear.false_positives,
            false_negatives: clear.false_negatives,
            truth_ids: sums.truth_ids,
            predicted_ids: sums.predicted_ids,
            truth_boxes: sums.truth_boxes,
            predicted_boxes: sums.predicted_boxes,
            ignored_truth: sums.ignored_truth,
            ignored_predictions: sums.ignored_predictions,
            faces_without_track_id: sums.untracked,
        }
    }
}

impl Track {
    pub(super) fn run(&self) -> anyhow::Result<Outcome> {
        let mut combined = Sums::default();
        let mut sequences = Vec::new();
        for files in SequenceFiles::find(&self.truth, &self.predictions)? {
            let sums = evaluate(&files)?;
            if sums.untracked > 0 {
                report(&format!(
                    "{}: {} faces without track_id, which do not count",
                    files.predictions.display(),
                    sums.untracked
                ));
            }
            combined.add(&sums);
            sequences.push(SequenceReport { name: files.name, scores: Scores::new(&sums) });
        }
        ensure!(
            combined.truth_boxes > 0,
            "the truth has no box to evaluate ({}): {} boxes have conf 0 or a class other than 1",
            self.truth.display(),
            combined.ignored_truth
        );
        ensure!(
            combined.untracked == 0 || combined.predicted_boxes + combined.ignored_predictions > 0,
            "no face of {} has a track_id: record the lines behind a tracker",
            self.predictions.display()
        );
        let report = Report { schema: "retinaface.tracking/1", sequences, combined: Scores::new(&combined) };
        if self.json {
            writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
        } else {
            write!(io::stdout(), "{}", report.table())?;
        }
        Ok(Outcome::Found)
    }
}

fn evaluate(files: &SequenceFiles) -> anyhow::Result<Sums> {
    let (truth, predictions) = files.read()?;
    let sequence = Sequence::new(&truth, &predictions).with_context(|| files.name.clone())?;
    Sums::new(&sequence, predictions.untracked).with_context(|| files.name.clone())
}

/// Parses a truth and predictions and evaluates them, for the fuzz target. The predictions are JSON
/// lines if they begin with `{`. Returns HOTA, DetA, AssA, LocA, MOTP, IDF1, IDP, IDR and MOTA.
pub(crate) fn evaluate_texts(truth: &str, predictions: &str) -> anyhow::Result<[f64; 9]> {
    let parse = if predictions.starts_with('{') { json_lines::parse } else { mot::parse_predictions };
    let sequence = Sequence::new(&mot::parse_truth(truth)?, &parse(predictions)?)?;
    let Scores { hota, deta, assa, loca, mota, motp, idf1, idp, idr, .. } = Scores::new(&Sums::new(&sequence, 0)?);
    Ok([hota, deta, assa, loca, motp, idf1, idp, idr, mota])
}

impl Report {
    fn table(&self) -> String {
        const COMBINED: &str = "combined";
        let mut rows = self.sequences.iter().map(|row| (row.name.as_str(), &row.scores)).collect::<Vec<_>>();
        if rows.len() > 1 {
            rows.push((COMBINED, &self.combined));
        }
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(COMBINED.len());
        let mut table = format!("{:<width$}", "sequence");
        for name in ["HOTA", "DetA", "AssA", "LocA", "MOTA", "MOTP", "IDF1", "IDP", "IDR"] {
            table += &format!("{name:>8}");
        }
        for name in ["IDSW", "Frag", "FP", "FN", "true ids", "ids"] {
            table += &format!("{name:>9}");
        }
        table += "\n";
        for (name, scores) in rows {
            table += &format!("{name:<width$}");
            let Scores { hota, deta, assa, loca, mota, motp, idf1, idp, idr, .. } = scores;
            for value in [hota, deta, assa, loca, mota, motp, idf1, idp, idr] {
                table += &format!("{:>8.2}", 100.0 * value);
            }
            let Scores { id_switches, fragmentations, false_positives, false_negatives, .. } = scores;
            let Scores { truth_ids, predicted_ids, .. } = scores;
            for count in [id_switches, fragmentations, false_positives, false_negatives, truth_ids, predicted_ids] {
                table += &format!("{count:>9}");
            }
            table += "\n";
        }
        let Scores { truth_boxes, predicted_boxes, ignored_truth, ignored_predictions, .. } = self.combined;
        table
            + &format!(
                "metrics in %; boxes: {truth_boxes} true, {predicted_boxes} predicted; not evaluated: {ignored_truth} true, \
             {ignored_predictions} predicted, {} faces without track_id\n",
                self.combined.faces_without_track_id
            )
    }
}
