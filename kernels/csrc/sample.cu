// The draw: from a row of adjusted logits to a token, its log-probability and the most likely tokens.
//
// Bit for bit the CPU device's choice (src/cpu/sample): weights are integers, so sums may be taken in any order; what is
// compared are f64 distances from the maximum, each a single subtraction. One block of threads has one row. The filters
// rank tokens by a key and keep the shortest prefix that holds some amount; here the last token of that prefix is found by
// its key's digits, eight bits at a time, from a histogram of amounts. What is left is listed in the order of ids. Before the
// first filter ranks anything, the tokens near the maximum are listed, as far as is needed, so that all this is about a few
// hundred tokens; and a row without filters is never looked at whole, for scan.cu has its chunks' maxima and weights.
#include "ranking.h"

// By how many nats the search for enough weight widens at a time, and where it gives up and takes the whole row.
constexpr double WIDEN = 3.0, WIDEST = 30.0;

struct Row : Ranking {
    // Lists the possible tokens whose distance is no further than `radius` from `centre`.
    DEVICE void list_within(double centre, double radius) {
        retain([&](u32 i) {
            return possible(i) && fabs(__dsub_rn(distance(i), centre)) <= radius;
        });
    }

    // Lists the nearest tokens, `n` of them at least, if the chunks can tell how far away they are: as many chunks have a
    // maximum no smaller than the n-th largest.
    DEVICE void list_nearest(u32 n) {
        if (listed || n == 0 || n > CHUNKS) return;
        __syncthreads();
        if (threadIdx.x < CHUNKS) {
            const float own = chunk_max(threadIdx.x);
            u32 larger = 0;
            for (u32 i = 0; i < CHUNKS; ++i) {
                const float other = chunk_max(i);
                larger += other > own || (other == own && i < threadIdx.x) ? 1 : 0;
            }
            if (larger == n - 1) shared.reach = tempered.of(own);
        }
        __syncthreads();
        const float reach = shared.reach;
        // Chunks without a possible token tell nothing.
        if (reach > NEG_INFINITY) list_within(0.0, distance_from(peak, reach));
    }

    // Lists the tokens that rank best, with a weight of `target` at least.
    DEVICE void list_weight(double centre, u64 target) {
        if (listed) return;
        for (double radius = WIDEN; radius <= WIDEST; radius += WIDEN) {
            list_within(centre, radius);
            const u64 held = total_weight();
            if (held >= target) return;
            listed = false;
            count = args.vocab;
        }
    }

    DEVICE void top_k(u32 k) {
        list_nearest(k);
        keep_to(last_needed(0.0, Amount::One, k), 0.0, true);
    }

    DEVICE u64 share(float p) {
        const double wanted = __dmul_rn(static_cast<double>(p), static_cast<double>(total_weight()));
        return static_cast<u64>(ceil(wanted));
    }

    DEVICE void top_p(float p) {
        const u64 target = share(p);
        list_weight(0.0, target);
        keep_to(last_needed(0.0, Amount::Weight, target), 0.0, false);
    }

    DEVICE void typical_p(float p) {
        u64 weights = 0, moments = 0;
        for (u32 i = threadIdx.x; i < count; i += THREADS) {
            weights += weight(i);
            moments += moment_at(distance(i), args.scale);
        }
        weights = total(weights);
        __syncthreads();
        moments = total(moments);
        const double centre = __ddiv_rn(static_cast<double>(moments), static_cast<double>(weights));
        const u64 target = share(p);
        list_weight(centre, target);
        keep_to(last_needed(centre, Amount::Weight, target), centre, true);
        // The most likely tokens may be gone. Weights that start from the best one left keep their precision.
        peak = largest();
    }

    DEVICE void min_p() {
        retain([&](u32 i) {
            const double d = distance(i);
            return possible(i) && d <= row.min_p_reach && (d == 0.0 || scaled_exp(d < FAR ? d : FAR, 0) >= row.min_p);
        });
    }

    DEVICE void temper(float temperature) {
        if (temperature == 1.0f) return;
        tempered = temper_by(temperature, peak);
        __syncthreads();
        for (u32 i = threadIdx.x; i < count; i += THREADS) {
            const u32 at = id(i);
            logits[at] = tempered.of(logits[at]);
        }
        peak = tempered.of(peak);
        summed = false;
        __syncthreads();
    }

