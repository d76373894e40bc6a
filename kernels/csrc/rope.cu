// Rotary position embedding in place, and the new keys and values written into the paged cache.
//
// One block for each token and head, query heads first, then keys, then values. The cache of a layer is keys
// [blocks, kv_heads, block_size, stride], then values the same; a head is followed by zeros up to a multiple of eight.
#include "device.h"

struct RopeArgs {
    float* qkv;          // [tokens, (heads + 2 kv_heads) * head_dim]
    void* keys;          // of this layer
    void* values;
    const u32* slots;    // [tokens] block * block_size + offset
    const float* cosine; // [tokens, half]
    const float* sine;
    u32 heads, kv_heads, head_dim, stride, half, block_size;
};

template <class T> DEVICE void rope_and_store(const RopeArgs& args) {
    const u32 token = blockIdx.x, head = blockIdx.y, rotated = args.heads + args.kv_heads;
    float* x = args.qkv + (static_cast<size_t>(token) * (rotated + args.kv_heads) + head) * args.head_dim;
    if (head < rotated) {
        const float* cosine = args.cosine + static_cast<size_t>(token) * args.half;
        const float* sine = args.sine + static_cast<size_t>(token) * args.half;
        for (u32 i = threadIdx.x; i < args.half; i += 64) {
            const float a = x[i], b = x[i + args.half];
            x[i] = a * cosine[i] - b * sine[i];
            x[i + args.half] = b * cosine[i] + a * sine[i];
        }
        if (head < args.heads) return;
        __syncthreads();
    }
    const u32 slot = args.slots[token], kv_head = (head - args.heads) % args.kv_heads;
    const size_t row = (static_cast<size_t>(slot / args.block_size) * args.kv_heads + kv_head) * args.block_size;
    T* to = static_cast<T*>(head < rotated ? args.keys : args.values) + (row + slot % args.block_size) * args.stride;
    for (u32 i = threadIdx.x; i < args.stride; i += 64) to[i] = narrow<T>(i < args.head_dim ? x[i] : 0.0f);
}

KERNEL(rope_and_store_f32, 64, RopeArgs) { rope_and_store<float>(args); }
KERNEL(rope_and_store_f16, 64, RopeArgs) { rope_and_store<f16>(args); }
KERNEL(rope_and_store_bf16, 64, RopeArgs) { rope_and_store<bf16>(args); }
