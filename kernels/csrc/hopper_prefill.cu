// Causal attention over the paged cache for stretches of a prompt, as prefill.cu, with the instructions of compute
// capability 9.0 (hopper.h).
//
// A block has 128 query rows that share their keys: two warpgroups of 64 tokens of one head each, of two heads of a group or
// of the same one. A warp of the first warpgroup copies tiles of KEYS keys and values to shared memory, page by page: to a
// tensor map a layer's cache is a matrix with a row for each position and head. What a page has beyond the sequence is
// copied along, and cleared where the values of a tile are multiplied by zeros.
//
// A warpgroup has the scores of the next tile made together with the product of this tile's exponentials and values, and
// finds the next exponentials while that product is under way.
//
// As in prefill.cu tiles are counted from position 0, and what a row does not see adds exact zeros.
#include "hopper.h"

#if HOPPER

struct HopperPrefillArgs {
    float* out;                // [tokens, heads * DIMS]
    const float* qkv;          // [tokens, (heads + 2 kv_heads) * DIMS]
    const u32* tiles;          // pairs: first token, end; of one sequence, at most 128 / heads_together of them
    const u32* positions;      // [tokens]
    const u32* seq_of;         // [tokens]
    const u32* block_offsets;  // by sequence
    const u32* block_tables;
    u32 heads, kv_heads;
    u32 block_size;            // a multiple of 8 that divides KEYS
    u32 window;                // 0: none
    u32 heads_together;        // 1 or 2, a divisor of the group
    float scale;               // positive
    float softcap;             // 0: none
    u32 reserved[11];
    TensorMap keys;            // of this layer: [blocks * kv_heads * block_size, DIMS], boxes of a block's positions
    TensorMap values;
};

constexpr u32 GROUPS = 2, THREADS = (1 + GROUPS) * WARPGROUP, GROUP_ROWS = 64, KEYS = 128;
constexpr float LOG2_E = 1.44269504f;

template <class T, u32 DIMS> struct HopperPrefill {
    // Tiles with more than 64 dimensions are halves, one behind the other.
    static constexpr u32 HALVES = DIMS / TILE_COLUMNS, STAGES = 256 / DIMS;
    static constexpr u32 QUERY_HALF = GROUP_ROWS * TILE_COLUMNS * 2, HALF = KEYS * TILE_COLUMNS * 2;
    static constexpr u32 QUERIES = HALVES * QUERY_HALF, SIDE = HALVES * HALF;

    struct Barriers {
        Barrier full_keys[STAGES], full_values[STAGES], empty_keys[STAGES], empty_values[STAGES];
    };

    const HopperPrefillArgs& args;
    Barriers& barriers;
    // Queries of the warpgroups, then the stages: keys, then values.
    u8* memory;
    u32 first_token, end_token, kv_head, first_head;
    // Positions that some row sees.
    u32 from, end;

    DEVICE HopperPrefill(const HopperPrefillArgs& a, Barriers& b, u8* m) : args(a), barriers(b), memory(m) {
        const u32 pairs = a.heads / a.kv_heads / a.heads_together;
        // Late tokens see the most; they go first.
        const u32* own = a.tiles + 2 * (gridDim.x - 1 - blockIdx.x);
        first_token = own[0];
        end_token = own[1];
        kv_head = blockIdx.y / pairs;
        first_head = blockIdx.y * a.heads_together;
        const u32 first = a.positions[first_token];
        from = a.window > 0 && first + 1 > a.window ? first + 1 - a.window : 0;
        end = a.positions[end_token - 1] + 1;
    }

    DEVICE u32 first_tile() const { return from / KEYS; }
    DEVICE u32 end_tile() const { return (end + KEYS - 1) / KEYS; }
    DEVICE u8* keys(u32 stage) const { return memory + GROUPS * QUERIES + 2 * stage * SIDE; }
    DEVICE u8* values(u32 stage) const { return keys(stage) + SIDE; }

    // One warp: each lane has a page of a half.
    DEVICE void copy() const {
        const u32 size = args.block_size, pages = KEYS / size;
        const u32* table = args.block_tables + args.block_offsets[args.seq_of[first_token]];
        const u32 page = lane_id() % pages, half = lane_id() / pages;
        const u32 offset = half * HALF + page * size * TILE_COLUMNS * 2;
        Turn<STAGES> turn;
        for (u32 tile = first_tile(); tile < end_tile(); ++tile) {
            const u32 start = tile * KEYS + page * size;
            const bool present = half < HALVES && start < end && start + size > from;
            const u32 row = present ? (table[start / size] * args.kv_heads + kv_head) * size : 0;
            const u32 last = min(end, (tile + 1) * KEYS), count = (last + size - 1) / size - max(from, tile * KEYS) / size;
            const auto side = [&](u8* to, const TensorMap& matrix, Barrier& empty, Barrier& full) {
                wait_for_phase(empty, turn.parity ^ 1);
                if (lane_id() == 0) arrive_expecting(full, count * size * DIMS * 2);
                __syncwarp();
                if (present) copy_box(to + offset, matrix, half * TILE_COLUMNS, row, full);
            };
            const u32 stage = turn.stage;
            side(keys(stage), args.keys, barriers.empty_keys[stage], barriers.full_keys[stage]);
            side(values(stage), args.values, barriers.empty_values[stage], barriers.full_values[stage]);
            turn.next();
        }
    }
};

