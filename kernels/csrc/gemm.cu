// out = x * w^T + bias on tensor cores, for many rows of x: prompts.
//
// Bound by arithmetic, so both factors are brought to shared memory once for a tile of 128 by 128 outputs, 32 columns at a
// time, STAGES of them on their way by asynchronous copies while one is multiplied. As in linear.cu weights are the left
// factor. Eight warps take 64 by 32 outputs each: of 16 columns of both, six loads feed sixteen products. Sixteen bytes
// change places within a row by the row's number, so that the eight rows of a fragment lie in different banks.
//
// Activations are rounded to the weights' type once (`round` in linear.cu), as every framework does where weights have 16
// bits; what is added is f32. A library for matrices may make the product instead (src/cuda/dense.rs).
//
// E4M3 times E4M3 is the same with two elements where the others have one: a fragment's bytes are the same, a step has 64
// columns. Rows of weights and of x have a scale each, which come behind the sums. sm_89 and sm_120 have the instruction in
// their tensor cores; sm_90 and sm_100 make f16 of the fragments on the way, as theirs take eight bits from other
// instructions only.
#include "tile.h"

struct GemmArgs {
    float* out;             // [rows, width], of which columns first .. first + count are written
    const void* w;          // [count, stride]
    const float* w_scales;  // [count], or null
    const void* x;          // [rows, stride]
    const float* scales;    // [rows], of x
    const float* bias;      // [count], or null
    u32 rows, count, stride, width, first;
};

// A step's columns are counted in units of two bytes.
constexpr u32 TILE = 128, STEP = 32, STAGES = 4, THREADS = 256;
constexpr u32 STAGE = 2 * TILE * STEP;

// Where eight units of a row are.
DEVICE u32 place(u32 row, u32 eight) { return row * STEP + (eight ^ (row / 2 % 4)) * 8; }

// Brings 32 units of up to 128 rows, with zeros for rows that are not there.
DEVICE void bring(u16* to, const void* rows, u32 first, u32 count, u32 stride, u32 column) {
    UNROLL
    for (u32 i = 0; i < TILE * STEP / 8 / THREADS; ++i) {
        const u32 index = threadIdx.x + i * THREADS, row = index / 4, eight = index % 4;
        const bool present = first + row < count;
        const size_t from = static_cast<size_t>(present ? first + row : 0) * stride + column + eight * 8;
        copy_async(to + place(row, eight), static_cast<const u16*>(rows) + from, present ? 16 : 0);
    }
}

template <class T> DEVICE void gemm(const GemmArgs& args) {
    DYNAMIC_SHARED(memory);
    u16* shared = reinterpret_cast<u16*>(memory);
    const u32 stride = args.stride * sizeof(T) / 2;
    const u32 lane = lane_id(), outputs = blockIdx.x * TILE, x_rows = blockIdx.y * TILE;
    const u32 warp_row = warp_id() % 2 * 64, warp_column = warp_id() / 2 * 32;
    const auto stage = [&](u32 step) {
        u16* to = shared + step % STAGES * STAGE;
        if (step * STEP < stride) {
            bring(to, args.w, outputs, args.count, stride, step * STEP);
            bring(to + TILE * STEP, args.x, x_rows, args.rows, stride, step * STEP);
        }
        commit_copies();
    };
    UNROLL
    for (u32 step = 0; step < STAGES - 1; ++step) stage(step);
    float sums[4][4][4] = {};
    // Half of a step's columns.
    const auto half_step = [&](const u16* w, const u16* x, u32 half) {
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
    };
    for (u32 step = 0; step * STEP < stride; ++step) {
        wait_for_copies<STAGES - 2>();
        __syncthreads();
        stage(step + STAGES - 1);
        const u16* w = shared + step % STAGES * STAGE;
        const u16* x = w + TILE * STEP;
        if constexpr (sizeof(T) == 2) {
            UNROLL
            for (u32 half = 0; half < 2; ++half) half_step(w, x, half);
        } else {
            // Fragments that become f16 take registers, and so would the next ones on their way.
            ONCE
            for (u32 half = 0; half < 2; ++half) half_step(w, x, half);
        }
    }
    wait_for_copies<0>();
    UNROLL
    for (u32 i = 0; i < 4; ++i) {
        UNROLL
        for (u32 part = 0; part < 2; ++part) {
            const u32 output = outputs + warp_row + 16 * i + 8 * part + lane / 4;
            if (output >= args.count) continue;
            const float bias = args.bias ? args.bias[output] : 0.0f, scale = args.w_scales ? args.w_scales[output] : 1.0f;
            UNROLL
            for (u32 j = 0; j < 4; ++j) {
                UNROLL
                for (u32 k = 0; k < 2; ++k) {
                    const u32 row = x_rows + warp_column + 8 * j + lane % 4 * 2 + k;
                    if (row >= args.rows) continue;
                    args.out[static_cast<size_t>(row) * args.width + args.first + output] =
                        fmaf(sums[i][j][2 * part + k] * scale, args.scales[row], bias);
                }
            }
        }
    }
}

KERNEL(gemm_f16, THREADS, GemmArgs) { gemm<f16>(args); }
KERNEL(gemm_bf16, THREADS, GemmArgs) { gemm<bf16>(args); }
KERNEL_TWICE(gemm_e4m3, THREADS, GemmArgs) { gemm<E4M3>(args); }

struct FinishArgs {
    float* out;             // [rows, width], of which columns first .. first + count are changed
    const float* w_scales;  // [count], or null
    const float* scales;    // [rows]
    const float* bias;      // [count], or null
    u32 count, width, first;
};

// out = out * w_scale * scale + bias, behind a product that knew none of them. One block for each row; next to nothing is
// done where the scale is one, as it is for all but odd rows of f16, and there is nothing else.
KERNEL(finish_rows, THREADS, FinishArgs) {
    const float scale = args.scales[blockIdx.x];
    if (scale == 1.0f && !args.w_scales && !args.bias) return;
    float* out = args.out + static_cast<size_t>(blockIdx.x) * args.width + args.first;
    for (u32 col = threadIdx.x; col < args.count; col += THREADS) {
        const float sum = args.w_scales ? out[col] * args.w_scales[col] : out[col];
        out[col] = fmaf(sum, scale, args.bias ? args.bias[col] : 0.0f);
    }
}
