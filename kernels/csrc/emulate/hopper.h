// hopper.h on the host (hopper.cpp has what is not a template): descriptors, boxes, barriers and fragments are read as the
// PTX ISA defines them, so that what is wrong in a kernel is wrong here.
//
// Copies land as soon as they are asked for in every other block, and in the others when nobody can go on without them.
// Results of products hold no numbers until they are waited for, and what they read may not change until then. What is not
// emulated are the fences between ordinary writes and copies or products.
#pragma once

namespace emulate {

// A thread's part of a product of its warpgroup.
struct GroupProduct {
    float* d;
    u32 count;
    // Null: the left factor is in shared memory.
    const u32* registers;
    u64 a, b;
    bool add, bf16;
};

void group_product(const GroupProduct& own);
void group_fence();
void group_commit();
void group_wait(u32 left);
void group_sync(u32 number);
void group_registers(u32 count);

void barrier_make(u64& state, u32 arrivals);
void barrier_arrive(u64& state, u32 bytes);
void barrier_wait(u64& state, u32 parity);
void copy_box(void* to, const u64* map, u32 column, u32 row, u64& barrier);

template <class T> constexpr bool IS_BF16 = false;
template <> constexpr bool IS_BF16<bf16> = true;

}  // namespace emulate

inline u32 shared_address(const void* at) { return emulate::shared_address(at); }

inline void make_barrier(Barrier& barrier, u32 arrivals) { emulate::barrier_make(barrier.state, arrivals); }
inline void arrive(Barrier& barrier) { emulate::barrier_arrive(barrier.state, 0); }
inline void arrive_expecting(Barrier& barrier, u32 bytes) { emulate::barrier_arrive(barrier.state, bytes); }
inline void wait_for_phase(Barrier& barrier, u32 parity) { emulate::barrier_wait(barrier.state, parity); }
inline void show_shared() {}
inline void copy_box(void* to, const TensorMap& matrix, u32 column, u32 row, Barrier& barrier) {
    emulate::copy_box(to, matrix.words, column, row, barrier.state);
}

inline void sync_warpgroup(u32 number) { emulate::group_sync(number); }
template <u32 COUNT> void fewer_registers() { emulate::group_registers(COUNT); }
template <u32 COUNT> void more_registers() { emulate::group_registers(COUNT); }
inline void begin_products() { emulate::group_fence(); }
inline void commit_products() { emulate::group_commit(); }
template <u32 LEFT> void wait_for_products() { emulate::group_wait(LEFT); }
template <u32 COUNT> void take_results(float (&)[COUNT]) {}
inline float power_of_two(float x) { return exp2f(x); }
inline float reciprocal(float x) { return 1.0f / x; }

template <class T, u32 COUNT> void multiply_shared(float (&d)[COUNT], u64 a, u64 b, bool add) {
    emulate::group_product({d, COUNT, nullptr, a, b, add, emulate::IS_BF16<T>});
}
template <class T, u32 COUNT> void multiply_down(float (&d)[COUNT], const u32 (&a)[4], u64 b) {
    emulate::group_product({d, COUNT, a, 0, b, true, emulate::IS_BF16<T>});
}
