// Products with block-quantized weights, and embeddings out of them.
//
// Activations are quantized too, to int8 with a scale for each 32 columns, as on the CPU device: then four products are
// one instruction, a unit of weights stays in registers as it was stored, and the sums over 32 columns are exact. One
// warp has one row of weights (or a few), a lane every 32nd unit; a decoding step is bound by the weights' way from
// memory, which are read sixteen bytes a lane.
#include "blocks.h"

struct QuantizeArgs {
    const float* x;  // [rows, 32 * units]
    i8* codes;       // [rows, 32 * units]
    float* scales;   // [rows, units]
    int* sums;       // [rows, units, 2], of the codes of 16 columns each
    u32 units;
};

// One warp for each unit; one row of blocks for each row.
KERNEL(quantize_rows, 256, QuantizeArgs) {
    const u32 unit = blockIdx.y * (256 / WARP) + warp_id();
    if (unit >= args.units) return;
    const size_t at = static_cast<size_t>(blockIdx.x) * args.units + unit;
    const float value = args.x[at * 32 + lane_id()];
    const float largest = warp_max(fabsf(value));
    // Below this, 127 over the largest magnitude might overflow; such elements count as zero.
    const float inverse = largest >= 1e-30f ? 127.0f / largest : 0.0f;
    const int code = __float2int_rn(value * inverse);
    int sum = code;
    UNROLL
    for (u32 step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
    // Not a number where an element is infinite or not a number.
    const float bad = warp_sum(value * 0.0f);
    args.codes[at * 32 + lane_id()] = static_cast<i8>(code);
    if (lane_id() % 16 == 0) args.sums[at * 2 + lane_id() / 16] = sum;
    if (lane_id() == 0) args.scales[at] = largest / 127.0f + bad;
}

struct BlocksArgs {
    float* out;  // [rows, width], of which columns first .. first + count are written
    const i8* codes;
    const float* scales;
    const int* sums;
    const float* bias;  // [count], or null
    Planes planes;
    u32 rows, count, width, first;
};

// The product of a unit with a row's codes. Sums and products are fused where this says so, and in every kernel alike.
template <class F> DEVICE float dot(const Unit& unit, const int (&x)[8], const int (&sums)[2]) {
    float result = 0.0f;
    UNROLL
    for (u32 group = 0; group < F::GROUPS; ++group) {
        int products = 0, sum = F::GROUPS == 1 ? sums[0] + sums[1] : sums[group];
        UNROLL
        for (u32 quad = group * 8 / F::GROUPS; quad < (group + 1) * 8 / F::GROUPS; ++quad) {
            products = dot4(static_cast<int>(unit.quads[quad]), x[quad], products);
        }
        result = fmaf(unit.scales[group], static_cast<float>(products - F::BIAS * sum), result);
        if constexpr (F::MIN) result = fmaf(-unit.mins[group], static_cast<float>(sum), result);
    }
    return result;
}

template <class F, u32 ROWS> DEVICE void linear(const BlocksArgs& args) {
    const u32 output = blockIdx.x * (256 / WARP) + warp_id(), first = blockIdx.y * ROWS;
    if (output >= args.count) return;
    float sums[ROWS] = {};
    for (u32 unit = lane_id(); unit < args.planes.units; unit += WARP) {
        const Unit weights = load_unit<F>(args.planes, output, unit);
        UNROLL
        for (u32 row = 0; row < ROWS; ++row) {
            // Rows that are not there repeat the last one.
            const size_t at = static_cast<size_t>(min(first + row, args.rows - 1)) * args.planes.units + unit;
            const uint4 low = *reinterpret_cast<const uint4*>(args.codes + at * 32);
            const uint4 high = *reinterpret_cast<const uint4*>(args.codes + at * 32 + 16);
            const int x[8] = {static_cast<int>(low.x),  static_cast<int>(low.y),  static_cast<int>(low.z),
                              static_cast<int>(low.w),  static_cast<int>(high.x), static_cast<int>(high.y),
                              static_cast<int>(high.z), static_cast<int>(high.w)};
            const int x_sums[2] = {args.sums[at * 2], args.sums[at * 2 + 1]};
            sums[row] = fmaf(dot<F>(weights, x, x_sums), args.scales[at], sums[row]);
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

struct EmbedBlocksArgs {
    float* out;      // [tokens, 32 * units]
    const u32* ids;  // [tokens]
    Planes planes;   // rows first .. first + count of the vocabulary
    u32 first, count;
    float scale;
};

// One block for each token, a thread for each quad.
template <class F> DEVICE void embed(const EmbedBlocksArgs& args) {
    const u32 row = args.ids[blockIdx.x] - args.first;
    if (row >= args.count) return;
    float* out = args.out + static_cast<size_t>(blockIdx.x) * args.planes.units * 32;
    for (u32 i = threadIdx.x; i < args.planes.units * 8; i += 256) {
        const Unit unit = load_unit<F>(args.planes, row, i / 8);
        u32 codes = 0;
        UNROLL
        for (u32 quad = 0; quad < 8; ++quad) codes = quad == i % 8 ? unit.quads[quad] : codes;
        const bool second = F::GROUPS == 2 && i % 8 >= 4;
        const float scale = second ? unit.scales[1] : unit.scales[0], min = second ? unit.mins[1] : unit.mins[0];
        UNROLL
        for (u32 j = 0; j < 4; ++j) {
            const u8 byte = static_cast<u8>(codes >> (8 * j));
            const int code = F::BITS == 8 || F::TABLE != Table::None ? static_cast<i8>(byte) : byte;
            out[4 * i + j] = (scale * static_cast<float>(code - F::BIAS) - min) * args.scale;
        }
    }
}

struct UnpackArgs {
    f16* out;       // [count, stride], zeros behind the columns
    Planes planes;
    u32 first, count, stride;
};

// Rows first .. first + count as f16, for the tiles of gemm.cu: a thread for each unit.
template <class F> DEVICE void unpack(const UnpackArgs& args) {
    const u32 per_row = args.stride / 32, index = blockIdx.x * 256 + threadIdx.x;
    if (index >= args.count * per_row) return;
    const u32 row = index / per_row, at = index % per_row;
    f16* out = args.out + static_cast<size_t>(row) * args.stride + at * 32;
    const bool present = at < args.planes.units;
    Unit unit = {};
    if (present) unit = load_unit<F>(args.planes, args.first + row, at);
    UNROLL
    for (u32 eight = 0; eight < 4; ++eight) {
        Pack<f16> pack;
        UNROLL
        for (u32 j = 0; j < 8; ++j) {
            const u32 group = F::GROUPS == 2 ? eight / 2 : 0;
            const u8 byte = static_cast<u8>(unit.quads[2 * eight + j / 4] >> (8 * (j % 4)));
            const int code = F::BITS == 8 || F::TABLE != Table::None ? static_cast<i8>(byte) : byte;
            const float value = unit.scales[group] * static_cast<float>(code - F::BIAS) - unit.mins[group];
            pack.values[j] = narrow<f16>(present ? value : 0.0f);
        }
        *reinterpret_cast<Pack<f16>*>(out + 8 * eight) = pack;
    }
}

#define BLOCKS(name, F)                                                     \
    KERNEL(linear_##name##_1, 256, BlocksArgs) { linear<F, 1>(args); }      \
    KERNEL(linear_##name##_8, 256, BlocksArgs) { linear<F, 8>(args); }      \
    KERNEL(embed_##name, 256, EmbedBlocksArgs) { embed<F>(args); }          \
    KERNEL(unpack_##name, 256, UnpackArgs) { unpack<F>(args); }
FOR_EACH_FORMAT(BLOCKS)
