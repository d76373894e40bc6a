// Causal attention over the paged cache: one query token at a time, for decoding, and wherever precision counts.
//
// A query's positions fall into splits of SPLIT, counted from position 0. A block of four warps takes one split, or all
// of them one after another, for one token and up to G query heads that share a key head; each key and value is loaded
// once for all of them. LANES lanes hold one key, eight elements each; so a block works through STREAMS keys at a time,
// and each stream has a softmax of its own: maximum, sum, and output of its keys so far. At the end of a split the
// streams become one, in order; and so do the splits, by the same arithmetic whether one block took them all or
// `combine` reads what many wrote. So a token's result depends on its position alone: not on what else is in the step,
// nor on how many blocks it was spread over.
//
// A decoding step is bound by memory. What a key costs besides: a product per element and head, and log2 LANES shuffles
// per head, about half of what the multiprocessor can do while the key arrives, for G = 4 and 128 elements.
#include "small.h"

constexpr u32 SPLIT = 256;
constexpr u32 THREADS = 128;
// Elements of a key in one lane.
constexpr u32 PART = 8;
// Keys on their way in each stream.
constexpr u32 AHEAD = 4;

struct AttentionArgs {
    float* out;                // [tokens, heads * head_dim]
    float* partial;            // [tokens, heads, splits, head_dim], then their maxima and sums [tokens, heads, splits, 2]
    const float* qkv;          // [tokens, (heads + 2 kv_heads) * head_dim]
    const void* keys;          // of this layer (rope.cu)
    const void* values;
    const u32* rows;           // [tokens] which tokens of the step these are, or null: all of them
    const u32* positions;      // by token of the step
    const u32* seq_of;
    const u32* block_offsets;  // by sequence
    const u32* block_tables;
    u32 tokens, heads, kv_heads, head_dim, stride, block_size;
    u32 window;                // 0: none
    u32 splits;                // of a token, each in a block of its own; 0: all in one block
    u32 block_stride;          // elements from one block to the next
    float scale;
    float softcap;             // 0: none
};

DEVICE u32 token_of(const AttentionArgs& args, u32 row) { return args.rows ? args.rows[row] : row; }

// What part of a row is seen from where.
struct Seen {
    u32 first, end;
};

DEVICE Seen seen_from(const AttentionArgs& args, u32 token) {
    const u32 end = args.positions[token] + 1;
    return {args.window > 0 && end > args.window ? end - args.window : 0, end};
}

// A softmax on its way: what is below is relative to the maximum.
struct Softmax {
    float max, sum;
};

// How two are put together: `earlier * keep + later * take`.
struct Blend {
    float keep, take;
};

DEVICE Blend blend(Softmax& into, const Softmax& later) {
    if (later.max == NEG_INFINITY) return {1.0f, 0.0f};
    const float max = fmaxf(into.max, later.max);
    const Blend factors = {into.max == NEG_INFINITY ? 0.0f : expf(into.max - max), expf(later.max - max)};
    into.sum = fmaf(later.sum, factors.take, __fmul_rn(into.sum, factors.keep));
    into.max = max;
    return factors;
}

DEVICE float blended(float earlier, float later, const Blend& factors) {
    return fmaf(later, factors.take, __fmul_rn(earlier, factors.keep));
}

template <class T> DEVICE void load_part(float (&to)[PART], const T* from) {
    UNROLL
    for (u32 i = 0; i < PART; i += Pack<T>::SIZE) {
        const Pack<T> pack = load_pack(from + i);
        UNROLL
        for (u32 j = 0; j < Pack<T>::SIZE; ++j) to[i + j] = widen(pack.values[j]);
    }
}

template <u32 M, u32 B, u32 X> DEVICE void load_part(float (&to)[PART], const Small<M, B, X>* from) {
    const uint2 words = *reinterpret_cast<const uint2*>(from);
    UNROLL
    for (u32 i = 0; i < PART; ++i) {
        to[i] = without_scale<Small<M, B, X>>(static_cast<u8>((i < 4 ? words.x : words.y) >> (i % 4 * 8)));
    }
}

