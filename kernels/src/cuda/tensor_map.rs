//! What kernels copy boxes of a matrix to shared memory by (`csrc/hopper.h`).

/// Columns of a box: 128 bytes, a row of shared memory.
pub const BOX_COLUMNS: u32 = 64;

/// What a matrix of 16-bit elements holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    F16,
    BF16,
}

/// A row-major matrix of 16-bit elements in device memory, and the boxes that are copied out of it: [`BOX_COLUMNS`] columns
/// of so many rows, whose sixteen-byte pieces change places as the 128-byte swizzle of the PTX ISA has it. What a box has
/// outside of the matrix is zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boxes {
    pub half: Half,
    /// A multiple of 16.
    pub address: u64,
    /// One at least, as columns.
    pub rows: u64,
    pub columns: u64,
    /// Bytes from one row to the next: a multiple of 16, less than 2^40.
    pub stride: u64,
    /// 1 to 256.
    pub box_rows: u32,
}

impl Boxes {
    /// The boxes of `box_rows` rows of a matrix without gaps.
    pub fn whole(half: Half, address: u64, (rows, columns): (u64, u64), box_rows: u32) -> Self {
        Self { half, address, rows, columns, stride: 2 * columns, box_rows }
    }

    /// The first of `cuTensorMapEncodeTiled`'s requirements that is not met.
    pub fn violation(&self) -> Option<&'static str> {
        let dimension = |size: u64| (1..=1 << 32).contains(&size);
        let rules = [
            (self.address != 0 && self.address.is_multiple_of(16), "the address is no multiple of 16"),
            (dimension(self.rows) && dimension(self.columns), "a dimension is not in 1 ..= 2^32"),
            (self.stride.is_multiple_of(16), "rows are no multiple of 16 bytes apart"),
            (self.stride < 1 << 40, "rows are 2^40 bytes apart or more"),
            (self.stride >= 2 * self.columns, "rows overlap"),
            ((1..=256).contains(&self.box_rows), "the rows of a box are not in 1 ..= 256"),
        ];
        rules.into_iter().find_map(|(met, what)| (!met).then_some(what))
    }
}

/// [`Boxes`] as a kernel takes them, in the driver's encoding.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub struct TensorMap(pub(super) [u64; 16]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_of_the_driver() {
        let fine = Boxes::whole(Half::BF16, 0x1000, (5, 64), 128);
        assert_eq!(fine.violation(), None);
        for wrong in [
            Boxes { address: 0x1008, ..fine },
            Boxes { address: 0, ..fine },
            Boxes { rows: 0, ..fine },
            Boxes { columns: (1 << 32) + 1, stride: 1 << 34, ..fine },
            Boxes { stride: 136, ..fine },
            Boxes { stride: 1 << 40, ..fine },
            Boxes { stride: 112, ..fine },
            Boxes { box_rows: 0, ..fine },
            Boxes { box_rows: 257, ..fine },
        ] {
            assert!(wrong.violation().is_some(), "{wrong:?}");
        }
    }
}
