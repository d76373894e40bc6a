//! The layouts of the published formats: AutoAWQ's GEMM, GPTQ (AutoGPTQ, GPTQModel), compressed-tensors, and matrices of
//! bytes with scales.

use safetensors::Dtype;

use super::Scheme;
use super::floats::SmallFloats;
use super::integers::{AWQ_ORDER, Codes, Groups, Integers, word};
use super::parts::Parts;
use crate::ModelError;

/// AWQ: `qweight [cols, rows / 8]`, `qzeros [groups, rows / 8]`, `scales [groups, rows]`.
pub(super) fn awq<'a>(parts: Parts<'a>) -> Result<Integers<'a>, ModelError> {
    const PER_WORD: usize = 8;
    let (codes, zeros) = (parts.words("qweight")?, parts.words("qzeros")?);
    let (cols, rows, count) = (codes.rows, codes.cols * PER_WORD, zeros.rows);
    parts.check_shape("qzeros", (zeros.rows, zeros.cols), (count, codes.cols))?;
    let mut nibbles = [0; PER_WORD];
    AWQ_ORDER.into_iter().enumerate().for_each(|(nibble, lane)| nibbles[lane] = nibble);
    let zero = |row: usize, group: usize| {
        let word = word(zeros.words, group * zeros.cols + row / PER_WORD);
        (word >> (4 * nibbles[row % PER_WORD])) as u8 & 15
    };
    Ok(Integers {
        rows,
        cols,
        bits: 4,
        codes: Codes::RowWords(codes.words),
        groups: even_groups(parts, "qzeros", count, cols)?,
        scales: scales_by_group(parts, count, rows)?,
        zeros: grid(rows, count, zero),
    })
}

/// GPTQ: `qweight [cols * bits / 32, rows]`, `qzeros [groups, rows * bits / 32]`, `scales [groups, rows]` and, where
/// columns were quantized in another order than they lie in, `g_idx [cols]`.
pub(super) fn gptq<'a>(parts: Parts<'a>, scheme: &Scheme) -> Result<Integers<'a>, ModelError> {
    let (codes, zeros) = (parts.words("qweight")?, parts.words("qzeros")?);
    let (rows, count) = (codes.cols, zeros.rows);
    let Some(bits) = [4, 8].into_iter().find(|bits| rows * bits == 32 * zeros.cols) else {
        let shape = [zeros.rows, zeros.cols];
        return Err(
            parts.error("qzeros", format!("has shape {shape:?}: not 4 or 8 bits for each of {rows} rows"))
        );
    };
    let per_word = 32 / bits;
    let cols = codes.rows * per_word;
    let mask = (1u32 << bits) - 1;
    // One was taken from every zero point by taking this from the word: a zero point of 0 borrowed from the next.
    let ones = if scheme.zeros_less_one { u32::MAX / mask } else { 0 };
    let zero = |row: usize, group: usize| {
        let word = word(zeros.words, group * zeros.cols + row / per_word).wrapping_add(ones);
        (word >> (bits * (row % per_word)) & mask) as u8
    };
    let groups = match listed_groups(parts, "g_idx", count, cols)? {
        Some(groups) => groups,
        None => even_groups(parts, "qzeros", count, cols)?,
    };
    Ok(Integers {
        rows,
        cols,
        bits,
        codes: Codes::ColumnWordsByColumn(codes.words),
        groups,
        scales: scales_by_group(parts, count, rows)?,
        zeros: grid(rows, count, zero),
    })
}

/// compressed-tensors' `pack-quantized`: `weight_packed [rows, ⌈cols * bits / 32⌉]`, `weight_shape`, `weight_scale`,
/// perhaps `weight_zero_point` and `weight_g_idx`.
pub(super) fn packed<'a>(parts: Parts<'a>) -> Result<Integers<'a>, ModelError> {
    let codes = parts.words("weight_packed")?;
    let (rows, cols) = weight_shape(parts)?;
    let bits = [4, 8].into_iter().find(|bits| cols.div_ceil(32 / bits) == codes.cols);
    let Some(bits) = bits.filter(|_| codes.rows == rows && cols > 0) else {
        let packed = [codes.rows, codes.cols];
        return Err(parts.error(
            "weight_packed",
            format!("has shape {packed:?}: not 4 or 8 bits for each of {rows} rows and {cols} columns"),
        ));
    };
    signed(parts, Codes::ColumnWordsByRow(codes.words), (rows, cols), bits)
}

