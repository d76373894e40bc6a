// A row of logits under the filters of the sampler: sums over it, the search for the last token of a prefix of a ranking,
// and the list of what is left.
#pragma once

#include "sample.h"
#include "weights.h"

constexpr u32 THREADS = 512;
constexpr u32 DIGITS = 256;
// So many of the most likely tokens tell Mirostat the exponent of the distribution.
constexpr u32 FITTED = 100;

struct Shared {
    u64 sums[THREADS];
    u64 amounts[DIGITS];
    u32 counts[DIGITS];
    double keys[FITTED];
    float maxima[THREADS / WARP];
    float reach;
    u32 lowest;
    u32 digit;
    u64 left;
    u64 amount;
    u32 same;
};

// The last token of a prefix of a ranking: its key, and how many of the tokens with this key belong to the prefix, lower
// ids first.
struct Last {
    u64 key;
    u64 ties;
};

// What a token adds to the amount that a prefix must hold.
enum class Amount { One, Weight };

// A row of logits, or what the filters have left of it, and how it is ranked and cut.
struct Ranking {
    const SampleArgs& args;
    const SampleRow& row;
    Shared& shared;
    float* logits;
    u32* list;
    u64* order;
    // The largest logit, from which distances count.
    float peak;
    // How many tokens are left: the listed ones, or the whole row.
    u32 count;
    bool listed;
    // Whether the chunks' weights are those of the row as it is, and what has been done to it since their maxima were found.
    bool summed;
    Temper tempered;

    DEVICE u32 id(u32 index) const { return listed ? list[index] : index; }
    DEVICE float logit(u32 index) const { return logits[id(index)]; }
    DEVICE double distance(u32 index) const { return distance_from(peak, logit(index)); }
    DEVICE bool possible(u32 index) const { return logit(index) > NEG_INFINITY; }
    DEVICE u64 weight(u32 index) const { return weight_at(distance(index), args.scale); }
    DEVICE u64 key(u32 index, double centre) const { return bits_of(fabs(__dsub_rn(distance(index), centre))); }

    // The sum over all threads.
    DEVICE u64 total(u64 own) {
        __syncthreads();
        shared.sums[threadIdx.x] = own;
        __syncthreads();
        for (u32 half = THREADS / 2; half > 0; half /= 2) {
            if (threadIdx.x < half) shared.sums[threadIdx.x] += shared.sums[threadIdx.x + half];
            __syncthreads();
        }
        return shared.sums[0];
    }

    // The sum over the threads before this one.
    DEVICE u64 before(u64 own) {
        __syncthreads();
        shared.sums[threadIdx.x] = own;
        __syncthreads();
        for (u32 step = 1; step < THREADS; step *= 2) {
            const u64 other = threadIdx.x >= step ? shared.sums[threadIdx.x - step] : 0;
            __syncthreads();
            shared.sums[threadIdx.x] += other;
            __syncthreads();
        }
        return shared.sums[threadIdx.x] - own;
    }

    // The lowest value over all threads.
    DEVICE u32 lowest(u32 own) {
        __syncthreads();
        if (threadIdx.x == 0) shared.lowest = NONE;
        __syncthreads();
        if (own != NONE) atomicMin(&shared.lowest, own);
        __syncthreads();
        return shared.lowest;
    }

    // The tokens that are this thread's where order matters.
    DEVICE u32 chunk_start() const { return min(count, threadIdx.x * chunk()); }
    DEVICE u32 chunk_end() const { return min(count, (threadIdx.x + 1) * chunk()); }
    DEVICE u32 chunk() const { return (count + THREADS - 1) / THREADS; }

    DEVICE float largest() {
        float own = NEG_INFINITY;
        for (u32 i = threadIdx.x; i < count; i += THREADS) own = fmaxf(own, logit(i));
        __syncthreads();
        return block_max<THREADS>(own, shared.maxima);
    }

    DEVICE u64 chunk_sum(u32 chunk) const { return args.sums[blockIdx.x * CHUNKS + chunk]; }
    DEVICE float chunk_max(u32 chunk) const { return args.maxima[blockIdx.x * CHUNKS + chunk]; }

    DEVICE u64 total_weight() {
        u64 own = 0;
        if (!listed && summed) {
            for (u32 chunk = 0; chunk < CHUNKS; ++chunk) own += chunk_sum(chunk);
            return own;
        }
        for (u32 i = threadIdx.x; i < count; i += THREADS) own += weight(i);
        return total(own);
    }

    DEVICE double log_of(u64 weights) const {
        return __dsub_rn(log(static_cast<double>(weights)), __dmul_rn(static_cast<double>(args.scale), LN_2));
    }

