//! Conversion between YUV (luma, Cb, Cr) and RGB.

/// The matrix coefficients of a YUV format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum YuvMatrix {
    /// ITU-R BT.601: standard definition video, JPEG.
    #[default]
    Bt601,
    /// ITU-R BT.709: high definition video.
    Bt709,
    /// ITU-R BT.2020, non-constant luminance.
    Bt2020,
}

/// The colour coding of a YUV format; ignored for RGB formats and grey.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct YuvCoding {
    /// The matrix coefficients.
    pub matrix: YuvMatrix,
    /// Full range: luma in 0..=255 instead of 16..=235.
    pub full_range: bool,
}

/// Coefficients of the conversion from YUV to RGB in 0..=255:
/// `luma_scale * (y - luma_offset)` plus the chroma terms of `cb - 128` and `cr - 128`.
///
/// Source of the coefficients: ITU-R BT.601-7, BT.709-6, BT.2020-2.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RgbFromYuv {
    pub(crate) luma_scale: f32,
    pub(crate) luma_offset: f32,
    pub(crate) red_cr: f32,
    pub(crate) green_cb: f32,
    pub(crate) green_cr: f32,
    pub(crate) blue_cb: f32,
}

impl YuvCoding {
    /// The weights of red and blue in luma.
    const fn weights(self) -> (f32, f32) {
        match self.matrix {
            YuvMatrix::Bt601 => (0.299, 0.114),
            YuvMatrix::Bt709 => (0.2126, 0.0722),
            YuvMatrix::Bt2020 => (0.2627, 0.0593),
        }
    }

    /// The conversion from this coding to RGB.
    pub(crate) fn rgb_from_yuv(self) -> RgbFromYuv {
        let (kr, kb) = self.weights();
        let kg = 1.0 - kr - kb;
        let (luma_scale, luma_offset, chroma_scale) =
            if self.full_range { (1.0, 0.0, 1.0) } else { (255.0 / 219.0, 16.0, 255.0 / 224.0) };
        RgbFromYuv {
            luma_scale,
            luma_offset,
            red_cr: 2.0 * (1.0 - kr) * chroma_scale,
            green_cb: -2.0 * kb * (1.0 - kb) / kg * chroma_scale,
            green_cr: -2.0 * kr * (1.0 - kr) / kg * chroma_scale,
            blue_cb: 2.0 * (1.0 - kb) * chroma_scale,
        }
    }

    /// Luma, Cb and Cr of an RGB colour.
    pub(crate) fn yuv_from_rgb(self, rgb: [u8; 3]) -> [u8; 3] {
        let (kr, kb) = self.weights();
        let [r, g, b] = rgb.map(f32::from);
        let luma = kr * r + (1.0 - kr - kb) * g + kb * b;
        let cb = (b - luma) / (2.0 * (1.0 - kb));
        let cr = (r - luma) / (2.0 * (1.0 - kr));
        let (luma, cb, cr) = if self.full_range {
            (luma, cb, cr)
        } else {
            (16.0 + luma * 219.0 / 255.0, cb * 224.0 / 255.0, cr * 224.0 / 255.0)
        };
        // `as` saturates, so that a value above 255 cannot wrap around.
        [luma, 128.0 + cb, 128.0 + cr].map(|v| v.round() as u8)
    }
}

impl RgbFromYuv {
    /// Red, green and blue of one sample, each in 0.0..=255.0.
    #[inline(always)]
    pub(crate) fn rgb(self, y: u8, cb: u8, cr: u8) -> [f32; 3] {
        let luma = (f32::from(y) - self.luma_offset) * self.luma_scale;
        let cb = f32::from(cb) - 128.0;
        let cr = f32::from(cr) - 128.0;
        [
            (luma + self.red_cr * cr).clamp(0.0, 255.0),
            (luma + self.green_cb * cb + self.green_cr * cr).clamp(0.0, 255.0),
            (luma + self.blue_cb * cb).clamp(0.0, 255.0),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primary_colours_round_trip_through_yuv() {
        for matrix in [YuvMatrix::Bt601, YuvMatrix::Bt709, YuvMatrix::Bt2020] {
            for full_range in [false, true] {
                let coding = YuvCoding { matrix, full_range };
                for rgb in [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [12, 200, 77]] {
                    let [y, cb, cr] = coding.yuv_from_rgb(rgb);
                    let back = coding.rgb_from_yuv().rgb(y, cb, cr);
                    for (expected, actual) in rgb.iter().zip(back) {
                        assert!((f32::from(*expected) - actual).abs() <= 2.0, "{coding:?} {rgb:?} -> {back:?}");
                    }
                }
            }
        }
    }
}