// A warpgroup's rows.
template <class T, u32 DIMS> struct Rows {
    using Block = HopperPrefill<T, DIMS>;
    const Block& block;
    const HopperPrefillArgs& args;
    u32 group, head, token;
    u32 positions[2];
    // The least and the largest position of all its rows.
    u32 lowest, highest;
    float sums[2], maxima[2];

    DEVICE Rows(const Block& b, u32 which) : block(b), args(b.args), group(which) {
        head = b.first_head + which % args.heads_together;
        token = b.first_token + which / args.heads_together * GROUP_ROWS;
        lowest = position(0);
        highest = position(GROUP_ROWS - 1);
        UNROLL
        for (u32 i = 0; i < 2; ++i) {
            positions[i] = position(row(i));
            sums[i] = 0.0f;
            maxima[i] = NEG_INFINITY;
        }
    }

    DEVICE u32 row(u32 i) const { return warp_id() % 4 * 16 + lane_id() / 4 + 8 * i; }
    // Rows that are not there repeat the last one.
    DEVICE u32 position(u32 row) const { return args.positions[min(token + row, block.end_token - 1)]; }
    DEVICE u8* queries() const { return block.memory + group * Block::QUERIES; }

    DEVICE void sync() const {
        show_shared();
        sync_warpgroup(1 + group);
    }

    // Rounded; zeros for what is not there.
    DEVICE void load_queries() const {
        const size_t width = static_cast<size_t>(args.heads + 2 * args.kv_heads) * DIMS;
        for (u32 i = threadIdx.x % WARPGROUP; i < GROUP_ROWS * DIMS / 8; i += WARPGROUP) {
            const u32 own = i / (DIMS / 8), dim = i % (DIMS / 8) * 8;
            Pack<T> pack;
            const bool present = token + own < block.end_token;
            const float* x = args.qkv + (token + own) * width + static_cast<size_t>(head) * DIMS + dim;
            UNROLL
            for (u32 j = 0; j < 2; ++j) {
                const Pack<float> half = present ? load_pack(x + 4 * j) : Pack<float>{};
                UNROLL
                for (u32 k = 0; k < 4; ++k) pack.values[4 * j + k] = narrow<T>(half.values[k]);
            }
            T* to = reinterpret_cast<T*>(queries() + dim / TILE_COLUMNS * Block::QUERY_HALF);
            *reinterpret_cast<Pack<T>*>(swizzled(to, own, dim % TILE_COLUMNS)) = pack;
        }
        sync();
    }

    // A tile's values that no row sees may not even be numbers.
    DEVICE void clear(u8* values, u32 tile) const {
        if (tile * KEYS >= block.from && (tile + 1) * KEYS <= block.end) return;
        const u32 own = threadIdx.x % WARPGROUP, key = tile * KEYS + own;
        if (key < block.from || key >= block.end) {
            UNROLL
            for (u32 i = 0; i < DIMS / 8; ++i) {
                u8* to = values + i / 8 * Block::HALF + own * TILE_COLUMNS * 2 + i % 8 * 16;
                *reinterpret_cast<uint4*>(to) = uint4{0, 0, 0, 0};
            }
        }
        sync();
    }

    DEVICE void scores(float (&s)[KEYS / 2], const u8* keys) const {
        const u64 q = descriptor(queries(), 0), k = descriptor(keys, 0);
        UNROLL
        for (u32 i = 0; i < DIMS / 16; ++i) {
            const u32 half = i / 4, along = i % 4 * 32;
            multiply_shared<T>(s, further(q, half * Block::QUERY_HALF + along), further(k, half * Block::HALF + along), i > 0);
        }
        commit_products();
    }

    DEVICE static void outputs(float (&out)[DIMS / 2], const u32 (&p)[KEYS / 16][4], const u8* values) {
        const u64 v = descriptor(values, Block::HALF);
        UNROLL
        for (u32 i = 0; i < KEYS / 16; ++i) multiply_down<T>(out, p[i], further(v, i * 16 * TILE_COLUMNS * 2));
        commit_products();
    }

    DEVICE bool sees(u32 i, u32 key) const {
        return key <= positions[i] && (args.window == 0 || positions[i] - key < args.window);
    }

    // Scores become exponentials (base two); what was found so far has to be multiplied by `rescale`.
    DEVICE void softmax(float (&s)[KEYS / 2], float (&rescale)[2], u32 tile) {
        if (args.softcap > 0.0f) {
            const float inner = 2.0f * LOG2_E * args.scale / args.softcap;
            // tanh x = 1 - 2 / (1 + e^2x).
            UNROLL
            for (u32 i = 0; i < KEYS / 2; ++i) {
                s[i] = args.softcap * fmaf(-2.0f, reciprocal(1.0f + power_of_two(s[i] * inner)), 1.0f);
            }
        }
        const u32 first = tile * KEYS;
        if (first + KEYS - 1 > lowest || (args.window > 0 && first + args.window <= highest)) {
            UNROLL
            for (u32 i = 0; i < KEYS / 2; ++i) {
                if (!sees(i / 2 % 2, first + i / 4 * 8 + lane_id() % 4 * 2 + i % 2)) s[i] = NEG_INFINITY;
            }
        }
        const float scale = args.softcap > 0.0f ? LOG2_E : LOG2_E * args.scale;
        float shift[2];
        UNROLL
        for (u32 row = 0; row < 2; ++row) {
            float largest = maxima[row];
            UNROLL
            for (u32 j = 0; j < KEYS / 8; ++j) largest = fmaxf(largest, fmaxf(s[4 * j + 2 * row], s[4 * j + 2 * row + 1]));
            largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 2));
            // Of a row that has seen nothing everything is zero, whatever is taken off.
            shift[row] = largest == NEG_INFINITY ? 0.0f : largest * scale;
            // Exactly one while the maximum stays the same.
            rescale[row] = maxima[row] == NEG_INFINITY ? 0.0f : power_of_two((maxima[row] - largest) * scale);
            maxima[row] = largest;
            sums[row] *= rescale[row];
        }
        UNROLL
        for (u32 i = 0; i < KEYS / 2; ++i) {
            s[i] = power_of_two(fmaf(s[i], scale, -shift[i / 2 % 2]));
            sums[i / 2 % 2] += s[i];
        }
    }

    DEVICE static void pack(u32 (&p)[KEYS / 16][4], const float (&s)[KEYS / 2]) {
        UNROLL
        for (u32 i = 0; i < KEYS / 4; ++i) p[i / 4][i % 4] = pair_of<T>(s[2 * i], s[2 * i + 1]);
    }

    DEVICE static void release(Barrier& barrier) {
        if (lane_id() == 0) arrive(barrier);
    }

    DEVICE void run() {
        typename Block::Barriers& barriers = block.barriers;
        load_queries();
        float s[KEYS / 2], out[DIMS / 2] = {}, rescale[2];
        u32 p[KEYS / 16][4];
        // `turn` is of the keys; the values are a tile behind.
        Turn<Block::STAGES> turn;
        u32 tile = block.first_tile();
        wait_for_phase(barriers.full_keys[0], 0);
        begin_products();
        scores(s, block.keys(0));
        wait_for_products<0>();
        take_results(s);
        release(barriers.empty_keys[0]);
        softmax(s, rescale, tile);
        pack(p, s);
        ONCE
        for (; tile + 1 < block.end_tile(); ++tile) {
            const Turn<Block::STAGES> values = turn;
            turn.next();
            wait_for_phase(barriers.full_values[values.stage], values.parity);
            clear(block.values(values.stage), tile);
            wait_for_phase(barriers.full_keys[turn.stage], turn.parity);
            begin_products();
            scores(s, block.keys(turn.stage));
            outputs(out, p, block.values(values.stage));
            wait_for_products<1>();
            take_results(s);
            release(barriers.empty_keys[turn.stage]);
            softmax(s, rescale, tile + 1);
            wait_for_products<0>();
            take_results(out);
            release(barriers.empty_values[values.stage]);
            UNROLL
            for (u32 i = 0; i < DIMS / 2; ++i) out[i] *= rescale[i / 2 % 2];
            pack(p, s);
        }
        wait_for_phase(barriers.full_values[turn.stage], turn.parity);
        clear(block.values(turn.stage), tile);
        begin_products();
        outputs(out, p, block.values(turn.stage));
        wait_for_products<0>();
        take_results(out);
        write(out);
    }

    DEVICE void write(const float (&out)[DIMS / 2]) {
        UNROLL
        for (u32 i = 0; i < 2; ++i) {
            sums[i] += __shfl_xor_sync(ALL_LANES, sums[i], 1);
            sums[i] += __shfl_xor_sync(ALL_LANES, sums[i], 2);
            const u32 own = token + row(i);
            if (own >= block.end_token) continue;
            float* to = args.out + (static_cast<size_t>(own) * args.heads + head) * DIMS + lane_id() % 4 * 2;
            UNROLL
            for (u32 j = 0; j < DIMS / 8; ++j) {
                const float2 pair = {out[4 * j + 2 * i] / sums[i], out[4 * j + 2 * i + 1] / sums[i]};
                *reinterpret_cast<float2*>(to + 8 * j) = pair;
            }
        }
    }
};

