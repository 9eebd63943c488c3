//! MAT files of MATLAB 5 to 7: as much of them as WIDER FACE's ground truth needs, from files that nobody vouches for.
//!
//! Cells, text and real numbers are read, of variables whose name is asked for. Whatever a header says, no memory is
//! taken for more than the bytes that are there, and neither nesting nor what unpacks from them is without a bound.
//!
//! Source: MathWorks, "MAT-File Format", chapter "MATLAB Level 5 MAT-File Format".

use anyhow::{Context as _, bail, ensure};
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

/// What all variables of a file may unpack to; WIDER FACE's need 3 MiB.
const MOST_UNPACKED: usize = 16 << 20;
/// How deep cells may hold cells; WIDER FACE's do so twice.
const DEEPEST: usize = 8;
const HEADER: usize = 128;

const COMPRESSED: u32 = 15;
const MATRIX: u32 = 14;

/// A variable's value, or a cell's.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Array {
    /// Column by column.
    Cells(Vec<Array>),
    /// One row of characters.
    Text(String),
    /// Column by column.
    Numbers { rows: usize, values: Vec<f64> },
    /// Structures, sparse matrices, complex numbers and what else there is.
    Other,
}

impl Array {
    /// What it is, in words.
    fn kind(&self) -> &'static str {
        match self {
            Self::Cells(_) => "cells",
            Self::Text(_) => "text",
            Self::Numbers { .. } => "numbers",
            Self::Other => "something else (a structure, sparse or complex)",
        }
    }

    /// Its cells.
    pub(super) fn cells(&self) -> anyhow::Result<&[Self]> {
        match self {
            Self::Cells(cells) => Ok(cells),
            // An empty cell array is saved as an empty matrix at times.
            Self::Numbers { values, .. } if values.is_empty() => Ok(&[]),
            other => bail!("cells were expected, but there is {}", other.kind()),
        }
    }

    /// Its text.
    pub(super) fn text(&self) -> anyhow::Result<&str> {
        match self {
            Self::Text(text) => Ok(text),
            other => bail!("text was expected, but there is {}", other.kind()),
        }
    }

    /// Its numbers, column by column, and how many rows they are in.
    pub(super) fn numbers(&self) -> anyhow::Result<(&[f64], usize)> {
        match self {
            Self::Numbers { rows, values } => Ok((values, *rows)),
            other => bail!("numbers were expected, but there is {}", other.kind()),
        }
    }
}

/// The variables of those names, in their order.
pub(super) fn read<const N: usize>(file: &[u8], names: [&str; N]) -> anyhow::Result<[Array; N]> {
    let mut found = [const { None }; N];
    let mut rest = after_header(file)?;
    let mut budget = MOST_UNPACKED;
    // Once all are there, what else the file holds does not matter.
    while !rest.is_empty() && found.iter().any(Option::is_none) {
        let element = Element::take(&mut rest)?;
        let unpacked;
        let body = match element.kind {
            COMPRESSED => {
                // What was unpacked before a limit or an error is dropped with the error.
                unpacked = decompress_to_vec_zlib_with_limit(element.data, budget).map_err(|error| {
                    anyhow::anyhow!("a compressed variable is broken or of more than {MOST_UNPACKED} bytes ({error})")
                })?;
                budget -= unpacked.len();
                let inner = Element::take(&mut unpacked.as_slice())?;
                ensure!(inner.kind == MATRIX, "a compressed element is no variable (type {})", inner.kind);
                inner.data
            }
            MATRIX => element.data,
            // Nothing else holds a variable.
            _ => continue,
        };
        let matrix = Matrix::read(body)?;
        if let Some(at) = names.iter().position(|name| name.as_bytes() == matrix.name) {
            found[at] = Some(matrix.array(0).with_context(|| format!("variable {}", names[at]))?);
        }
    }
    let missing = names.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(name, _)| *name);
    let missing = missing.collect::<Vec<_>>().join(", ");
    ensure!(missing.is_empty(), "there is no variable {missing} in it");
    Ok(found.map(|array| array.expect("none is missing")))
}

fn after_header(file: &[u8]) -> anyhow::Result<&[u8]> {
    if file.starts_with(b"MATLAB 7.3") {
        bail!("a MAT file of version 7.3 (HDF5), which is not read: save it in MATLAB with the option '-v7'");
    }
    match file.get(124..HEADER) {
        Some([.., b'I', b'M']) => Ok(&file[HEADER..]),
        Some([.., b'M', b'I']) => {
            bail!("a MAT file of a big-endian machine, which is not read: save it anew on this one")
        }
        _ => bail!("not a MAT file of MATLAB 5 to 7"),
    }
}

/// A tag and its data.
#[derive(Debug)]
struct Element<'a> {
    kind: u32,
    data: &'a [u8],
}

