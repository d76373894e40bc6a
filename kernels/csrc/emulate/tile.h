// The wrappers of ../tile.h on the host: the last lane to come works for the whole warp.
#pragma once

// A sign, four bits of exponent with bias 7, three of mantissa; all ones is not a number.
inline float widen(E4M3 x) {
    const int exponent = x.code >> 3 & 15, mantissa = x.code & 7;
    if ((x.code & 0x7f) == 0x7f) return __int_as_float(0x7fc00000);
    const float size = exponent == 0 ? ldexpf(mantissa, -9) : ldexpf(8 + mantissa, exponent - 10);
    return x.code & 0x80 ? -size : size;
}

namespace emulate {

struct Multiply {
    float* d;
    const u32* a;
    const u32* b;
};

template <class T> float element_of(u32 word, u32 which) {
    T value;
    memcpy(&value, reinterpret_cast<const u8*>(&word) + which * sizeof value, sizeof value);
    return widen(value);
}

template <class T> void multiply_tiles(void* const* payloads) {
    // Elements of a word, and of a row of A.
    constexpr u32 WORD = 4 / sizeof(T), DEPTH = 8 * WORD;
    float a[16][DEPTH], b[DEPTH][8];
    for (u32 lane = 0; lane < WARP; ++lane) {
        const Multiply& own = *static_cast<const Multiply*>(payloads[lane]);
        const u32 group = lane / 4, thread = lane % 4;
        for (u32 i = 0; i < WORD; ++i) {
            const u32 first = WORD * thread + i;
            for (u32 part = 0; part < 4; ++part) {
                a[group + part % 2 * 8][first + part / 2 * 4 * WORD] = element_of<T>(own.a[part], i);
            }
            for (u32 part = 0; part < 2; ++part) b[first + part * 4 * WORD][group] = element_of<T>(own.b[part], i);
        }
    }
    for (u32 lane = 0; lane < WARP; ++lane) {
        float* d = static_cast<const Multiply*>(payloads[lane])->d;
        for (u32 i = 0; i < 4; ++i) {
            const u32 row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
            for (u32 k = 0; k < DEPTH; ++k) d[i] += a[row][k] * b[k][column];
        }
    }
}

struct LoadTiles {
    u32* to;
    const u16* row;
};

template <bool TRANSPOSED> void load_four(void* const* payloads) {
    for (u32 lane = 0; lane < WARP; ++lane) {
        const LoadTiles& own = *static_cast<const LoadTiles*>(payloads[lane]);
        for (u32 tile = 0; tile < 4; ++tile) {
            u32 word = 0;
            for (u32 i = 0; i < 2; ++i) {
                const u32 row = TRANSPOSED ? 2 * (lane % 4) + i : lane / 4;
                const u32 column = TRANSPOSED ? lane / 4 : 2 * (lane % 4) + i;
                const u16 value = static_cast<const LoadTiles*>(payloads[8 * tile + row])->row[column];
                word |= static_cast<u32>(value) << (16 * i);
            }
            own.to[tile] = word;
        }
    }
}

}  // namespace emulate

template <class T> u32 pair_of(float low, float high) {
    return static_cast<u32>(bits_of_half(narrow<T>(low))) | static_cast<u32>(bits_of_half(narrow<T>(high))) << 16;
}

template <class T> void multiply(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    emulate::Multiply own = {d, a, b};
    emulate::of_warp(&own, emulate::multiply_tiles<T>);
}

inline void copy_async(void* shared, const void* global, u32 valid) { emulate::async_copy(shared, global, 16, valid); }
inline void commit_copies() { emulate::async_commit(); }
template <u32 LEFT> void wait_for_copies() { emulate::async_wait(LEFT); }

inline void load_tiles(u32 (&to)[4], const void* row) {
    emulate::LoadTiles own = {to, static_cast<const u16*>(row)};
    emulate::of_warp(&own, emulate::load_four<false>);
}
inline void load_tiles_transposed(u32 (&to)[4], const void* row) {
    emulate::LoadTiles own = {to, static_cast<const u16*>(row)};
    emulate::of_warp(&own, emulate::load_four<true>);
}
