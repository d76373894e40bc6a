// The draw: from a row of adjusted logits to a token, its log-probability and the most likely tokens.
//
// Bit for bit the CPU device's choice (src/cpu/sample): weights are integers, so sums may be taken in any order; what is
// compared are f64 distances from the maximum, each a single subtraction. One block of threads has one row. The filters
// rank tokens by a key and keep the shortest prefix that holds some amount; here the last token of that prefix is found by
// its key's digits, eight bits at a time, from a histogram of amounts. What is left is listed in the order of ids, so each
// filter after the first looks at few tokens.
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

struct Row {
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

    DEVICE u64 total_weight() {
        u64 own = 0;
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

    // The last token of the shortest prefix, by key and id, whose amounts add up to `target`; the last of all if they do
    // not. There is a token.
    DEVICE Last last_needed(double centre, Amount amount, u64 target) {
        u64 prefix = 0;
        if (threadIdx.x == 0) shared.left = target;
        for (u32 shift = 64; shift > 0;) {
            shift -= 8;
            histogram(centre, amount, prefix, shift);
            if (threadIdx.x == 0) {
                u64 left = shared.left;
                u32 digit = 0, next = 0;
                for (; next < DIGITS; ++next) {
                    if (shared.counts[next] == 0) continue;
                    digit = next;
                    if (shared.amounts[next] >= left) break;
                    left -= shared.amounts[next];
                }
                // None had enough: all of the last one is wanted, and more.
                if (next == DIGITS) left += shared.amounts[digit] + 1;
                shared.left = left;
                shared.digit = digit;
                shared.amount = shared.amounts[digit];
                shared.same = shared.counts[digit];
            }
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

    DEVICE void top_k(u32 k) {
        keep_to(last_needed(0.0, Amount::One, k), 0.0, true);
    }

    DEVICE u64 share(float p) {
        const double wanted = __dmul_rn(static_cast<double>(p), static_cast<double>(total_weight()));
        return static_cast<u64>(ceil(wanted));
    }

    DEVICE void top_p(float p) {
        const u64 target = share(p);
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

    // Divides by the temperature. Where that would overflow, the maximum is moved to 0 first.
    DEVICE void temper(float temperature) {
        if (temperature == 1.0f) return;
        const float scaled = __fdiv_rn(peak, temperature);
        const float shift = fabsf(scaled) <= 3.402823466e38f ? 0.0f : peak;
        __syncthreads();
        for (u32 i = threadIdx.x; i < count; i += THREADS) {
            const u32 at = id(i);
            logits[at] = __fdiv_rn(__fsub_rn(logits[at], shift), temperature);
        }
        peak = __fdiv_rn(__fsub_rn(peak, shift), temperature);
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
            temper(row.temperature);
            if (row.flags & MIROSTAT_1) {
                mirostat_1();
            } else {
                mirostat_2();
            }
            return;
        }
        const bool last = row.flags & TEMPERATURE_LAST;
        if (!last) temper(row.temperature);
        shorten();
        if (last && row.typical_p < 1.0f) typical_p(row.typical_p);
        if (row.top_p < 1.0f) top_p(row.top_p);
        if (!last && row.typical_p < 1.0f) typical_p(row.typical_p);
        if (row.min_p > 0.0) min_p();
        if (last) temper(row.temperature);
    }

    // The first token, by id, at which the running sum of the weights exceeds its share of `weights`.
    DEVICE u32 choose(u64 weights) {
        const u64 sought = __umul64hi(uniform_bits(row.seed, row.draw), weights);
        u64 own = 0;
        const u32 from = chunk_start(), to = chunk_end();
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

    DEVICE float logprob(float logit, double log_total) const {
        const double relative = __dsub_rn(static_cast<double>(logit), static_cast<double>(peak));
        return static_cast<float>(__dsub_rn(relative, log_total));
    }

    DEVICE u32 write_top(double log_total) {
        if (row.top_n == 0) return 0;
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
        for (u32 i = threadIdx.x; i < args.vocab; i += THREADS) {
            if (!(logits[i] > NEG_INFINITY)) logits[i] = NEG_INFINITY;
        }
        __syncthreads();
        peak = largest();
        if (!(fabsf(peak) <= 3.402823466e38f)) return no_distribution();
        if (row.flags & RANDOM) filter();
        const u64 weights = total_weight();
        __syncthreads();
        u32 token = NONE;
        if (row.flags & RANDOM) token = choose(weights);
        if (token == NONE) {
            u32 own = NONE;
            for (u32 i = threadIdx.x; i < count && own == NONE; i += THREADS) {
                if (logit(i) == peak) own = id(i);
            }
            token = lowest(own);
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
    Row row = {args,  args.rows[blockIdx.x], shared,     args.logits + start, list,
               order, NEG_INFINITY,          args.vocab, false};
    row.draw();
}