impl<'a> Element<'a> {
    /// Takes the element that `rest` begins with, and what it is padded with.
    fn take(rest: &mut &'a [u8]) -> anyhow::Result<Self> {
        let cut = "the file is cut off, or broken";
        let (tag, after) = rest.split_first_chunk::<8>().context(cut)?;
        let [kind, size] = [0, 4].map(|at| u32::from_le_bytes([tag[at], tag[at + 1], tag[at + 2], tag[at + 3]]));
        // Up to four bytes share the tag, whose upper half then is how many.
        if kind >> 16 != 0 {
            let data = rest.get(4..4 + (kind >> 16) as usize).filter(|data| data.len() <= 4).context(cut)?;
            *rest = after;
            return Ok(Self { kind: kind & 0xFFFF, data });
        }
        let (data, after) = after.split_at_checked(size as usize).context(cut)?;
        // Compressed ones are not padded, and the last one need not be.
        let padding = if kind == COMPRESSED { 0 } else { data.len().next_multiple_of(8) - data.len() };
        *rest = after.get(padding..).unwrap_or_default();
        Ok(Self { kind, data })
    }

    /// Its numbers, whatever they are stored as. (MATLAB stores doubles that are small integers as bytes.)
    fn numbers(&self) -> anyhow::Result<Vec<f64>> {
        fn all<const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
            data.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect()
        }
        Ok(match self.kind {
            1 => all(self.data, |bytes| f64::from(i8::from_le_bytes(bytes))),
            2 => all(self.data, |[byte]| f64::from(byte)),
            3 => all(self.data, |bytes| f64::from(i16::from_le_bytes(bytes))),
            4 => all(self.data, |bytes| f64::from(u16::from_le_bytes(bytes))),
            5 => all(self.data, |bytes| f64::from(i32::from_le_bytes(bytes))),
            6 => all(self.data, |bytes| f64::from(u32::from_le_bytes(bytes))),
            7 => all(self.data, |bytes| f64::from(f32::from_le_bytes(bytes))),
            9 => all(self.data, f64::from_le_bytes),
            12 => all(self.data, |bytes| i64::from_le_bytes(bytes) as f64),
            13 => all(self.data, |bytes| u64::from_le_bytes(bytes) as f64),
            kind => bail!("numbers of a type that is not known ({kind})"),
        })
    }

    fn text(&self) -> anyhow::Result<String> {
        match self.kind {
            // One byte a character, or UTF-8.
            1 | 2 | 16 => Ok(str::from_utf8(self.data).context("text that is no UTF-8")?.to_owned()),
            4 | 17 => {
                let units = self.data.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
                char::decode_utf16(units).collect::<Result<_, _>>().context("text that is no UTF-16")
            }
            kind => bail!("text of a type that is not known ({kind})"),
        }
    }
}

