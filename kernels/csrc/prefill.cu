// Causal attention over the paged cache for stretches of a prompt, on tensor cores.
//
// A block of four warps has 64 query rows that share their keys: a warp has 16 tokens of one head, and the warps are spread
// over as many heads of a group as there are (HEADS), then over tokens. Tiles of KEYS keys and values are copied to
// shared memory two at a time, one under way while the other is multiplied. Per tile a warp makes scores (16 rows by KEYS)
// out of queries and keys, and their exponentials, rounded to the cache's type, are at once the left factor of the product
// with the values: the layout of one product's result is that of the next one's factor.
//
// Tiles are counted from position 0, and what a row does not see adds exact zeros; so a prompt's result does not depend on
// how it is cut into chunks.
#include "tile.h"

constexpr u32 THREADS = 128;
constexpr float LOG2_E = 1.44269504f;

struct PrefillArgs {
    float* out;                // [tokens, heads * head_dim]
    const float* qkv;          // [tokens, (heads + 2 kv_heads) * head_dim]
    const void* keys;          // [blocks, kv_heads, block_size, stride], of this layer
    const void* values;
    const u32* tiles;          // pairs: first token, end; of one sequence, at most 64 / HEADS of them
    const u32* positions;      // [tokens]
    const u32* seq_of;         // [tokens]
    const u32* block_offsets;  // by sequence
    const u32* block_tables;
    u32 heads, kv_heads, head_dim, stride, block_size;
    u32 window;                // 0: none
    u32 heads_together;        // 1, 2 or 4
    float scale;
    float softcap;             // 0: none
};

template <class T> DEVICE u32 pair_of(float low, float high) {
    return static_cast<u32>(bits_of_half(narrow<T>(low))) | static_cast<u32>(bits_of_half(narrow<T>(high))) << 16;
}

