// Causal attention over the paged cache for stretches of a prompt, on tensor cores.
//
// A block of four warps has 64 query rows that share their keys: a warp has 16 tokens of one head, and the warps are spread
// over as many heads of a group as there are (HEADS), then over tokens. Tiles of KEYS keys and values are copied to
// shared memory two at a time, one under way while the other is multiplied. Per tile a warp makes scores (16 rows by KEYS)
// out of queries and keys, and their exponentials, rounded to the cache's type, are at once the left factor of the product
// with the values: the layout of one product's result is that of the next one's factor.
//
// Small floats (small.h) become bf16, which holds them with their scales, on their way: their codes are copied, and each
// thread unpacks those that it copied into the one tile there is, as soon as nobody needs the one before.
//
// Tiles are counted from position 0, and what a row does not see adds exact zeros; so a prompt's result does not depend on
// how it is cut into chunks.
#include "small.h"
#include "tile.h"

constexpr u32 THREADS = 128;
constexpr float LOG2_E = 1.44269504f;

struct PrefillArgs {
    float* out;                // [tokens, heads * head_dim]
    const float* qkv;          // [tokens, (heads + 2 kv_heads) * head_dim]
    const void* keys;          // of this layer (rope.cu)
    const void* values;
    const u32* tiles;          // pairs: first token, end; of one sequence, at most 64 / HEADS of them
    const u32* positions;      // [tokens]
    const u32* seq_of;         // [tokens]
    const u32* block_offsets;  // by sequence
    const u32* block_tables;
    u32 heads, kv_heads, head_dim, stride, block_size;
    u32 window;                // 0: none
    u32 heads_together;        // 1, 2 or 4
    u32 block_stride;          // elements from one block to the next
    float scale;
    float softcap;             // 0: none
};

// The cache has C, tensor cores get T.
template <class C, class T, u32 DIMS, u32 KEYS> struct Prefill {
    static constexpr bool SMALL = Kept<C>::SMALL;
    // Rows of shared memory are eight elements longer than what they hold, so that eight of them lie in different banks.
    static constexpr u32 ROW = DIMS + 8, STAGE = 2 * KEYS * ROW;
    // Elements of C that are copied at once, how many such packs a row of a tile has, and how many of a tile are a thread's.
    static constexpr u32 PACK = 16 / sizeof(C), PACKS = DIMS / PACK, OWN = KEYS * PACKS / THREADS;

    // What the packs under way have to be multiplied by: the scales of keys, and of values in the second byte.
    struct Scales {
        u32 of[SMALL ? OWN : 1];
    };

    const PrefillArgs& args;
    // Queries [64, ROW], then two stages of keys and values [2, KEYS, ROW]; or one, and two of codes [2, KEYS, DIMS].
    T* shared;
    const u32* table;
    u32 kv_head, first_token, end_token, head, token;
    u32 positions[2];
    float sums[2], maxima[2];
    float out[DIMS / 8][4];

    DEVICE T* stage(u32 tile) const { return shared + 64 * ROW + (SMALL ? 0 : tile % 2 * STAGE); }

    // Where a pack of keys is copied to, and how far behind it that of values.
    static constexpr u32 TO_VALUES = SMALL ? KEYS * DIMS : KEYS * ROW;
    DEVICE C* landing(u32 tile, u32 row, u32 dim) const {
        if constexpr (SMALL) {
            return reinterpret_cast<C*>(shared + 64 * ROW + STAGE) + (tile % 2 * 2 * KEYS + row) * DIMS + dim;
        } else {
            return stage(tile) + row * ROW + dim;
        }
    }

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
    DEVICE Scales bring(u32 tile, u32 from, u32 end) {
        const C *keys = static_cast<const C*>(args.keys), *values = static_cast<const C*>(args.values);
        Scales scales = {};
        UNROLL
        for (u32 n = 0; n < OWN; ++n) {
            const u32 i = threadIdx.x + n * THREADS, row = i / PACKS, dim = i % PACKS * PACK, position = tile * KEYS + row;
            const bool present = position >= from && position < end && dim < args.stride;
            size_t place = 0;
            if (present) {
                const size_t block = static_cast<size_t>(table[position / args.block_size]) * args.block_stride;
                const u32 in_block = kv_head * args.block_size + position % args.block_size;
                place = block + static_cast<size_t>(in_block) * args.stride + dim;
                if constexpr (SMALL) {
                    const size_t at = block + args.kv_heads * args.block_size * args.stride + in_block;
                    scales.of[n] = keys[at].code | static_cast<u32>(values[at].code) << 8;
                }
            }
            C* to = landing(tile, row, dim);
            copy_async(to, keys + place, present ? 16 : 0);
            copy_async(to + TO_VALUES, values + place, present ? 16 : 0);
        }
        return scales;
    }

    // This thread's packs of a tile become T.
    DEVICE void unpack(u32 tile, const Scales& scales) const {
        UNROLL
        for (u32 n = 0; n < OWN; ++n) {
            const u32 i = threadIdx.x + n * THREADS, row = i / PACKS, dim = i % PACKS * PACK;
            UNROLL
            for (u32 side = 0; side < 2; ++side) {
                const Pack<C> codes = load_pack(landing(tile, row, dim) + side * TO_VALUES);
                const float power = power_of<C>(static_cast<u8>(scales.of[n] >> (8 * side)));
                T* to = stage(tile) + (side * KEYS + row) * ROW + dim;
                UNROLL
                for (u32 half = 0; half < 2; ++half) {
                    Pack<T> pack;
                    UNROLL
                    for (u32 j = 0; j < 8; ++j) {
                        pack.values[j] = narrow<T>(without_scale<C>(codes.values[8 * half + j].code) * power);
                    }
                    *reinterpret_cast<Pack<T>*>(to + 8 * half) = pack;
                }
            }
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
        Scales under_way = bring(tile, seen_from, end);
        commit_copies();
        load_queries();
        ONCE
        for (; tile < tiles; ++tile) {
            const Scales arrived = under_way;
            if (tile + 1 < tiles) under_way = bring(tile + 1, seen_from, end);
            commit_copies();
            wait_for_copies<1>();
            if constexpr (SMALL) unpack(tile, arrived);
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

template <class C, class T, u32 DIMS, u32 KEYS> DEVICE void prefill(const PrefillArgs& args) {
    DYNAMIC_SHARED(memory);
    Prefill<C, T, DIMS, KEYS> own(args, reinterpret_cast<T*>(memory));
    own.run();
}

#define PREFILL(name, C, T)                                                                 \
    KERNEL(prefill_##name##_64, THREADS, PrefillArgs) { prefill<C, T, 64, 64>(args); }      \
    KERNEL(prefill_##name##_96, THREADS, PrefillArgs) { prefill<C, T, 96, 64>(args); }      \
    KERNEL(prefill_##name##_128, THREADS, PrefillArgs) { prefill<C, T, 128, 64>(args); }    \
    KERNEL(prefill_##name##_256, THREADS, PrefillArgs) { prefill<C, T, 256, 32>(args); }
PREFILL(f16, f16, f16)
PREFILL(bf16, bf16, bf16)
PREFILL(e4m3, E4M3, bf16)
PREFILL(e5m2, E5M2, bf16)