    // The tokens with the `n` smallest distances into `order`, as indices; how many there are.
    DEVICE u32 gather_top(u32 n) {
        const Last last = last_needed(0.0, Amount::One, n);
        const u32 from = chunk_start(), to = chunk_end();
        u64 equal = 0, less = 0;
        for (u32 i = from; i < to; ++i) {
            if (!possible(i)) continue;
            const u64 k = key(i, 0.0);
            equal += k == last.key ? 1 : 0;
            less += k < last.key ? 1 : 0;
        }
        u64 ties = before(equal);
        // Of those with the last key, as many as there is room for.
        const u64 taken_before = min(ties, last.ties), taken_after = min(ties + equal, last.ties);
        const u64 own = less + taken_after - taken_before;
        u64 at = before(own);
        const u32 found = static_cast<u32>(total(own));
        for (u32 i = from; i < to; ++i) {
            if (!possible(i)) continue;
            const u64 k = key(i, 0.0);
            if (k < last.key || (k == last.key && ties++ < last.ties)) order[at++] = i;
        }
        __syncthreads();
        return found;
    }

    // Whether the token at index i ranks before the one at j.
    DEVICE bool ranks_before(u32 i, u32 j) const {
        const u64 a = key(i, 0.0), b = key(j, 0.0);
        return a < b || (a == b && i < j);
    }

    DEVICE u32 rank(u32 i, u32 found) const {
        u32 rank = 0;
        for (u32 j = 0; j < found; ++j) rank += ranks_before(static_cast<u32>(order[j]), i) ? 1 : 0;
        return rank;
    }

    DEVICE void keep_ranked(u32 n) {
        keep_to(last_needed(0.0, Amount::One, n > 1 ? n : 1), 0.0, false);
    }

    DEVICE u32 possible_tokens() {
        u64 own = 0;
        for (u32 i = threadIdx.x; i < count; i += THREADS) own += possible(i) ? 1 : 0;
        return static_cast<u32>(total(own));
    }

    // As many tokens as have the expected surprise under Zipf's law, fitted to the most likely ones.
    DEVICE void mirostat_1() {
        const u32 found = gather_top(FITTED);
        for (u32 i = threadIdx.x; i < found; i += THREADS) {
            const u32 token = static_cast<u32>(order[i]);
            shared.keys[rank(token, found)] = distance(token);
        }
        __syncthreads();
        double products = 0.0, squares = 0.0;
        for (u32 i = 0; i + 1 < found; ++i) {
            const double t = log(__ddiv_rn(static_cast<double>(i + 2), static_cast<double>(i + 1)));
            products = __dadd_rn(products, __dmul_rn(t, __dsub_rn(shared.keys[i + 1], shared.keys[i])));
            squares = __dadd_rn(squares, __dmul_rn(t, t));
        }
        const double vocab = static_cast<double>(args.vocab), exponent = __ddiv_rn(products, squares);
        const double excess = __dsub_rn(exponent, 1.0);
        const double scale = __dsub_rn(1.0, pow(vocab, -excess));
        const double base = __ddiv_rn(__dmul_rn(excess, exp2(static_cast<double>(row.surprise))), scale);
        const double k = pow(base, __ddiv_rn(1.0, exponent));
        keep_ranked(k != k ? args.vocab : static_cast<u32>(fmin(fmax(k, 1.0), vocab)));
    }

    // The tokens that are no more surprising than that, or the most likely one.
    DEVICE void mirostat_2() {
        const double reach =
            __dsub_rn(__dmul_rn(static_cast<double>(row.surprise), LN_2), log_of(total_weight()));
        u64 own = 0;
        for (u32 i = threadIdx.x; i < count; i += THREADS) own += possible(i) && distance(i) <= reach ? 1 : 0;
        keep_ranked(static_cast<u32>(total(own)));
    }

