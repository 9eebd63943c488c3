//! The six people in the photos, and the placement of their heads in a frame.

use retinaface::geometry::{Landmarks, Point, Rect};

use crate::motion::Key;

/// A photo that `make setup` fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Photo {
    pub(crate) file: &'static str,
    /// Width and height, in pixels.
    pub(crate) size: (usize, usize),
}

pub(crate) const MULTI_FACE: Photo = Photo { file: "multi_face.jpg", size: (1000, 667) };
pub(crate) const SINGLE_FACE: Photo = Photo { file: "single_face.jpg", size: (572, 562) };

/// A person in the photos, named by the place or by what tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Person {
    /// The right one of the women of `multi_face.jpg`.
    RightWoman,
    /// The middle one of the women of `multi_face.jpg`.
    MiddleWoman,
    /// The left one of the women of `multi_face.jpg`.
    LeftWoman,
    /// The man with sunglasses of `multi_face.jpg`.
    Sunglasses,
    /// The man with curly hair of `multi_face.jpg`.
    Curls,
    /// The man of `single_face.jpg`, in the highest resolution.
    Single,
}

/// The face of a person in its photo, in pixels of the photo.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Portrait {
    /// File name of the photo.
    pub photo: &'static str,
    /// Bounding box.
    pub rect: Rect,
    /// Left eye, right eye, nose tip, left mouth corner, right mouth corner.
    pub landmarks: Landmarks,
}

const fn portrait(photo: Photo, [x, y, w, h]: [f32; 4], points: [[f32; 2]; 5]) -> Portrait {
    let [a, b, c, d, e] = points;
    let landmarks = [point(a), point(b), point(c), point(d), point(e)];
    Portrait { photo: photo.file, rect: Rect::new(x, y, w, h), landmarks }
}

const fn point([x, y]: [f32; 2]) -> Point {
    Point::new(x, y)
}

/// The portraits in the order of [`Person`].
///
/// Boxes and landmarks are means over the input sizes 320, 384, ... 1024 of `retinaface detect
/// --input-size SIZE --refine-large-faces off` with the default model. The standard deviation of an
/// edge is 1 to 3 pixels, for the face of `single_face.jpg` up to 7 pixels.
static PORTRAITS: [Portrait; 6] = [
    portrait(
        MULTI_FACE,
        [685.1, 291.7, 105.1, 129.6],
        [[712.3, 337.9], [761.2, 343.3], [732.5, 362.1], [709.9, 380.0], [754.9, 384.3]],
    ),
    portrait(
        MULTI_FACE,
        [532.1, 308.9, 98.1, 126.6],
        [[554.5, 352.1], [601.7, 355.9], [573.6, 376.6], [553.2, 394.3], [597.3, 397.3]],
    ),
    portrait(
        MULTI_FACE,
        [314.4, 233.7, 97.0, 126.9],
        [[343.7, 282.0], [389.6, 281.7], [369.1, 305.7], [346.4, 324.5], [387.9, 324.4]],
    ),
    portrait(
        MULTI_FACE,
        [215.3, 66.1, 93.1, 110.8],
        [[248.3, 104.5], [289.4, 112.5], [267.2, 133.2], [240.9, 141.9], [277.3, 148.6]],
    ),
    portrait(
        MULTI_FACE,
        [434.6, 216.3, 84.0, 98.7],
        [[458.9, 246.7], [498.0, 249.2], [478.5, 266.6], [460.2, 285.3], [493.1, 287.3]],
    ),
    portrait(
        SINGLE_FACE,
        [191.5, 144.6, 181.5, 254.3],
        [[229.3, 246.2], [312.9, 242.8], [264.6, 295.7], [235.8, 326.4], [315.5, 323.4]],
    ),
];

impl Person {
    /// All people.
    pub const ALL: [Self; 6] =
        [Self::RightWoman, Self::MiddleWoman, Self::LeftWoman, Self::Sunglasses, Self::Curls, Self::Single];

    /// The face in its photo.
    pub fn portrait(self) -> &'static Portrait {
        &PORTRAITS[self as usize]
    }

    pub(crate) fn photo(self) -> Photo {
        if self == Self::Single { SINGLE_FACE } else { MULTI_FACE }
    }
}

/// Semi-axes of the drawn ellipse in widths and heights of the face box: the head and some hair.
const HEAD: f64 = 0.75;
/// How far the centre of the ellipse is above that of the face box, in heights of the box.
const HEAD_SHIFT: f64 = 0.04;
/// Distance from the centre of the ellipse at which a head begins to fade out, as a fraction of the
/// distance to its edge.
const FADE_START: f64 = 0.8;

impl Portrait {
    /// Centre of the face box.
    pub(crate) fn centre(&self) -> (f64, f64) {
        let Rect { x, y, w, h } = self.rect;
        (f64::from(x) + f64::from(w) / 2.0, f64::from(y) + f64::from(h) / 2.0)
    }

    /// The rectangle around the drawn ellipse: left, top, right and bottom.
    pub(crate) fn head(&self) -> [f64; 4] {
        let (x, y) = self.centre();
        let (a, b) = (HEAD * f64::from(self.rect.w), HEAD * f64::from(self.rect.h));
        let y = y - HEAD_SHIFT * f64::from(self.rect.h);
        [x - a, y - b, x + a, y + b]
    }

