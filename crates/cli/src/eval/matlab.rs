//! MAT files of MATLAB 5 to 7, as far as the ground truth of WIDER FACE needs them.
//!
//! Reads cell arrays, character arrays and real numeric arrays of named variables. The files are
//! untrusted: allocations are bounded by the bytes in the file, not by its headers, and the nesting
//! depth and the decompressed size have limits.
//!
//! Source: MathWorks, "MAT-File Format", chapter "MATLAB Level 5 MAT-File Format".

use anyhow::{Context as _, bail, ensure};
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

/// Maximum decompressed size of all variables of a file, in bytes; WIDER FACE needs 3 MiB.
const MAX_DECOMPRESSED: usize = 16 << 20;
/// Maximum nesting depth of cell arrays; WIDER FACE has 2.
const MAX_DEPTH: usize = 8;
/// Length of the file header, in bytes.
const HEADER: usize = 128;

/// Data type `miMATRIX`.
const MATRIX: u32 = 14;
/// Data type `miCOMPRESSED`.
const COMPRESSED: u32 = 15;

/// Array class `mxCELL_CLASS`.
const CELL_CLASS: u8 = 1;
/// Array class `mxCHAR_CLASS`.
const CHAR_CLASS: u8 = 4;
/// Array class `mxOPAQUE_CLASS`: objects of newer MATLAB versions, whose content is undocumented.
const OPAQUE_CLASS: u8 = 17;

/// The value of a variable or of a cell.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Array {
    /// Cell array, in column-major order.
    Cell(Vec<Array>),
    /// Character array of one row.
    Char(String),
    /// Real numeric array, in column-major order.
    Numeric { rows: usize, values: Vec<f64> },
    /// A structure, a sparse or complex array, or any other class.
    Other,
}

impl Array {
    /// Name for error messages.
    fn kind(&self) -> &'static str {
        match self {
            Self::Cell(_) => "a cell array",
            Self::Char(_) => "a character array",
            Self::Numeric { .. } => "a numeric array",
            Self::Other => "an unsupported array (such as a structure, sparse or complex)",
        }
    }

    pub(super) fn cells(&self) -> anyhow::Result<&[Self]> {
        match self {
            Self::Cell(cells) => Ok(cells),
            // MATLAB may save an empty cell array as an empty numeric array.
            Self::Numeric { values, .. } if values.is_empty() => Ok(&[]),
            other => bail!("expected a cell array, found {}", other.kind()),
        }
    }

    pub(super) fn text(&self) -> anyhow::Result<&str> {
        match self {
            Self::Char(text) => Ok(text),
            other => bail!("expected a character array, found {}", other.kind()),
        }
    }

    /// The values in column-major order, and the number of rows.
    pub(super) fn numeric(&self) -> anyhow::Result<(&[f64], usize)> {
        match self {
            Self::Numeric { rows, values } => Ok((values, *rows)),
            other => bail!("expected a numeric array, found {}", other.kind()),
        }
    }
}

/// The variables with these names, in the order of `names`.
pub(super) fn read<const N: usize>(file: &[u8], names: [&str; N]) -> anyhow::Result<[Array; N]> {
    let mut found = [const { None }; N];
    let mut rest = after_header(file)?;
    let mut budget = MAX_DECOMPRESSED;
    // Other variables of the file do not matter.
    while !rest.is_empty() && found.iter().any(Option::is_none) {
        let element = Element::take(&mut rest)?;
        let decompressed;
        let body = match element.kind {
            COMPRESSED => {
                decompressed = decompress_to_vec_zlib_with_limit(element.data, budget).map_err(|error| {
                    anyhow::anyhow!(
                        "a compressed variable is damaged or larger than {MAX_DECOMPRESSED} bytes ({error})"
                    )
                })?;
                budget -= decompressed.len();
                let inner = Element::take(&mut decompressed.as_slice())?;
                ensure!(inner.kind == MATRIX, "a compressed element is not a variable (data type {})", inner.kind);
                inner.data
            }
            MATRIX => element.data,
            // No other data type holds a variable.
            _ => continue,
        };
        let matrix = Matrix::read(body)?;
        if let Some(at) = names.iter().position(|name| name.as_bytes() == matrix.name) {
            found[at] = Some(matrix.array(0).with_context(|| format!("variable {}", names[at]))?);
        }
    }
    let missing = names.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(name, _)| *name);
    let missing = missing.collect::<Vec<_>>().join(", ");
    ensure!(missing.is_empty(), "the file has no variable {missing}");
    Ok(found.map(|array| array.expect("no variable is missing")))
}

