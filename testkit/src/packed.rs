//! Quantized checkpoints as the published formats lay them out.

use std::path::Path;
use std::{fs, io};

use half::{bf16, f16};
use serde_json::{Map, Value, json};

use crate::generator::stream;

/// A tensor to write: name, type, shape, bytes.
pub type Tensor = (String, &'static str, Vec<usize>, Vec<u8>);

/// The integers of a matrix and what they mean: a weight is `scale * (code - zero)`.
#[derive(Debug, Clone)]
pub struct Grid {
    pub rows: usize,
    pub cols: usize,
    /// 4 or 8.
    pub bits: usize,
    /// The group of each column.
    pub group_of: Vec<usize>,
    pub groups: usize,
    /// `[rows, cols]`.
    pub codes: Vec<u8>,
    /// `[rows, groups]`, as the zero points.
    pub scales: Vec<f32>,
    pub zeros: Vec<u8>,
}

impl Grid {
    /// Random integers; scales that f16 and bf16 have both.
    pub fn new((rows, cols): (usize, usize), bits: usize, group: usize, symmetric: bool) -> Self {
        let name = format!("grid/{rows}/{cols}/{bits}/{group}");
        let mut words = stream(0, &name);
        let mut below = |limit: u64| words.next().unwrap_or_default() % limit;
        let groups = cols / group;
        let zero = |word: u64| if symmetric { 1 << (bits - 1) } else { word as u8 };
        let mut zeros: Vec<u8> = (0..rows * groups).map(|_| zero(below(1 << bits))).collect();
        if let (false, Some([first, second])) = (symmetric, zeros.first_chunk_mut()) {
            (*first, *second) = (0, ((1 << bits) - 1) as u8);
        }
        Self {
            rows,
            cols,
            bits,
            group_of: (0..cols).map(|col| col / group).collect(),
            groups,
            codes: (0..rows * cols).map(|_| below(1 << bits) as u8).collect(),
            scales: (0..rows * groups).map(|_| (1 + below(255)) as f32 / 4096.0).collect(),
            zeros,
        }
    }

    /// The integers nearest to `values`, in groups of `group` neighbours; scales that f16 and bf16 have both.
    pub fn of(
        values: &[f32],
        (rows, cols): (usize, usize),
        bits: usize,
        group: usize,
        symmetric: bool,
    ) -> Self {
        let mut grid = Self::new((rows, cols), bits, group, symmetric);
        let top = ((1 << bits) - 1) as f32;
        for (index, part) in values.chunks(group).enumerate() {
            let (low, high) = part.iter().fold((0.0f32, 0.0f32), |(low, high), &v| (low.min(v), high.max(v)));
            let step = if symmetric { high.max(-low) / (top / 2.0).floor() } else { (high - low) / top };
            let scale = bf16::from_f32(step.max(1e-3)).to_f32();
            let zero = if symmetric { (top / 2.0).ceil() } else { (-low / scale).round().clamp(0.0, top) };
            (grid.scales[index], grid.zeros[index]) = (scale, zero as u8);
            for (code, value) in grid.codes[index * group..].iter_mut().zip(part) {
                *code = ((value / scale).round() + zero).clamp(0.0, top) as u8;
            }
        }
        grid
    }

    /// What they mean.
    pub fn values(&self) -> Vec<f32> {
        let value = |at: usize| {
            let (row, col) = (at / self.cols, at % self.cols);
            let group = row * self.groups + self.group_of[col];
            self.scales[group] * (f32::from(self.codes[at]) - f32::from(self.zeros[group]))
        };
        (0..self.rows * self.cols).map(value).collect()
    }

    fn code(&self, row: usize, col: usize) -> u8 {
        self.codes[row * self.cols + col]
    }

    fn zero(&self, row: usize, group: usize) -> u8 {
        self.zeros[row * self.groups + group]
    }

    /// `[groups, rows]` in f16.
    pub fn scales_by_group(&self, module: &str) -> Tensor {
        let at = |at: usize| self.scales[at % self.rows * self.groups + at / self.rows];
        let bytes = (0..self.groups * self.rows).flat_map(|i| f16::from_f32(at(i)).to_le_bytes()).collect();
        (format!("{module}.scales"), "F16", vec![self.groups, self.rows], bytes)
    }

    /// As the format's own tools write it: `zeros_less` is taken from words, not from the zero points in them.
    pub fn gptq(&self, module: &str, zeros_less: u32) -> Vec<Tensor> {
        let per = 32 / self.bits;
        let ones = if self.bits == 4 { 0x1111_1111 } else { 0x0101_0101 };
        let codes: Vec<u32> = (0..self.cols / per * self.rows)
            .map(|at| {
                let (word, row) = (at / self.rows, at % self.rows);
                word_of((0..per).map(|i| self.code(row, word * per + i)), self.bits)
            })
            .collect();
        let zeros: Vec<u32> = (0..self.groups * self.rows / per)
            .map(|at| {
                let (group, word) = (at / (self.rows / per), at % (self.rows / per));
                let zeros = word_of((0..per).map(|i| self.zero(word * per + i, group)), self.bits);
                zeros.wrapping_sub(zeros_less * ones)
            })
            .collect();
        vec![
            words(format!("{module}.qweight"), vec![self.cols / per, self.rows], &codes),
            words(format!("{module}.qzeros"), vec![self.groups, self.rows / per], &zeros),
            self.scales_by_group(module),
        ]
    }

    /// The group of each column as a tensor.
    pub fn g_idx(&self, name: &str) -> Tensor {
        let of: Vec<u32> = self.group_of.iter().map(|group| *group as u32).collect();
        words(name.into(), vec![self.cols], &of)
    }

    /// Eight rows of a column in a word.
    pub fn awq(&self, module: &str) -> Vec<Tensor> {
        const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
        let packed = |count: usize, value: &dyn Fn(usize, usize) -> u8| -> Vec<u32> {
            let word = |at: usize| {
                let (first, word) = (at / (self.rows / 8), at % (self.rows / 8));
                word_of(ORDER.map(|row| value(word * 8 + row, first)), 4)
            };
            (0..count * self.rows / 8).map(word).collect()
        };
        let codes = packed(self.cols, &|row, col| self.code(row, col));
        let zeros = packed(self.groups, &|row, group| self.zero(row, group));
        vec![
            words(format!("{module}.qweight"), vec![self.cols, self.rows / 8], &codes),
            words(format!("{module}.qzeros"), vec![self.groups, self.rows / 8], &zeros),
            self.scales_by_group(module),
        ]
    }

    /// `[rows, groups]` in bf16.
    pub fn scales_by_row(&self, module: &str) -> Tensor {
        let bytes = self.scales.iter().flat_map(|scale| bf16::from_f32(*scale).to_le_bytes()).collect();
        (format!("{module}.weight_scale"), "BF16", vec![self.rows, self.groups], bytes)
    }

    /// Signed codes are stored with their offset, which makes them what `codes` are here.
    pub fn packed(&self, module: &str, with_zeros: bool) -> Vec<Tensor> {
        let per = 32 / self.bits;
        let per_row = self.cols.div_ceil(per);
        let codes: Vec<u32> = (0..self.rows * per_row)
            .map(|at| {
                let (row, first) = (at / per_row, at % per_row * per);
                let code = |i: usize| if first + i < self.cols { self.code(row, first + i) } else { 0 };
                word_of((0..per).map(code), self.bits)
            })
            .collect();
        let shape: Vec<u8> =
            [self.rows, self.cols].iter().flat_map(|size| (*size as i64).to_le_bytes()).collect();
        let mut tensors = vec![
            words(format!("{module}.weight_packed"), vec![self.rows, per_row], &codes),
            (format!("{module}.weight_shape"), "I64", vec![2], shape),
            self.scales_by_row(module),
        ];
        if with_zeros {
            let zeros: Vec<u32> = (0..self.rows.div_ceil(per) * self.groups)
                .map(|at| {
                    let (first, group) = (at / self.groups * per, at % self.groups);
                    let zero = |i: usize| if first + i < self.rows { self.zero(first + i, group) } else { 0 };
                    word_of((0..per).map(zero), self.bits)
                })
                .collect();
            let shape = vec![self.rows.div_ceil(per), self.groups];
            tensors.push(words(format!("{module}.weight_zero_point"), shape, &zeros));
        }
        tensors
    }
}

fn word_of(fields: impl IntoIterator<Item = u8>, bits: usize) -> u32 {
    fields.into_iter().enumerate().fold(0, |word, (i, field)| word | u32::from(field) << (bits * i))
}

/// A tensor of words.
pub fn words(name: String, shape: Vec<usize>, words: &[u32]) -> Tensor {
    (name, "I32", shape, words.iter().flat_map(|word| word.to_le_bytes()).collect())
}

/// Writes a checkpoint of `config.json` and one file of tensors.
///
/// # Errors
/// Those of writing.
pub fn write_tensors(folder: &Path, config: &Value, tensors: &[Tensor]) -> io::Result<()> {
    fs::write(folder.join("config.json"), config.to_string())?;
    let (mut header, mut data) = (Map::new(), Vec::<u8>::new());
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        data.extend(bytes);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    fs::write(folder.join("model.safetensors"), file)
}

/// The byte of E4M3 nearest to `value`.
pub fn to_e4m3(value: f32) -> u8 {
    let magnitude = |byte: u8| match (byte >> 3, f32::from(byte & 7)) {
        (0, steps) => steps / 512.0,
        (exponent, steps) => (1.0 + steps / 8.0) * 2f32.powi(i32::from(exponent) - 7),
    };
    let distance = |byte: u8| (magnitude(byte) - value.abs()).abs();
    let nearest = (0..0x7f).min_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap_or(0);
    if value.is_sign_negative() { nearest | 0x80 } else { nearest }
}