template <class T, u32 DIMS> DEVICE void hopper_prefill(const HopperPrefillArgs& args) {
    using Block = HopperPrefill<T, DIMS>;
    using Barriers = typename Block::Barriers;
    DYNAMIC_SHARED(memory);
    SHARED(Barriers, barriers);
    if (threadIdx.x == 0) {
        for (u32 stage = 0; stage < Block::STAGES; ++stage) {
            make_barrier(barriers.full_keys[stage], 1);
            make_barrier(barriers.full_values[stage], 1);
            make_barrier(barriers.empty_keys[stage], GROUPS * WARPGROUP / WARP);
            make_barrier(barriers.empty_values[stage], GROUPS * WARPGROUP / WARP);
        }
        show_shared();
    }
    __syncthreads();
    const Block block(args, barriers, first_tile(memory));
    if (threadIdx.x < WARPGROUP) {
        fewer_registers<24>();
        if (threadIdx.x < WARP) block.copy();
    } else {
        more_registers<240>();
        Rows<T, DIMS> rows(block, threadIdx.x / WARPGROUP - 1);
        rows.run();
    }
}

#define HOPPER_PREFILL(name, T)                                                                      \
    KERNEL(hopper_prefill_##name##_64, THREADS, HopperPrefillArgs) { hopper_prefill<T, 64>(args); }  \
    KERNEL(hopper_prefill_##name##_128, THREADS, HopperPrefillArgs) { hopper_prefill<T, 128>(args); }
HOPPER_PREFILL(f16, f16)
HOPPER_PREFILL(bf16, bf16)

#endif
