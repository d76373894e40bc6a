// out = x * w^T + bias on tensor cores, for many rows of x: prompts.
//
// Bound by arithmetic, so both factors are brought to shared memory once for a tile of 128 by 128 outputs, 32 columns at a
// time, STAGES of them on their way by asynchronous copies while one is multiplied. As in linear.cu weights are the left
// factor. Eight warps take 64 by 32 outputs each: of 16 columns of both, six loads feed sixteen products. Sixteen bytes
// change places within a row by the row's number, so that the eight rows of a fragment lie in different banks.
//
// Activations are rounded to the weights' type once (`round` in linear.cu), as every framework does where weights have 16
// bits; what is added is f32. A library for matrices may make the product instead (src/cuda/dense.rs).
#include "tile.h"

struct GemmArgs {
    float* out;           // [rows, width], of which columns first .. first + count are written
    const void* w;        // [count, stride]
    const void* x;        // [rows, stride]
    const float* scales;  // [rows], of x
    const float* bias;    // [count], or null
    u32 rows, count, stride, width, first;
};

constexpr u32 TILE = 128, STEP = 32, STAGES = 4, THREADS = 256;
constexpr u32 STAGE = 2 * TILE * STEP;

// Where eight elements of a row are.
DEVICE u32 place(u32 row, u32 eight) { return row * STEP + (eight ^ (row / 2 % 4)) * 8; }

// Brings 32 columns of up to 128 rows, with zeros for rows that are not there.
template <class T> DEVICE void bring(T* to, const T* rows, u32 first, u32 count, u32 stride, u32 column) {
    UNROLL
    for (u32 i = 0; i < TILE * STEP / 8 / THREADS; ++i) {
        const u32 index = threadIdx.x + i * THREADS, row = index / 4, eight = index % 4;
        const bool present = first + row < count;
        const size_t from = static_cast<size_t>(present ? first + row : 0) * stride + column + eight * 8;
        copy_async(to + place(row, eight), rows + from, present ? 16 : 0);
    }
}

template <class T> DEVICE void gemm(const GemmArgs& args) {
    DYNAMIC_SHARED(memory);
    T* shared = reinterpret_cast<T*>(memory);
    const u32 lane = lane_id(), outputs = blockIdx.x * TILE, x_rows = blockIdx.y * TILE;
    const u32 warp_row = warp_id() % 2 * 64, warp_column = warp_id() / 2 * 32;
    const auto stage = [&](u32 step) {
        T* to = shared + step % STAGES * STAGE;
        if (step * STEP < args.stride) {
            bring(to, static_cast<const T*>(args.w), outputs, args.count, args.stride, step * STEP);
            bring(to + TILE * STEP, static_cast<const T*>(args.x), x_rows, args.rows, args.stride, step * STEP);
        }
        commit_copies();
    };
    UNROLL
    for (u32 step = 0; step < STAGES - 1; ++step) stage(step);
    float sums[4][4][4] = {};
    for (u32 step = 0; step * STEP < args.stride; ++step) {
        wait_for_copies<STAGES - 2>();
        __syncthreads();
        stage(step + STAGES - 1);
        const T* w = shared + step % STAGES * STAGE;
        const T* x = w + TILE * STEP;
        UNROLL
        for (u32 half = 0; half < 2; ++half) {
            u32 a[4][4], b[2][4];
            UNROLL
            for (u32 i = 0; i < 4; ++i) {
                load_tiles(a[i], w + place(warp_row + 16 * i + lane % 16, 2 * half + lane / 16));
            }
            UNROLL
            for (u32 i = 0; i < 2; ++i) {
                const u32 row = warp_column + 16 * i + lane % 8 + lane / 16 * 8;
                load_tiles(b[i], x + place(row, 2 * half + lane / 8 % 2));
            }
            UNROLL
            for (u32 i = 0; i < 4; ++i) {
                UNROLL
                for (u32 j = 0; j < 4; ++j) {
                    const u32 right[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
                    multiply<T>(sums[i][j], a[i], right);
                }
            }
        }
    }
    wait_for_copies<0>();
    UNROLL
    for (u32 i = 0; i < 4; ++i) {
        UNROLL
        for (u32 part = 0; part < 2; ++part) {
            const u32 output = outputs + warp_row + 16 * i + 8 * part + lane / 4;
            if (output >= args.count) continue;
            const float bias = args.bias ? args.bias[output] : 0.0f;
            UNROLL
            for (u32 j = 0; j < 4; ++j) {
                UNROLL
                for (u32 k = 0; k < 2; ++k) {
                    const u32 row = x_rows + warp_column + 8 * j + lane % 4 * 2 + k;
                    if (row >= args.rows) continue;
                    args.out[static_cast<size_t>(row) * args.width + args.first + output] =
                        fmaf(sums[i][j][2 * part + k], args.scales[row], bias);
                }
            }
        }
    }
}

KERNEL(gemm_f16, THREADS, GemmArgs) { gemm<f16>(args); }
KERNEL(gemm_bf16, THREADS, GemmArgs) { gemm<bf16>(args); }

struct FinishArgs {
    float* out;           // [rows, width], of which columns first .. first + count are changed
    const float* scales;  // [rows]
    const float* bias;    // [count], or null
    u32 count, width, first;
};

// out = out * scale + bias, behind a product that knew neither. One block for each row; next to nothing is done where the
// scale is one, as it is for all but odd rows, and there is no bias.
KERNEL(finish_rows, THREADS, FinishArgs) {
    const float scale = args.scales[blockIdx.x];
    if (scale == 1.0f && !args.bias) return;
    float* out = args.out + static_cast<size_t>(blockIdx.x) * args.width + args.first;
    for (u32 col = threadIdx.x; col < args.count; col += THREADS) {
        out[col] = fmaf(out[col], scale, args.bias ? args.bias[col] : 0.0f);
    }
}
