//! Every kernel of `csrc/`: its name there and its threads per block, in this one place.

use crate::BlockType;

/// Declares [`Kernel`] from `Variant = "name", threads;` lines, and where the emulation has each kernel.
macro_rules! kernels {
    ($($kernel:ident = $name:literal, $threads:literal;)*) => {
        /// A kernel of `csrc/`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kernel {
            $($kernel,)*
        }

        impl Kernel {
            pub const ALL: &'static [Kernel] = &[$(Kernel::$kernel,)*];

            /// What it is called in its `.cu` file.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Kernel::$kernel => $name,)*
                }
            }

            /// Threads per block, in one dimension.
            pub const fn threads(self) -> u32 {
                match self {
                    $(Kernel::$kernel => $threads,)*
                }
            }
        }

        /// The kernels as the emulation was compiled with them.
        #[allow(unsafe_code)]
        pub(super) mod emulated {
            use super::Kernel;
            use crate::cuda::emulator::Entry;

            #[allow(non_upper_case_globals)]
            unsafe extern "C" {
                $(
                    #[link_name = concat!("emulated_", $name)]
                    safe static $kernel: Entry;
                )*
            }

            pub(in crate::cuda) fn entry(kernel: Kernel) -> &'static Entry {
                match kernel {
                    $(Kernel::$kernel => &$kernel,)*
                }
            }
        }
    };
}

