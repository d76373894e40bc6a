/// Element type of float weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F16,
    BF16,
}

impl DType {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }
}

/// A float of eight bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SmallFloat {
    /// Four bits of exponent, three of mantissa, no infinity (`fp8_e4m3fn`).
    E4M3,
    /// Five bits of exponent, two of mantissa.
    E5M2,
}

/// Element type of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvType {
    Float(DType),
    /// The elements of each head at each position are divided by a power of two, kept beside them, which brings the largest
    /// of them close to the type's largest number: nothing is clipped. On GPUs.
    Small(SmallFloat),
}

impl KvType {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            KvType::Float(dtype) => dtype.size(),
            KvType::Small(_) => 1,
        }
    }

    /// Bytes beside the elements for each head and position.
    pub const fn scale_size(self) -> usize {
        match self {
            KvType::Float(_) => 0,
            KvType::Small(_) => 1,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            KvType::Float(DType::F32) => "f32",
            KvType::Float(DType::F16) => "f16",
            KvType::Float(DType::BF16) => "bf16",
            KvType::Small(SmallFloat::E4M3) => "fp8_e4m3fn",
            KvType::Small(SmallFloat::E5M2) => "fp8_e5m2",
        }
    }
}

impl From<DType> for KvType {
    fn from(dtype: DType) -> Self {
        KvType::Float(dtype)
    }
}

impl From<SmallFloat> for KvType {
    fn from(small: SmallFloat) -> Self {
        KvType::Small(small)
    }
}

/// A quantized weight type of ggml: neighbours in a row are stored together, in blocks with scales of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockType {
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    Mxfp4,
}

impl BlockType {
    pub const ALL: [BlockType; 13] = [
        BlockType::Q8_0,
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q5_0,
        BlockType::Q5_1,
        BlockType::Q2K,
        BlockType::Q3K,
        BlockType::Q4K,
        BlockType::Q5K,
        BlockType::Q6K,
        BlockType::Iq4Nl,
        BlockType::Iq4Xs,
        BlockType::Mxfp4,
    ];
}

/// How a weight matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightType {
    Float(DType),
    Blocks(BlockType),
}

impl From<DType> for WeightType {
    fn from(dtype: DType) -> Self {
        WeightType::Float(dtype)
    }
}

impl From<BlockType> for WeightType {
    fn from(blocks: BlockType) -> Self {
        WeightType::Blocks(blocks)
    }
}

/// A row-major `[rows, cols]` matrix as it lies in a checkpoint: little-endian, no alignment promised.
#[derive(Debug, Clone, Copy)]
pub struct WeightView<'a> {
    pub dtype: WeightType,
    pub rows: usize,
    /// Of a block type: whole blocks.
    pub cols: usize,
    /// Exactly the bytes of `rows * cols` elements.
    pub bytes: &'a [u8],
}

/// A row-major `[rows, cols]` matrix of E4M3 numbers and a scale for each row: an element is its number times its row's scale.
#[derive(Debug, Clone, Copy)]
pub struct ScaledRowsView<'a> {
    pub rows: usize,
    pub cols: usize,
    /// `[rows, cols]` codes of `fp8_e4m3fn`.
    pub codes: &'a [u8],
    /// `[rows]`.
    pub scales: &'a [f32],
}
