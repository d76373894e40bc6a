// Rotary position embedding in place, and the new keys and values written into the paged cache.
//
// One block for each token and head, query heads first, then keys, then values. A block of a layer's keys, or values, is
// [kv_heads, block_size, stride] elements, where a head is followed by zeros up to `stride`; small floats (small.h) are
// followed by the heads' scales [kv_heads, block_size] and what it takes to a multiple of 16 bytes.
#include "small.h"

struct RopeArgs {
    float* qkv;          // [tokens, (heads + 2 kv_heads) * head_dim]
    void* keys;          // of this layer
    void* values;
    const u32* slots;    // [tokens] block * block_size + offset
    const float* cosine; // [tokens, half]
    const float* sine;
    u32 heads, kv_heads, head_dim, stride, half, block_size;
    u32 block_stride;    // elements from one block to the next
};

// Infinite where x is that or next to it, or not a number.
DEVICE float magnitude(float x) { return fabsf(x) < 1.0e38f ? fabsf(x) : -NEG_INFINITY; }

// Rotates a head of `token` by its `half` angles: element i with element i + half.
DEVICE void rotate_head(float* x, const float* cosines, const float* sines, u32 token, u32 half) {
    const float* cosine = cosines + static_cast<size_t>(token) * half;
    const float* sine = sines + static_cast<size_t>(token) * half;
    for (u32 i = threadIdx.x; i < half; i += 64) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

template <class T> DEVICE void rope_and_store(const RopeArgs& args) {
    const u32 token = blockIdx.x, head = blockIdx.y, rotated = args.heads + args.kv_heads;
    float* x = args.qkv + (static_cast<size_t>(token) * (rotated + args.kv_heads) + head) * args.head_dim;
    if (head < rotated) {
        rotate_head(x, args.cosine, args.sine, token, args.half);
        if (head < args.heads) return;
        __syncthreads();
    }
    const u32 slot = args.slots[token], kv_head = (head - args.heads) % args.kv_heads;
    const u32 row = kv_head * args.block_size + slot % args.block_size;
    T* block = static_cast<T*>(head < rotated ? args.keys : args.values) +
               static_cast<size_t>(slot / args.block_size) * args.block_stride;
    T* to = block + static_cast<size_t>(row) * args.stride;
    if constexpr (Kept<T>::SMALL) {
        SHARED(float[2], room);
        float largest = 0.0f;
        for (u32 i = threadIdx.x; i < args.head_dim; i += 64) largest = fmaxf(largest, magnitude(x[i]));
        const u8 scale = scale_of<T>(block_max<64>(largest, room));
        const float divisor = __uint_as_float(static_cast<u32>(scale) << 23);
        for (u32 i = threadIdx.x; i < args.stride; i += 64) {
            to[i] = encode<T>(i < args.head_dim ? __fdiv_rn(x[i], divisor) : 0.0f);
        }
        if (threadIdx.x == 0) block[args.kv_heads * args.block_size * args.stride + row].code = scale;
    } else {
        for (u32 i = threadIdx.x; i < args.stride; i += 64) to[i] = narrow<T>(i < args.head_dim ? x[i] : 0.0f);
    }
}

KERNEL(rope_and_store_f32, 64, RopeArgs) { rope_and_store<float>(args); }
KERNEL(rope_and_store_f16, 64, RopeArgs) { rope_and_store<f16>(args); }
KERNEL(rope_and_store_bf16, 64, RopeArgs) { rope_and_store<bf16>(args); }
KERNEL(rope_and_store_e4m3, 64, RopeArgs) { rope_and_store<E4M3>(args); }
KERNEL(rope_and_store_e5m2, 64, RopeArgs) { rope_and_store<E5M2>(args); }

struct RotateArgs {
    float* qkv;           // [tokens, 3 * heads * head_dim], in place
    const float* cosine;  // [tokens, half]
    const float* sine;
    u32 heads, head_dim, half;
};

// One block for each token and each of its query and key heads.
KERNEL(rotate, 64, RotateArgs) {
    float* token = args.qkv + static_cast<size_t>(blockIdx.x) * 3 * args.heads * args.head_dim;
    rotate_head(token + blockIdx.y * args.head_dim, args.cosine, args.sine, blockIdx.x, args.half);
}