fn after_header(file: &[u8]) -> anyhow::Result<&[u8]> {
    if file.starts_with(b"MATLAB 7.3") {
        bail!("MAT files of version 7.3 (HDF5) are not supported: save the file in MATLAB with the option '-v7'");
    }
    match file.get(124..HEADER) {
        Some([.., b'I', b'M']) => Ok(&file[HEADER..]),
        Some([.., b'M', b'I']) => {
            bail!("big-endian MAT files are not supported: save the file again on a little-endian machine")
        }
        _ => bail!("not a MAT file of MATLAB 5 to 7"),
    }
}

/// A data element.
#[derive(Debug)]
struct Element<'a> {
    kind: u32,
    data: &'a [u8],
}

impl<'a> Element<'a> {
    /// Splits off the first element of `rest` and its padding.
    fn take(rest: &mut &'a [u8]) -> anyhow::Result<Self> {
        let truncated = "the file is truncated or damaged";
        let (tag, after) = rest.split_first_chunk::<8>().context(truncated)?;
        let [kind, size] = [0, 4].map(|at| u32::from_le_bytes([tag[at], tag[at + 1], tag[at + 2], tag[at + 3]]));
        // Small data element format: up to 4 bytes of data in the tag, their count in its upper
        // half.
        if kind >> 16 != 0 {
            let data = rest.get(4..4 + (kind >> 16) as usize).filter(|data| data.len() <= 4).context(truncated)?;
            *rest = after;
            return Ok(Self { kind: kind & 0xFFFF, data });
        }
        let (data, after) = after.split_at_checked(size as usize).context(truncated)?;
        // Compressed elements have no padding, and the last element may lack it.
        let padding = if kind == COMPRESSED { 0 } else { data.len().next_multiple_of(8) - data.len() };
        *rest = after.get(padding..).unwrap_or_default();
        Ok(Self { kind, data })
    }

    /// The values as f64. MATLAB stores doubles with small integer values in smaller types.
    fn values(&self) -> anyhow::Result<Vec<f64>> {
        fn convert<const N: usize>(data: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
            data.as_chunks::<N>().0.iter().map(|bytes| value(*bytes)).collect()
        }
        Ok(match self.kind {
            1 => convert(self.data, |bytes| f64::from(i8::from_le_bytes(bytes))),
            2 => convert(self.data, |[byte]| f64::from(byte)),
            3 => convert(self.data, |bytes| f64::from(i16::from_le_bytes(bytes))),
            4 => convert(self.data, |bytes| f64::from(u16::from_le_bytes(bytes))),
            5 => convert(self.data, |bytes| f64::from(i32::from_le_bytes(bytes))),
            6 => convert(self.data, |bytes| f64::from(u32::from_le_bytes(bytes))),
            7 => convert(self.data, |bytes| f64::from(f32::from_le_bytes(bytes))),
            9 => convert(self.data, f64::from_le_bytes),
            12 => convert(self.data, |bytes| i64::from_le_bytes(bytes) as f64),
            13 => convert(self.data, |bytes| u64::from_le_bytes(bytes) as f64),
            kind => bail!("unknown data type {kind} of a numeric array"),
        })
    }

    fn text(&self) -> anyhow::Result<String> {
        match self.kind {
            // miINT8 and miUINT8, one byte per character, or miUTF8.
            1 | 2 | 16 => Ok(str::from_utf8(self.data).context("a character array is not UTF-8")?.to_owned()),
            4 | 17 => {
                let units = self.data.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
                char::decode_utf16(units).collect::<Result<_, _>>().context("a character array is not UTF-16")
            }
            kind => bail!("unknown data type {kind} of a character array"),
        }
    }
}

