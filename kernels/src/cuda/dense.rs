//! Dense products of matrices of 16 and 8 bits: whose kernels make them, and how a library for matrices sees them.

use super::gpu::GpuInfo;
use super::tensor_map::Half;

/// The rows of x from which on a product is bound by arithmetic, no longer by the weights' way from memory.
pub(super) const MANY_ROWS: u32 = 128;
/// Rows of weights below which a library's call is not worth its overhead: one of our tiles has them all.
const FEW_OUTPUTS: u32 = 128;

/// Whose kernels make a dense product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenseGemm {
    /// Ours for few rows; a row's result does not depend on how many there are.
    Few,
    /// Ours for many rows.
    Tiles,
    /// The library's, where the GPU has one that takes the shape; else as [`DenseGemm::Tiles`].
    Library,
}

impl DenseGemm {
    /// The rule, by shape: `rows` of x, `count` rows of weights. A library's algorithm depends on the number of rows, and
    /// so would a row's bits; so where results must not depend on the batch (`deterministic`), it is never asked.
    pub fn choose(rows: u32, count: u32, deterministic: bool) -> Self {
        match (rows, count) {
            _ if deterministic => Self::Few,
            (..MANY_ROWS, _) => Self::Few,
            (_, ..FEW_OUTPUTS) => Self::Tiles,
            _ => Self::Library,
        }
    }
}

/// The type of both factors of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FactorType {
    F16,
    BF16,
    /// `fp8_e4m3fn`.
    E4M3,
}

impl FactorType {
    /// The same, if it has 16 bits.
    pub const fn half(self) -> Option<Half> {
        match self {
            FactorType::F16 => Some(Half::F16),
            FactorType::BF16 => Some(Half::BF16),
            FactorType::E4M3 => None,
        }
    }

    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            FactorType::F16 | FactorType::BF16 => 2,
            FactorType::E4M3 => 1,
        }
    }

    /// Whether a chip's tensor cores take it: numbers of eight bits from compute capability 8.9 on
    /// (<https://docs.nvidia.com/cuda/parallel-thread-execution/#warp-level-matrix-instructions-mma>).
    pub fn suits(self, info: &GpuInfo) -> bool {
        match self {
            FactorType::F16 | FactorType::BF16 => true,
            FactorType::E4M3 => info.capability >= (8, 9),
        }
    }
}

/// `out = x · wᵀ` over all `stride` columns, sums in f32. Everything is row-major; addresses are of device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenseProduct {
    /// The type of `w` and `x`.
    pub factors: FactorType,
    /// `[count, stride]`.
    pub w: u64,
    /// `[rows, stride]`.
    pub x: u64,
    /// f32 `[rows, width]`, of which the first `count` columns are written.
    pub out: u64,
    pub rows: u32,
    pub count: u32,
    pub stride: u32,
    pub width: u32,
}

/// A [`DenseProduct`] in the terms of BLAS, whose matrices are column-major: `d = aᵀ · b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnMajor {
    /// `[k, m]`; taken transposed.
    pub a: ColumnMatrix,
    /// `[k, n]`.
    pub b: ColumnMatrix,
    /// `[m, n]`, f32.
    pub d: ColumnMatrix,
}

/// A column-major matrix: element `(row, column)` is the `row + column * leading`-th from `address` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnMatrix {
    pub address: u64,
    pub rows: u64,
    pub columns: u64,
    /// Elements from one column to the next.
    pub leading: u64,
}

impl ColumnMatrix {
    /// The largest power of two, up to 256, that the address is a multiple of.
    pub fn alignment(&self) -> u32 {
        1 << self.address.trailing_zeros().min(8)
    }
}

impl DenseProduct {
    /// What is row-major `[rows, columns]` is column-major `[columns, rows]`: so the product is transposed, and its
    /// factors change places.
    pub fn column_major(&self) -> ColumnMajor {
        let &Self { w, x, out, rows, count, stride, width, .. } = self;
        let matrix = |address, rows: u32, columns: u32, leading: u32| ColumnMatrix {
            address,
            rows: rows.into(),
            columns: columns.into(),
            leading: leading.into(),
        };
        ColumnMajor {
            a: matrix(w, stride, count, stride),
            b: matrix(x, stride, rows, stride),
            d: matrix(out, count, rows, width),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_rows_and_outputs_go_to_the_library_unless_bits_must_stay() {
        for (rows, count, deterministic, expected) in [
            (1, 4096, false, DenseGemm::Few),
            (127, 4096, false, DenseGemm::Few),
            (128, 4096, false, DenseGemm::Library),
            (8192, 128_256, false, DenseGemm::Library),
            (8192, 127, false, DenseGemm::Tiles),
            (8192, 4096, true, DenseGemm::Few),
        ] {
            assert_eq!(DenseGemm::choose(rows, count, deterministic), expected, "{rows} x {count}");
        }
    }

    #[test]
    fn eight_bits_are_multiplied_by_ada_and_newer() {
        let suits = |factors: FactorType, capability| {
            factors.suits(&GpuInfo { name: String::new(), capability, multiprocessors: 1 })
        };
        for (capability, expected) in
            [((8, 0), false), ((8, 6), false), ((8, 9), true), ((9, 0), true), ((12, 0), true)]
        {
            assert_eq!(suits(FactorType::E4M3, capability), expected, "{capability:?}");
            assert!(suits(FactorType::F16, capability) && suits(FactorType::BF16, capability));
        }
    }

    /// The weights `[3, 64]` times 5 rows, into columns of an output that is 10 wide.
    #[test]
    fn row_major_is_column_major_transposed() {
        let product = DenseProduct {
            factors: FactorType::BF16,
            w: 0x1000,
            x: 0x2000,
            out: 0x3010,
            rows: 5,
            count: 3,
            stride: 64,
            width: 10,
        };
        let ColumnMajor { a, b, d } = product.column_major();
        assert_eq!(a, ColumnMatrix { address: 0x1000, rows: 64, columns: 3, leading: 64 });
        assert_eq!(b, ColumnMatrix { address: 0x2000, rows: 64, columns: 5, leading: 64 });
        assert_eq!(d, ColumnMatrix { address: 0x3010, rows: 3, columns: 5, leading: 10 });
        assert_eq!([a, b, d].map(|matrix| matrix.alignment()), [256, 256, 16]);
    }
}
