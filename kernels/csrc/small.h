// Floats of eight bits, for keys and values in the cache, and for weights and what they are multiplied with.
//
// In the cache the elements of a head at one position are divided by a power of two, kept as a byte (its exponent as in an f32), so that
// the largest of them comes close to the type's largest number: whatever the model's magnitudes are, nothing is clipped,
// and what is divided loses nothing by that. What is not finite, anywhere in a head, is an infinite scale, which leaves no
// finite number in the head.
#pragma once

#include "device.h"

// Codes are a sign, an exponent and MANTISSA bits, MOST the largest finite one. All are pieces of f16 numbers: that with the
// same bits below its sign is 2^-OFFSET of the code's value.
template <u32 MANTISSA_, u32 BIAS_, u32 MOST_> struct Small {
    static constexpr u32 MANTISSA = MANTISSA_, BIAS = BIAS_, MOST = MOST_, OFFSET = 15 - BIAS_;
    u8 code;
};
using E4M3 = Small<3, 7, 0x7e>;
using E5M2 = Small<2, 15, 0x7b>;

// What a cache keeps its elements as.
template <class T> struct Kept {
    static constexpr bool SMALL = false;
};
template <u32 M, u32 B, u32 X> struct Kept<Small<M, B, X>> {
    static constexpr bool SMALL = true;
};

template <class S> DEVICE float without_scale(u8 code) {
    const u32 bits = (code & 0x80u) << 8 | (code & 0x7fu) << (10 - S::MANTISSA);
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

// What `without_scale` has to be multiplied by.
template <class S> DEVICE float power_of(u8 scale) {
    return __uint_as_float(min(static_cast<u32>(scale) + S::OFFSET, 255u) << 23);
}

// The largest finite number.
template <class S> DEVICE float most() {
    return __uint_as_float((S::MOST << (23 - S::MANTISSA)) + ((127 - S::BIAS) << 23));
}

// The scale of a head whose largest magnitude this is: the least power of two that leaves it in range.
template <class S> DEVICE u8 scale_of(float largest) {
    const u32 bits = __float_as_uint(__fdiv_rn(largest, most<S>()));
    return static_cast<u8>(max((bits >> 23) + ((bits & 0x7fffff) != 0 ? 1u : 0u), 1u));
}

// The nearest code, ties to even; beyond the largest it is that.
template <class S> DEVICE S encode(float x) {
    constexpr u32 SHIFT = 23 - S::MANTISSA, LEAST_NORMAL = (128 - S::BIAS) << 23;
    // Its last bit is what subnormal numbers are multiples of.
    constexpr u32 ROUND = (151 - S::BIAS - S::MANTISSA) << 23;
    const u32 bits = __float_as_uint(x), magnitude = bits & 0x7fffffff;
    u32 code = 0x7f;
    if (magnitude < LEAST_NORMAL) {
        code = __float_as_uint(__fadd_rn(__uint_as_float(magnitude), __uint_as_float(ROUND))) - ROUND;
    } else if (magnitude <= 0x7f800000) {
        const u32 rounded = magnitude + ((1u << (SHIFT - 1)) - 1) + (magnitude >> SHIFT & 1);
        code = min((rounded >> SHIFT) - ((127 - S::BIAS) << S::MANTISSA), S::MOST);
    }
    return {static_cast<u8>(code | (bits >> 24 & 0x80))};
}
template <> DEVICE E4M3 narrow<E4M3>(float x) { return encode<E4M3>(x); }

// Four codes of E4M3, as two words of f16 numbers that are 2^-OFFSET of their values.
DEVICE uint2 without_scales(u32 codes) {
    const u32 first = __byte_perm(codes, 0, 0x1404), second = __byte_perm(codes, 0, 0x3424);
    return {(first & 0x80008000) | (first & 0x7f007f00) >> 1, (second & 0x80008000) | (second & 0x7f007f00) >> 1};
}
