// The log-probability of a given token under the plain softmax of a row of logits.
#include "device.h"

struct ScoreArgs {
    float* out;           // [rows]
    const float* logits;  // [rows, vocab]
    const u32* targets;   // [rows]
    u32 vocab;
};

// One block for each row: the maximum, then the sum of exponentials, f32 within a thread and f64 across threads.
KERNEL(score, 256, ScoreArgs) {
    SHARED(float[256 / WARP], room);
    SHARED(double[256], sums);
    const float* logits = args.logits + static_cast<size_t>(blockIdx.x) * args.vocab;
    float largest = NEG_INFINITY;
    for (u32 i = threadIdx.x; i < args.vocab; i += 256) largest = fmaxf(largest, logits[i]);
    largest = block_max<256>(largest, room);
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < args.vocab; i += 256) sum += expf(logits[i] - largest);
    sums[threadIdx.x] = static_cast<double>(sum);
    __syncthreads();
    if (threadIdx.x > 0) return;
    double total = 0.0;
    for (u32 thread = 0; thread < 256; ++thread) total += sums[thread];
    const double target = static_cast<double>(logits[args.targets[blockIdx.x]]);
    args.out[blockIdx.x] = static_cast<float>(target - static_cast<double>(largest) - log(total));
}