    /// Opacity of the head at a point of the photo, in 0.0..=1.0.
    pub(crate) fn alpha(&self, x: f64, y: f64) -> f64 {
        let [left, top, right, bottom] = self.head();
        let (dx, dy) = ((2.0 * x - left - right) / (right - left), (2.0 * y - top - bottom) / (bottom - top));
        let fade = ((1.0 - dx.hypot(dy)) / (1.0 - FADE_START)).clamp(0.0, 1.0);
        // Smoothstep.
        fade * fade * (3.0 - 2.0 * fade)
    }
}

/// A head in a frame: the similarity transform from the photo to the frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) person: Person,
    /// Frame pixels per photo pixel.
    pub(crate) scale: f64,
    /// `scale` times the cosine and the sine of the roll.
    cos: f64,
    sin: f64,
    /// Centre of the face box in the frame.
    centre: (f64, f64),
}

impl Head {
    /// A head at a key that was shifted into the frame.
    pub(crate) fn new(person: Person, key: &Key) -> Self {
        let scale = key.size / f64::from(person.portrait().rect.h);
        let (sin, cos) = key.roll.to_radians().sin_cos();
        Self { person, scale, cos: scale * cos, sin: scale * sin, centre: (key.x, key.y) }
    }

    /// The 2 x 3 matrix that maps continuous photo pixels to continuous frame pixels.
    pub(crate) fn frame_from_photo(&self) -> [[f64; 3]; 2] {
        let ((x, y), (to_x, to_y)) = (self.person.portrait().centre(), self.centre);
        let Self { cos, sin, .. } = *self;
        [[cos, -sin, to_x - cos * x + sin * y], [sin, cos, to_y - sin * x - cos * y]]
    }

    fn to_frame(self, (x, y): (f64, f64)) -> (f64, f64) {
        let [[a, b, c], [d, e, f]] = self.frame_from_photo();
        (a * x + b * y + c, d * x + e * y + f)
    }

    /// The axis-aligned box of the face. With a roll it contains the rotated ellipse that the box
    /// of the photo contains.
    pub(crate) fn rect(&self) -> Rect {
        let rect = self.person.portrait().rect;
        let (w, h) = (f64::from(rect.w), f64::from(rect.h));
        let (w, h) = ((w * self.cos).hypot(h * self.sin), (w * self.sin).hypot(h * self.cos));
        let (x, y) = self.centre;
        Rect::new((x - w / 2.0) as f32, (y - h / 2.0) as f32, w as f32, h as f32)
    }

    pub(crate) fn landmarks(&self) -> Landmarks {
        self.person.portrait().landmarks.map(|point| {
            let (x, y) = self.to_frame((f64::from(point.x), f64::from(point.y)));
            Point::new(x as f32, y as f32)
        })
    }

    /// The frame region that the head is drawn into: left, top, right and bottom.
    pub(crate) fn bounds(&self) -> [f64; 4] {
        let [left, top, right, bottom] = self.person.portrait().head();
        let corners = [(left, top), (right, top), (left, bottom), (right, bottom)].map(|corner| self.to_frame(corner));
        let edge = |value: fn(&(f64, f64)) -> f64, pick: fn(f64, f64) -> f64| {
            corners.iter().map(value).reduce(pick).unwrap_or_default()
        };
        [edge(|p| p.0, f64::min), edge(|p| p.1, f64::min), edge(|p| p.0, f64::max), edge(|p| p.1, f64::max)]
    }

    /// Whether the head hides what is behind it at a point of the frame.
    pub(crate) fn covers(&self, x: f64, y: f64) -> bool {
        let (dx, dy) = (x - self.centre.0, y - self.centre.1);
        let squared = self.scale * self.scale;
        let (from_x, from_y) = self.person.portrait().centre();
        let x = from_x + (self.cos * dx + self.sin * dy) / squared;
        let y = from_y + (self.cos * dy - self.sin * dx) / squared;
        self.person.portrait().alpha(x, y) >= 0.5
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use retinaface::geometry::iou;

    #[test]
    fn a_head_at_the_scale_of_its_photo_has_the_box_and_landmarks_of_the_photo() {
        for person in Person::ALL {
            let portrait = person.portrait();
            let (x, y) = portrait.centre();
            let head = Head::new(person, &Key::new(0.0, x, y, f64::from(portrait.rect.h)));
            assert!(iou(head.rect(), portrait.rect) > 0.9999);
            for (point, expected) in head.landmarks().iter().zip(portrait.landmarks) {
                assert!((point.x - expected.x).abs() < 1e-3 && (point.y - expected.y).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn a_positive_roll_is_clockwise_in_the_image() {
        let eye_line = |roll: f64| {
            let [left, right, ..] = Head::new(Person::Single, &Key::new(0.0, 0.0, 0.0, 100.0).roll(roll)).landmarks();
            (right.y - left.y).atan2(right.x - left.x).to_degrees()
        };
        assert!((eye_line(10.0) - eye_line(0.0) - 10.0).abs() < 1e-3);
    }

    #[test]
    fn a_head_covers_the_middle_of_its_box_but_not_what_is_beside_it() {
        let head = Head::new(Person::Curls, &Key::new(0.0, 200.0, 100.0, 80.0).roll(8.0));
        let rect = head.rect();
        assert!(head.covers(200.0, 100.0) && head.covers(f64::from(rect.x) + 4.0, 100.0));
        assert!(!head.covers(f64::from(rect.x) - 0.3 * f64::from(rect.w), 100.0));
    }
}
