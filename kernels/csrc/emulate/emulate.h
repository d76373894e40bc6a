// CUDA on the host: enough of the language for our kernels, compiled by the host's C++ compiler and run block by block.
//
// Threads of a block are fibers on one thread of the host. A fiber runs until it meets a barrier or an operation of its
// warp, and goes on when all who take part have come; whoever comes last computes the result for all. Odd blocks run
// their threads in reverse, so that a missing barrier does not go unnoticed for long.
//
// Shared memory is filled with ones before each block (NaN to every float type, -1 to integers), and has guard bands
// that are looked at when the block is done. Asynchronous copies happen when they are waited for and no sooner.
// Whatever is undefined on a device (lanes of a warp in different operations, a barrier that some threads never
// reach, shared memory overrun) ends the launch with a message.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define DEVICE inline
#define UNROLL
#define UNROLL_TWICE
#define ONCE
#define __restrict__ __restrict
#define KERNEL(name, threads, Args)                                                                                    \
    static void name(const Args& args);                                                                                \
    extern "C" {                                                                                                       \
    extern const emulate::Entry emulated_##name;                                                                       \
    const emulate::Entry emulated_##name = {                                                                           \
        #name, [](const void* args) { name(*static_cast<const Args*>(args)); }, sizeof(Args), threads};                \
    }                                                                                                                  \
    static void name(const Args& args)
