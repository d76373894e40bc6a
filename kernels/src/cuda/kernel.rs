//! Every kernel of `csrc/`: its name there and its threads per block, in this one place.

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
    // rows.cu
    GatherRows = "gather_rows", 256;
    EmbedF32 = "embed_f32", 256;
    EmbedF16 = "embed_f16", 256;
    EmbedBF16 = "embed_bf16", 256;
    CopyBlock = "copy_block", 256;
    // rope.cu
    RopeAndStoreF32 = "rope_and_store_f32", 64;
    RopeAndStoreF16 = "rope_and_store_f16", 64;
    RopeAndStoreBF16 = "rope_and_store_bf16", 64;
    // score.cu
    Score = "score", 256;
}