    // Sorts the weights of what is left, largest first, into `order`; how many there are.
    DEVICE u32 sort_weights() {
        u32 len = 1;
        while (len < count) len *= 2;
        for (u32 i = threadIdx.x; i < len; i += THREADS) {
            // The smallest value sorts last and is told from a weight of zero by its lack of one.
            order[i] = i < count && possible(i) ? weight(i) + 1 : 0;
        }
        __syncthreads();
        for (u32 size = 2; size <= len; size *= 2) {
            for (u32 step = size / 2; step > 0; step /= 2) {
                for (u32 i = threadIdx.x; i < len; i += THREADS) {
                    const u32 j = i ^ step;
                    if (j <= i) continue;
                    const bool descending = (i & size) == 0;
                    const u64 a = order[i], b = order[j];
                    if (descending ? a < b : a > b) {
                        order[i] = b;
                        order[j] = a;
                    }
                }
                __syncthreads();
            }
        }
        return possible_tokens();
    }

    DEVICE u64 curvature(u32 i) const {
        const long long a = static_cast<long long>(order[i]), b = static_cast<long long>(order[i + 1]);
        const long long c = static_cast<long long>(order[i + 2]), bend = (a - b) - (b - c);
        return static_cast<u64>(bend < 0 ? -bend : bend);
    }

    // Likely tokens up to where the curve of their sorted probabilities is flat.
    DEVICE void tail_free(float z) {
        const u64 weights = total_weight();
        __syncthreads();
        const u32 tokens = sort_weights(), bends = tokens > 2 ? tokens - 2 : 0;
        const u32 each = (bends + THREADS - 1) / THREADS;
        const u32 from = min(bends, threadIdx.x * each), to = min(bends, from + each);
        u64 own = 0;
        for (u32 i = from; i < to; ++i) own += curvature(i);
        const u64 sum = total(own);
        // Such a curve is flat: all its points count alike.
        const bool flat = static_cast<double>(sum) <= __dmul_rn(1e-6, static_cast<double>(weights));
        u64 passed = before(flat ? to - from : own);
        const double whole = flat ? static_cast<double>(bends) : static_cast<double>(sum);
        u32 end = NONE;
        for (u32 i = from; i < to && end == NONE; ++i) {
            passed += flat ? 1 : curvature(i);
            if (i >= 1 && __ddiv_rn(static_cast<double>(passed), whole) > static_cast<double>(z)) end = i;
        }
        end = lowest(end);
        if (end != NONE) keep_ranked(end);
    }

    DEVICE void shorten() {
        if (row.top_k > 0 && row.top_k < args.vocab) top_k(row.top_k);
        if (row.tail_free < 1.0f) tail_free(row.tail_free);
    }

    DEVICE void filter() {
        if (row.flags & (MIROSTAT_1 | MIROSTAT_2)) {
            if (row.flags & MIROSTAT_1) {
                mirostat_1();
            } else {
                mirostat_2();
            }
            return;
        }
        const bool last = row.flags & TEMPERATURE_LAST;
        shorten();
        if (last && row.typical_p < 1.0f) typical_p(row.typical_p);
        if (row.top_p < 1.0f) top_p(row.top_p);
        if (!last && row.typical_p < 1.0f) typical_p(row.typical_p);
        if (row.min_p > 0.0) min_p();
        if (last) temper(row.temperature);
    }

    // The first of the tokens at indices `first .. end` at which the running sum of the weights exceeds `sought`.
    DEVICE u32 choose_in(u32 first, u32 end, u64 sought) {
        const u32 each = (end - first + THREADS - 1) / THREADS;
        const u32 from = min(end, first + threadIdx.x * each), to = min(end, from + each);
        u64 own = 0;
        for (u32 i = from; i < to; ++i) own += weight(i);
        u64 sum = before(own);
        u32 found = NONE;
        if (sum <= sought && sought < sum + own) {
            for (u32 i = from; i < to && found == NONE; ++i) {
                sum += weight(i);
                if (sought < sum) found = id(i);
            }
        }
        return lowest(found);
    }

    // The draw among what is left, which weighs `weights`.
    DEVICE u32 choose(u64 weights) {
        u64 sought = __umul64hi(uniform_bits(row.seed, row.draw), weights);
        if (listed || !summed) return choose_in(0, count, sought);
        u32 chunk = 0;
        for (; chunk + 1 < CHUNKS && sought >= chunk_sum(chunk); ++chunk) sought -= chunk_sum(chunk);
        const u32 start = min(count, chunk * chunk_length(count));
        return choose_in(start, min(count, start + chunk_length(count)), sought);
    }

