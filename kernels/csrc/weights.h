// The softmax of a row in fixed point, and the generator: bit for bit what the CPU device computes
// (src/cpu/sample/weights.rs and rng.rs say why and what).
//
// Every operation is an IEEE one that no compiler may fuse with another.
#pragma once

#include "device.h"

// Beyond this distance from the maximum a weight is 0 for any scale.
constexpr double FAR = 64.0;
constexpr double LN_2 = 0.693147180559945309417;

DEVICE u64 bits_of(double x) { return static_cast<u64>(__double_as_longlong(x)); }
DEVICE double from_bits(u64 bits) { return __longlong_as_double(static_cast<long long>(bits)); }

// 2^scale * exp(-distance), distance in [0, FAR].
DEVICE double scaled_exp(double distance, u32 scale) {
    constexpr double INVERSE_FACTORIALS[12] = {1.0,           1.0,           1.0 / 2.0,       1.0 / 6.0,
                                               1.0 / 24.0,    1.0 / 120.0,   1.0 / 720.0,     1.0 / 5040.0,
                                               1.0 / 40320.0, 1.0 / 362880.0, 1.0 / 3628800.0, 1.0 / 39916800.0};
    constexpr double LOG2_E = 1.44269504088896340736, ROUND_SIGNED = 6755399441055744.0;
    constexpr double LN_2_LOW = 1.9082149292705877e-10;
    // The leading 32 bits of ln 2.
    const double ln_2_high = from_bits(0x3FE62E42FEE00000ull);
    const double rounded = __dadd_rn(__dmul_rn(distance, LOG2_E), ROUND_SIGNED);
    const double halvings = __dsub_rn(rounded, ROUND_SIGNED);
    const double x = __dadd_rn(__dsub_rn(__dmul_rn(halvings, ln_2_high), distance), __dmul_rn(halvings, LN_2_LOW));
    double sum = INVERSE_FACTORIALS[11];
    UNROLL
    for (int degree = 10; degree >= 0; --degree) sum = __dadd_rn(__dmul_rn(sum, x), INVERSE_FACTORIALS[degree]);
    const u64 exponent = static_cast<u64>(1023 + scale) - bits_of(rounded);
    return __dmul_rn(sum, from_bits(exponent << 52));
}

// Rounds x in [0, 2^52) to the nearest integer.
DEVICE u64 to_integer(double x) {
    constexpr double ROUND_UNSIGNED = 4503599627370496.0;
    return bits_of(__dadd_rn(x, ROUND_UNSIGNED)) - bits_of(ROUND_UNSIGNED);
}

// How far below the maximum a logit lies; never -0.
DEVICE double distance_from(float max, float logit) {
    return __dadd_rn(__dsub_rn(static_cast<double>(max), static_cast<double>(logit)), 0.0);
}

DEVICE u64 weight_at(double distance, u32 scale) { return to_integer(scaled_exp(distance < FAR ? distance : FAR, scale)); }

// A weight times its distance.
DEVICE u64 moment_at(double distance, u32 scale) {
    const double d = distance < FAR ? distance : FAR;
    return to_integer(__dmul_rn(d, scaled_exp(d, scale)));
}

struct Words {
    u32 word[4];
};

// Philox 4x32-10.
DEVICE Words philox(u32 key0, u32 key1, Words counter) {
    for (u32 round = 0; round < 10; ++round) {
        const u64 even = static_cast<u64>(0xD2511F53u) * counter.word[0];
        const u64 odd = static_cast<u64>(0xCD9E8D57u) * counter.word[2];
        counter = {{static_cast<u32>(odd >> 32) ^ counter.word[1] ^ key0, static_cast<u32>(odd),
                    static_cast<u32>(even >> 32) ^ counter.word[3] ^ key1, static_cast<u32>(even)}};
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}

// 64 uniform bits for a draw.
DEVICE u64 uniform_bits(u64 seed, u64 draw) {
    const Words words = philox(static_cast<u32>(seed), static_cast<u32>(seed >> 32),
                               {{static_cast<u32>(draw), static_cast<u32>(draw >> 32), 0, 0}});
    return words.word[0] | static_cast<u64>(words.word[1]) << 32;
}
