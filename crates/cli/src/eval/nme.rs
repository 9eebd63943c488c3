//! Normalised mean error (NME) of landmarks: the distance to the true landmarks, relative to the
//! distance between the true eyes.

use std::collections::HashMap;

use anyhow::{Context as _, ensure};
use retinaface::geometry::{Face, Landmarks, Point};

/// The true faces of an image.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AnnotatedImage {
    pub(super) file: String,
    pub(super) faces: Vec<Landmarks>,
}

/// Parses lines `file,x1,y1,...,x5,y5`, one per face. Lines that begin with `#` are comments.
pub(super) fn parse(text: &str) -> anyhow::Result<Vec<AnnotatedImage>> {
    let mut images: Vec<AnnotatedImage> = Vec::new();
    let mut indices = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (file, points) = parse_face(line).with_context(|| format!("line {number}, {line:?}"))?;
        let index = *indices.entry(file).or_insert_with(|| {
            images.push(AnnotatedImage { file: file.to_owned(), faces: Vec::new() });
            images.len() - 1
        });
        images[index].faces.push(points);
    }
    ensure!(!images.is_empty(), "the file has no faces; add one line file,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5 per face");
    Ok(images)
}

fn parse_face(line: &str) -> anyhow::Result<(&str, Landmarks)> {
    // From the right, since the file name may contain commas.
    let mut fields = line.trim_end().rsplitn(11, ',');
    let mut points = [Point::default(); 5];
    let layout = "expected a file name and ten values: file,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5";
    for point in points.iter_mut().rev() {
        let mut value = || {
            let field = fields.next().context(layout)?.trim();
            let value = field.parse::<f32>().ok().filter(|value| value.is_finite());
            value.with_context(|| format!("{field:?} is not a finite number"))
        };
        (point.y, point.x) = (value()?, value()?);
    }
    let file = fields.next().filter(|file| !file.is_empty()).context(layout)?;
    ensure!(eye_distance(&points) > 0.0, "both eyes are at the same position: errors cannot be normalised");
    Ok((file, points))
}

fn distance(a: Point, b: Point) -> f64 {
    (f64::from(a.x) - f64::from(b.x)).hypot(f64::from(a.y) - f64::from(b.y))
}

fn eye_distance(points: &Landmarks) -> f64 {
    distance(points[0], points[1])
}

/// Distance of each point to the true point, relative to the distance between the true eyes.
fn errors(found: &Landmarks, truth: &Landmarks) -> [f64; 5] {
    let eye_distance = eye_distance(truth);
    std::array::from_fn(|point| distance(found[point], truth[point]) / eye_distance)
}

fn mean(errors: &[f64; 5]) -> f64 {
    errors.iter().sum::<f64>() / errors.len() as f64
}

/// For each true face, the errors of the detection that is matched to it, if any.
///
/// A detection is a candidate for a face if its box contains the centre of the face's points.
/// Candidates are matched in the order of their mean error, then of descending score. A face is
/// matched to at most one detection, and a detection to at most one face.
pub(super) fn match_faces(truth: &[Landmarks], faces: &[Face]) -> Vec<Option<[f64; 5]>> {
    let mut pairs = Vec::new();
    for (truth_index, points) in truth.iter().enumerate() {
        let centre = |of: fn(&Point) -> f32| points.iter().map(of).sum::<f32>() / points.len() as f32;
        let (x, y) = (centre(|point| point.x), centre(|point| point.y));
        for (index, face) in faces.iter().enumerate() {
            let rect = face.rect;
            let is_inside = (rect.x..=rect.right()).contains(&x) && (rect.y..=rect.bottom()).contains(&y);
            if let Some(found) = face.landmarks.filter(|_| is_inside) {
                pairs.push((truth_index, index, errors(&found, points)));
            }
        }
    }
    let score = |index: usize| faces[index].score;
    pairs.sort_by(|a, b| mean(&a.2).total_cmp(&mean(&b.2)).then(score(b.1).total_cmp(&score(a.1))));
    let mut matched = vec![None; truth.len()];
    let mut taken = vec![false; faces.len()];
    for (truth_index, index, errors) in pairs {
        if matched[truth_index].is_none() && !taken[index] {
            matched[truth_index] = Some(errors);
            taken[index] = true;
        }
    }
    matched
}

/// Errors over all faces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    pub(super) faces: usize,
    /// Faces with a matched detection.
    pub(super) found: usize,
    /// Mean over the found faces of the mean error of the five points; None if no face was found.
    pub(super) nme: Option<f64>,
    /// The same for each point.
    pub(super) points: Option<[f64; 5]>,
    /// Found faces whose mean error is above the limit.
    pub(super) above_limit: usize,
}

impl Summary {
    pub(super) fn new(faces: &[Option<[f64; 5]>], limit: f64) -> Self {
        let found = faces.iter().flatten().collect::<Vec<_>>();
        let points =
            std::array::from_fn(|point| found.iter().map(|errors| errors[point]).sum::<f64>() / found.len() as f64);
        Self {
            faces: faces.len(),
            found: found.len(),
            nme: (!found.is_empty()).then(|| mean(&points)),
            points: (!found.is_empty()).then_some(points),
            above_limit: found.iter().filter(|errors| mean(errors) > limit).count(),
        }
    }

    /// Faces that were not found, or whose error is above the limit.
    pub(super) fn failures(&self) -> usize {
        self.faces - self.found + self.above_limit
    }

