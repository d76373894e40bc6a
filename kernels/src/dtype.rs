/// Element type of float weights and of the KV cache.
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
