//! How the samples of a pixel format are stored: planes, and the place of each component in them.

/// What the components of a format are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColorModel {
    /// Luma, Cb, Cr.
    Yuv,
    /// Red, green, blue.
    Rgb,
    /// Luma only.
    Gray,
}

/// How one sample is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SampleFormat {
    /// Bytes of the little-endian word that contains the sample: 1, 2 or 4.
    pub(crate) bytes: usize,
    /// The word has 2 bytes in big-endian order.
    pub(crate) big_endian: bool,
    /// Number of bits: 2 to 16.
    pub(crate) depth: u32,
    /// Position of the lowest bit in the word.
    pub(crate) shift: u32,
}

impl SampleFormat {
    pub(crate) const U8: Self = Self::new(1, 8, 0);
    pub(crate) const LE10: Self = Self::new(2, 10, 0);
    pub(crate) const LE12: Self = Self::new(2, 12, 0);
    pub(crate) const LE16: Self = Self::new(2, 16, 0);
    pub(crate) const BE10: Self = Self::LE10.swapped();
    pub(crate) const BE12: Self = Self::LE12.swapped();
    pub(crate) const BE16: Self = Self::LE16.swapped();
    /// 10 bits in the upper bits of a word.
    pub(crate) const HIGH10: Self = Self::new(2, 10, 6);
    /// 12 bits in the upper bits of a word.
    pub(crate) const HIGH12: Self = Self::new(2, 12, 4);

    pub(crate) const fn new(bytes: usize, depth: u32, shift: u32) -> Self {
        Self { bytes, big_endian: false, depth, shift }
    }

    const fn swapped(self) -> Self {
        Self { big_endian: true, ..self }
    }

    /// The highest value of a sample.
    pub(crate) const fn max(self) -> u32 {
        (1 << self.depth) - 1
    }
}

/// Where the samples of a component are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Component {
    /// Index of the plane.
    pub(crate) plane: usize,
    /// Bytes from the start of a row to the first sample.
    pub(crate) offset: usize,
    /// Bytes from a sample to the next one.
    pub(crate) step: usize,
    pub(crate) sample: SampleFormat,
}

/// The size of a plane relative to the image. A column contains the samples of `1 << shift.0`
/// pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlaneShape {
    /// Binary logarithm of the pixels per column and of the lines per row.
    pub(crate) shift: (u32, u32),
    /// Bytes of a column.
    pub(crate) bytes: usize,
}

/// The layout of a pixel format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) model: ColorModel,
    /// Binary logarithm of the horizontal and vertical chroma subsampling; 0 without chroma.
    pub(crate) chroma_shift: (u32, u32),
    planes: [PlaneShape; 4],
    plane_count: usize,
    /// Luma, Cb and Cr; red, green and blue; or luma three times.
    pub(crate) components: [Component; 3],
    pub(crate) alpha: Option<Component>,
    /// The samples are indices of the 256 entries of plane 1, which are blue, green, red and alpha.
    pub(crate) has_palette: bool,
}

/// Chroma subsampling shifts.
pub(crate) const YUV420: (u32, u32) = (1, 1);
pub(crate) const YUV422: (u32, u32) = (1, 0);
pub(crate) const YUV444: (u32, u32) = (0, 0);
pub(crate) const YUV411: (u32, u32) = (2, 0);
pub(crate) const YUV410: (u32, u32) = (2, 2);

const UNUSED: PlaneShape = PlaneShape { shift: (0, 0), bytes: 0 };

impl Layout {
    const fn new(model: ColorModel, chroma_shift: (u32, u32), components: [Component; 3]) -> Self {
        let planes = [UNUSED; 4];
        Self { model, chroma_shift, planes, plane_count: 0, components, alpha: None, has_palette: false }
    }

    const fn with_plane(mut self, shift: (u32, u32), bytes: usize) -> Self {
        self.planes[self.plane_count] = PlaneShape { shift, bytes };
        self.plane_count += 1;
        self
    }

    /// The planes, in the order in memory.
    pub(crate) fn planes(&self) -> &[PlaneShape] {
        &self.planes[..self.plane_count]
    }

    /// One plane of luma.
    pub(crate) const fn gray(sample: SampleFormat) -> Self {
        let luma = Component { plane: 0, offset: 0, step: sample.bytes, sample };
        Self::new(ColorModel::Gray, YUV444, [luma; 3]).with_plane((0, 0), sample.bytes)
    }

    /// One plane per component; `order` is the plane of each component.
    pub(crate) const fn planar(
        model: ColorModel,
        chroma_shift: (u32, u32),
        sample: SampleFormat,
        order: [usize; 3],
    ) -> Self {
        let step = sample.bytes;
        let [first, second, third] = order;
        let component = Component { plane: first, offset: 0, step, sample };
        let components = [component, Component { plane: second, ..component }, Component { plane: third, ..component }];
        Self::new(model, chroma_shift, components)
            .with_plane((0, 0), step)
            .with_plane(chroma_shift, step)
            .with_plane(chroma_shift, step)
    }

