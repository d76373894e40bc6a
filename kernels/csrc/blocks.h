// Block-quantized weights as they lie on the device.
//
// A row falls into units of 32 columns, a unit into eight quads of four. Its codes are in two planes, each unit by unit:
// with eight bits a quad is one word of signed bytes; else the low plane's words hold the low nibbles of quads i and
// i + 4, or two bits each of quads 4 i .. 4 i + 3, and the high plane's what is left, two bits or one of each quad. So
// shifts and masks take four codes apart at a time. Scales and minima are in planes of their own, as they were stored.
//
// A weight is scale * (code - bias) - min, with a scale and perhaps a minimum for every 16 or 32 columns.
#pragma once

#include "device.h"

// How scales are stored: an f16 for each unit; 2^(byte - 128) for each unit; or a byte for each group times an f16 for
// every 256 columns.
enum class Scales { Half, Exponent, Unsigned, Signed };

// What codes of four bits may be indices of.
enum class Table { None, Iq4, E2M1 };

template <u32 BITS_, u32 GROUP_, Scales SCALES_, bool MIN_, int BIAS_, Table TABLE_> struct Format {
    static constexpr u32 BITS = BITS_, GROUP = GROUP_, GROUPS = 32 / GROUP_;
    static constexpr Scales SCALES = SCALES_;
    static constexpr bool MIN = MIN_;
    static constexpr int BIAS = BIAS_;
    static constexpr Table TABLE = TABLE_;
    static constexpr u32 LOW = BITS == 8 ? 8 : BITS >= 4 ? 4 : 2, HIGH = BITS - LOW;
    // Words of a unit in each plane.
    static constexpr u32 LOW_WORDS = LOW, HIGH_WORDS = HIGH;
};

using Q8_0 = Format<8, 32, Scales::Half, false, 0, Table::None>;
using Q4_0 = Format<4, 32, Scales::Half, false, 8, Table::None>;
using Q4_1 = Format<4, 32, Scales::Half, true, 0, Table::None>;
using Q5_0 = Format<5, 32, Scales::Half, false, 16, Table::None>;
using Q5_1 = Format<5, 32, Scales::Half, true, 0, Table::None>;
using Q2K = Format<2, 16, Scales::Unsigned, true, 0, Table::None>;
using Q3K = Format<3, 16, Scales::Signed, false, 4, Table::None>;
using Q4K = Format<4, 32, Scales::Unsigned, true, 0, Table::None>;
using Q5K = Format<5, 32, Scales::Unsigned, true, 0, Table::None>;
using Q6K = Format<6, 16, Scales::Signed, false, 32, Table::None>;
using Iq4Nl = Format<4, 32, Scales::Half, false, 0, Table::Iq4>;
using Iq4Xs = Format<4, 32, Scales::Signed, false, 0, Table::Iq4>;
using Mxfp4 = Format<4, 32, Scales::Exponent, false, 0, Table::E2M1>;

// Where the planes are.
struct Planes {
    const u32* low;     // [rows, units, LOW_WORDS]
    const u32* high;    // [rows, units, HIGH_WORDS]
    const void* scales; // [rows, units] f16 or bytes, or [rows, units, GROUPS] bytes
    const void* mins;   // the same
    const f16* supers;  // [rows, units / 8]
    const f16* super_mins;
    u32 units;
};

// One unit of one row.
struct Unit {
    // Four codes each.
    u32 quads[8];
    // By group.
    float scales[2], mins[2];
};

// Four entries of a table of sixteen signed bytes, picked by four codes.
DEVICE u32 look_up(const u32 (&table)[4], u32 codes) {
    const u32 low = codes & 0x07070707, pairs = (low | low >> 4) & 0x00ff00ff, picks = (pairs | pairs >> 8) & 0xffff;
    const u32 upper = (codes >> 3 & 0x01010101) * 0xff;
    return (__byte_perm(table[0], table[1], picks) & ~upper) | (__byte_perm(table[2], table[3], picks) & upper);
}

