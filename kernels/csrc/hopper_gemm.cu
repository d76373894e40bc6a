// out = x * w^T + bias for many rows of x, as gemm.cu, with the instructions of compute capability 9.0 (hopper.h).
//
// A block stays on its multiprocessor and takes one tile of outputs after another, 128 rows by OUTPUTS columns. One warp
// copies the tile's rows of both factors to shared memory, 64 columns at a time, into a ring of stages that it fills again
// as soon as they are read; so the next tile is under way while the last one is written. Two warpgroups multiply 64 rows
// each: every stage is four products, and one stage's may still be under way while the next one's begin. The first
// warpgroup has next to no registers for that, the others the more.
//
// Tiles are taken in bands of BAND rows of tiles, so that those worked on at the same time share what the cache holds.
#include "hopper.h"

#if HOPPER

struct HopperGemmArgs {
    float* out;           // [rows, width], of which the first `count` columns are written
    const float* scales;  // [rows], of x
    const float* bias;    // [count], or null
    u32 rows, count, stride, width;
    u32 reserved[6];
    TensorMap x;          // [rows, stride], boxes of ROWS rows
    TensorMap w;          // [count, stride], boxes of OUTPUTS rows
};

constexpr u32 ROWS = 128, BAND = 16, GROUPS = 2, THREADS = (1 + GROUPS) * WARPGROUP;
// Shared memory of the stages, whatever the tile.
constexpr u32 RING = 192 << 10;

template <u32 OUTPUTS> struct Stages {
    static constexpr u32 X = ROWS * TILE_COLUMNS * 2, BYTES = X + OUTPUTS * TILE_COLUMNS * 2, COUNT = RING / BYTES;
    Barrier full[COUNT], empty[COUNT];
};

struct Tile {
    u32 row, output;
};

template <class T, u32 OUTPUTS> struct HopperGemm {
    using Ring = Stages<OUTPUTS>;
    const HopperGemmArgs& args;
    Ring& ring;
    u8* memory;

    DEVICE u32 row_tiles() const { return (args.rows + ROWS - 1) / ROWS; }
    DEVICE u32 tiles() const { return row_tiles() * ((args.count + OUTPUTS - 1) / OUTPUTS); }
    DEVICE u32 steps() const { return args.stride / TILE_COLUMNS; }

    DEVICE Tile tile(u32 index) const {
        const u32 in_band = BAND * ((args.count + OUTPUTS - 1) / OUTPUTS), first = index / in_band * BAND;
        const u32 tall = min(BAND, row_tiles() - first), rest = index % in_band;
        return {(first + rest % tall) * ROWS, rest / tall * OUTPUTS};
    }

    DEVICE void copy() const {
        Turn<Ring::COUNT> turn;
        for (u32 index = blockIdx.x; index < tiles(); index += gridDim.x) {
            const Tile own = tile(index);
            for (u32 step = 0; step < steps(); ++step) {
                // In the first round stages are empty from the start: the phase before the first one counts as over.
                wait_for_phase(ring.empty[turn.stage], turn.parity ^ 1);
                u8* to = memory + turn.stage * Ring::BYTES;
                arrive_expecting(ring.full[turn.stage], Ring::BYTES);
                copy_box(to, args.x, step * TILE_COLUMNS, own.row, ring.full[turn.stage]);
                copy_box(to + Ring::X, args.w, step * TILE_COLUMNS, own.output, ring.full[turn.stage]);
                turn.next();
            }
        }
    }

    DEVICE void release(u32 stage) const {
        if (lane_id() == 0) arrive(ring.empty[stage]);
    }

    DEVICE void multiply(u32 group) const {
        Turn<Ring::COUNT> turn;
        for (u32 index = blockIdx.x; index < tiles(); index += gridDim.x) {
            float sums[OUTPUTS / 2];
            u32 before = 0;
            for (u32 step = 0; step < steps(); ++step) {
                const u8* from = memory + turn.stage * Ring::BYTES;
                const u64 x = descriptor(from + group * 64 * TILE_COLUMNS * 2, 0), w = descriptor(from + Ring::X, 0);
                wait_for_phase(ring.full[turn.stage], turn.parity);
                begin_products();
                UNROLL
                for (u32 k = 0; k < TILE_COLUMNS / 16; ++k) {
                    multiply_shared<T>(sums, further(x, 32 * k), further(w, 32 * k), step + k > 0);
                }
                commit_products();
                wait_for_products<1>();
                if (step > 0) release(before);
                before = turn.stage;
                turn.next();
            }
            wait_for_products<0>();
            take_results(sums);
            release(before);
            write(tile(index), group, sums);
        }
    }

    DEVICE void write(Tile own, u32 group, const float (&sums)[OUTPUTS / 2]) const {
        const u32 row = own.row + group * 64 + warp_id() % 4 * 16 + lane_id() / 4;
        const bool paired = args.width % 2 == 0 && reinterpret_cast<size_t>(args.out) % 8 == 0;
        float scales[2] = {};
        UNROLL
        for (u32 part = 0; part < 2; ++part) {
            if (row + 8 * part < args.rows) scales[part] = args.scales[row + 8 * part];
        }
        UNROLL
        for (u32 j = 0; j < OUTPUTS / 8; ++j) {
            const u32 output = own.output + 8 * j + lane_id() % 4 * 2;
            const bool both = output + 1 < args.count;
            if (output >= args.count) break;
            const float left = args.bias ? args.bias[output] : 0.0f, right = args.bias && both ? args.bias[output + 1] : 0.0f;
            UNROLL
            for (u32 part = 0; part < 2; ++part) {
                if (row + 8 * part >= args.rows) continue;
                float* to = args.out + static_cast<size_t>(row + 8 * part) * args.width + output;
                const float2 pair = {fmaf(sums[4 * j + 2 * part], scales[part], left),
                                     fmaf(sums[4 * j + 2 * part + 1], scales[part], right)};
                if (paired && both) {
                    *reinterpret_cast<float2*>(to) = pair;
                } else {
                    to[0] = pair.x;
                    if (both) to[1] = pair.y;
                }
            }
        }
    }
};

template <class T, u32 OUTPUTS> DEVICE void hopper_gemm(const HopperGemmArgs& args) {
    using Ring = Stages<OUTPUTS>;
    DYNAMIC_SHARED(memory);
    SHARED(Ring, ring);
    if (threadIdx.x == 0) {
        for (u32 stage = 0; stage < Ring::COUNT; ++stage) {
            make_barrier(ring.full[stage], 1);
            make_barrier(ring.empty[stage], GROUPS * WARPGROUP / WARP);
        }
        show_shared();
    }
    __syncthreads();
    const HopperGemm<T, OUTPUTS> own = {args, ring, first_tile(memory)};
    if (threadIdx.x < WARPGROUP) {
        fewer_registers<40>();
        if (threadIdx.x == 0) own.copy();
    } else {
        more_registers<232>();
        own.multiply(threadIdx.x / WARPGROUP - 1);
    }
}

#define HOPPER_GEMM(name, T)                                                                           \
    KERNEL(hopper_gemm_##name##_128, THREADS, HopperGemmArgs) { hopper_gemm<T, 128>(args); }           \
    KERNEL(hopper_gemm_##name##_256, THREADS, HopperGemmArgs) { hopper_gemm<T, 256>(args); }
HOPPER_GEMM(f16, f16)
HOPPER_GEMM(bf16, bf16)

#endif