/// `weight_shape`: rows and columns.
fn weight_shape(parts: Parts<'_>) -> Result<(usize, usize), ModelError> {
    const PART: &str = "weight_shape";
    let raw = parts.source.raw(&parts.name(PART))?;
    if *raw.shape != [2] {
        return Err(parts.error(PART, format!("has shape {:?}, expected [2]", raw.shape)));
    }
    let sizes = parts.integers(PART)?;
    let size = |at: usize| sizes.get(at).and_then(|size| usize::try_from(*size).ok());
    size(0).zip(size(1)).ok_or_else(|| parts.error(PART, format!("is {sizes:?}, expected two sizes")))
}

/// compressed-tensors' `int-quantized`: `weight [rows, cols]` in int8, `weight_scale`, perhaps `weight_zero_point`.
pub(super) fn bytes<'a>(parts: Parts<'a>) -> Result<Integers<'a>, ModelError> {
    let (rows, cols, bytes) = parts.matrix("weight", Dtype::I8)?;
    signed(parts, Codes::Bytes(bytes), (rows, cols), 8)
}

/// Codes that stand for signed numbers, and so their zero points.
fn signed<'a>(
    parts: Parts<'a>,
    codes: Codes<'a>,
    (rows, cols): (usize, usize),
    bits: usize,
) -> Result<Integers<'a>, ModelError> {
    let (count, scales) = scales_by_row(parts, rows)?;
    let groups = match listed_groups(parts, "weight_g_idx", count, cols)? {
        Some(groups) => groups,
        None => even_groups(parts, "weight_scale", count, cols)?,
    };
    let zeros = signed_zeros(parts, (rows, count), bits)?;
    Ok(Integers { rows, cols, bits, codes, groups, scales, zeros })
}

/// Eight-bit floats: `weight [rows, cols]` and `weight_scale`, or `weight_scale_inv`, which is one to multiply with, too.
pub(super) fn small_floats<'a>(parts: Parts<'a>, scheme: &Scheme) -> Result<SmallFloats<'a>, ModelError> {
    let (rows, cols, bytes) = parts.matrix("weight", Dtype::F8_E4M3)?;
    let part = if parts.has("weight_scale_inv") { "weight_scale_inv" } else { "weight_scale" };
    let (shape, scales) = parts.floats(part)?;
    let in_grid = scheme.block.filter(|(r, c)| *shape == [rows.div_ceil(*r), cols.div_ceil(*c)]);
    let block = match (scales.len(), in_grid) {
        (_, Some(block)) => block,
        (1, None) => (rows, cols),
        (count, None) if count == rows && shape.first() == Some(&rows) => (1, cols),
        _ => {
            let expected = match scheme.block {
                Some((r, c)) => format!("one for each {r} x {c}"),
                None => "one, or one for each row".to_owned(),
            };
            let message = format!("has shape {shape:?}, weights are [{rows}, {cols}]: expected {expected}");
            return Err(parts.error(part, message));
        }
    };
    Ok(SmallFloats { rows, cols, bytes, scales, block })
}

/// `value(row, group)` for each row and group.
fn grid<T>(rows: usize, groups: usize, value: impl Fn(usize, usize) -> T) -> Vec<T> {
    (0..rows * groups).map(|at| value(at / groups, at % groups)).collect()
}

