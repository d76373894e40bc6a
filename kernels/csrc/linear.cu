// out = x * w^T + bias, for weights that stream past a few rows of activations.
//
// 16-bit weights. A decoding step reads every weight once, so the weights' way from memory is all that counts, and tensor
// cores do the arithmetic on the side. A warp multiplies 16 rows of weights with tiles of eight rows of x: weights are the
// left factor. They go from memory to registers, 16 bytes a lane, with no stop in shared memory: the sum over k may be
// taken in any order as long as both factors agree, so lane `thread` of a group simply takes columns 8 thread .. of each
// 32, and its four words are the fragments of two instructions. Activations are split before into a high and a low 16-bit
// number (`split`), each multiplied in turn, which leaves them 16 bits of precision or more, and nothing to lose by it as
// long as memory is what is waited for.
//
// A block of eight warps takes 16 rows of weights. Each warp takes every eighth chunk of 64 columns, and their sums are
// added in order. Nothing of this depends on how many rows x has, so neither does a row's result.
//
// Weights in E4M3 are half as many bytes. They become f16 on the way, by moving bits, and lose nothing by it; a row's scale
// comes behind the sum. A lane's sixteen bytes are sixteen columns then, 16 thread .. of each 64.
#include "tile.h"

struct SplitArgs {
    const float* x;  // [rows, cols]
    void* high;      // [rows, stride], zeros behind the columns
    void* low;
    float* scales;   // [rows]
    u32 cols, stride;
};

// The power of two that a row is divided by, so that an f16 holds its numbers, and most of what is left of them in the low
// plane is no subnormal number. A bf16 has the exponents of an f32.
template <class T> DEVICE float row_scale(float largest) {
    const bool usual = sizeof(T) == 2 && largest > 1e-30f && largest <= 1e30f;
    // Between 2^13 and 2^14 afterwards.
    return usual ? __uint_as_float(__float_as_uint(largest) & 0x7f800000) / 8192.0f : 1.0f;
}
template <> DEVICE float row_scale<bf16>(float) { return 1.0f; }

// x = (high + low) * scale, but for what is lost of low. One block for each row.
template <class T> DEVICE void split(const SplitArgs& args) {
    SHARED(float[256 / WARP], room);
    const float* x = args.x + static_cast<size_t>(blockIdx.x) * args.cols;
    const size_t start = static_cast<size_t>(blockIdx.x) * args.stride;
    float largest = 0.0f;
    for (u32 col = threadIdx.x; col < args.cols; col += 256) largest = fmaxf(largest, fabsf(x[col]));
    const float scale = row_scale<T>(block_max<256>(largest, room));
    if (threadIdx.x == 0) args.scales[blockIdx.x] = scale;
    for (u32 col = threadIdx.x; col < args.stride; col += 256) {
        const float value = col < args.cols ? x[col] / scale : 0.0f;
        const T high = narrow<T>(value);
        static_cast<T*>(args.high)[start + col] = high;
        static_cast<T*>(args.low)[start + col] = narrow<T>(value - widen(high));
    }
}

KERNEL(split_f16, 256, SplitArgs) { split<f16>(args); }
KERNEL(split_bf16, 256, SplitArgs) { split<bf16>(args); }

struct RoundArgs {
    const float* x;  // [rows, cols]
    void* out;       // [rows, stride], zeros behind the columns
    float* scales;   // [rows]
    u32 cols, stride;
};

// What a row is divided by where there is no low plane: one, unless an f16 could not hold its numbers, or would hold most
// of them as subnormal numbers.
template <class T> DEVICE float plain_scale(float largest) {
    return largest >= 0.00390625f && largest < 32768.0f ? 1.0f : row_scale<T>(largest);
}

// Eight bits hold no more than a row's largest magnitudes well, so these become the type's largest number. Of what is
// infinite nothing is left that is a number.
template <> DEVICE float plain_scale<E4M3>(float largest) { return fmaxf(largest / most<E4M3>(), 1e-30f); }

