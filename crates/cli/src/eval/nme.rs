//! How far landmarks are from the true ones: pure functions from points to numbers.

use std::collections::HashMap;

use anyhow::{Context as _, ensure};
use retinaface::face::{Face, Landmarks, Point};

/// The true faces of a picture.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Picture {
    pub(super) file: String,
    pub(super) faces: Vec<Landmarks>,
}

/// Reads lines `file,x1,y1,...,x5,y5`, one a face; those that begin with `#` are comments.
pub(super) fn parse(text: &str) -> anyhow::Result<Vec<Picture>> {
    let mut pictures: Vec<Picture> = Vec::new();
    let mut places = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (file, points) = face(line).with_context(|| format!("line {number}, {line:?}"))?;
        let place = *places.entry(file).or_insert_with(|| {
            pictures.push(Picture { file: file.to_owned(), faces: Vec::new() });
            pictures.len() - 1
        });
        pictures[place].faces.push(points);
    }
    ensure!(!pictures.is_empty(), "it has no face: a line a face, file,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5");
    Ok(pictures)
}

fn face(line: &str) -> anyhow::Result<(&str, Landmarks)> {
    // A file's name may have commas.
    let mut fields = line.trim_end().rsplitn(11, ',');
    let mut points = [Point::default(); 5];
    let layout = "should be a file and ten numbers: file,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5";
    for point in points.iter_mut().rev() {
        let mut number = || {
            let field = fields.next().context(layout)?.trim();
            let number = field.parse::<f32>().ok().filter(|number| number.is_finite());
            number.with_context(|| format!("{field:?} is no finite number"))
        };
        (point.y, point.x) = (number()?, number()?);
    }
    let file = fields.next().filter(|file| !file.is_empty()).context(layout)?;
    ensure!(eyes(&points) > 0.0, "both eyes are at one place, so that there is no distance to measure by");
    Ok((file, points))
}

fn distance(a: Point, b: Point) -> f64 {
    (f64::from(a.x) - f64::from(b.x)).hypot(f64::from(a.y) - f64::from(b.y))
}

fn eyes(points: &Landmarks) -> f64 {
    distance(points[0], points[1])
}

/// How far each point is from the true one, in parts of the distance of the true eyes.
fn errors(found: &Landmarks, truth: &Landmarks) -> [f64; 5] {
    let eyes = eyes(truth);
    std::array::from_fn(|point| distance(found[point], truth[point]) / eyes)
}

fn mean(errors: &[f64; 5]) -> f64 {
    errors.iter().sum::<f64>() / errors.len() as f64
}

/// For each true face the errors of its detection, or none if it was not found.
///
/// A detection may be a face's if the centre of the face's points is in its box. Of all pairs that may be, the nearest are
/// joined first, of equally near ones those with the better score; neither a face nor a detection is in two pairs.
pub(super) fn matched(truth: &[Landmarks], faces: &[Face]) -> Vec<Option<[f64; 5]>> {
    let mut pairs = Vec::new();
    for (number, points) in truth.iter().enumerate() {
        let centre = |of: fn(&Point) -> f32| points.iter().map(of).sum::<f32>() / points.len() as f32;
        let (x, y) = (centre(|point| point.x), centre(|point| point.y));
        for (index, face) in faces.iter().enumerate() {
            let rect = face.rect;
            let is_inside = (rect.x..=rect.right()).contains(&x) && (rect.y..=rect.bottom()).contains(&y);
            if let Some(found) = face.landmarks.filter(|_| is_inside) {
                pairs.push((number, index, errors(&found, points)));
            }
        }
    }
    let score = |index: usize| faces[index].score;
    pairs.sort_by(|a, b| mean(&a.2).total_cmp(&mean(&b.2)).then(score(b.1).total_cmp(&score(a.1))));
    let mut matched = vec![None; truth.len()];
    let mut taken = vec![false; faces.len()];
    for (number, index, errors) in pairs {
        if matched[number].is_none() && !taken[index] {
            matched[number] = Some(errors);
            taken[index] = true;
        }
    }
    matched
}

/// What all faces together give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    pub(super) faces: usize,
    pub(super) found: usize,
    /// Mean of the found faces' errors, each the mean of its five points; None where none was found.
    pub(super) nme: Option<f64>,
    /// The same of each point.
    pub(super) points: Option<[f64; 5]>,
    /// Faces found whose error is above the limit.
    pub(super) far: usize,
}

impl Summary {
    pub(super) fn of(faces: &[Option<[f64; 5]>], limit: f64) -> Self {
        let found = faces.iter().flatten().collect::<Vec<_>>();
        let points =
            std::array::from_fn(|point| found.iter().map(|errors| errors[point]).sum::<f64>() / found.len() as f64);
        Self {
            faces: faces.len(),
            found: found.len(),
            nme: (!found.is_empty()).then(|| mean(&points)),
            points: (!found.is_empty()).then_some(points),
            far: found.iter().filter(|errors| mean(errors) > limit).count(),
        }
    }