kernels! {
    // norm.cu
    RmsNorm = "rms_norm", 256;
    NormHeads = "norm_heads", 128;
    // elementwise.cu
    Add = "add", 256;
    Softcap = "softcap", 256;
    GatedSilu = "gated_silu", 256;
    GatedGelu = "gated_gelu", 256;
    GatedGeluTanh = "gated_gelu_tanh", 256;
    ActivateSilu = "activate_silu", 256;
    ActivateGelu = "activate_gelu", 256;
    ActivateGeluTanh = "activate_gelu_tanh", 256;
    ActivateRelu = "activate_relu", 256;
    ActivateTanh = "activate_tanh", 256;
    // encoder.cu
    LayerNorm = "layer_norm", 256;
    EmbedPacked = "embed_packed", 256;
    AttendPackedBy64 = "attend_packed_64", 128;
    AttendPackedBy128 = "attend_packed_128", 128;
    PoolMean = "pool_mean", 256;
    PoolFirst = "pool_first", 256;
    PoolLast = "pool_last", 256;
    PoolMax = "pool_max", 256;
    // rows.cu
    GatherRows = "gather_rows", 256;
    EmbedF32 = "embed_f32", 256;
    EmbedF16 = "embed_f16", 256;
    EmbedBF16 = "embed_bf16", 256;
    CopyBlock = "copy_block", 256;
    // rope.cu
    Rotate = "rotate", 64;
    RopeAndStoreF32 = "rope_and_store_f32", 64;
    RopeAndStoreF16 = "rope_and_store_f16", 64;
    RopeAndStoreBF16 = "rope_and_store_bf16", 64;
    RopeAndStoreE4M3 = "rope_and_store_e4m3", 64;
    RopeAndStoreE5M2 = "rope_and_store_e5m2", 64;
    // linear.cu
    LinearF32 = "linear_f32", 256;
    SplitF16 = "split_f16", 256;
    SplitBF16 = "split_bf16", 256;
    RoundF16 = "round_f16", 256;
    RoundBF16 = "round_bf16", 256;
    RoundE4M3 = "round_e4m3", 256;
    LinearF16x8 = "linear_f16_8", 256;
    LinearF16x16 = "linear_f16_16", 256;
    LinearF16x32 = "linear_f16_32", 256;
    LinearF16x64 = "linear_f16_64", 256;
    LinearBF16x8 = "linear_bf16_8", 256;
    LinearBF16x16 = "linear_bf16_16", 256;
    LinearBF16x32 = "linear_bf16_32", 256;
    LinearBF16x64 = "linear_bf16_64", 256;
    LinearE4M3x8 = "linear_e4m3_8", 256;
    LinearE4M3x16 = "linear_e4m3_16", 256;
    LinearE4M3x32 = "linear_e4m3_32", 256;
    LinearE4M3x64 = "linear_e4m3_64", 256;
    // gemm.cu
    GemmF16 = "gemm_f16", 256;
    GemmBF16 = "gemm_bf16", 256;
    GemmE4M3 = "gemm_e4m3", 256;
    FinishRows = "finish_rows", 256;
    // hopper_gemm.cu
    HopperGemmF16x128 = "hopper_gemm_f16_128", 384;
    HopperGemmF16x256 = "hopper_gemm_f16_256", 384;
    HopperGemmBF16x128 = "hopper_gemm_bf16_128", 384;
    HopperGemmBF16x256 = "hopper_gemm_bf16_256", 384;
    // blocks.cu
    QuantizeRows = "quantize_rows", 256;
    LinearQ8x0By1 = "linear_q8_0_1", 256;
    LinearQ8x0By8 = "linear_q8_0_8", 256;
    EmbedQ8x0 = "embed_q8_0", 256;
    UnpackQ8x0 = "unpack_q8_0", 256;
    LinearQ4x0By1 = "linear_q4_0_1", 256;
    LinearQ4x0By8 = "linear_q4_0_8", 256;
    EmbedQ4x0 = "embed_q4_0", 256;
    UnpackQ4x0 = "unpack_q4_0", 256;
    LinearQ4x1By1 = "linear_q4_1_1", 256;
    LinearQ4x1By8 = "linear_q4_1_8", 256;
    EmbedQ4x1 = "embed_q4_1", 256;
    UnpackQ4x1 = "unpack_q4_1", 256;
    LinearQ5x0By1 = "linear_q5_0_1", 256;
    LinearQ5x0By8 = "linear_q5_0_8", 256;
    EmbedQ5x0 = "embed_q5_0", 256;
    UnpackQ5x0 = "unpack_q5_0", 256;
    LinearQ5x1By1 = "linear_q5_1_1", 256;
    LinearQ5x1By8 = "linear_q5_1_8", 256;
    EmbedQ5x1 = "embed_q5_1", 256;
    UnpackQ5x1 = "unpack_q5_1", 256;
    LinearQ2KBy1 = "linear_q2k_1", 256;
    LinearQ2KBy8 = "linear_q2k_8", 256;
    EmbedQ2K = "embed_q2k", 256;
    UnpackQ2K = "unpack_q2k", 256;
    LinearQ3KBy1 = "linear_q3k_1", 256;
    LinearQ3KBy8 = "linear_q3k_8", 256;
    EmbedQ3K = "embed_q3k", 256;
    UnpackQ3K = "unpack_q3k", 256;
    LinearQ4KBy1 = "linear_q4k_1", 256;
    LinearQ4KBy8 = "linear_q4k_8", 256;
    EmbedQ4K = "embed_q4k", 256;
    UnpackQ4K = "unpack_q4k", 256;
    LinearQ5KBy1 = "linear_q5k_1", 256;
    LinearQ5KBy8 = "linear_q5k_8", 256;
    EmbedQ5K = "embed_q5k", 256;
    UnpackQ5K = "unpack_q5k", 256;
    LinearQ6KBy1 = "linear_q6k_1", 256;
    LinearQ6KBy8 = "linear_q6k_8", 256;
    EmbedQ6K = "embed_q6k", 256;
    UnpackQ6K = "unpack_q6k", 256;
    LinearIq4NlBy1 = "linear_iq4nl_1", 256;
    LinearIq4NlBy8 = "linear_iq4nl_8", 256;
    EmbedIq4Nl = "embed_iq4nl", 256;
    UnpackIq4Nl = "unpack_iq4nl", 256;
    LinearIq4XsBy1 = "linear_iq4xs_1", 256;
    LinearIq4XsBy8 = "linear_iq4xs_8", 256;
    EmbedIq4Xs = "embed_iq4xs", 256;
    UnpackIq4Xs = "unpack_iq4xs", 256;
    LinearMxfp4By1 = "linear_mxfp4_1", 256;
    LinearMxfp4By8 = "linear_mxfp4_8", 256;
    EmbedMxfp4 = "embed_mxfp4", 256;
    UnpackMxfp4 = "unpack_mxfp4", 256;
    // attention.cu
    AttendCombine = "attend_combine", 64;
    AttendF32x64x1 = "attend_f32_64_1", 128;
    AttendF32x64x4 = "attend_f32_64_4", 128;
    AttendF32x64x8 = "attend_f32_64_8", 128;
    AttendF32x128x1 = "attend_f32_128_1", 128;
    AttendF32x128x4 = "attend_f32_128_4", 128;
    AttendF32x128x8 = "attend_f32_128_8", 128;
    AttendF32x256x1 = "attend_f32_256_1", 128;
    AttendF32x256x4 = "attend_f32_256_4", 128;
    AttendF32x256x8 = "attend_f32_256_8", 128;
    AttendF16x64x1 = "attend_f16_64_1", 128;
    AttendF16x64x4 = "attend_f16_64_4", 128;
    AttendF16x64x8 = "attend_f16_64_8", 128;
    AttendF16x128x1 = "attend_f16_128_1", 128;
    AttendF16x128x4 = "attend_f16_128_4", 128;
    AttendF16x128x8 = "attend_f16_128_8", 128;
    AttendF16x256x1 = "attend_f16_256_1", 128;
    AttendF16x256x4 = "attend_f16_256_4", 128;
    AttendF16x256x8 = "attend_f16_256_8", 128;
    AttendBF16x64x1 = "attend_bf16_64_1", 128;
    AttendBF16x64x4 = "attend_bf16_64_4", 128;
    AttendBF16x64x8 = "attend_bf16_64_8", 128;
    AttendBF16x128x1 = "attend_bf16_128_1", 128;
    AttendBF16x128x4 = "attend_bf16_128_4", 128;
    AttendBF16x128x8 = "attend_bf16_128_8", 128;
    AttendBF16x256x1 = "attend_bf16_256_1", 128;
    AttendBF16x256x4 = "attend_bf16_256_4", 128;
    AttendBF16x256x8 = "attend_bf16_256_8", 128;
    AttendE4M3x64x1 = "attend_e4m3_64_1", 128;
    AttendE4M3x64x4 = "attend_e4m3_64_4", 128;
    AttendE4M3x64x8 = "attend_e4m3_64_8", 128;
    AttendE4M3x128x1 = "attend_e4m3_128_1", 128;
    AttendE4M3x128x4 = "attend_e4m3_128_4", 128;
    AttendE4M3x128x8 = "attend_e4m3_128_8", 128;
    AttendE4M3x256x1 = "attend_e4m3_256_1", 128;
    AttendE4M3x256x4 = "attend_e4m3_256_4", 128;
    AttendE4M3x256x8 = "attend_e4m3_256_8", 128;
    AttendE5M2x64x1 = "attend_e5m2_64_1", 128;
    AttendE5M2x64x4 = "attend_e5m2_64_4", 128;
    AttendE5M2x64x8 = "attend_e5m2_64_8", 128;
    AttendE5M2x128x1 = "attend_e5m2_128_1", 128;
    AttendE5M2x128x4 = "attend_e5m2_128_4", 128;
    AttendE5M2x128x8 = "attend_e5m2_128_8", 128;
    AttendE5M2x256x1 = "attend_e5m2_256_1", 128;
    AttendE5M2x256x4 = "attend_e5m2_256_4", 128;
    AttendE5M2x256x8 = "attend_e5m2_256_8", 128;
    // prefill.cu
    PrefillF16x64 = "prefill_f16_64", 128;
    PrefillF16x96 = "prefill_f16_96", 128;
    PrefillF16x128 = "prefill_f16_128", 128;
    PrefillF16x256 = "prefill_f16_256", 128;
    PrefillBF16x64 = "prefill_bf16_64", 128;
    PrefillBF16x96 = "prefill_bf16_96", 128;
    PrefillBF16x128 = "prefill_bf16_128", 128;
    PrefillBF16x256 = "prefill_bf16_256", 128;
    PrefillE4M3x64 = "prefill_e4m3_64", 128;
    PrefillE4M3x96 = "prefill_e4m3_96", 128;
    PrefillE4M3x128 = "prefill_e4m3_128", 128;
    PrefillE4M3x256 = "prefill_e4m3_256", 128;
    PrefillE5M2x64 = "prefill_e5m2_64", 128;
    PrefillE5M2x96 = "prefill_e5m2_96", 128;
    PrefillE5M2x128 = "prefill_e5m2_128", 128;
    PrefillE5M2x256 = "prefill_e5m2_256", 128;
    // hopper_prefill.cu
    HopperPrefillF16x64 = "hopper_prefill_f16_64", 384;
    HopperPrefillF16x128 = "hopper_prefill_f16_128", 384;
    HopperPrefillBF16x64 = "hopper_prefill_bf16_64", 384;
    HopperPrefillBF16x128 = "hopper_prefill_bf16_128", 384;
    // score.cu
    Score = "score", 256;
    // adjust.cu
    SampleAdjust = "sample_adjust", 256;
    // low_rank.cu
    LowRankDown = "low_rank_down", 256;
    LowRankUp = "low_rank_up", 256;
    // scan.cu
    SampleScan = "sample_scan", 256;
    SampleWeigh = "sample_weigh", 256;
    // sample.cu
    SampleDraw = "sample_draw", 512;
}