    // Keeps the tokens that `keep(index)` says, in order of ids.
    template <class Keep> DEVICE void retain(const Keep& keep) {
        const u32 from = chunk_start(), to = chunk_end();
        u32 own = 0;
        for (u32 i = from; i < to; ++i) own += keep(i) ? 1 : 0;
        u32 at = static_cast<u32>(before(own));
        const u32 left = static_cast<u32>(total(own));
        // A list is rewritten in place: every thread notes its own before any writes.
        u32* to_list = list;
        if (!listed) {
            for (u32 i = from; i < to; ++i) {
                if (keep(i)) to_list[at++] = i;
            }
        } else {
            u32* spare = args.counts ? args.counts + static_cast<size_t>(blockIdx.x) * args.vocab : nullptr;
            for (u32 i = from; i < to; ++i) {
                if (keep(i)) spare[at++] = list[i];
            }
            __syncthreads();
            for (u32 i = threadIdx.x; i < left; i += THREADS) {
                to_list[i] = spare[i];
                spare[i] = 0;
            }
        }
        __syncthreads();
        count = left;
        listed = true;
    }

    // One digit of the search: which of the tokens with the digits `prefix` above `shift` hold how much.
    DEVICE void histogram(double centre, Amount amount, u64 prefix, u32 shift) {
        __syncthreads();
        for (u32 i = threadIdx.x; i < DIGITS; i += THREADS) shared.amounts[i] = shared.counts[i] = 0;
        __syncthreads();
        for (u32 i = threadIdx.x; i < count; i += THREADS) {
            if (!possible(i)) continue;
            const u64 k = key(i, centre);
            if (shift < 56 && k >> (shift + 8) != prefix >> (shift + 8)) continue;
            const u32 digit = static_cast<u32>(k >> shift) % DIGITS;
            atomicAdd(&shared.amounts[digit], amount == Amount::One ? static_cast<u64>(1) : weight(i));
            atomicAdd(&shared.counts[digit], 1u);
        }
        __syncthreads();
    }

    // The first digit up to which the histogram holds what is left to be found, or the last there is. For the first warp.
    DEVICE void find_digit() {
        constexpr u32 OWN = DIGITS / WARP;
        const u32 first = lane_id() * OWN;
        const u64 left = shared.left;
        u64 own = 0;
        u32 last = NONE;
        for (u32 i = first; i < first + OWN; ++i) {
            own += shared.amounts[i];
            if (shared.counts[i] > 0) last = i;
        }
        u64 through = own;
        UNROLL
        for (u32 step = 1; step < WARP; step *= 2) {
            const u64 other = __shfl_up_sync(ALL_LANES, through, step);
            if (lane_id() >= step) through += other;
        }
        u64 earlier = through - own;
        u32 found = NONE;
        for (u32 i = first; i < first + OWN && found == NONE; ++i) {
            if (shared.counts[i] == 0) continue;
            if (earlier + shared.amounts[i] >= left) found = i;
            else earlier += shared.amounts[i];
        }
        const u32 enough = __ballot_sync(ALL_LANES, found != NONE), some = __ballot_sync(ALL_LANES, last != NONE);
        const u32 chosen = enough ? __ffs(static_cast<int>(enough)) - 1 : 31 - __clz(static_cast<int>(some));
        __syncwarp();
        if (lane_id() != chosen) return;
        const u32 digit = enough ? found : last;
        // Where there is not enough, everything but the last digit has been counted.
        if (!enough) earlier -= shared.amounts[last];
        shared.left = left - earlier;
        shared.digit = digit;
        shared.amount = shared.amounts[digit];
        shared.same = shared.counts[digit];
    }

    // The last token of the shortest prefix, by key and id, whose amounts add up to `target`; the last of all if they do
    // not. There is a token.
    DEVICE Last last_needed(double centre, Amount amount, u64 target) {
        u64 prefix = 0;
        if (threadIdx.x == 0) shared.left = target;
        for (u32 shift = 64; shift > 0;) {
            shift -= 8;
            histogram(centre, amount, prefix, shift);
            if (warp_id() == 0) find_digit();
            __syncthreads();
            prefix |= static_cast<u64>(shared.digit) << shift;
            __syncthreads();
        }
        // Where ties count, all tokens with the key hold the same.
        const u64 each = shared.amount / shared.same;
        u64 ties = each > 0 ? (shared.left + each - 1) / each : shared.left > 0 ? shared.same : 1;
        ties = min(max(ties, static_cast<u64>(1)), static_cast<u64>(shared.same));
        __syncthreads();
        return {prefix, ties};
    }

    // Keeps what ranks before `last`, itself included; all that rank equal to it where `keep_ties`.
    DEVICE void keep_to(const Last& last, double centre, bool keep_ties) {
        u64 own = 0;
        const u32 from = chunk_start(), to = chunk_end();
        for (u32 i = from; i < to; ++i) own += possible(i) && key(i, centre) == last.key ? 1 : 0;
        const u64 earlier = before(own);
        u64 seen = 0;
        // `retain` asks twice, in order.
        retain([&](u32 i) {
            if (i == from) seen = earlier;
            if (!possible(i)) return false;
            const u64 k = key(i, centre);
            if (k != last.key) return k < last.key;
            return keep_ties || seen++ < last.ties;
        });
    }
};
