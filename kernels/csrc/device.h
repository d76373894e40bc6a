// What every kernel starts from. The same sources are compiled by nvcc, by NVRTC, and by the host's C++ compiler for
// the emulation (emulate/emulate.h); so nothing but cuda_fp16.h, cuda_bf16.h and our own headers is included.
//
// A kernel takes one structure by value, which the Rust side declares field by field the same. KERNEL says its name and
// its threads per block, KERNEL_TWICE the same of one that leaves registers for another block beside it; SHARED and
// DYNAMIC_SHARED give shared memory.
#pragma once

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define DEVICE __device__ __forceinline__
#define KERNEL(name, threads, Args) extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Args args)
#define KERNEL_TWICE(name, threads, Args) extern "C" __global__ void __launch_bounds__(threads, 2) name(const __grid_constant__ Args args)
template <class T> using Same = T;
#define SHARED(type, name) __shared__ Same<type> name
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#define UNROLL _Pragma("unroll")
#define UNROLL_TWICE _Pragma("unroll 2")
#define ONCE _Pragma("unroll 1")
// Four products of signed bytes, added to `sum`. NVRTC 12 declares an intrinsic for it that it has no body of.
DEVICE int dot4(int a, int b, int sum) {
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(sum));
    return sum;
}
#else
#include "emulate/emulate.h"
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;
typedef __half f16;
typedef __nv_bfloat16 bf16;

constexpr u32 WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;
#define NEG_INFINITY (-__int_as_float(0x7f800000))

DEVICE u32 lane_id() { return threadIdx.x % WARP; }
DEVICE u32 warp_id() { return threadIdx.x / WARP; }

DEVICE float widen(float x) { return x; }
DEVICE float widen(f16 x) { return __half2float(x); }
DEVICE float widen(bf16 x) { return __bfloat162float(x); }

DEVICE u16 bits_of_half(f16 x) { return __half_as_ushort(x); }
DEVICE u16 bits_of_half(bf16 x) { return __bfloat16_as_ushort(x); }

template <class T> DEVICE T narrow(float x);
template <> DEVICE float narrow<float>(float x) { return x; }
template <> DEVICE f16 narrow<f16>(float x) { return __float2half_rn(x); }
template <> DEVICE bf16 narrow<bf16>(float x) { return __float2bfloat16_rn(x); }

// Sixteen bytes, loaded at once; their address is a multiple of sixteen.
template <class T> struct alignas(16) Pack {
    static constexpr u32 SIZE = 16 / sizeof(T);
    T values[SIZE];
};

template <class T> DEVICE Pack<T> load_pack(const T* from) {
    return *reinterpret_cast<const Pack<T>*>(from);
}

// Sums and maxima over a warp: every lane gets the same bits, whatever the other warps do.
DEVICE float warp_sum(float x) {
    UNROLL
    for (u32 step = WARP / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

DEVICE float warp_max(float x) {
    UNROLL
    for (u32 step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

// The sum over a block of THREADS threads, warp by warp in order; every thread gets it. `room` may be used again after
// the next barrier.
template <u32 THREADS> DEVICE float block_sum(float x, float (&room)[THREADS / WARP]) {
    x = warp_sum(x);
    if (lane_id() == 0) room[warp_id()] = x;
    __syncthreads();
    float sum = room[0];
    UNROLL
    for (u32 warp = 1; warp < THREADS / WARP; ++warp) sum += room[warp];
    return sum;
}

template <u32 THREADS> DEVICE float block_max(float x, float (&room)[THREADS / WARP]) {
    x = warp_max(x);
    if (lane_id() == 0) room[warp_id()] = x;
    __syncthreads();
    float max = room[0];
    UNROLL
    for (u32 warp = 1; warp < THREADS / WARP; ++warp) max = fmaxf(max, room[warp]);
    return max;
}