// What a key and a value have to be multiplied by.
struct Factors {
    float key, value;
};

template <u32 LANES, u32 G> struct Room {
    static constexpr u32 STREAMS = THREADS / LANES;
    Softmax streams[STREAMS][G];
    float factors[STREAMS][G];
    float out[STREAMS][G][LANES * PART];
    // Of all splits so far.
    Softmax total[G];
    Blend blends[G];
};

// One stream of keys for G heads.
template <class T, u32 LANES, u32 G> struct Stream {
    static constexpr u32 STREAMS = THREADS / LANES;
    const AttentionArgs& args;
    const T *keys, *values;
    const u32* table;
    Seen seen;
    u32 kv_head, lane, stream;
    bool active;
    float q[G][PART], out[G][PART];
    Softmax softmax[G];

    DEVICE Stream(const AttentionArgs& a, u32 token, u32 head)
        : args(a),
          keys(static_cast<const T*>(a.keys)),
          values(static_cast<const T*>(a.values)),
          table(a.block_tables + a.block_offsets[a.seq_of[token]]),
          seen(seen_from(a, token)),
          lane(threadIdx.x % LANES),
          stream(threadIdx.x / LANES) {
        const u32 group = a.heads / a.kv_heads;
        kv_head = head / group;
        active = lane * PART < a.stride;
        const float* from = a.qkv + static_cast<size_t>(token) * (a.heads + 2 * a.kv_heads) * a.head_dim;
        UNROLL
        for (u32 g = 0; g < G; ++g) {
            const bool present = head + g < (kv_head + 1) * group;
            UNROLL
            for (u32 i = 0; i < PART; ++i) {
                const u32 dim = lane * PART + i;
                q[g][i] = present && dim < a.head_dim ? from[static_cast<size_t>(head + g) * a.head_dim + dim] : 0.0f;
            }
        }
    }

    // This lane's part of a position's key and value.
    DEVICE void load(u32 position, float (&key)[PART], float (&value)[PART], Factors& factors) const {
        const size_t block = static_cast<size_t>(table[position / args.block_size]) * args.block_stride;
        const u32 row = kv_head * args.block_size + position % args.block_size;
        if (active) {
            const size_t at = block + static_cast<size_t>(row) * args.stride + lane * PART;
            load_part(key, keys + at);
            load_part(value, values + at);
        }
        if constexpr (Kept<T>::SMALL) {
            const size_t at = block + args.kv_heads * args.block_size * args.stride + row;
            factors = {power_of<T>(keys[at].code), power_of<T>(values[at].code)};
        }
    }

    DEVICE void start() {
        UNROLL
        for (u32 g = 0; g < G; ++g) {
            softmax[g] = {NEG_INFINITY, 0.0f};
            UNROLL
            for (u32 i = 0; i < PART; ++i) out[g][i] = 0.0f;
        }
    }

    DEVICE float score(u32 g, const float (&key)[PART], float factor) const {
        float dot = 0.0f;
        UNROLL
        for (u32 i = 0; i < PART; ++i) dot = fmaf(q[g][i], key[i], dot);
        UNROLL
        for (u32 step = LANES / 2; step > 0; step /= 2) dot += __shfl_xor_sync(ALL_LANES, dot, step);
        dot *= factor;
        dot *= args.scale;
        return args.softcap > 0.0f ? args.softcap * tanhf(dot / args.softcap) : dot;
    }

    DEVICE void add(u32 g, float score, const float (&value)[PART], float factor) {
        if (score > softmax[g].max) {
            const float rescale = softmax[g].max == NEG_INFINITY ? 0.0f : expf(softmax[g].max - score);
            softmax[g] = {score, softmax[g].sum * rescale};
            UNROLL
            for (u32 i = 0; i < PART; ++i) out[g][i] *= rescale;
        }
        const float weight = expf(score - softmax[g].max);
        softmax[g].sum += weight;
        UNROLL
        for (u32 i = 0; i < PART; ++i) out[g][i] = fmaf(weight * factor, value[i], out[g][i]);
    }

    // The keys of a split, every STREAMS-th from this stream's first on. All streams make as many turns.
    DEVICE void run(u32 split) {
        start();
        const u32 from = split * SPLIT, to = min(from + SPLIT, seen.end);
        ONCE
        for (u32 turn = from; turn < to; turn += AHEAD * STREAMS) {
            if (turn + AHEAD * STREAMS <= seen.first) continue;
            float key[AHEAD][PART] = {}, value[AHEAD][PART] = {};
            Factors factors[AHEAD];
            UNROLL
            for (u32 n = 0; n < AHEAD; ++n) {
                const u32 position = turn + n * STREAMS + stream;
                factors[n] = {1.0f, 1.0f};
                if (position >= seen.first && position < to) load(position, key[n], value[n], factors[n]);
            }
            UNROLL
            for (u32 n = 0; n < AHEAD; ++n) {
                const u32 position = turn + n * STREAMS + stream;
                UNROLL
                for (u32 g = 0; g < G; ++g) {
                    const float s = score(g, key[n], factors[n].key);
                    if (position >= seen.first && position < to) add(g, s, value[n], factors[n].value);
                }
            }
        }
    }

    DEVICE void leave(Room<LANES, G>& room) const {
        UNROLL
        for (u32 g = 0; g < G; ++g) {
            if (lane == 0) room.streams[stream][g] = softmax[g];
            UNROLL
            for (u32 i = 0; i < PART; ++i) room.out[stream][g][lane * PART + i] = out[g][i];
        }
    }
};