#define KERNEL_TWICE(name, threads, Args) KERNEL(name, threads, Args)
// Each place in the sources that declares shared memory has its own.
#define SHARED(type, name)                                                                                             \
    static const char name##_site = 0;                                                                                 \
    emulate::Same<type>& name = *static_cast<emulate::Same<type>*>(emulate::shared(&name##_site, sizeof(type)))
#define DYNAMIC_SHARED(name) unsigned char* name = emulate::dynamic_shared()

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct uint3 {
    unsigned x, y, z;
};

namespace emulate {

template <class T> using Same = T;

// A kernel as the host finds it.
struct Entry {
    const char* name;
    void (*run)(const void* args);
    size_t args_size;
    unsigned threads;
};

struct Place {
    uint3 thread, block, threads, blocks;
};
// Where the running thread is.
extern thread_local Place place;

void* shared(const void* site, size_t size);
unsigned char* dynamic_shared();

// Ends the launch.
[[noreturn]] void fail(const char* message);

void barrier();

// An operation of the whole warp. Each lane brings `payload`; the last to come calls `combine` with those of all lanes,
// and everyone goes on. All lanes must be in the same operation.
void of_warp(void* payload, void (*combine)(void* const* payloads));

// The same for four warps.
void of_warpgroup(void* payload, void (*combine)(void* const* payloads));

// Others go on until `ready(subject)`.
void wait_until(bool (*ready)(const void*), const void* subject);

// Where in shared memory this is, and what is there.
uint32_t shared_address(const void* at);
unsigned char* shared_at(uint32_t address, size_t bytes);

// Units beside the threads (hopper.cpp), in room of their own: those of a block begin; one of them does something, now that
// no thread can; and the block ends. Null, or what is wrong.
size_t units_size();
void begin_units(void* room, bool late);
const char* deliver();
const char* unfinished();

// Asynchronous copies: queued by thread and group.
void async_copy(void* to, const void* from, unsigned bytes, unsigned valid);
void async_commit();
void async_wait(unsigned groups_left);

template <class T> struct Exchange {
    T value;
    unsigned from;
    T result;
};

template <class T> void exchange(void* const* payloads) {
    for (unsigned lane = 0; lane < 32; ++lane) {
        auto own = static_cast<Exchange<T>*>(payloads[lane]);
        own->result = static_cast<Exchange<T>*>(payloads[own->from])->value;
    }
}

template <class T> T shuffle(unsigned mask, T value, unsigned from) {
    if (mask != 0xffffffffu) fail("a shuffle of part of a warp");
    Exchange<T> own = {value, from % 32, value};
    of_warp(&own, exchange<T>);
    return own.result;
}

unsigned vote(unsigned mask, bool value);

}  // namespace emulate

#define threadIdx (emulate::place.thread)
#define blockIdx (emulate::place.block)
#define blockDim (emulate::place.threads)
#define gridDim (emulate::place.blocks)

inline void __syncthreads() { emulate::barrier(); }
void __syncwarp(unsigned mask = 0xffffffffu);

inline unsigned emulated_lane() { return threadIdx.x % 32; }

template <class T> T __shfl_sync(unsigned mask, T value, unsigned from) {
    return emulate::shuffle(mask, value, from);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, unsigned by) {
    return emulate::shuffle(mask, value, emulated_lane() ^ by);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned by) {
    unsigned lane = emulated_lane();
    return emulate::shuffle(mask, value, lane >= by ? lane - by : lane);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned by) {
    unsigned lane = emulated_lane();
    return emulate::shuffle(mask, value, lane + by < 32 ? lane + by : lane);
}
inline unsigned __ballot_sync(unsigned mask, bool value) { return emulate::vote(mask, value); }
inline int __any_sync(unsigned mask, bool value) { return emulate::vote(mask, value) != 0; }
inline int __all_sync(unsigned mask, bool value) { return emulate::vote(mask, value) == 0xffffffffu; }

// Fibers do not interrupt each other, so plain updates are atomic.
template <class T> T atomicAdd(T* at, T by) {
    T before = *at;
    *at = before + by;
    return before;
}
template <class T> T atomicOr(T* at, T bits) {
    T before = *at;
    *at = before | bits;
    return before;
}
template <class T> T atomicMin(T* at, T value) {
    T before = *at;
    if (value < before) *at = value;
    return before;
}
template <class T> T atomicMax(T* at, T value) {
    T before = *at;
    if (value > before) *at = value;
    return before;
}
template <class T> T atomicExch(T* at, T value) {
    T before = *at;
    *at = value;
    return before;
}
template <class T> T atomicCAS(T* at, T expected, T value) {
    T before = *at;
    if (before == expected) *at = value;
    return before;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class To, class From> To emulated_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline float __int_as_float(int x) { return emulated_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emulated_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return emulated_bits<unsigned>(x); }
inline int __float_as_int(float x) { return emulated_bits<int>(x); }
inline double __longlong_as_double(long long x) { return emulated_bits<double>(x); }
inline long long __double_as_longlong(double x) { return emulated_bits<long long>(x); }

inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline float __expf(float x) { return expf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline int __float2int_rn(float x) { return static_cast<int>(rintf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned picks) {
    const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) {
        result |= static_cast<unsigned>(bytes >> (8 * (picks >> (4 * i) & 7)) & 0xff) << (8 * i);
    }
    return result;
}
inline int dot4(int a, int b, int c) {
    for (int i = 0; i < 4; ++i) c += static_cast<int8_t>(a >> (8 * i)) * static_cast<int8_t>(b >> (8 * i));
    return c;
}
template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }
template <class T> T __ldg(const T* at) { return *at; }
template <class T> T __ldcs(const T* at) { return *at; }

// The 16-bit float types: storage and conversion, rounding to nearest even.
struct __nv_bfloat16 {
    uint16_t bits;
};
struct __half {
    uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    unsigned bits = __float_as_uint(x);
    if (x != x) return {static_cast<uint16_t>(0x7fff)};
    return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

inline float __half2float(__half x) {
    unsigned sign = static_cast<unsigned>(x.bits & 0x8000) << 16, magnitude = x.bits & 0x7fff;
    // Infinity and NaN keep their exponent; the rest is moved by multiplication, which normalises subnormal numbers.
    if (magnitude >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude << 13) * 0x1p112f));
}
inline __half __float2half_rn(float x) {
    unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return {static_cast<uint16_t>(0x7fff)};
    if (magnitude >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};
    if (magnitude < 0x38800000) {
        // Below the smallest normal number: adding a half rounds to multiples of 2^-24.
        unsigned sum = __float_as_uint(__uint_as_float(magnitude) + 0.5f);
        return {static_cast<uint16_t>(sign | (sum - 0x3f000000))};
    }
    unsigned rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    return {static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13))};
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