    /// Faces that were not found, or are too far off.
    pub(super) fn failures(&self) -> usize {
        self.faces - self.found + self.far
    }

    /// In 0..=1.
    pub(super) fn failure_rate(&self) -> f64 {
        if self.faces == 0 { 0.0 } else { self.failures() as f64 / self.faces as f64 }
    }
}

#[cfg(test)]
mod tests {
    use retinaface::face::Rect;

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
    fn the_error_is_exactly_what_the_points_were_moved_by() {
        // By 3 and 4 pixels, so by 5; the eyes are 40 apart.
        let matched = matched(&[POINTS], &[face(0.9, moved(3.0, 4.0))]);
        let summary = Summary::of(&matched, 0.1);
        assert_eq!((summary.nme, summary.points), (Some(0.125), Some([0.125; 5])));
        assert_eq!((summary.far, summary.failure_rate()), (1, 1.0));
        assert_eq!(Summary::of(&matched, 0.125).failures(), 0, "only above the limit");
        // One point alone is a fifth of it.
        let mut one = POINTS;
        one[2].x += 5.0;
        assert_eq!(Summary::of(&super::matched(&[POINTS], &[face(0.9, one)]), 0.1).nme, Some(0.025));
    }

    #[test]
    fn faces_that_are_not_found_count_as_failures_and_not_in_the_mean() {
        let far = moved(500.0, 0.0);
        let matched = matched(&[POINTS, far], &[face(0.9, moved(0.0, 2.0))]);
        let summary = Summary::of(&matched, 0.1);
        assert_eq!((summary.faces, summary.found, summary.failures()), (2, 1, 1));
        assert_eq!((summary.nme, summary.failure_rate()), (Some(0.05), 0.5));
        let nothing = Summary::of(&super::matched(&[far], &[]), 0.1);
        assert_eq!((nothing.nme, nothing.points, nothing.failure_rate()), (None, None, 1.0));
        let without = Face { landmarks: None, ..face(0.9, POINTS) };
        assert_eq!(super::matched(&[POINTS], &[without]), [None]);
    }

    #[test]
    fn each_detection_is_of_one_face_and_the_nearest_pair_comes_first() {
        let near = moved(20.0, 0.0);
        let faces = [face(0.6, moved(1.0, 0.0)), face(0.9, moved(18.0, 0.0))];
        let of = |truth: &[Landmarks], faces: &[Face]| {
            matched(truth, faces).into_iter().map(|errors| errors.map(|errors| mean(&errors))).collect::<Vec<_>>()
        };
        assert_eq!(of(&[POINTS, near], &faces), [Some(0.025), Some(0.05)]);
        assert_eq!(of(&[near, POINTS], &faces), [Some(0.05), Some(0.025)]);
        // One detection for two faces: the farther one was not found.
        assert_eq!(of(&[POINTS, near], &faces[..1]), [Some(0.025), None]);
        // A box that does not hold the centre is another face's, wherever its points are.
        let aside = Face { rect: Rect::new(0.0, 0.0, 20.0, 20.0), ..face(0.9, POINTS) };
        assert_eq!(matched(&[POINTS], &[aside]), [None]);
    }

    #[test]
    fn a_truth_file_is_read() {
        let text = "# points by hand\n\nb,1.jpg,30,40,70,40,50,60,35,80,65,80\r\n\
                    a.jpg,0,0,1,0, 0.5 ,1,0,2,1,2\nb,1.jpg,31,41,71,41,51,61,36,81,66,81\n";
        let pictures = parse(text).unwrap();
        assert_eq!(pictures.len(), 2);
        assert_eq!(pictures[0], Picture { file: "b,1.jpg".to_owned(), faces: vec![POINTS, moved(1.0, 1.0)] });
        assert_eq!((pictures[1].file.as_str(), pictures[1].faces[0][2]), ("a.jpg", Point::new(0.5, 1.0)));
    }

    #[test]
    fn what_is_wrong_with_a_truth_file_is_named_with_its_line() {
        let cases = [
            ("", "it has no face"),
            ("# nothing\n", "it has no face"),
            ("a.jpg,1,2\n", "line 1, \"a.jpg,1,2\": \"a.jpg\" is no finite number"),
            ("1,2,3\n", "should be a file and ten numbers"),
            ("1,2,3,4,5,6,7,8,9,10\n", "should be a file and ten numbers"),
            (
                "#\na.jpg,0,0,1,0,1,1,0,2,1,nan\n",
                "line 2, \"a.jpg,0,0,1,0,1,1,0,2,1,nan\": \"nan\" is no finite number",
            ),
            ("a.jpg,1,1,1,1,1,1,0,2,1,2\n", "both eyes are at one place"),
            (",0,0,1,0,1,1,0,2,1,2\n", "should be a file"),
        ];
        for (text, part) in cases {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }
}
