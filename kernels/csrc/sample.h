// What the sampler's kernels are told about each row, and what they say.
#pragma once

#include "device.h"

constexpr u32 RANDOM = 1, TEMPERATURE_LAST = 2, MIROSTAT_1 = 4, MIROSTAT_2 = 8, RELATIVE_FREQUENCY = 16, WATERMARK = 32,
              MASKED = 64, PENALIZED = 128;
constexpr u32 NONE = 0xffffffffu;

// A stretch of the words that came with the rows.
struct Stretch {
    u32 start, len;
};

struct SampleRow {
    u64 seed, draw;
    // A token this much less likely than the best one stays; how far away that can be at most.
    double min_p, min_p_reach;
    float temperature, top_p, typical_p, tail_free, surprise;
    float repetition, frequency, presence;
    u32 flags, top_k, top_n;
    // Where this row's most likely tokens go, in entries.
    u32 top_start;
    u32 window, exempt;
    // Of the watermark: what green tokens gain, how many are green, and the token before.
    float delta;
    u32 green, previous;
    u32 prompt_len;
    Stretch history;
    // Pairs of a token and an f32, those of a token together.
    Stretch bias;
    Stretch banned;
    Stretch mask;
};

struct TopToken {
    u32 id;
    float logprob;
};

struct Drawn {
    u32 token;
    float logprob;
    u32 top_count;
    u32 unused;
};

// A row falls into so many chunks of about the same length, whose maxima and weights are found by as many blocks.
constexpr u32 CHUNKS = 64;

DEVICE u32 chunk_length(u32 vocab) { return (vocab + CHUNKS * WARP - 1) / (CHUNKS * WARP) * WARP; }

struct SampleArgs {
    float* logits;  // [rows, vocab]
    const SampleRow* rows;
    const u32* words;
    u32* counts;    // [rows, vocab], zero between uses
    u32* list;      // [rows, vocab], the tokens that the filters left
    u64* order;     // [rows, order_len]
    float* maxima;  // [rows, CHUNKS], before the temperature
    u64* sums;      // [rows, CHUNKS], the weights of chunks after it, where it comes first
    Drawn* drawn;   // [rows]
    TopToken* top;
    u32 vocab, order_len, scale;
    // The sides of the watermark's square.
    u32 square_a, square_b;
};

// What a division by the temperature does to logits. Where it would overflow, the maximum is moved to 0 first.
struct Temper {
    float shift, divisor;

    DEVICE float of(float logit) const {
        return divisor == 1.0f ? logit : __fdiv_rn(__fsub_rn(logit, shift), divisor);
    }
};

DEVICE Temper temper_by(float temperature, float peak) {
    const bool fits = fabsf(__fdiv_rn(peak, temperature)) <= 3.402823466e38f;
    return {fits ? 0.0f : peak, temperature};
}

// Whether the temperature comes before everything else.
DEVICE bool tempers_first(const SampleRow& row) {
    return (row.flags & RANDOM) && (!(row.flags & TEMPERATURE_LAST) || (row.flags & (MIROSTAT_1 | MIROSTAT_2)));
}
