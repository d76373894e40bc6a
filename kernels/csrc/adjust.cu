// The steps of sampling that edit single logits: watermark, penalties, bias, bans, mask; in place, one block for each row.
// What they mean is written at SampleParams; the arithmetic is the CPU device's, f32 with nothing fused.
#include "sample.h"
#include "weights.h"

constexpr u32 THREADS = 256;
constexpr u32 WATERMARK_KEY = 15485863;

// The permutation of the vocabulary whose first places are green.
struct Shuffle {
    u32 a, b, previous;

    DEVICE u32 round(u32 index, u32 x, u32 modulus) const {
        const u64 word = philox(WATERMARK_KEY, previous, {{x, index, 0, 0}}).word[0];
        return static_cast<u32>((word * modulus) >> 32);
    }
    DEVICE u32 once(u32 place) const {
        u32 left = place / b, right = place % b;
        for (u32 i = 0; i < 4; i += 2) {
            left = (left + round(i, right, a)) % a;
            right = (right + round(i + 1, left, b)) % b;
        }
        return left * b + right;
    }
    DEVICE u32 place(u32 id, u32 vocab) const {
        u32 place = once(id);
        while (place >= vocab) place = once(place);
        return place;
    }
};

// How often each token occurs in a stretch of the history; then `edit` for each distinct one, once.
template <class Edit>
DEVICE void for_each_distinct(const SampleArgs& args, u32* counts, Stretch tokens, const Edit& edit) {
    __syncthreads();
    for (u32 i = threadIdx.x; i < tokens.len; i += THREADS) {
        const u32 id = args.words[tokens.start + i];
        if (id < args.vocab) atomicAdd(counts + id, 1u);
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < tokens.len; i += THREADS) {
        const u32 id = args.words[tokens.start + i];
        if (id >= args.vocab) continue;
        const u32 count = atomicExch(counts + id, 0u);
        if (count > 0) edit(id, count);
    }
    __syncthreads();
}

DEVICE float repeated(float logit, float penalty) {
    return logit < 0.0f ? __fmul_rn(logit, penalty) : __fdiv_rn(logit, penalty);
}

// llama.cpp's: one edit for each token of the last `window`.
DEVICE void penalize_window(const SampleArgs& args, const SampleRow& row, float* logits, u32* counts) {
    const u32 len = min(row.window, row.history.len);
    for_each_distinct(args, counts, {row.history.start + row.history.len - len, len}, [&](u32 id, u32 count) {
        const float taken = __fadd_rn(__fmul_rn(static_cast<float>(count), row.frequency), row.presence);
        logits[id] = __fsub_rn(repeated(logits[id], row.repetition), taken);
    });
}

// TGI's and OpenAI's: repetition and relative frequency over the whole history, counts over what was generated.
DEVICE void penalize_all(const SampleArgs& args, const SampleRow& row, float* logits, u32* counts) {
    const u32 prompt = min(row.prompt_len, row.history.len);
    const Stretch generated = {row.history.start + prompt, row.history.len - prompt};
    if (row.repetition != 1.0f) {
        for_each_distinct(args, counts, row.history,
                          [&](u32 id, u32) { logits[id] = repeated(logits[id], row.repetition); });
    }
    if (row.frequency != 0.0f && (row.flags & RELATIVE_FREQUENCY)) {
        const float len = static_cast<float>(row.history.len);
        for_each_distinct(args, counts, row.history, [&](u32 id, u32 count) {
            const float share = __fdiv_rn(static_cast<float>(count), len);
            logits[id] = __fsub_rn(logits[id], __fmul_rn(share, row.frequency));
        });
    } else if (row.frequency != 0.0f) {
        for_each_distinct(args, counts, generated, [&](u32 id, u32 count) {
            logits[id] = __fsub_rn(logits[id], __fmul_rn(row.frequency, static_cast<float>(count)));
        });
    }
    if (row.presence != 0.0f) {
        for_each_distinct(args, counts, generated,
                          [&](u32 id, u32) { logits[id] = __fsub_rn(logits[id], row.presence); });
    }
}

DEVICE void penalize(const SampleArgs& args, const SampleRow& row, float* logits) {
    u32* counts = args.counts + static_cast<size_t>(blockIdx.x) * args.vocab;
    const bool exempt = row.exempt < args.vocab;
    const float spared = exempt ? logits[row.exempt] : 0.0f;
    if (row.window != NONE) {
        penalize_window(args, row, logits, counts);
    } else {
        penalize_all(args, row, logits, counts);
    }
    if (exempt && threadIdx.x == 0) logits[row.exempt] = spared;
    __syncthreads();
}

// Entries of one token follow each other; the thread of the first of them adds all.
DEVICE void bias(const SampleArgs& args, Stretch entries, float* logits) {
    const u32* words = args.words + entries.start;
    for (u32 i = threadIdx.x; i < entries.len / 2; i += THREADS) {
        const u32 id = words[2 * i];
        if (id >= args.vocab || (i > 0 && words[2 * i - 2] == id)) continue;
        for (u32 j = i; j < entries.len / 2 && words[2 * j] == id; ++j) {
            logits[id] = __fadd_rn(logits[id], __uint_as_float(words[2 * j + 1]));
        }
    }
    __syncthreads();
}

KERNEL(sample_adjust, THREADS, SampleArgs) {
    const SampleRow& row = args.rows[blockIdx.x];
    float* logits = args.logits + static_cast<size_t>(blockIdx.x) * args.vocab;
    if (row.flags & WATERMARK) {
        const Shuffle shuffle = {args.square_a, args.square_b, row.previous};
        for (u32 id = threadIdx.x; id < args.vocab; id += THREADS) {
            const bool green = shuffle.place(id, args.vocab) < row.green;
            logits[id] = __fadd_rn(logits[id], green ? row.delta : 0.0f);
        }
        __syncthreads();
    }
    if (row.flags & PENALIZED) penalize(args, row, logits);
    if (row.bias.len > 0) bias(args, row.bias, logits);
    for (u32 i = threadIdx.x; i < row.banned.len; i += THREADS) {
        const u32 id = args.words[row.banned.start + i];
        if (id < args.vocab) logits[id] = NEG_INFINITY;
    }
    if (row.flags & MASKED) {
        for (u32 id = threadIdx.x; id < args.vocab; id += THREADS) {
            const u32 word = id / 32 < row.mask.len ? args.words[row.mask.start + id / 32] : 0;
            if (!(word >> (id % 32) & 1)) logits[id] = NEG_INFINITY;
        }
    }
}
