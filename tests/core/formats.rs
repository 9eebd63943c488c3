//! Exactness of the conversion of deep samples, against floats of the unrounded samples.

use retinaface::align::{self, Affine, WarpBuffers};
use retinaface::detect::{PreprocessBuffers, fill_input};
use retinaface::geometry::{InputSize, Letterbox};
use retinaface::image::{ImageInfo, ImageView, OwnedImage, PixelFormat, UnpackBuffers, YuvCoding, YuvMatrix};
use retinaface::model::{ChannelOrder, Normalization, Padding};

const WIDTH: usize = 320;
const HEIGHT: usize = 240;

/// A 10-bit image with smooth colours of all values, with its samples as floats in 0.0..1024.0.
struct DeepImage {
    info: ImageInfo,
    planes: Vec<Vec<u8>>,
    strides: Vec<usize>,
    samples: Vec<Vec<f64>>,
}

impl DeepImage {
    fn new(format: PixelFormat, full_range: bool) -> Self {
        let coding = YuvCoding { matrix: YuvMatrix::Bt709, full_range };
        let info = ImageInfo { coding, ..ImageInfo::new(format, WIDTH, HEIGHT) };
        let (mut planes, mut strides, mut samples) = (Vec::new(), Vec::new(), Vec::new());
        for plane in 0..3 {
            let (row, rows) = format.plane_bytes(plane, WIDTH, HEIGHT);
            let scale = WIDTH as f64 / (row / 2) as f64;
            let values = (0..rows * row / 2).map(|at| {
                let (x, y) = ((at % (row / 2)) as f64 * scale, (at / (row / 2)) as f64 * scale);
                let wave = (x / (23.0 + plane as f64)).sin() + (y / (31.0 - plane as f64)).cos();
                // Colours that are not clipped when they become RGB.
                (512.0 + if plane == 0 { 100.0 } else { 40.0 } * wave).round()
            });
            let values = values.collect::<Vec<_>>();
            planes.push(values.iter().flat_map(|value| (*value as u16).to_le_bytes()).collect());
            strides.push(row);
            samples.push(values);
        }
        Self { info, planes, strides, samples }
    }

    fn view(&self) -> ImageView<'_> {
        let planes = self.planes.iter().map(Vec::as_slice).collect::<Vec<_>>();
        ImageView::new(self.info, &planes, &self.strides).unwrap()
    }

    /// Red, green and blue in 0.0..=255.0 at a position, of interpolated samples.
    fn rgb(&self, x: f64, y: f64, sample: impl Fn(&Self, usize, f64, f64) -> f64) -> [f64; 3] {
        let [luma, cb, cr] = [0, 1, 2].map(|plane| sample(self, plane, x, y));
        let (luma, chroma) = if self.info.coding.full_range {
            (luma / 1023.0, 1.0 / 1023.0)
        } else {
            ((luma - 64.0) / 876.0, 1.0 / 896.0)
        };
        let (cb, cr) = ((cb - 512.0) * chroma, (cr - 512.0) * chroma);
        // ITU-R BT.709.
        [luma + 1.5748 * cr, luma - 0.187_324 * cb - 0.468_124 * cr, luma + 1.8556 * cb].map(|value| value * 255.0)
    }

    fn at(&self, plane: usize, x: usize, y: usize) -> f64 {
        let cols = self.strides[plane] / 2;
        let rows = self.samples[plane].len() / cols;
        self.samples[plane][y.min(rows - 1) * cols + x.min(cols - 1)]
    }
}

/// Mean and largest difference.
fn errors(pairs: impl Iterator<Item = (f64, f64)>) -> (f64, f64) {
    let (mut sum, mut max, mut count) = (0.0, 0.0f64, 0.0);
    for (found, expected) in pairs {
        let error = (found - expected).abs();
        (sum, max, count) = (sum + error, max.max(error), count + 1.0);
    }
    (sum / count, max)
}

#[test]
fn ten_bit_frames_and_their_crops_are_near_the_unrounded_values() {
    let identity = Normalization { order: ChannelOrder::Rgb, mean: [0.0; 3], scale: 1.0, padding: Padding::Black };
    for full_range in [false, true] {
        for format in [PixelFormat::I420Le10, PixelFormat::I422Le10, PixelFormat::Y444Le10] {
            let image = DeepImage::new(format, full_range);
            let letterbox = Letterbox::new((WIDTH, HEIGHT), InputSize::Native);
            let mut tensor = vec![0.0; 3 * WIDTH * HEIGHT];
            let mut unpacked = UnpackBuffers::default();
            let view = unpacked.unpack(&image.view());
            fill_input(&view, &letterbox, &identity, &mut tensor, &mut PreprocessBuffers::default()).unwrap();
            let (shift_x, shift_y) = format.chroma_shift();
            let nearest = |image: &DeepImage, plane: usize, x: f64, y: f64| {
                let (x, y) = (x as usize, y as usize);
                if plane > 0 { image.at(plane, x >> shift_x, y >> shift_y) } else { image.at(plane, x, y) }
            };
            let pairs = (0..WIDTH * HEIGHT).flat_map(|at| {
                let expected = image.rgb((at % WIDTH) as f64, (at / WIDTH) as f64, nearest);
                [0, 1, 2].map(|channel| (f64::from(tensor[channel * WIDTH * HEIGHT + at]), expected[channel]))
            });
            let (mean, max) = errors(pairs);
            eprintln!("{format}, full range {full_range}: tensor: mean error {mean:.2}, largest {max:.2}");
            assert!(mean <= 0.55 && max <= 1.8, "{format} {full_range}: mean {mean}, largest {max}");
        }
        let image = DeepImage::new(PixelFormat::Y444Le10, full_range);
        let (a, b) = (0.8 * 0.3f64.cos(), 0.8 * 0.3f64.sin());
        let crop_from_frame = Affine::from_matrix([[a, -b, -40.0], [b, a, -70.0]]);
        let mut crop = OwnedImage::new(ImageInfo::new(PixelFormat::Rgb, 112, 112), vec![0; 3 * 112 * 112]).unwrap();
        align::warp(&image.view(), &crop_from_frame, &mut crop.view_mut(), &mut WarpBuffers::default()).unwrap();
        let [[a, b, x0], [c, d, y0]] = crop_from_frame.inverse().unwrap().matrix();
        let bilinear = |image: &DeepImage, plane: usize, x: f64, y: f64| {
            let (left, top) = (x.floor(), y.floor());
            let (right, bottom) = (x - left, y - top);
            let at = |dx: usize, dy: usize| image.at(plane, left as usize + dx, top as usize + dy);
            (at(0, 0) * (1.0 - right) + at(1, 0) * right) * (1.0 - bottom)
                + (at(0, 1) * (1.0 - right) + at(1, 1) * right) * bottom
        };
        let pairs = (0..112 * 112).flat_map(|at| {
            let (x, y) = ((at % 112) as f64, (at / 112) as f64);
            let (x, y) = (a * x + b * y + x0, c * x + d * y + y0);
            assert!(x > 0.0 && y > 0.0 && x < WIDTH as f64 - 1.0 && y < HEIGHT as f64 - 1.0, "{x},{y} is in the frame");
            let expected = image.rgb(x, y, bilinear);
            [0, 1, 2].map(|channel| (f64::from(crop.data()[3 * at + channel]), expected[channel]))
        });
        let (mean, max) = errors(pairs);
        eprintln!("full range {full_range}: crop: mean error {mean:.2}, largest {max:.2}");
        assert!(mean <= 0.6 && max <= 3.0, "{full_range}: mean {mean}, largest {max}");
    }
}