    /// The same with alpha in a fourth plane.
    pub(crate) const fn with_alpha_plane(mut self) -> Self {
        let Component { step, sample, .. } = self.components[0];
        self.alpha = Some(Component { plane: 3, offset: 0, step, sample });
        self.with_plane((0, 0), step)
    }

    /// A plane of luma and a plane of interleaved chroma; `order` is the place of Cb and Cr in a
    /// pair.
    pub(crate) const fn semi_planar(chroma_shift: (u32, u32), sample: SampleFormat, order: [usize; 2]) -> Self {
        let bytes = sample.bytes;
        let luma = Component { plane: 0, offset: 0, step: bytes, sample };
        let [cb, cr] = order;
        let chroma = Component { plane: 1, offset: cb * bytes, step: 2 * bytes, sample };
        let components = [luma, chroma, Component { offset: cr * bytes, ..chroma }];
        Self::new(ColorModel::Yuv, chroma_shift, components)
            .with_plane((0, 0), bytes)
            .with_plane(chroma_shift, 2 * bytes)
    }

    /// One plane with `samples` samples per pixel; `order` is the place of each component.
    pub(crate) const fn packed(model: ColorModel, sample: SampleFormat, samples: usize, order: [usize; 3]) -> Self {
        let bytes = sample.bytes;
        let [first, second, third] = order;
        let component = Component { plane: 0, offset: first * bytes, step: samples * bytes, sample };
        let components = [
            component,
            Component { offset: second * bytes, ..component },
            Component { offset: third * bytes, ..component },
        ];
        Self::new(model, YUV444, components).with_plane((0, 0), samples * bytes)
    }

    /// The same with alpha at the place `place`.
    pub(crate) const fn with_alpha(mut self, place: usize) -> Self {
        let first = self.components[0];
        self.alpha = Some(Component { offset: place * first.sample.bytes, ..first });
        self
    }

    /// One plane with four samples per two pixels; `order` is the place of the first luma sample,
    /// Cb and Cr. The second luma sample is two places after the first.
    pub(crate) const fn packed_422(sample: SampleFormat, order: [usize; 3]) -> Self {
        let bytes = sample.bytes;
        let [luma, cb, cr] = order;
        let chroma = Component { plane: 0, offset: cb * bytes, step: 4 * bytes, sample };
        let luma = Component { offset: luma * bytes, step: 2 * bytes, ..chroma };
        Self::new(ColorModel::Yuv, YUV422, [luma, chroma, Component { offset: cr * bytes, ..chroma }])
            .with_plane((1, 0), 4 * bytes)
    }

    /// One plane with a word of `bytes` bytes per pixel; `bits` is depth and shift of each
    /// component.
    pub(crate) const fn bits(model: ColorModel, bytes: usize, bits: [(u32, u32); 3]) -> Self {
        let [first, second, third] = bits;
        let component = Component { plane: 0, offset: 0, step: bytes, sample: SampleFormat::U8 };
        let first = Component { sample: SampleFormat::new(bytes, first.0, first.1), ..component };
        let second = Component { sample: SampleFormat::new(bytes, second.0, second.1), ..component };
        let third = Component { sample: SampleFormat::new(bytes, third.0, third.1), ..component };
        Self::new(model, YUV444, [first, second, third]).with_plane((0, 0), bytes)
    }

    /// The same with alpha of this depth and shift.
    pub(crate) const fn with_alpha_bits(mut self, depth: u32, shift: u32) -> Self {
        let first = self.components[0];
        self.alpha = Some(Component { sample: SampleFormat::new(first.sample.bytes, depth, shift), ..first });
        self
    }

    /// One plane of indices, and a plane with the palette.
    pub(crate) const fn palette() -> Self {
        let index = Component { plane: 0, offset: 0, step: 1, sample: SampleFormat::U8 };
        let layout = Self::new(ColorModel::Rgb, YUV444, [index; 3]).with_plane((0, 0), 1).with_plane((0, 0), 4);
        Self { has_palette: true, ..layout }
    }

    /// Whether the planes are processed as they are: 8 bits, planes of luma, Cb and Cr or of luma
    /// and chroma, packed RGB, or luma.
    pub(crate) const fn is_direct(&self) -> bool {
        let first = self.components[0];
        let planes = match self.model {
            ColorModel::Yuv => first.step == 1 && (self.plane_count == 2 || self.plane_count == 3),
            ColorModel::Rgb => self.plane_count == 1 && first.sample.bytes == 1,
            ColorModel::Gray => true,
        };
        planes && first.sample.depth == 8 && first.sample.bytes == 1
    }
}