/// An array whose value was not looked at yet.
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
        let [class, bits, ..] = flags.data else { bail!("an array without flags: the file is broken") };
        // Objects of newer kinds have nothing that can be read here.
        if *class == 17 {
            return Ok(Self { class: 17, is_complex: false, dims: Vec::new(), name: &[], value: &[] });
        }
        let dims = Element::take(&mut body)?.numbers()?;
        let dims = dims.iter().map(|dim| *dim as usize).collect();
        let name = Element::take(&mut body)?.data;
        Ok(Self { class: *class, is_complex: bits & 0x08 != 0, dims, name, value: body })
    }

    fn array(&self, depth: usize) -> anyhow::Result<Array> {
        ensure!(depth < DEEPEST, "cells in cells in cells, more than {DEEPEST} deep");
        let size = self.dims.iter().try_fold(1_usize, |size, dim| size.checked_mul(*dim));
        let size = size.context("an array of more elements than can be counted: the file is broken")?;
        let rows = self.dims.first().copied().unwrap_or(0);
        let mut rest = self.value;
        match self.class {
            1 => {
                // Each cell has a tag at least; this also bounds what is taken for them.
                ensure!(
                    size <= rest.len() / 8,
                    "{size} cells are said to be in {} bytes: the file is broken",
                    rest.len()
                );
                let cells = (0..size).map(|_| {
                    let cell = Element::take(&mut rest)?;
                    ensure!(cell.kind == MATRIX, "a cell that is no array (type {}): the file is broken", cell.kind);
                    // An empty cell may come without anything.
                    if cell.data.is_empty() {
                        return Ok(Array::Numbers { rows: 0, values: Vec::new() });
                    }
                    Matrix::read(cell.data)?.array(depth + 1)
                });
                Ok(Array::Cells(cells.collect::<anyhow::Result<_>>()?))
            }
            4 if size == 0 => Ok(Array::Text(String::new())),
            4 if rows == 1 => Ok(Array::Text(Element::take(&mut rest)?.text()?)),
            6..=15 if !self.is_complex => {
                let values = if size == 0 { Vec::new() } else { Element::take(&mut rest)?.numbers()? };
                ensure!(
                    values.len() == size,
                    "an array of {:?} has {} numbers: the file is broken",
                    self.dims,
                    values.len()
                );
                Ok(Array::Numbers { rows, values })
            }
            _ => Ok(Array::Other),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An element of that type, padded.
    fn element(kind: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = [kind.to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    fn array(class: u8, dims: [i32; 2], name: &str, value: &[u8]) -> Vec<u8> {
        let flags = element(6, &[class, 0, 0, 0, 0, 0, 0, 0]);
        let dims = element(5, &dims.map(i32::to_le_bytes).concat());
        element(14, &[flags, dims, element(1, name.as_bytes()), value.to_vec()].concat())
    }

    pub(in crate::app::eval) fn cells(name: &str, cells: &[Vec<u8>]) -> Vec<u8> {
        array(1, [cells.len() as i32, 1], name, &cells.concat())
    }

    pub(in crate::app::eval) fn text(text: &str) -> Vec<u8> {
        let units = text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        array(4, [1, text.len() as i32], "", &element(4, &units))
    }

    /// Row by row, as a person writes it.
    pub(in crate::app::eval) fn numbers<const N: usize>(rows: &[[f64; N]]) -> Vec<u8> {
        let columns = (0..N).flat_map(|col| rows.iter().flat_map(move |row| row[col].to_le_bytes()));
        array(6, [rows.len() as i32, N as i32], "", &element(9, &columns.collect::<Vec<_>>()))
    }

    pub(in crate::app::eval) fn file(variables: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = b"MATLAB 5.0 MAT-file".to_vec();
        bytes.resize(124, b' ');
        bytes.extend([0, 1, b'I', b'M']);
        bytes.extend(variables.concat());
        bytes
    }

    fn compressed(variable: &[u8]) -> Vec<u8> {
        let packed = miniz_oxide::deflate::compress_to_vec_zlib(variable, 6);
        [15_u32.to_le_bytes().to_vec(), (packed.len() as u32).to_le_bytes().to_vec(), packed].concat()
    }

    fn sample() -> Vec<u8> {
        let inner = cells("", &[numbers(&[[1.0, 2.0], [3.0, 4.5]]), text("größe"), element(14, &[])]);
        let small = [vec![4, 0, 2, 0, 1, 2, 0, 0]].concat();
        let bytes = array(9, [1, 1], "small", &[vec![2, 0, 1, 0, 7, 0, 0, 0]].concat());
        let words = array(10, [0, 0], "empty", &small);
        file(&[compressed(&cells("list", &[inner])), bytes, compressed(&words)])
    }

    #[test]
    fn cells_text_and_numbers_are_read_compressed_or_not() {
        let [empty, list, small] = read(&sample(), ["empty", "list", "small"]).unwrap();
        assert_eq!(empty, Array::Numbers { rows: 0, values: vec![] });
        assert_eq!(small, Array::Numbers { rows: 1, values: vec![7.0] });
        let inner = list.cells().unwrap()[0].cells().unwrap();
        // Column by column.
        assert_eq!(inner[0].numbers().unwrap(), ([1.0, 3.0, 2.0, 4.5].as_slice(), 2));
        assert_eq!(inner[1].text().unwrap(), "größe");
        assert!(inner[2].cells().unwrap().is_empty() && inner[2].text().is_err());
    }

    #[test]
    fn what_is_missing_or_of_another_kind_is_named() {
        let error = |bytes: &[u8]| format!("{:#}", read(bytes, ["list", "gone", "away"]).unwrap_err());
        assert!(error(&sample()).contains("gone, away"), "{}", error(&sample()));
        assert!(error(b"MATLAB 7.3 MAT-file").contains("'-v7'"));
        assert!(error(b"").contains("not a MAT file"));
        let mut big = sample();
        big[126..128].copy_from_slice(b"MI");
        assert!(error(&big).contains("big-endian"));
        let [list] = read(&sample(), ["list"]).unwrap();
        assert_eq!(list.numbers().unwrap_err().to_string(), "numbers were expected, but there is cells");
    }

    #[test]
    fn broken_files_are_errors_and_neither_panic_nor_take_memory() {
        let whole = sample();
        for cut in 0..whole.len() {
            let _ = read(&whole[..cut], ["empty", "list", "small"]).unwrap_err();
        }
        // Each byte of a file without compression, which would notice it first.
        let plain = file(&[cells("list", &[numbers(&[[1.0]]), text("a"), cells("", &[text("b")])])]);
        for at in HEADER..plain.len() {
            for bits in [0xFF, 0x80, 0x7F, 0x01] {
                let mut broken = plain.clone();
                broken[at] ^= bits;
                let _ = read(&broken, ["list"]);
            }
        }
        let huge = file(&[array(1, [i32::MAX, i32::MAX], "list", &[])]);
        assert!(format!("{:#}", read(&huge, ["list"]).unwrap_err()).contains("broken"));
        let deep = (0..20).fold(numbers(&[[1.0]]), |inner, _| cells("list", &[inner]));
        assert!(format!("{:#}", read(&file(&[deep]), ["list"]).unwrap_err()).contains("deep"));
    }

    #[test]
    fn a_small_file_that_unpacks_to_a_huge_one_is_an_error() {
        let bomb = file(&[compressed(&vec![0; MOST_UNPACKED + 1])]);
        assert!(bomb.len() < 1 << 20);
        let error = format!("{:#}", read(&bomb, ["list"]).unwrap_err());
        assert!(error.contains("more than"), "{error}");
    }
}
