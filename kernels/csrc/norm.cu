// RMSNorm: out = x / rms(x) * weight, of whole rows and of each query and key head.
//
// Memory-bound: a row is read once from memory and once more from the cache, and written once. Its sum of squares is
// taken lane by lane and then across lanes in an order that the row's length alone decides, so a row comes out the same
// whatever else is in the step.
#include "device.h"

struct RmsNormArgs {
    float* out;           // [rows, cols]
    const float* x;       // [rows, cols]
    const float* weight;  // [cols]
    u32 cols;
    float eps;
};

// One block for each row.
KERNEL(rms_norm, 256, RmsNormArgs) {
    SHARED(float[256 / WARP], room);
    const size_t start = static_cast<size_t>(blockIdx.x) * args.cols;
    const float* x = args.x + start;
    float* out = args.out + start;
    float squares = 0.0f;
    for (u32 col = threadIdx.x; col < args.cols; col += 256) squares = fmaf(x[col], x[col], squares);
    const float mean = block_sum<256>(squares, room) / static_cast<float>(args.cols);
    const float scale = 1.0f / sqrtf(mean + args.eps);
    for (u32 col = threadIdx.x; col < args.cols; col += 256) out[col] = x[col] * scale * args.weight[col];
}

struct NormHeadsArgs {
    float* qkv;             // [rows, (q + 2 kv) * head_dim], in place
    const float* q_weight;  // [head_dim]
    const float* k_weight;
    u32 rows, q, kv, head_dim;
    float eps;
};

// One warp for each head; values are left alone.
KERNEL(norm_heads, 128, NormHeadsArgs) {
    const u32 normed = args.q + args.kv;
    const u32 index = blockIdx.x * (128 / WARP) + warp_id();
    if (index >= args.rows * normed) return;
    const u32 row = index / normed, head = index % normed;
    float* x = args.qkv + (static_cast<size_t>(row) * (normed + args.kv) + head) * args.head_dim;
    const float* weight = head < args.q ? args.q_weight : args.k_weight;
    float squares = 0.0f;
    for (u32 dim = lane_id(); dim < args.head_dim; dim += WARP) squares = fmaf(x[dim], x[dim], squares);
    const float mean = warp_sum(squares) / static_cast<float>(args.head_dim);
    const float scale = 1.0f / sqrtf(mean + args.eps);
    for (u32 dim = lane_id(); dim < args.head_dim; dim += WARP) x[dim] = x[dim] * scale * weight[dim];
}