template <class T, u32 DIMS, u32 KEYS> struct Prefill {
    // Rows of shared memory are eight elements longer than what they hold, so that eight of them lie in different banks.
    static constexpr u32 ROW = DIMS + 8, STAGE = 2 * KEYS * ROW;

    const PrefillArgs& args;
    T* shared;  // queries [64, ROW], then two stages of keys and values [2, KEYS, ROW]
    const u32* table;
    u32 kv_head, first_token, end_token, head, token;
    u32 positions[2];
    float sums[2], maxima[2];
    float out[DIMS / 8][4];

    DEVICE T* stage(u32 tile) const { return shared + 64 * ROW + tile % 2 * STAGE; }

    DEVICE Prefill(const PrefillArgs& a, T* memory) : args(a), shared(memory), out{} {
        const u32 group = a.heads / a.kv_heads, head_tiles = (group + a.heads_together - 1) / a.heads_together;
        // Late tokens see the most; they go first.
        const u32* own = a.tiles + 2 * (gridDim.x - 1 - blockIdx.x);
        first_token = own[0];
        end_token = own[1];
        kv_head = blockIdx.y / head_tiles;
        const u32 in_group = blockIdx.y % head_tiles * a.heads_together + warp_id() % a.heads_together;
        head = in_group < group ? kv_head * group + in_group : NONE;
        token = first_token + warp_id() / a.heads_together * 16;
        table = a.block_tables + a.block_offsets[a.seq_of[first_token]];
        UNROLL
        for (u32 i = 0; i < 2; ++i) {
            const u32 row = min(token + lane_id() / 4 + 8 * i, end_token - 1);
            positions[i] = a.positions[row];
            sums[i] = 0.0f;
            maxima[i] = NEG_INFINITY;
        }
    }

    static constexpr u32 NONE = 0xffffffffu;

    // This warp's queries, rounded; zeros for what is not there.
    DEVICE void load_queries() {
        const size_t width = static_cast<size_t>(args.heads + 2 * args.kv_heads) * args.head_dim;
        for (u32 i = lane_id(); i < 16 * DIMS; i += WARP) {
            const u32 row = i / DIMS, dim = i % DIMS;
            const bool present = head != NONE && token + row < end_token && dim < args.head_dim;
            const float value =
                present ? args.qkv[(token + row) * width + static_cast<size_t>(head) * args.head_dim + dim] : 0.0f;
            shared[(warp_id() * 16 + row) * ROW + dim] = narrow<T>(value);
        }
    }

    // Keys and values of a tile, from position `from` to `end`; zeros for the rest, which may not even be numbers.
    DEVICE void bring(u32 tile, u32 from, u32 end) {
        T* to = stage(tile);
        constexpr u32 EIGHTS = DIMS / 8;
        for (u32 i = threadIdx.x; i < KEYS * EIGHTS; i += THREADS) {
            const u32 row = i / EIGHTS, dim = i % EIGHTS * 8, position = tile * KEYS + row;
            const bool present = position >= from && position < end && dim < args.stride;
            size_t place = 0;
            if (present) {
                const u32 block = table[position / args.block_size];
                const size_t at = (static_cast<size_t>(block) * args.kv_heads + kv_head) * args.block_size;
                place = (at + position % args.block_size) * args.stride + dim;
            }
            copy_async(to + row * ROW + dim, static_cast<const T*>(args.keys) + place, present ? 16 : 0);
            copy_async(to + (KEYS + row) * ROW + dim, static_cast<const T*>(args.values) + place, present ? 16 : 0);
        }
    }

    DEVICE void scores(float (&s)[KEYS / 8][4], const T* keys) const {
        UNROLL
        for (u32 step = 0; step < DIMS / 16; ++step) {
            u32 a[4];
            load_tiles(a, shared + (warp_id() * 16 + lane_id() % 16) * ROW + 16 * step + lane_id() / 16 * 8);
            UNROLL
            for (u32 pair = 0; pair < KEYS / 16; ++pair) {
                const u32 row = 16 * pair + lane_id() % 8 + lane_id() / 16 * 8;
                u32 b[4];
                load_tiles(b, keys + row * ROW + 16 * step + lane_id() / 8 % 2 * 8);
                multiply<T>(s[2 * pair], a, {b[0], b[1]});
                multiply<T>(s[2 * pair + 1], a, {b[2], b[3]});
            }
        }
    }

    DEVICE float scaled(float score) const {
        score *= args.scale;
        if (args.softcap > 0.0f) score = args.softcap * tanhf(score / args.softcap);
        return score * LOG2_E;
    }

    DEVICE bool sees(u32 row, u32 key) const {
        return key <= positions[row] && (args.window == 0 || positions[row] - key < args.window);
    }

    // Scores become exponentials (base two), and what was found so far is brought to the new maximum.
    DEVICE void softmax(float (&s)[KEYS / 8][4], u32 tile) {
        float largest[2] = {maxima[0], maxima[1]};
        UNROLL
        for (u32 j = 0; j < KEYS / 8; ++j) {
            UNROLL
            for (u32 i = 0; i < 4; ++i) {
                const u32 key = tile * KEYS + 8 * j + lane_id() % 4 * 2 + i % 2;
                s[j][i] = sees(i / 2, key) ? scaled(s[j][i]) : NEG_INFINITY;
                largest[i / 2] = fmaxf(largest[i / 2], s[j][i]);
            }
        }
        UNROLL
        for (u32 row = 0; row < 2; ++row) {
            largest[row] = fmaxf(largest[row], __shfl_xor_sync(ALL_LANES, largest[row], 1));
            largest[row] = fmaxf(largest[row], __shfl_xor_sync(ALL_LANES, largest[row], 2));
            const float rescale = maxima[row] == NEG_INFINITY ? 0.0f : exp2f(maxima[row] - largest[row]);
            maxima[row] = largest[row];
            sums[row] *= rescale;
            UNROLL
            for (u32 dim = 0; dim < DIMS / 8; ++dim) {
                out[dim][2 * row] *= rescale;
                out[dim][2 * row + 1] *= rescale;
            }
        }
        UNROLL
        for (u32 j = 0; j < KEYS / 8; ++j) {
            UNROLL
            for (u32 i = 0; i < 4; ++i) {
                s[j][i] = s[j][i] == NEG_INFINITY ? 0.0f : exp2f(s[j][i] - maxima[i / 2]);
                sums[i / 2] += s[j][i];
            }
        }
    }

    DEVICE void outputs(const float (&p)[KEYS / 8][4], const T* values) {
        UNROLL
        for (u32 step = 0; step < KEYS / 16; ++step) {
            const u32 a[4] = {pair_of<T>(p[2 * step][0], p[2 * step][1]), pair_of<T>(p[2 * step][2], p[2 * step][3]),
                              pair_of<T>(p[2 * step + 1][0], p[2 * step + 1][1]),
                              pair_of<T>(p[2 * step + 1][2], p[2 * step + 1][3])};
            UNROLL
            for (u32 pair = 0; pair < DIMS / 16; ++pair) {
                const u32 row = 16 * step + lane_id() % 16;
                u32 b[4];
                load_tiles_transposed(b, values + row * ROW + 16 * pair + lane_id() / 16 * 8);
                multiply<T>(out[2 * pair], a, {b[0], b[1]});
                multiply<T>(out[2 * pair + 1], a, {b[2], b[3]});
            }
        }
    }

    DEVICE void write() {
        UNROLL
        for (u32 row = 0; row < 2; ++row) {
            sums[row] += __shfl_xor_sync(ALL_LANES, sums[row], 1);
            sums[row] += __shfl_xor_sync(ALL_LANES, sums[row], 2);
            const u32 own = token + lane_id() / 4 + 8 * row;
            if (head == NONE || own >= end_token) continue;
            float* to = args.out + (static_cast<size_t>(own) * args.heads + head) * args.head_dim;
            UNROLL
            for (u32 dim = 0; dim < DIMS / 8; ++dim) {
                UNROLL
                for (u32 i = 0; i < 2; ++i) {
                    const u32 at = 8 * dim + lane_id() % 4 * 2 + i;
                    if (at < args.head_dim) to[at] = out[dim][2 * row + i] / sums[row];
                }
            }
        }
    }

    DEVICE void run() {
        const u32 first = args.positions[first_token], end = args.positions[end_token - 1] + 1;
        const u32 seen_from = args.window > 0 && first + 1 > args.window ? first + 1 - args.window : 0;
        const u32 tiles = (end + KEYS - 1) / KEYS;
        u32 tile = seen_from / KEYS;
        bring(tile, seen_from, end);
        commit_copies();
        load_queries();
        ONCE
        for (; tile < tiles; ++tile) {
            if (tile + 1 < tiles) bring(tile + 1, seen_from, end);
            commit_copies();
            wait_for_copies<1>();
            __syncthreads();
            float s[KEYS / 8][4] = {};
            scores(s, stage(tile));
            softmax(s, tile);
            outputs(s, stage(tile) + KEYS * ROW);
            __syncthreads();
        }
        wait_for_copies<0>();
        write();
    }
};

template <class T, u32 DIMS, u32 KEYS> DEVICE void prefill(const PrefillArgs& args) {
    DYNAMIC_SHARED(memory);
    Prefill<T, DIMS, KEYS> own(args, reinterpret_cast<T*>(memory));
    own.run();
}

#define PREFILL(name, T)                                                                    \
    KERNEL(prefill_##name##_64, THREADS, PrefillArgs) { prefill<T, 64, 64>(args); }         \
    KERNEL(prefill_##name##_96, THREADS, PrefillArgs) { prefill<T, 96, 64>(args); }         \
    KERNEL(prefill_##name##_128, THREADS, PrefillArgs) { prefill<T, 128, 64>(args); }       \
    KERNEL(prefill_##name##_256, THREADS, PrefillArgs) { prefill<T, 256, 32>(args); }
PREFILL(f16, f16)
PREFILL(bf16, bf16)
