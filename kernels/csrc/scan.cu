// The two looks at a whole row that every draw begins with, spread over CHUNKS blocks: its maximum, then the weights, after
// the temperature where that comes first. Weights are integers, so it is the same sum whoever adds.
#include "sample.h"
#include "weights.h"

constexpr u32 THREADS = 256;

struct Chunk {
    float* logits;
    u32 start, end;
};

DEVICE Chunk own_chunk(const SampleArgs& args) {
    const u32 length = chunk_length(args.vocab), start = min(args.vocab, blockIdx.x * length);
    return {args.logits + static_cast<size_t>(blockIdx.y) * args.vocab, start, min(args.vocab, start + length)};
}

// What is not a number, or minus infinity, becomes minus infinity.
KERNEL(sample_scan, THREADS, SampleArgs) {
    SHARED(float[THREADS / WARP], room);
    const Chunk chunk = own_chunk(args);
    float largest = NEG_INFINITY;
    for (u32 i = chunk.start + threadIdx.x; i < chunk.end; i += THREADS) {
        const float logit = chunk.logits[i];
        if (logit > NEG_INFINITY) {
            largest = fmaxf(largest, logit);
        } else {
            chunk.logits[i] = NEG_INFINITY;
        }
    }
    largest = block_max<THREADS>(largest, room);
    if (threadIdx.x == 0) args.maxima[blockIdx.y * CHUNKS + blockIdx.x] = largest;
}

KERNEL(sample_weigh, THREADS, SampleArgs) {
    SHARED(u64[THREADS / WARP], room);
    const SampleRow& row = args.rows[blockIdx.y];
    float peak = NEG_INFINITY;
    for (u32 i = 0; i < CHUNKS; ++i) peak = fmaxf(peak, args.maxima[blockIdx.y * CHUNKS + i]);
    if (!(fabsf(peak) <= 3.402823466e38f)) return;
    const Chunk chunk = own_chunk(args);
    const bool first = tempers_first(row);
    const Temper temper = temper_by(first ? row.temperature : 1.0f, peak);
    peak = temper.of(peak);
    u64 sum = 0;
    for (u32 i = chunk.start + threadIdx.x; i < chunk.end; i += THREADS) {
        const float logit = temper.of(chunk.logits[i]);
        if (first) chunk.logits[i] = logit;
        sum += weight_at(distance_from(peak, logit), args.scale);
    }
    UNROLL
    for (u32 step = WARP / 2; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
    if (lane_id() == 0) room[warp_id()] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (u32 warp = 1; warp < THREADS / WARP; ++warp) sum += room[warp];
    args.sums[blockIdx.y * CHUNKS + blockIdx.x] = sum;
}