// x = out * scale, rounded. One block for each row.
template <class T> DEVICE void round_row(const RoundArgs& args) {
    SHARED(float[256 / WARP], room);
    const float* x = args.x + static_cast<size_t>(blockIdx.x) * args.cols;
    T* out = static_cast<T*>(args.out) + static_cast<size_t>(blockIdx.x) * args.stride;
    float largest = 0.0f;
    for (u32 col = threadIdx.x; col < args.cols; col += 256) largest = fmaxf(largest, fabsf(x[col]));
    const float scale = plain_scale<T>(block_max<256>(largest, room));
    if (threadIdx.x == 0) args.scales[blockIdx.x] = scale;
    for (u32 col = threadIdx.x; col < args.stride; col += 256) {
        out[col] = narrow<T>(col < args.cols ? x[col] / scale : 0.0f);
    }
}

KERNEL(round_f16, 256, RoundArgs) { round_row<f16>(args); }
KERNEL(round_bf16, 256, RoundArgs) { round_row<bf16>(args); }
KERNEL(round_e4m3, 256, RoundArgs) { round_row<E4M3>(args); }

struct LinearArgs {
    float* out;             // [rows, width], of which columns first .. first + count are written
    const void* w;          // [count, stride]
    const float* w_scales;  // [count], or null
    const void* high;       // [rows, stride]
    const void* low;        // [rows, stride]
    const float* scales;    // [rows], of high and low
    const float* bias;      // [count], or null
    u32 rows, count, stride, width, first;
};

constexpr u32 WARPS = 8;
constexpr u32 CHUNK = 64;

// Sixteen bytes of a row, zeros where there is no such row.
template <class T> DEVICE uint4 load_words(const T* rows, u32 row, u32 count, u32 stride, u32 column) {
    if (row >= count) return uint4{0, 0, 0, 0};
    return *reinterpret_cast<const uint4*>(rows + static_cast<size_t>(row) * stride + column);
}

// What a lane has of a row in a chunk: twice eight columns, the first of each where `column` says, as the type that tensor
// cores take, times SCALE.
template <class W> struct Chunk {
    using Factor = W;
    static constexpr float SCALE = 1.0f;
    static DEVICE u32 column(u32 i) { return 32 * i + lane_id() % 4 * 8; }
    static DEVICE void load(uint4 (&to)[2], const W* rows, u32 row, u32 count, u32 stride, u32 first) {
        UNROLL
        for (u32 i = 0; i < 2; ++i) to[i] = load_words(rows, row, count, stride, first + column(i));
    }
};
template <> struct Chunk<E4M3> {
    using Factor = f16;
    static constexpr float SCALE = 1.0f / (1 << E4M3::OFFSET);
    static DEVICE u32 column(u32 i) { return lane_id() % 4 * 16 + 8 * i; }
    static DEVICE void load(uint4 (&to)[2], const E4M3* rows, u32 row, u32 count, u32 stride, u32 first) {
        const uint4 codes = load_words(rows, row, count, stride, first + column(0));
        const uint2 a = without_scales(codes.x), b = without_scales(codes.y);
        const uint2 c = without_scales(codes.z), d = without_scales(codes.w);
        to[0] = {a.x, a.y, b.x, b.y};
        to[1] = {c.x, c.y, d.x, d.y};
    }
};

