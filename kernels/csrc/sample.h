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

struct SampleArgs {
    float* logits;  // [rows, vocab]
    const SampleRow* rows;
    const u32* words;
    u32* counts;    // [rows, vocab], zero between uses
    u32* list;      // [rows, vocab], the tokens that the filters left
    u64* order;     // [rows, order_len]
    Drawn* drawn;   // [rows]
    TopToken* top;
    u32 vocab, order_len, scale;
    // The sides of the watermark's square.
    u32 square_a, square_b;
};
