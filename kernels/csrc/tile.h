// Tensor cores and asynchronous copies, as thin wrappers that the emulation has too.
//
// Fragments are those of the PTX instruction set: lane = 4 * group + thread; a 16-by-16 tile of A has
// a[0] (row group, columns 2 thread ..), a[1] (row group + 8), a[2] (row group, columns 2 thread + 8 ..), a[3] (both);
// a 16-by-8 tile of B has b[0] (rows 2 thread .., column group), b[1] (rows 2 thread + 8 ..); and a 16-by-8 tile of D has
// d[0], d[1] (row group, columns 2 thread ..), d[2], d[3] (row group + 8).
// E4M3 has twice the columns of A and rows of B: four to a word, 4 thread .. and 4 thread + 16 .., which are the same bytes.
#pragma once

#include "small.h"

// Two neighbours of a fragment, rounded to T.
template <class T> DEVICE u32 pair_of(float low, float high);

// D += A * B.
template <class T> DEVICE void multiply(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]);

#if defined(__CUDACC__)

template <> DEVICE u32 pair_of<bf16>(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
template <> DEVICE u32 pair_of<f16>(float low, float high) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

template <> DEVICE void multiply<bf16>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <> DEVICE void multiply<f16>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <> DEVICE void multiply<E4M3>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#if __CUDA_ARCH__ >= 890
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    // Older chips have no such instruction, and are not asked (src/cuda/dense.rs).
    __trap();
#endif
}

// Copies sixteen bytes to shared memory some time before the wait for its group: `valid` of them, then zeros.
DEVICE void copy_async(void* shared, const void* global, u32 valid) {
    const u32 to = static_cast<u32>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid) : "memory");
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until no more than LEFT groups are on their way.
template <u32 LEFT> DEVICE void wait_for_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }

// Four 8-by-8 tiles of 16-bit elements from shared memory: lane i brings the address of row i % 8 of tile i / 8, and gets
// of each tile the two elements of row lane / 4 at columns 2 (lane % 4).
DEVICE void load_tiles(u32 (&to)[4], const void* row) {
    const u32 from = static_cast<u32>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from) : "memory");
}
// The same, with every tile transposed.
DEVICE void load_tiles_transposed(u32 (&to)[4], const void* row) {
    const u32 from = static_cast<u32>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from) : "memory");
}

#else
#include "emulate/tile.h"
#endif