/// An array whose value is not decoded yet.
#[derive(Debug)]
struct Matrix<'a> {
    class: u8,
    is_complex: bool,
    dims: Vec<usize>,
    name: &'a [u8],
    value: &'a [u8],
}

impl<'a> Matrix<'a> {
    fn read(mut body: &'a [u8]) -> anyhow::Result<Self> {
        let flags = Element::take(&mut body)?;
        let [class, bits, ..] = flags.data else { bail!("an array without flags: the file is damaged") };
        if *class == OPAQUE_CLASS {
            return Ok(Self { class: OPAQUE_CLASS, is_complex: false, dims: Vec::new(), name: &[], value: &[] });
        }
        let dims = Element::take(&mut body)?.values()?;
        let dims = dims.iter().map(|dim| *dim as usize).collect();
        let name = Element::take(&mut body)?.data;
        Ok(Self { class: *class, is_complex: bits & 0x08 != 0, dims, name, value: body })
    }

    fn array(&self, depth: usize) -> anyhow::Result<Array> {
        ensure!(depth < MAX_DEPTH, "cell arrays are nested more than {MAX_DEPTH} deep");
        let size = self.dims.iter().try_fold(1_usize, |size, dim| size.checked_mul(*dim));
        let size = size.context("the size of an array overflows: the file is damaged")?;
        let rows = self.dims.first().copied().unwrap_or(0);
        let mut rest = self.value;
        match self.class {
            CELL_CLASS => {
                // Each cell has at least a tag of 8 bytes, so this also bounds the allocation.
                ensure!(
                    size <= rest.len() / 8,
                    "a cell array claims {size} cells in {} bytes: the file is damaged",
                    rest.len()
                );
                let cells = (0..size).map(|_| {
                    let cell = Element::take(&mut rest)?;
                    ensure!(
                        cell.kind == MATRIX,
                        "a cell is not an array (data type {}): the file is damaged",
                        cell.kind
                    );
                    // An empty cell may have no data.
                    if cell.data.is_empty() {
                        return Ok(Array::Numeric { rows: 0, values: Vec::new() });
                    }
                    Matrix::read(cell.data)?.array(depth + 1)
                });
                Ok(Array::Cell(cells.collect::<anyhow::Result<_>>()?))
            }
            CHAR_CLASS if size == 0 => Ok(Array::Char(String::new())),
            CHAR_CLASS if rows == 1 => Ok(Array::Char(Element::take(&mut rest)?.text()?)),
            // mxDOUBLE_CLASS to mxUINT64_CLASS.
            6..=15 if !self.is_complex => {
                let values = if size == 0 { Vec::new() } else { Element::take(&mut rest)?.values()? };
                ensure!(
                    values.len() == size,
                    "an array of {:?} has {} values: the file is damaged",
                    self.dims,
                    values.len()
                );
                Ok(Array::Numeric { rows, values })
            }
            _ => Ok(Array::Other),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A padded element.
    fn element(kind: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = [kind.to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    fn array(class: u8, dims: [i32; 2], name: &str, value: &[u8]) -> Vec<u8> {
        let flags = element(6, &[class, 0, 0, 0, 0, 0, 0, 0]);
        let dims = element(5, &dims.map(i32::to_le_bytes).concat());
        element(MATRIX, &[flags, dims, element(1, name.as_bytes()), value.to_vec()].concat())
    }

    pub(in crate::eval) fn cell(name: &str, cells: &[Vec<u8>]) -> Vec<u8> {
        array(CELL_CLASS, [cells.len() as i32, 1], name, &cells.concat())
    }

    pub(in crate::eval) fn char(text: &str) -> Vec<u8> {
        let units = text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        array(CHAR_CLASS, [1, text.len() as i32], "", &element(4, &units))
    }

    /// From rows, which the file stores in column-major order.
    pub(in crate::eval) fn matrix<const N: usize>(rows: &[[f64; N]]) -> Vec<u8> {
        let columns = (0..N).flat_map(|col| rows.iter().flat_map(move |row| row[col].to_le_bytes()));
        array(6, [rows.len() as i32, N as i32], "", &element(9, &columns.collect::<Vec<_>>()))
    }

    pub(in crate::eval) fn file(variables: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = b"MATLAB 5.0 MAT-file".to_vec();
        bytes.resize(124, b' ');
        bytes.extend([0, 1, b'I', b'M']);
        bytes.extend(variables.concat());
        bytes
    }

    fn compressed(variable: &[u8]) -> Vec<u8> {
        let data = miniz_oxide::deflate::compress_to_vec_zlib(variable, 6);
        [15_u32.to_le_bytes().to_vec(), (data.len() as u32).to_le_bytes().to_vec(), data].concat()
    }

    fn sample() -> Vec<u8> {
        let inner = cell("", &[matrix(&[[1.0, 2.0], [3.0, 4.5]]), char("größe"), element(MATRIX, &[])]);
        let small = [vec![4, 0, 2, 0, 1, 2, 0, 0]].concat();
        let bytes = array(9, [1, 1], "small", &[vec![2, 0, 1, 0, 7, 0, 0, 0]].concat());
        let words = array(10, [0, 0], "empty", &small);
        file(&[compressed(&cell("list", &[inner])), bytes, compressed(&words)])
    }

    #[test]
    fn cell_character_and_numeric_arrays_are_read_with_and_without_compression() {
        let [empty, list, small] = read(&sample(), ["empty", "list", "small"]).unwrap();
        assert_eq!(empty, Array::Numeric { rows: 0, values: vec![] });
        assert_eq!(small, Array::Numeric { rows: 1, values: vec![7.0] });
        let inner = list.cells().unwrap()[0].cells().unwrap();
        // Column-major order.
        assert_eq!(inner[0].numeric().unwrap(), ([1.0, 3.0, 2.0, 4.5].as_slice(), 2));
        assert_eq!(inner[1].text().unwrap(), "größe");
        assert!(inner[2].cells().unwrap().is_empty() && inner[2].text().is_err());
    }

    #[test]
    fn errors_name_missing_variables_and_unexpected_array_classes() {
        let error = |bytes: &[u8]| format!("{:#}", read(bytes, ["list", "gone", "away"]).unwrap_err());
        assert!(error(&sample()).contains("gone, away"), "{}", error(&sample()));
        assert!(error(b"MATLAB 7.3 MAT-file").contains("'-v7'"));
        assert!(error(b"").contains("not a MAT file"));
        let mut big = sample();
        big[126..128].copy_from_slice(b"MI");
        assert!(error(&big).contains("big-endian"));
        let [list] = read(&sample(), ["list"]).unwrap();
        assert_eq!(list.numeric().unwrap_err().to_string(), "expected a numeric array, found a cell array");
    }

    #[test]
    fn damaged_files_are_errors_without_panics_or_large_allocations() {
        let complete = sample();
        for len in 0..complete.len() {
            let _ = read(&complete[..len], ["empty", "list", "small"]).unwrap_err();
        }
        // Without compression, whose checksum would reject every change.
        let plain = file(&[cell("list", &[matrix(&[[1.0]]), char("a"), cell("", &[char("b")])])]);
        for at in HEADER..plain.len() {
            for bits in [0xFF, 0x80, 0x7F, 0x01] {
                let mut damaged = plain.clone();
                damaged[at] ^= bits;
                let _ = read(&damaged, ["list"]);
            }
        }
        let huge = file(&[array(CELL_CLASS, [i32::MAX, i32::MAX], "list", &[])]);
        assert!(format!("{:#}", read(&huge, ["list"]).unwrap_err()).contains("damaged"));
        let deep = (0..20).fold(matrix(&[[1.0]]), |inner, _| cell("list", &[inner]));
        assert!(format!("{:#}", read(&file(&[deep]), ["list"]).unwrap_err()).contains("deep"));
    }

    #[test]
    fn a_decompression_bomb_is_an_error() {
        let bomb = file(&[compressed(&vec![0; MAX_DECOMPRESSED + 1])]);
        assert!(bomb.len() < 1 << 20);
        let error = format!("{:#}", read(&bomb, ["list"]).unwrap_err());
        assert!(error.contains("larger than"), "{error}");
    }
}