template <class W, u32 TILES> DEVICE void linear(const LinearArgs& args) {
    using T = typename Chunk<W>::Factor;
    struct Shared {
        float sums[WARPS][TILES * 8][16];
    };
    SHARED(Shared, room);
    const W* w = static_cast<const W*>(args.w);
    const T *high = static_cast<const T*>(args.high), *low = static_cast<const T*>(args.low);
    const u32 group = lane_id() / 4;
    const u32 row = blockIdx.x * 16 + group, x_row = blockIdx.y * TILES * 8 + group;
    float sums[TILES][4] = {};
    UNROLL_TWICE
    for (u32 chunk = warp_id() * CHUNK; chunk < args.stride; chunk += WARPS * CHUNK) {
        uint4 upper[2], lower[2];
        Chunk<W>::load(upper, w, row, args.count, args.stride, chunk);
        Chunk<W>::load(lower, w, row + 8, args.count, args.stride, chunk);
        UNROLL
        for (u32 i = 0; i < 2; ++i) {
            const u32 column = chunk + Chunk<W>::column(i);
            const u32 first[4] = {upper[i].x, lower[i].x, upper[i].y, lower[i].y};
            const u32 second[4] = {upper[i].z, lower[i].z, upper[i].w, lower[i].w};
            UNROLL
            for (u32 tile = 0; tile < TILES; ++tile) {
                const uint4 h = load_words(high, x_row + 8 * tile, args.rows, args.stride, column);
                const uint4 l = load_words(low, x_row + 8 * tile, args.rows, args.stride, column);
                multiply<T>(sums[tile], first, {h.x, h.y});
                multiply<T>(sums[tile], second, {h.z, h.w});
                multiply<T>(sums[tile], first, {l.x, l.y});
                multiply<T>(sums[tile], second, {l.z, l.w});
            }
        }
    }
    UNROLL
    for (u32 tile = 0; tile < TILES; ++tile) {
        UNROLL
        for (u32 i = 0; i < 4; ++i) {
            room.sums[warp_id()][8 * tile + 2 * (lane_id() % 4) + i % 2][group + i / 2 * 8] = sums[tile][i];
        }
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < TILES * 8 * 16; i += WARPS * WARP) {
        const u32 output = blockIdx.x * 16 + i % 16, x = blockIdx.y * TILES * 8 + i / 16;
        if (output >= args.count || x >= args.rows) continue;
        float sum = room.sums[0][i / 16][i % 16];
        UNROLL
        for (u32 warp = 1; warp < WARPS; ++warp) sum += room.sums[warp][i / 16][i % 16];
        if (args.w_scales) sum *= args.w_scales[output] / Chunk<W>::SCALE;
        sum = fmaf(sum, args.scales[x], args.bias ? args.bias[output] : 0.0f);
        args.out[static_cast<size_t>(x) * args.width + args.first + output] = sum;
    }
}

#define LINEAR(name, T)                                                            \
    KERNEL(linear_##name##_8, WARPS * WARP, LinearArgs) { linear<T, 1>(args); }    \
    KERNEL(linear_##name##_16, WARPS * WARP, LinearArgs) { linear<T, 2>(args); }   \
    KERNEL(linear_##name##_32, WARPS * WARP, LinearArgs) { linear<T, 4>(args); }   \
    KERNEL(linear_##name##_64, WARPS * WARP, LinearArgs) { linear<T, 8>(args); }
LINEAR(f16, f16)
LINEAR(bf16, bf16)
LINEAR(e4m3, E4M3)

// f32 weights: one warp for each of them and eight rows of x, in plain arithmetic. `high` is x itself, `stride` its columns.
KERNEL(linear_f32, WARPS * WARP, LinearArgs) {
    constexpr u32 ROWS = 8;
    const u32 output = blockIdx.x * WARPS + warp_id(), first = blockIdx.y * ROWS;
    if (output >= args.count) return;
    const float* w = static_cast<const float*>(args.w) + static_cast<size_t>(output) * args.stride;
    const float* x = static_cast<const float*>(args.high);
    float sums[ROWS] = {};
    for (u32 col = lane_id(); col < args.stride; col += WARP) {
        const float weight = w[col];
        UNROLL
        for (u32 row = 0; row < ROWS; ++row) {
            // Rows that are not there repeat the last one.
            const u32 from = min(first + row, args.rows - 1);
            sums[row] = fmaf(weight, x[static_cast<size_t>(from) * args.stride + col], sums[row]);
        }
    }
    UNROLL
    for (u32 row = 0; row < ROWS; ++row) {
        const float sum = warp_sum(sums[row]) + (args.bias ? args.bias[output] : 0.0f);
        if (lane_id() == 0 && first + row < args.rows) {
            args.out[static_cast<size_t>(first + row) * args.width + args.first + output] = sum;
        }
    }
}