/// The kernels of a block type.
pub(super) struct BlockKernels {
    /// Product with one row, and with eight at a time.
    pub(super) one: Kernel,
    pub(super) eight: Kernel,
    pub(super) embed: Kernel,
    /// Rows as f16.
    pub(super) unpack: Kernel,
}

impl BlockKernels {
    pub(super) fn of(blocks: BlockType) -> Self {
        use Kernel::*;
        let [one, eight, embed, unpack] = match blocks {
            BlockType::Q8_0 => [LinearQ8x0By1, LinearQ8x0By8, EmbedQ8x0, UnpackQ8x0],
            BlockType::Q4_0 => [LinearQ4x0By1, LinearQ4x0By8, EmbedQ4x0, UnpackQ4x0],
            BlockType::Q4_1 => [LinearQ4x1By1, LinearQ4x1By8, EmbedQ4x1, UnpackQ4x1],
            BlockType::Q5_0 => [LinearQ5x0By1, LinearQ5x0By8, EmbedQ5x0, UnpackQ5x0],
            BlockType::Q5_1 => [LinearQ5x1By1, LinearQ5x1By8, EmbedQ5x1, UnpackQ5x1],
            BlockType::Q2K => [LinearQ2KBy1, LinearQ2KBy8, EmbedQ2K, UnpackQ2K],
            BlockType::Q3K => [LinearQ3KBy1, LinearQ3KBy8, EmbedQ3K, UnpackQ3K],
            BlockType::Q4K => [LinearQ4KBy1, LinearQ4KBy8, EmbedQ4K, UnpackQ4K],
            BlockType::Q5K => [LinearQ5KBy1, LinearQ5KBy8, EmbedQ5K, UnpackQ5K],
            BlockType::Q6K => [LinearQ6KBy1, LinearQ6KBy8, EmbedQ6K, UnpackQ6K],
            BlockType::Iq4Nl => [LinearIq4NlBy1, LinearIq4NlBy8, EmbedIq4Nl, UnpackIq4Nl],
            BlockType::Iq4Xs => [LinearIq4XsBy1, LinearIq4XsBy8, EmbedIq4Xs, UnpackIq4Xs],
            BlockType::Mxfp4 => [LinearMxfp4By1, LinearMxfp4By8, EmbedMxfp4, UnpackMxfp4],
        };
        Self { one, eight, embed, unpack }
    }
}
