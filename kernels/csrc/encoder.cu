// What encoders need beside products: sums of embeddings, LayerNorm, attention in which every token sees all of its
// sequence, one row for each sequence. All in f32. How a sequence is worked through depends on its own length alone, so its
// results are the same whatever else is in the step.
#include "device.h"

constexpr u32 THREADS = 256;

// Normalises a row in place, of which each thread has written every 256th element; `sum` is of those.
DEVICE void normalise(float* row, const float* weight, const float* bias, u32 cols, float eps, float sum) {
    SHARED(float[THREADS / WARP], sums);
    SHARED(float[THREADS / WARP], squares);
    const float mean = block_sum<THREADS>(sum, sums) / static_cast<float>(cols);
    float square = 0.0f;
    for (u32 col = threadIdx.x; col < cols; col += THREADS) {
        const float x = row[col] - mean;
        square = fmaf(x, x, square);
    }
    const float variance = block_sum<THREADS>(square, squares) / static_cast<float>(cols);
    const float scale = 1.0f / sqrtf(variance + eps);
    for (u32 col = threadIdx.x; col < cols; col += THREADS) {
        const float x = (row[col] - mean) * scale * weight[col];
        row[col] = bias == nullptr ? x : x + bias[col];
    }
}

struct LayerNormArgs {
    float* out;           // [rows, cols]
    const float* x;       // [rows, cols], may be `out`
    const float* delta;   // [rows, cols], added first, or null
    const float* weight;  // [cols]
    const float* bias;    // [cols], or null
    u32 cols;
    float eps;
};

// One block for each row.
KERNEL(layer_norm, 256, LayerNormArgs) {
    const size_t start = static_cast<size_t>(blockIdx.x) * args.cols;
    float* row = args.out + start;
    float sum = 0.0f;
    for (u32 col = threadIdx.x; col < args.cols; col += THREADS) {
        float x = args.x[start + col];
        if (args.delta != nullptr) x += args.delta[start + col];
        row[col] = x;
        sum += x;
    }
    normalise(row, args.weight, args.bias, args.cols, args.eps, sum);
}

struct EmbedPackedArgs {
    float* out;              // [tokens, cols]
    const float* words;      // [any, cols]
    const float* positions;  // [any, cols], or null
    const float* types;      // [any, cols], or null
    const u32* ids;          // [tokens] rows of each of the three
    const u32* places;
    const u32* kinds;
    const float* weight;     // [cols]
    const float* bias;       // [cols], or null
    u32 cols;
    float eps;
};

// out[t] = norm(words[ids[t]] + positions[places[t]] + types[kinds[t]]), one block for each token.
KERNEL(embed_packed, 256, EmbedPackedArgs) {
    const u32 token = blockIdx.x;
    const size_t word = static_cast<size_t>(args.ids[token]) * args.cols;
    const size_t place = static_cast<size_t>(args.places[token]) * args.cols;
    const size_t kind = static_cast<size_t>(args.kinds[token]) * args.cols;
    float* row = args.out + static_cast<size_t>(token) * args.cols;
    float sum = 0.0f;
    for (u32 col = threadIdx.x; col < args.cols; col += THREADS) {
        float x = args.words[word + col];
        if (args.positions != nullptr) x += args.positions[place + col];
        if (args.types != nullptr) x += args.types[kind + col];
        row[col] = x;
        sum += x;
    }
    normalise(row, args.weight, args.bias, args.cols, args.eps, sum);
}

struct AttendPackedArgs {
    float* out;         // [tokens, heads * head_dim]
    const float* qkv;   // [tokens, 3 * heads * head_dim]
    const u32* tiles;   // [count, 3] first token, first of its sequence, end of its sequence
    const float* bias;  // [heads, stride], by the key's distance from the query, or null
    u32 heads, head_dim, window, stride, center;
    float scale;
};

// Queries in a block, and keys at a time; a warp has four queries, and each lane a key of theirs, then dimensions.
constexpr u32 QUERIES = 16, PER_WARP = 4, KEYS = WARP;

