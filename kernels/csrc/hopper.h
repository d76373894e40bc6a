// What compute capability 9.0 has beside tile.h: products of warpgroups (four warps) that read their factors from shared
// memory, copies of boxes out of matrices, and the barriers that tell when they have arrived. sm_90a alone compiles it;
// files that use it are empty for others.
//
// Factors lie in shared memory as the copies leave them: rows of 128 bytes (64 elements), the sixteen-byte pieces of a row
// exchanged by the lowest bits of its number, so that eight rows lie in different banks. Eight rows, 1024 bytes, are the
// unit of that pattern ("128-byte swizzle": PTX ISA, "Swizzling modes"), and tiles start at multiples of it.
//
// Results are spread as in tile.h: d[4 j ..] of a thread is its part of columns 8 j .., a warp having sixteen of the
// warpgroup's 64 rows.
#pragma once

#include "tile.h"

#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER 1

constexpr u32 WARPGROUP = 4 * WARP;
// Elements of 16 bits in a row of a tile, and the bytes after which the pattern starts again.
constexpr u32 TILE_COLUMNS = 64, PATTERN = 1024;

// What a copy knows of its matrix; made on the host (tensor_map.rs).
struct alignas(64) TensorMap {
    u64 words[16];
};

// In shared memory. A phase ends when all arrivals and all bytes that were announced have come; phases are told apart by
// their parity, and the first is even.
struct Barrier {
    u64 state;
};

// Which stage of a ring is next, and the parity of its phase.
template <u32 COUNT> struct Turn {
    u32 stage = 0, parity = 0;
    DEVICE void next() {
        if (++stage < COUNT) return;
        stage = 0;
        parity ^= 1;
    }
};

#if defined(__CUDACC__)

DEVICE u32 shared_address(const void* at) { return static_cast<u32>(__cvta_generic_to_shared(at)); }

DEVICE void make_barrier(Barrier& barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals) : "memory");
}
DEVICE void arrive(Barrier& barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier)) : "memory");
}
// Announces so many bytes, too.
DEVICE void arrive_expecting(Barrier& barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)), "r"(bytes)
                 : "memory");
}
// Waits for the end of the phase of this parity.
DEVICE void wait_for_phase(Barrier& barrier, u32 parity) {
    u32 over;
    do {
        asm volatile(
            "{.reg .pred over;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
            "selp.u32 %0, 1, 0, over;}"
            : "=r"(over) : "r"(shared_address(&barrier)), "r"(parity) : "memory");
    } while (over == 0);
}

// What this thread wrote to shared memory, barriers too, is there for copies and products.
DEVICE void show_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Starts the copy of a box to `to`, zeros for what lies outside of the matrix; its bytes arrive at `barrier`.
DEVICE void copy_box(void* to, const TensorMap& matrix, u32 column, u32 row, Barrier& barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            shared_address(to)),
        "l"(reinterpret_cast<u64>(&matrix)), "r"(column), "r"(row), "r"(shared_address(&barrier))
        : "memory");
}

// A barrier of one warpgroup; each has its own number from one on.
DEVICE void sync_warpgroup(u32 number) { asm volatile("bar.sync %0, 128;" ::"r"(number) : "memory"); }

// Changes how many registers the threads of a warpgroup have.
template <u32 COUNT> DEVICE void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT)); }
template <u32 COUNT> DEVICE void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT)); }