    /// In 0.0..=1.0.
    pub(super) fn failure_rate(&self) -> f64 {
        if self.faces == 0 { 0.0 } else { self.failures() as f64 / self.faces as f64 }
    }
}

#[cfg(test)]
mod tests {
    use retinaface::geometry::Rect;

    use super::*;

    const POINTS: Landmarks = [
        Point::new(30.0, 40.0),
        Point::new(70.0, 40.0),
        Point::new(50.0, 60.0),
        Point::new(35.0, 80.0),
        Point::new(65.0, 80.0),
    ];

    fn moved(x: f32, y: f32) -> Landmarks {
        POINTS.map(|point| Point::new(point.x + x, point.y + y))
    }

    fn face(score: f32, landmarks: Landmarks) -> Face {
        let rect = Rect::new(landmarks[0].x - 20.0, landmarks[0].y - 20.0, 80.0, 80.0);
        Face { score, rect, landmarks: Some(landmarks), ..Face::default() }
    }

    #[test]
    fn the_error_equals_the_displacement_of_the_points() {
        // A displacement of 5 px; the distance between the eyes is 40 px.
        let matched = match_faces(&[POINTS], &[face(0.9, moved(3.0, 4.0))]);
        let summary = Summary::new(&matched, 0.1);
        assert_eq!((summary.nme, summary.points), (Some(0.125), Some([0.125; 5])));
        assert_eq!((summary.above_limit, summary.failure_rate()), (1, 1.0));
        assert_eq!(Summary::new(&matched, 0.125).failures(), 0, "an error at the limit is not a failure");
        // The displacement of one point adds a fifth to the mean.
        let mut one = POINTS;
        one[2].x += 5.0;
        assert_eq!(Summary::new(&match_faces(&[POINTS], &[face(0.9, one)]), 0.1).nme, Some(0.025));
    }

    #[test]
    fn missed_faces_are_failures_and_do_not_enter_the_mean() {
        let far = moved(500.0, 0.0);
        let matched = match_faces(&[POINTS, far], &[face(0.9, moved(0.0, 2.0))]);
        let summary = Summary::new(&matched, 0.1);
        assert_eq!((summary.faces, summary.found, summary.failures()), (2, 1, 1));
        assert_eq!((summary.nme, summary.failure_rate()), (Some(0.05), 0.5));
        let nothing = Summary::new(&match_faces(&[far], &[]), 0.1);
        assert_eq!((nothing.nme, nothing.points, nothing.failure_rate()), (None, None, 1.0));
        let without = Face { landmarks: None, ..face(0.9, POINTS) };
        assert_eq!(match_faces(&[POINTS], &[without]), [None]);
    }

    #[test]
    fn a_detection_is_matched_to_one_face_and_the_nearest_pair_is_matched_first() {
        let near = moved(20.0, 0.0);
        let faces = [face(0.6, moved(1.0, 0.0)), face(0.9, moved(18.0, 0.0))];
        let of = |truth: &[Landmarks], faces: &[Face]| {
            match_faces(truth, faces).into_iter().map(|errors| errors.map(|errors| mean(&errors))).collect::<Vec<_>>()
        };
        assert_eq!(of(&[POINTS, near], &faces), [Some(0.025), Some(0.05)]);
        assert_eq!(of(&[near, POINTS], &faces), [Some(0.05), Some(0.025)]);
        // One detection for two faces: the farther face is not found.
        assert_eq!(of(&[POINTS, near], &faces[..1]), [Some(0.025), None]);
        // A box without the centre is not a candidate, wherever its landmarks are.
        let aside = Face { rect: Rect::new(0.0, 0.0, 20.0, 20.0), ..face(0.9, POINTS) };
        assert_eq!(match_faces(&[POINTS], &[aside]), [None]);
    }

    #[test]
    fn a_truth_file_is_parsed() {
        let text = "# points by hand\n\nb,1.jpg,30,40,70,40,50,60,35,80,65,80\r\n\
                    a.jpg,0,0,1,0, 0.5 ,1,0,2,1,2\nb,1.jpg,31,41,71,41,51,61,36,81,66,81\n";
        let images = parse(text).unwrap();
        assert_eq!(images.len(), 2);
        assert_eq!(images[0], AnnotatedImage { file: "b,1.jpg".to_owned(), faces: vec![POINTS, moved(1.0, 1.0)] });
        assert_eq!((images[1].file.as_str(), images[1].faces[0][2]), ("a.jpg", Point::new(0.5, 1.0)));
    }

    #[test]
    fn errors_of_a_truth_file_name_the_line() {
        let cases = [
            ("", "the file has no faces"),
            ("# nothing\n", "the file has no faces"),
            ("a.jpg,1,2\n", "line 1, \"a.jpg,1,2\": \"a.jpg\" is not a finite number"),
            ("1,2,3\n", "expected a file name and ten values"),
            ("1,2,3,4,5,6,7,8,9,10\n", "expected a file name and ten values"),
            (
                "#\na.jpg,0,0,1,0,1,1,0,2,1,nan\n",
                "line 2, \"a.jpg,0,0,1,0,1,1,0,2,1,nan\": \"nan\" is not a finite number",
            ),
            ("a.jpg,1,1,1,1,1,1,0,2,1,2\n", "both eyes are at the same position"),
            (",0,0,1,0,1,1,0,2,1,2\n", "expected a file name"),
        ];
        for (text, part) in cases {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }
}
