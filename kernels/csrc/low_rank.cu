// What adapters add: out += scale * b * (a * x), each token with its sequence's adapter or none.
//
// Ranks are small, so both products are bound by memory and by launches: two of them, whatever adapters are in the step. The
// first takes a token down to the ranks of all parts, a warp for each; the second brings it up, a thread for each output.
// Sums are f32 in an order that the shapes alone decide.
#include "device.h"

// Rows first .. first + count of the matrix.
struct LowRankPart {
    const float* up;  // [count, ranks]
    u32 first, count;
    u32 first_rank, ranks;
};

// An adapter's; without parts it adds nothing.
struct LowRankSlot {
    const float* down;    // [ranks, cols]
    const float* scales;  // [ranks]
    const LowRankPart* parts;
    u32 ranks, count;
};

struct LowRankArgs {
    float* out;           // [tokens, rows]
    const float* x;       // [tokens, cols]
    float* lowered;       // [tokens, width]
    const u32* seq_of;    // [tokens]
    const u32* adapters;  // by sequence
    const LowRankSlot* slots;
    u32 slot_count, rows, cols, width;
};

DEVICE const LowRankSlot* slot_of(const LowRankArgs& args) {
    const u32 adapter = args.adapters[args.seq_of[blockIdx.x]];
    return adapter < args.slot_count ? args.slots + adapter : nullptr;
}

KERNEL(low_rank_down, 256, LowRankArgs) {
    const LowRankSlot* slot = slot_of(args);
    const u32 rank = blockIdx.y * (256 / WARP) + warp_id();
    if (!slot || rank >= slot->ranks) return;
    const float* a = slot->down + static_cast<size_t>(rank) * args.cols;
    const float* x = args.x + static_cast<size_t>(blockIdx.x) * args.cols;
    float sum = 0.0f;
    for (u32 col = lane_id(); col < args.cols; col += WARP) sum = fmaf(a[col], x[col], sum);
    sum = warp_sum(sum);
    if (lane_id() == 0) args.lowered[static_cast<size_t>(blockIdx.x) * args.width + rank] = sum * slot->scales[rank];
}

KERNEL(low_rank_up, 256, LowRankArgs) {
    const LowRankSlot* slot = slot_of(args);
    const u32 row = blockIdx.y * 256 + threadIdx.x;
    if (!slot || row >= args.rows) return;
    const float* lowered = args.lowered + static_cast<size_t>(blockIdx.x) * args.width;
    for (u32 i = 0; i < slot->count; ++i) {
        const LowRankPart part = slot->parts[i];
        if (row - part.first >= part.count) continue;
        const float* b = part.up + static_cast<size_t>(row - part.first) * part.ranks;
        float sum = 0.0f;
        for (u32 rank = 0; rank < part.ranks; ++rank) sum = fmaf(b[rank], lowered[part.first_rank + rank], sum);
        args.out[static_cast<size_t>(blockIdx.x) * args.rows + row] += sum;
    }
}