template <class F> DEVICE void load_words(u32 (&to)[8], const u32* from) {
    if constexpr (F::LOW_WORDS >= 4) {
        UNROLL
        for (u32 i = 0; i < F::LOW_WORDS; i += 4) {
            const uint4 words = *reinterpret_cast<const uint4*>(from + i);
            to[i] = words.x, to[i + 1] = words.y, to[i + 2] = words.z, to[i + 3] = words.w;
        }
    } else {
        const uint2 words = *reinterpret_cast<const uint2*>(from);
        to[0] = words.x, to[1] = words.y;
    }
}

template <class F> DEVICE void load_codes(u32 (&quads)[8], const Planes& planes, size_t unit) {
    u32 words[8];
    load_words<F>(words, planes.low + unit * F::LOW_WORDS);
    UNROLL
    for (u32 i = 0; i < 8; ++i) {
        if constexpr (F::LOW == 8) quads[i] = words[i];
        if constexpr (F::LOW == 4) quads[i] = words[i % 4] >> (i / 4 * 4) & 0x0f0f0f0f;
        if constexpr (F::LOW == 2) quads[i] = words[i / 4] >> (i % 4 * 2) & 0x03030303;
    }
    if constexpr (F::HIGH > 0) {
        const u32* high = planes.high + unit * F::HIGH_WORDS;
        UNROLL
        for (u32 i = 0; i < 8; ++i) {
            if constexpr (F::HIGH == 1) quads[i] |= (high[0] >> i & 0x01010101) << F::LOW;
            if constexpr (F::HIGH == 2) quads[i] |= (high[i / 4] >> (i % 4 * 2) & 0x03030303) << F::LOW;
        }
    }
    if constexpr (F::TABLE == Table::Iq4) {
        // -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113
        const u32 table[4] = {0xbfad9881, 0xf6eaddcf, 0x26190d01, 0x71594535};
        UNROLL
        for (u32 i = 0; i < 8; ++i) quads[i] = look_up(table, quads[i]);
    }
    if constexpr (F::TABLE == Table::E2M1) {
        // 0 1 2 3 4 6 8 12 and their negatives: twice the values of the four-bit float.
        const u32 table[4] = {0x03020100, 0x0c080604, 0xfdfeff00, 0xf4f8fafc};
        UNROLL
        for (u32 i = 0; i < 8; ++i) quads[i] = look_up(table, quads[i]);
    }
}

// A group's scale or minimum.
template <class F>
DEVICE float factor(const void* plane, const f16* supers, size_t row, u32 units, u32 unit, u32 group) {
    const size_t at = row * units + unit;
    if constexpr (F::SCALES == Scales::Half) {
        return widen(static_cast<const f16*>(plane)[at]);
    } else if constexpr (F::SCALES == Scales::Exponent) {
        return ldexpf(1.0f, static_cast<int>(static_cast<const u8*>(plane)[at]) - 128);
    } else {
        const u8 byte = static_cast<const u8*>(plane)[at * F::GROUPS + group];
        const float small = F::SCALES == Scales::Signed ? static_cast<float>(static_cast<i8>(byte)) : static_cast<float>(byte);
        return widen(supers[row * (units / 8) + unit / 8]) * small;
    }
}

template <class F> DEVICE Unit load_unit(const Planes& planes, size_t row, u32 unit) {
    Unit loaded;
    load_codes<F>(loaded.quads, planes, row * planes.units + unit);
    UNROLL
    for (u32 group = 0; group < F::GROUPS; ++group) {
        loaded.scales[group] = factor<F>(planes.scales, planes.supers, row, planes.units, unit, group);
        loaded.mins[group] = F::MIN ? factor<F>(planes.mins, planes.super_mins, row, planes.units, unit, group) : 0.0f;
    }
    return loaded;
}

#define FOR_EACH_FORMAT(DO) \
    DO(q8_0, Q8_0)          \
    DO(q4_0, Q4_0)          \
    DO(q4_1, Q4_1)          \
    DO(q5_0, Q5_0)          \
    DO(q5_1, Q5_1)          \
    DO(q2k, Q2K)            \
    DO(q3k, Q3K)            \
    DO(q4k, Q4K)            \
    DO(q5k, Q5K)            \
    DO(q6k, Q6K)            \
    DO(iq4nl, Iq4Nl)        \
    DO(iq4xs, Iq4Xs)        \
    DO(mxfp4, Mxfp4)
