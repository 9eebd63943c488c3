//! Polygons that a user writes as text.

use crate::geometry::Point;

/// Maximum number of polygons, and of corners of a polygon.
const MAX_COUNT: usize = 256;
/// Largest coordinate in pixels, in both directions.
const MAX_COORDINATE: f32 = 100_000.0;

/// Why polygons cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolygonError {
    /// A part of the text is not a finite number, or too large.
    #[error("`{text}` is not a number between -{MAX_COORDINATE} and {MAX_COORDINATE}")]
    Number {
        /// The part of the text.
        text: String,
    },
    /// A polygon does not have the coordinates of at least three corners.
    #[error("`{text}` is not x,y of at least three corners, as in 10,10,200,10,100,150")]
    Corners {
        /// The polygon.
        text: String,
    },
    /// There are too many polygons or corners.
    #[error("there are more than {MAX_COUNT} polygons, or a polygon has more than {MAX_COUNT} corners")]
    TooMany,
}

/// Parses polygons: x and y of each corner in pixels, separated by commas, and polygons separated by
/// `;`, as in `10,10,200,10,100,150; 300,0,320,0,320,20,300,20`.
///
/// # Errors
/// If the text has another form.
pub fn parse_polygons(text: &str) -> Result<Vec<Vec<Point>>, PolygonError> {
    let number = |text: &str| {
        let value = text.trim().parse::<f32>().ok().filter(|value| value.abs() <= MAX_COORDINATE);
        value.ok_or_else(|| PolygonError::Number { text: text.trim().to_owned() })
    };
    let polygon = |text: &str| {
        let numbers = text.split(',').map(number).collect::<Result<Vec<_>, _>>()?;
        let (corners, rest) = numbers.as_chunks::<2>();
        if corners.len() > MAX_COUNT {
            return Err(PolygonError::TooMany);
        }
        if corners.len() < 3 || !rest.is_empty() {
            return Err(PolygonError::Corners { text: text.trim().to_owned() });
        }
        Ok(corners.iter().map(|[x, y]| Point::new(*x, *y)).collect())
    };
    let parts = text.split(';').filter(|part| !part.trim().is_empty());
    let polygons = parts.map(polygon).collect::<Result<Vec<_>, _>>()?;
    if polygons.len() > MAX_COUNT { Err(PolygonError::TooMany) } else { Ok(polygons) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polygons_are_parsed() {
        let polygons = parse_polygons(" 1,2, 3,4, 5.5,-6 ; 0,0,1,0,1,1,0,1;").unwrap();
        assert_eq!(polygons[0], [Point::new(1.0, 2.0), Point::new(3.0, 4.0), Point::new(5.5, -6.0)]);
        assert_eq!((polygons.len(), polygons[1].len()), (2, 4));
        assert_eq!(parse_polygons(""), Ok(vec![]));
    }

    #[test]
    fn other_texts_are_errors_with_the_reason() {
        for (text, part) in [
            ("1,2,3,4", "three corners"),
            ("1,2,3,4,5,6,7", "three corners"),
            ("1,2,3,4,5,x", "`x` is not a number"),
            ("1,2,3,4,5,nan", "`nan` is not a number"),
            ("1,2,3,4,5,inf", "`inf` is not a number"),
            (&["1,2,3,4,5,6"; 300].join(";"), "more than 256"),
            (&["1"; 600].join(","), "more than 256"),
        ] {
            let error = parse_polygons(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