    // The most likely token, by id; of a row that nothing was done to.
    DEVICE u32 most_likely() {
        u32 chunk = 0;
        while (chunk + 1 < CHUNKS && chunk_max(chunk) != peak) ++chunk;
        const u32 start = min(args.vocab, chunk * chunk_length(args.vocab));
        const u32 end = min(args.vocab, start + chunk_length(args.vocab));
        u32 own = NONE;
        for (u32 i = start + threadIdx.x; i < end && own == NONE; i += THREADS) {
            if (logits[i] == peak) own = i;
        }
        return lowest(own);
    }

    // The same of what the filters left.
    DEVICE u32 most_likely_left() {
        u32 own = NONE;
        for (u32 i = threadIdx.x; i < count && own == NONE; i += THREADS) {
            if (logit(i) == peak) own = id(i);
        }
        return lowest(own);
    }

    DEVICE float logprob(float logit, double log_total) const {
        const double relative = __dsub_rn(static_cast<double>(logit), static_cast<double>(peak));
        return static_cast<float>(__dsub_rn(relative, log_total));
    }

    DEVICE u32 write_top(double log_total) {
        if (row.top_n == 0) return 0;
        list_nearest(row.top_n);
        const u32 found = gather_top(row.top_n);
        for (u32 i = threadIdx.x; i < found; i += THREADS) {
            const u32 token = static_cast<u32>(order[i]);
            args.top[row.top_start + rank(token, found)] = {id(token), logprob(logit(token), log_total)};
        }
        return found;
    }

    DEVICE bool allowed(u32 token) const {
        if (row.flags & MASKED) {
            const u32 word = token / 32 < row.mask.len ? args.words[row.mask.start + token / 32] : 0;
            if (!(word >> (token % 32) & 1)) return false;
        }
        for (u32 i = 0; i < row.banned.len; ++i) {
            if (args.words[row.banned.start + i] == token) return false;
        }
        return true;
    }

    // Without a finite maximum there is no distribution: the token that is infinitely likely, else the lowest allowed one.
    DEVICE void no_distribution() {
        u32 own = NONE;
        for (u32 i = threadIdx.x; i < args.vocab && own == NONE; i += THREADS) {
            if (peak > 0.0f ? logits[i] == peak : allowed(i)) own = i;
        }
        const u32 token = lowest(own);
        if (threadIdx.x == 0) args.drawn[blockIdx.x] = {token == NONE ? 0 : token, NEG_INFINITY, 0, 0};
    }

    DEVICE void draw() {
        for (u32 chunk = 0; chunk < CHUNKS; ++chunk) peak = fmaxf(peak, chunk_max(chunk));
        if (!(fabsf(peak) <= 3.402823466e38f)) return no_distribution();
        if (tempers_first(row)) {
            tempered = temper_by(row.temperature, peak);
            peak = tempered.of(peak);
        }
        u32 token = NONE;
        if (row.flags & RANDOM) {
            filter();
        } else {
            token = most_likely();
        }
        const u64 weights = total_weight();
        __syncthreads();
        if (row.flags & RANDOM) {
            token = choose(weights);
            if (token == NONE) token = most_likely_left();
        }
        const double log_total = log_of(weights);
        __syncthreads();
        const u32 found = write_top(log_total);
        if (threadIdx.x == 0) args.drawn[blockIdx.x] = {token, logprob(logits[token], log_total), found, 0};
    }
};

KERNEL(sample_draw, THREADS, SampleArgs) {
    SHARED(Shared, shared);
    const size_t start = static_cast<size_t>(blockIdx.x) * args.vocab;
    u64* order = args.order ? args.order + static_cast<size_t>(blockIdx.x) * args.order_len : nullptr;
    u32* list = args.list ? args.list + start : nullptr;
    Row row = {{args, args.rows[blockIdx.x], shared, args.logits + start, list, order, NEG_INFINITY, args.vocab, false, true,
                {0.0f, 1.0f}}};
    row.draw();
}