// Heads of up to PARTS * 32 elements. One block for each tile of queries and each head. A softmax that goes on from tile to
// tile of keys, as in FlashAttention (arXiv:2205.14135).
template <u32 PARTS> DEVICE void attend_packed(const AttendPackedArgs& args) {
    // One more, so that lanes with neighbouring keys read from different banks.
    constexpr u32 DIMS = PARTS * WARP, ROOM = DIMS + 1;
    SHARED(float[KEYS * ROOM], keys);
    SHARED(float[KEYS * ROOM], values);
    SHARED(float[QUERIES * DIMS], queries);
    const u32 first = args.tiles[3 * blockIdx.x], start = args.tiles[3 * blockIdx.x + 1], end = args.tiles[3 * blockIdx.x + 2];
    const u32 head = blockIdx.y, width = args.heads * args.head_dim, window = min(args.window, end - start);
    const float* qkv = args.qkv + head * args.head_dim;
    for (u32 i = threadIdx.x; i < QUERIES * DIMS; i += 128) {
        const u32 token = first + i / DIMS, dim = i % DIMS;
        const bool there = token < end && dim < args.head_dim;
        queries[i] = there ? qkv[static_cast<size_t>(token) * 3 * width + dim] * args.scale : 0.0f;
    }
    float largest[PER_WARP], total[PER_WARP], sums[PER_WARP][PARTS];
    UNROLL
    for (u32 q = 0; q < PER_WARP; ++q) {
        largest[q] = NEG_INFINITY;
        total[q] = 0.0f;
        UNROLL
        for (u32 part = 0; part < PARTS; ++part) sums[q][part] = 0.0f;
    }
    // Tiles of keys are counted from the sequence's first token, whichever of them a window shows.
    const u32 hidden = first - start > window ? (first - start - window) / KEYS * KEYS : 0;
    const u32 last = min(end, min(first + QUERIES, end) + window);
    for (u32 base = start + hidden; base < last; base += KEYS) {
        __syncthreads();
        for (u32 i = threadIdx.x; i < KEYS * DIMS; i += 128) {
            const u32 token = base + i / DIMS, dim = i % DIMS, at = i / DIMS * ROOM + dim;
            const bool there = token < end && dim < args.head_dim;
            const float* from = qkv + static_cast<size_t>(token) * 3 * width + width + dim;
            keys[at] = there ? from[0] : 0.0f;
            values[at] = there ? from[width] : 0.0f;
        }
        __syncthreads();
        const u32 key = base + lane_id();
        UNROLL
        for (u32 q = 0; q < PER_WARP; ++q) {
            const u32 own = warp_id() * PER_WARP + q, query = first + own;
            float score = 0.0f;
            UNROLL_TWICE
            for (u32 dim = 0; dim < DIMS; ++dim) score = fmaf(queries[own * DIMS + dim], keys[lane_id() * ROOM + dim], score);
            const bool seen = query < end && key < end && max(query, key) - min(query, key) <= window;
            if (seen && args.bias != nullptr) score += args.bias[head * args.stride + args.center + key - query];
            score = seen ? score : NEG_INFINITY;
            const float most = fmaxf(largest[q], warp_max(score));
            if (most == NEG_INFINITY) continue;
            const float weight = expf(score - most), kept = expf(largest[q] - most);
            largest[q] = most;
            total[q] = fmaf(total[q], kept, warp_sum(weight));
            UNROLL
            for (u32 part = 0; part < PARTS; ++part) sums[q][part] *= kept;
            for (u32 other = 0; other < KEYS; ++other) {
                const float share = __shfl_sync(ALL_LANES, weight, other);
                UNROLL
                for (u32 part = 0; part < PARTS; ++part) {
                    sums[q][part] = fmaf(share, values[other * ROOM + part * WARP + lane_id()], sums[q][part]);
                }
            }
        }
    }
    UNROLL
    for (u32 q = 0; q < PER_WARP; ++q) {
        const u32 query = first + warp_id() * PER_WARP + q;
        if (query >= end) continue;
        UNROLL
        for (u32 part = 0; part < PARTS; ++part) {
            const u32 dim = part * WARP + lane_id();
            if (dim < args.head_dim) args.out[static_cast<size_t>(query) * width + head * args.head_dim + dim] = sums[q][part] / total[q];
        }
    }
}

KERNEL(attend_packed_64, 128, AttendPackedArgs) { attend_packed<2>(args); }
KERNEL(attend_packed_128, 128, AttendPackedArgs) { attend_packed<4>(args); }

struct PoolArgs {
    float* out;       // [seqs, cols]
    const float* x;   // [tokens, cols]
    const u32* ends;  // [seqs + 1] tokens of sequence s are ends[s] .. ends[s + 1]
    u32 cols;
};

struct Mean {
    static DEVICE float with(float pooled, float x) { return pooled + x; }
    static DEVICE float of(float pooled, u32 count) { return pooled / static_cast<float>(count); }
};
struct First {
    static DEVICE float with(float pooled, float) { return pooled; }
    static DEVICE float of(float pooled, u32) { return pooled; }
};
struct Last {
    static DEVICE float with(float, float x) { return x; }
    static DEVICE float of(float pooled, u32) { return pooled; }
};
struct Max {
    static DEVICE float with(float pooled, float x) { return fmaxf(pooled, x); }
    static DEVICE float of(float pooled, u32) { return pooled; }
};

// One thread for each column of each sequence's row, over its tokens in order.
template <class Kind> DEVICE void pool(const PoolArgs& args) {
    const u32 col = blockIdx.y * THREADS + threadIdx.x, from = args.ends[blockIdx.x], to = args.ends[blockIdx.x + 1];
    if (col >= args.cols) return;
    float pooled = args.x[static_cast<size_t>(from) * args.cols + col];
    for (u32 token = from + 1; token < to; ++token) {
        pooled = Kind::with(pooled, args.x[static_cast<size_t>(token) * args.cols + col]);
    }
    args.out[static_cast<size_t>(blockIdx.x) * args.cols + col] = Kind::of(pooled, to - from);
}

KERNEL(pool_mean, 256, PoolArgs) { pool<Mean>(args); }
KERNEL(pool_first, 256, PoolArgs) { pool<First>(args); }
KERNEL(pool_last, 256, PoolArgs) { pool<Last>(args); }
KERNEL(pool_max, 256, PoolArgs) { pool<Max>(args); }