// Makes one softmax of the streams' and blends it into the total. Called by the threads below G.
template <u32 LANES, u32 G> DEVICE void join(Room<LANES, G>& room, u32 g) {
    Softmax split = {NEG_INFINITY, 0.0f};
    for (u32 s = 0; s < Room<LANES, G>::STREAMS; ++s) split.max = fmaxf(split.max, room.streams[s][g].max);
    for (u32 s = 0; s < Room<LANES, G>::STREAMS; ++s) {
        const Softmax& stream = room.streams[s][g];
        const float factor = stream.max == NEG_INFINITY ? 0.0f : expf(stream.max - split.max);
        split.sum = fmaf(stream.sum, factor, split.sum);
        room.factors[s][g] = factor;
    }
    room.blends[g] = blend(room.total[g], split);
}

template <class T, u32 LANES, u32 G> DEVICE void attend(const AttentionArgs& args) {
    constexpr u32 WIDTH = LANES * PART, OWN = (G * WIDTH + THREADS - 1) / THREADS;
    using Shared = Room<LANES, G>;
    SHARED(Shared, room);
    const u32 group = args.heads / args.kv_heads, tiles = (group + G - 1) / G;
    const u32 token = token_of(args, blockIdx.x), head = blockIdx.y / tiles * group + blockIdx.y % tiles * G;
    const u32 last_head = (blockIdx.y / tiles + 1) * group;
    const Seen seen = seen_from(args, token);
    u32 split = seen.first / SPLIT, end = (seen.end + SPLIT - 1) / SPLIT;
    if (args.splits > 0) {
        if (blockIdx.z < split || blockIdx.z >= end) return;
        split = blockIdx.z;
        end = split + 1;
    }
    Stream<T, LANES, G> stream(args, token, head);
    float own[OWN] = {};
    if (threadIdx.x < G) room.total[threadIdx.x] = {NEG_INFINITY, 0.0f};
    ONCE
    for (; split < end; ++split) {
        stream.run(split);
        __syncthreads();
        stream.leave(room);
        __syncthreads();
        if (threadIdx.x < G) join(room, threadIdx.x);
        __syncthreads();
        UNROLL
        for (u32 n = 0; n < OWN; ++n) {
            const u32 i = threadIdx.x + n * THREADS, g = i / WIDTH;
            if (i < G * WIDTH) {
                float sum = 0.0f;
                UNROLL
                for (u32 s = 0; s < Shared::STREAMS; ++s) {
                    sum = fmaf(room.out[s][g][i % WIDTH], room.factors[s][g], sum);
                }
                own[n] = blended(own[n], sum, room.blends[g]);
            }
        }
    }
    UNROLL
    for (u32 n = 0; n < OWN; ++n) {
        const u32 i = threadIdx.x + n * THREADS, g = i / WIDTH, dim = i % WIDTH;
        if (i >= G * WIDTH || dim >= args.head_dim || head + g >= last_head) continue;
        if (args.splits == 0) {
            const size_t row = static_cast<size_t>(token) * args.heads + head + g;
            args.out[row * args.head_dim + dim] = own[n] / room.total[g].sum;
            continue;
        }
        const size_t row = static_cast<size_t>(blockIdx.x) * args.heads + head + g;
        const size_t at = row * args.splits + blockIdx.z;
        args.partial[at * args.head_dim + dim] = own[n];
        if (dim == 0) {
            const size_t rows = static_cast<size_t>(args.tokens) * args.heads * args.splits;
            float* softmax = args.partial + rows * args.head_dim + at * 2;
            softmax[0] = room.total[g].max;
            softmax[1] = room.total[g].sum;
        }
    }
}