// Before products, wherever their registers were used for something else.
DEVICE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until no more than LEFT groups of products are under way.
template <u32 LEFT> DEVICE void wait_for_products() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }
// The compiler may use these registers from here on, and no sooner.
template <u32 COUNT> DEVICE void take_results(float (&d)[COUNT]) {
    UNROLL
    for (u32 i = 0; i < COUNT; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// 2^x to two units in the last place, and 1 / x to one.
DEVICE float power_of_two(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}
DEVICE float reciprocal(float x) {
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

#else
#include "emulate/hopper.h"
#endif

// PTX ISA, "Matrix descriptor format": where a tile starts, the distance between every 64 columns (multiply_down alone looks
// at it), that between every eight rows, and the 128-byte swizzle.
DEVICE u64 descriptor(const void* tile, u32 apart) {
    const u64 start = (shared_address(tile) & 0x3ffffu) >> 4;
    return start | static_cast<u64>(apart >> 4) << 16 | static_cast<u64>(PATTERN >> 4) << 32 | static_cast<u64>(1) << 62;
}
// A descriptor of what lies so many bytes on.
DEVICE u64 further(u64 descriptor, u32 bytes) { return descriptor + (bytes >> 4); }

// The first place in memory at which a tile may start.
DEVICE u8* first_tile(u8* memory) { return memory + (PATTERN - shared_address(memory) % PATTERN) % PATTERN; }

// Where element `column` (a multiple of eight) of a row of a tile is.
template <class T> DEVICE T* swizzled(T* tile, u32 row, u32 column) {
    return tile + row * TILE_COLUMNS + (column / 8 ^ row % 8) * 8;
}

#if defined(__CUDACC__)

// Names of the registers of a result, and the results themselves.
#define NAMES_32 \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NAMES_64 NAMES_32 "," \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
    "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NAMES_128 NAMES_64 "," \
    "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79," \
    "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95," \
    "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111," \
    "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define RESULTS_8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define RESULTS_32(d, i) RESULTS_8(d, i), RESULTS_8(d, i + 8), RESULTS_8(d, i + 16), RESULTS_8(d, i + 24)
#define RESULTS_64(d, i) RESULTS_32(d, i), RESULTS_32(d, i + 32)
#define RESULTS_128(d, i) RESULTS_64(d, i), RESULTS_64(d, i + 64)

// The tile of 64 rows that descriptor `a` is of, times the transposed tile of N rows of `b`, 16 columns of both:
// D += A * B^T, or D = A * B^T.
template <class T> DEVICE void multiply_shared(float (&d)[64], u64 a, u64 b, bool add);
template <class T> DEVICE void multiply_shared(float (&d)[128], u64 a, u64 b, bool add);
#define MULTIPLY_SHARED(T, type, N, COUNT, A, B, ADD)                                                              \
    template <> DEVICE void multiply_shared<T>(float (&d)[COUNT], u64 a, u64 b, bool add) {                        \
        asm volatile("{.reg .pred add;\nsetp.ne.b32 add, %" #ADD ", 0;\n"                                          \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {" NAMES_##COUNT "}, "      \
                     "%" #A ", %" #B ", add, 1, 1, 0, 0;}"                                                         \
                     : RESULTS_##COUNT(d, 0) : "l"(a), "l"(b), "r"(static_cast<u32>(add)));                        \
    }
MULTIPLY_SHARED(bf16, "bf16", 128, 64, 64, 65, 66)
MULTIPLY_SHARED(f16, "f16", 128, 64, 64, 65, 66)
MULTIPLY_SHARED(bf16, "bf16", 256, 128, 128, 129, 130)
MULTIPLY_SHARED(f16, "f16", 256, 128, 128, 129, 130)

// A in registers as in tile.h, B as it lies: 16 rows of the tile of `b`. D += A * B.
template <class T> DEVICE void multiply_down(float (&d)[32], const u32 (&a)[4], u64 b);
template <class T> DEVICE void multiply_down(float (&d)[64], const u32 (&a)[4], u64 b);
#define MULTIPLY_DOWN(T, type, N, COUNT, A0, A1, A2, A3, B)                                                        \
    template <> DEVICE void multiply_down<T>(float (&d)[COUNT], const u32 (&a)[4], u64 b) {                        \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {" NAMES_##COUNT "}, "      \
                     "{%" #A0 ",%" #A1 ",%" #A2 ",%" #A3 "}, %" #B ", 1, 1, 1, 1;"                                 \
                     : RESULTS_##COUNT(d, 0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                \
    }
MULTIPLY_DOWN(bf16, "bf16", 64, 32, 32, 33, 34, 35, 36)
MULTIPLY_DOWN(f16, "f16", 64, 32, 32, 33, 34, 35, 36)
MULTIPLY_DOWN(bf16, "bf16", 128, 64, 64, 65, 66, 67, 68)
MULTIPLY_DOWN(f16, "f16", 128, 64, 64, 65, 66, 67, 68)

#endif
#endif
