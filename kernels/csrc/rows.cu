// Rows copied from where an index says: embeddings, the rows that logits are wanted of, blocks of the cache.
#include "device.h"

struct GatherRowsArgs {
    float* out;       // [rows, cols]
    const float* x;   // [any, cols]
    const u32* rows;  // which row of x each row of out is
    u32 cols;
};

// out[i] = x[rows[i]], one block for each row.
KERNEL(gather_rows, 256, GatherRowsArgs) {
    const float* from = args.x + static_cast<size_t>(args.rows[blockIdx.x]) * args.cols;
    float* to = args.out + static_cast<size_t>(blockIdx.x) * args.cols;
    for (u32 col = threadIdx.x; col < args.cols; col += 256) to[col] = from[col];
}

struct EmbedArgs {
    float* out;         // [tokens, cols]
    const void* table;  // [count, stride], rows first .. first + count of the vocabulary
    const u32* ids;     // [tokens]
    u32 first, count, cols, stride;
    float scale;
};

// out[t] = table[ids[t]] * scale, one block for each token; tokens whose row is in another band are left alone.
template <class T> DEVICE void embed(const EmbedArgs& args) {
    const u32 row = args.ids[blockIdx.x] - args.first;
    if (row >= args.count) return;
    const T* from = static_cast<const T*>(args.table) + static_cast<size_t>(row) * args.stride;
    float* to = args.out + static_cast<size_t>(blockIdx.x) * args.cols;
    for (u32 col = threadIdx.x; col < args.cols; col += 256) to[col] = widen(from[col]) * args.scale;
}

KERNEL(embed_f32, 256, EmbedArgs) { embed<float>(args); }
KERNEL(embed_f16, 256, EmbedArgs) { embed<f16>(args); }
KERNEL(embed_bf16, 256, EmbedArgs) { embed<bf16>(args); }

struct CopyBlockArgs {
    uint4* cache;  // [halves, blocks, packs]
    u32 blocks, packs, from, to;
};

// Copies one block in every layer, keys and values: one block of threads for each half of each layer, several to a half.
KERNEL(copy_block, 256, CopyBlockArgs) {
    uint4* half = args.cache + static_cast<size_t>(blockIdx.y) * args.blocks * args.packs;
    const uint4* from = half + static_cast<size_t>(args.from) * args.packs;
    uint4* to = half + static_cast<size_t>(args.to) * args.packs;
    for (u32 i = blockIdx.x * 256 + threadIdx.x; i < args.packs; i += gridDim.x * 256) to[i] = from[i];
}