// Puts the splits of a head together, in order. One block for each token and head.
KERNEL(attend_combine, 64, AttentionArgs) {
    const size_t row = static_cast<size_t>(blockIdx.x) * args.heads + blockIdx.y;
    const size_t rows = static_cast<size_t>(args.tokens) * args.heads * args.splits;
    const float* out = args.partial + row * args.splits * args.head_dim;
    const float* softmax = args.partial + rows * args.head_dim + row * args.splits * 2;
    const u32 token = token_of(args, blockIdx.x);
    const Seen seen = seen_from(args, token);
    for (u32 dim = threadIdx.x; dim < args.head_dim; dim += 64) {
        Softmax total = {NEG_INFINITY, 0.0f};
        float own = 0.0f;
        for (u32 split = seen.first / SPLIT; split * SPLIT < seen.end; ++split) {
            const Blend factors = blend(total, Softmax{softmax[2 * split], softmax[2 * split + 1]});
            own = blended(own, out[static_cast<size_t>(split) * args.head_dim + dim], factors);
        }
        args.out[(static_cast<size_t>(token) * args.heads + blockIdx.y) * args.head_dim + dim] = own / total.sum;
    }
}

#define ATTEND(name, T)                                                                  \
    KERNEL(attend_##name##_64_1, THREADS, AttentionArgs) { attend<T, 8, 1>(args); }      \
    KERNEL(attend_##name##_64_4, THREADS, AttentionArgs) { attend<T, 8, 4>(args); }      \
    KERNEL(attend_##name##_64_8, THREADS, AttentionArgs) { attend<T, 8, 8>(args); }      \
    KERNEL(attend_##name##_128_1, THREADS, AttentionArgs) { attend<T, 16, 1>(args); }    \
    KERNEL(attend_##name##_128_4, THREADS, AttentionArgs) { attend<T, 16, 4>(args); }    \
    KERNEL(attend_##name##_128_8, THREADS, AttentionArgs) { attend<T, 16, 8>(args); }    \
    KERNEL(attend_##name##_256_1, THREADS, AttentionArgs) { attend<T, 32, 1>(args); }    \
    KERNEL(attend_##name##_256_4, THREADS, AttentionArgs) { attend<T, 32, 4>(args); }    \
    KERNEL(attend_##name##_256_8, THREADS, AttentionArgs) { attend<T, 32, 8>(args); }
ATTEND(f32, float)
ATTEND(f16, f16)
ATTEND(bf16, bf16)
ATTEND(e4m3, E4M3)
ATTEND(e5m2, E5M2)