/// `scales [groups, rows]`, turned around.
fn scales_by_group(parts: Parts<'_>, groups: usize, rows: usize) -> Result<Vec<f32>, ModelError> {
    let (shape, scales) = parts.floats("scales")?;
    if *shape != [groups, rows] {
        let message = format!("has shape {shape:?}, the other parts imply [{groups}, {rows}]");
        return Err(parts.error("scales", message));
    }
    Ok(grid(rows, groups, |row, group| scales.get(group * rows + row).copied().unwrap_or_default()))
}

/// `weight_scale`: one for all, or some for each row; how many groups that makes.
fn scales_by_row(parts: Parts<'_>, rows: usize) -> Result<(usize, Vec<f32>), ModelError> {
    let (shape, scales) = parts.floats("weight_scale")?;
    match (&*scales, shape.first()) {
        ([scale], _) => Ok((1, vec![*scale; rows])),
        ([_, ..], Some(first)) if *first == rows => Ok((scales.len() / rows, scales)),
        _ => Err(parts.error(
            "weight_scale",
            format!("has shape {shape:?}, expected one, or some for each of {rows} rows"),
        )),
    }
}

/// `weight_zero_point`, with what makes it unsigned; bytes like the scales, or packed along the rows.
fn signed_zeros(
    parts: Parts<'_>,
    (rows, groups): (usize, usize),
    bits: usize,
) -> Result<Vec<u8>, ModelError> {
    const PART: &str = "weight_zero_point";
    let middle = 1u8 << (bits - 1);
    if !parts.has(PART) {
        return Ok(vec![middle; rows * groups]);
    }
    if parts.dtype(PART)? == Dtype::I32 {
        let per_word = 32 / bits;
        let zeros = parts.words(PART)?;
        parts.check_shape(PART, (zeros.rows, zeros.cols), (rows.div_ceil(per_word), groups))?;
        let mask = ((1u32 << bits) - 1) as u8;
        return Ok(grid(rows, groups, |row, group| {
            (word(zeros.words, row / per_word * groups + group) >> (bits * (row % per_word))) as u8 & mask
        }));
    }
    let raw = parts.source.raw(&parts.name(PART))?;
    let zeros = match (raw.dtype, raw.bytes) {
        (Dtype::I8, [zero]) => vec![*zero; rows * groups],
        (Dtype::I8, zeros) if zeros.len() == rows * groups => zeros.to_vec(),
        (dtype, _) => {
            let message = format!("is {dtype} {:?}, expected I8 or packed I32 like the scales", raw.shape);
            return Err(parts.error(PART, message));
        }
    };
    let unsigned = |zero: &u8| {
        let zero = i16::from(zero.cast_signed()) + i16::from(middle);
        u8::try_from(zero).ok().filter(|zero| usize::from(*zero) < 1 << bits)
    };
    let all: Option<Vec<u8>> = zeros.iter().map(unsigned).collect();
    all.ok_or_else(|| parts.error(PART, format!("has a value that {bits} bits cannot have")))
}

/// The group of each column, where `part` lists them.
fn listed_groups(
    parts: Parts<'_>,
    part: &str,
    count: usize,
    cols: usize,
) -> Result<Option<Groups>, ModelError> {
    if !parts.has(part) {
        return Ok(None);
    }
    let listed = parts.integers(part)?;
    // So it is said that there is no order, and by an empty list.
    if listed.iter().all(|group| *group == -1) {
        return Ok(None);
    }
    if listed.len() != cols {
        return Err(parts.error(part, format!("has {} entries, there are {cols} columns", listed.len())));
    }
    let of = listed.iter().map(|group| u32::try_from(*group).ok().filter(|group| (*group as usize) < count));
    match of.collect() {
        Some(of) => Ok(Some(Groups::Listed { count, of })),
        None => Err(parts.error(part, format!("names a group that is not one of {count}"))),
    }
}

/// `count` groups of neighbours.
fn even_groups(parts: Parts<'_>, part: &str, count: usize, cols: usize) -> Result<Groups, ModelError> {
    match cols.checked_div(count) {
        Some(size) if size * count == cols => Ok(Groups::Even { count, size }),
        _ => Err(parts.error(part, format!("has {count} groups, which do not divide {cols} columns"))),
    }
}
