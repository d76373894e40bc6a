// The asynchronous units of compute capability 9.0: barriers, copies of boxes, products of warpgroups.
#include "../hopper.h"

namespace {

constexpr u32 GROUP = 128, GROUPS = 8, MAX_COPIES = 256, MAX_PRODUCTS = 64, MAX_RESULTS = 4, MAX_COUNT = 128;
constexpr u32 REGISTERS = 1 << 16;
// What the driver's encoding of a matrix is here (src/cuda/tensor_map.rs).
constexpr u64 MAP = 0x706d726f736e6574ull;

// An mbarrier: the counts that the PTX ISA names, with its ranges.
struct State {
    u64 tag : 2, parity : 1, expected : 20, pending : 20;
    int64_t bytes : 21;
};
static_assert(sizeof(State) == sizeof(u64), "an mbarrier has 64 bits");
constexpr u64 MADE = 1;
constexpr int64_t MOST_BYTES = (1 << 20) - 1;

struct Box {
    u32 to;
    const u64* map;
    u32 column, row;
    u64* barrier;
};

// A product under way: what it read must stay as it was.
struct Issued {
    u64 a, b, hash;
    u32 columns, group;
    bool shared, down;
};

// Registers that products write.
struct Result {
    float* d[GROUP];
    float values[GROUP][MAX_COUNT];
    u32 count, group;
};

struct Warpgroup {
    Issued issued[MAX_PRODUCTS];
    Result results[MAX_RESULTS];
    u32 products, pending, committed, registers;
    bool fenced;
};

struct Units {
    Warpgroup groups[GROUPS];
    Box boxes[MAX_COPIES];
    u32 copies;
    u32 owners[16];
    bool late;
};

thread_local Units* units;

Warpgroup& own_group() { return units->groups[threadIdx.x / GROUP]; }

State load(const u64& state) { return emulated_bits<State>(state); }

State made(const u64& state) {
    const State own = load(state);
    if (own.tag != MADE) emulate::fail("a barrier that nobody has made");
    return own;
}

// Null, or what is wrong.
const char* store(u64& to, State state) {
    if (state.bytes > MOST_BYTES || state.bytes < -MOST_BYTES) return "more bytes than a barrier counts";
    if (state.pending == 0 && state.bytes == 0) {
        state.parity ^= 1;
        state.pending = state.expected;
    }
    to = emulated_bits<u64>(state);
    return nullptr;
}

// PTX ISA, "Swizzling modes": which sixteen bytes of a row of 128 change places, by the row's number in the pattern.
u32 swizzle(u32 address) { return address ^ (address >> 7 & 7) << 4; }

// Null, or what is wrong.
const char* land(const Box& box) {
    const u64 *map = box.map, rows = map[2], columns = map[3];
    const u32 box_rows = static_cast<u32>(map[5]);
    for (u32 row = 0; row < box_rows; ++row) {
        for (u32 column = 0; column < 64; ++column) {
            u16 value = 0;
            if (box.row + row < rows && box.column + column < columns) {
                memcpy(&value, reinterpret_cast<const u8*>(map[1]) + (box.row + row) * map[4] + 2 * (box.column + column), 2);
            }
            memcpy(emulate::shared_at(swizzle(box.to + row * 128 + 2 * column), 2), &value, 2);
        }
    }
    State state = load(*box.barrier);
    if (state.tag != MADE) return "a barrier that somebody wrote over";
    // Bytes outside of the matrix count, too.
    state.bytes -= static_cast<int64_t>(box_rows) * 128;
    return store(*box.barrier, state);
}

// A descriptor, as the instruction reads it.
struct Factor {
    u32 start, leading, stride;
};

Factor decode(u64 descriptor) {
    if (descriptor >> 62 != 1) emulate::fail("a factor that is not swizzled by 128 bytes");
    if ((descriptor >> 49 & 7) != 0) emulate::fail("a factor with a base offset");
    const auto field = [&](u32 from) { return static_cast<u32>(descriptor >> from & 0x3fff) << 4; };
    const Factor factor = {field(0), field(16), field(32)};
    // Else the base offset would have to say how far the pattern is shifted.
    if ((factor.start >> 7 & 7) != 0) emulate::fail("a factor that does not start with the pattern");
    return factor;
}

u16 half_at(u32 address) {
    u16 bits;
    memcpy(&bits, emulate::shared_at(swizzle(address), 2), 2);
    return bits;
}

// Canonical layouts with the 128-byte swizzle, elements of 16 bits. Along rows (K-major) ((8, m), (64)): a row's elements
// follow each other, eight rows are a stride apart. Down columns (MN-major) ((64, m), (8, k)): 64 of the outer dimension
// follow each other, the next 64 are a leading offset apart; the summed dimension has 128 bytes, and a stride every eight.
u16 along_rows(const Factor& factor, u32 outer, u32 k) {
    return half_at(factor.start + outer / 8 * factor.stride + outer % 8 * 128 + 2 * k);
}
u16 down_columns(const Factor& factor, u32 outer, u32 k) {
    return half_at(factor.start + outer / 64 * factor.leading + outer % 64 * 2 + k / 8 * factor.stride + k % 8 * 128);
}

struct Factors {
    u16 a[64][16], b[256][16];
};

void read(Factors& to, const Issued& product) {
    memset(&to, 0, sizeof to);
    if (product.shared) {
        const Factor a = decode(product.a);
        for (u32 row = 0; row < 64; ++row) {
            for (u32 k = 0; k < 16; ++k) to.a[row][k] = along_rows(a, row, k);
        }
    }
    const Factor b = decode(product.b);
    for (u32 column = 0; column < product.columns; ++column) {
        for (u32 k = 0; k < 16; ++k) {
            to.b[column][k] = product.down ? down_columns(b, column, k) : along_rows(b, column, k);
        }
    }
}

u64 hash(const Factors& factors) {
    u64 hash = 0xcbf29ce484222325ull;
    const auto* words = reinterpret_cast<const u32*>(&factors);
    for (size_t i = 0; i < sizeof factors / 4; ++i) hash = (hash ^ words[i]) * 0x100000001b3ull;
    return hash;
}

float number(u16 bits, bool bf16) {
    return bf16 ? __bfloat162float(__ushort_as_bfloat16(bits)) : __half2float(__ushort_as_half(bits));
}

// Figures "WGMMA .m64nNk16 register fragment layout": element `i` of the `lane`-th thread of the group.
u32 row_of(u32 lane, u32 i) { return lane / 32 * 16 + lane % 32 / 4 + i / 2 % 2 * 8; }
u32 column_of(u32 lane, u32 i) { return i / 4 * 8 + lane % 4 * 2 + i % 2; }

const emulate::GroupProduct& part(void* const* payloads, u32 lane) {
    return *static_cast<const emulate::GroupProduct*>(payloads[lane]);
}

Result& result_of(Warpgroup& group, void* const* payloads) {
    const u32 count = part(payloads, 0).count;
    for (u32 i = 0; i < group.pending; ++i) {
        Result& result = group.results[i];
        if (result.d[0] != part(payloads, 0).d) continue;
        for (u32 lane = 0; lane < GROUP; ++lane) {
            for (u32 at = 0; at < count; ++at) {
                if (__float_as_uint(result.d[lane][at]) != ALL_LANES) emulate::fail("a result written while it is under way");
            }
        }
        return result;
    }
    if (group.pending == MAX_RESULTS) emulate::fail("too many results under way");
    Result& result = group.results[group.pending++];
    result.count = count;
    for (u32 lane = 0; lane < GROUP; ++lane) {
        result.d[lane] = part(payloads, lane).d;
        memcpy(result.values[lane], result.d[lane], count * sizeof(float));
        memset(result.d[lane], 0xff, count * sizeof(float));
    }
    return result;
}

void multiply(Result& result, const Factors& factors, bool add, bool bf16) {
    static thread_local float a[64][16], b[16][256], sums[64][256];
    const u32 columns = 2 * result.count;
    for (u32 lane = 0; lane < GROUP; ++lane) {
        for (u32 i = 0; i < result.count; ++i) {
            sums[row_of(lane, i)][column_of(lane, i)] = add ? result.values[lane][i] : 0.0f;
        }
    }
    for (u32 k = 0; k < 16; ++k) {
        for (u32 row = 0; row < 64; ++row) a[row][k] = number(factors.a[row][k], bf16);
        for (u32 column = 0; column < columns; ++column) b[k][column] = number(factors.b[column][k], bf16);
    }
    for (u32 row = 0; row < 64; ++row) {
        for (u32 k = 0; k < 16; ++k) {
            for (u32 column = 0; column < columns; ++column) sums[row][column] += a[row][k] * b[k][column];
        }
    }
    for (u32 lane = 0; lane < GROUP; ++lane) {
        for (u32 i = 0; i < result.count; ++i) result.values[lane][i] = sums[row_of(lane, i)][column_of(lane, i)];
    }
}

void issue(void* const* payloads) {
    Warpgroup& group = own_group();
    const emulate::GroupProduct& first = part(payloads, 0);
    for (u32 lane = 1; lane < GROUP; ++lane) {
        const emulate::GroupProduct& other = part(payloads, lane);
        if (other.a != first.a || other.b != first.b || other.add != first.add || other.count != first.count) {
            emulate::fail("a product that the threads of a warpgroup do not agree on");
        }
    }
    if (!group.fenced) emulate::fail("a product without a fence before it");
    if (group.products == MAX_PRODUCTS) emulate::fail("too many products under way");
    Issued& issued = group.issued[group.products++];
    const bool shared = first.registers == nullptr;
    issued = {first.a, first.b, 0, 2 * first.count, group.committed, shared, !shared};
    static thread_local Factors factors;
    read(factors, issued);
    issued.hash = hash(factors);
    if (!shared) {
        // Its elements are those of two results of eight columns.
        for (u32 lane = 0; lane < GROUP; ++lane) {
            for (u32 i = 0; i < 8; ++i) {
                const u32 word = part(payloads, lane).registers[i / 2];
                factors.a[row_of(lane, i)][column_of(lane, i)] = static_cast<u16>(i % 2 ? word >> 16 : word);
            }
        }
    }
    Result& result = result_of(group, payloads);
    result.group = group.committed;
    multiply(result, factors, first.add, first.bf16);
}

void finish(Warpgroup& group, u32 left) {
    const u32 end = group.committed > left ? group.committed - left : 0;
    u32 kept = 0;
    static thread_local Factors factors;
    for (u32 i = 0; i < group.products; ++i) {
        const Issued& issued = group.issued[i];
        if (issued.group >= end) {
            group.issued[kept++] = issued;
            continue;
        }
        read(factors, issued);
        if (hash(factors) != issued.hash) emulate::fail("a factor that changed while its product was under way");
    }
    group.products = kept;
    kept = 0;
    for (u32 i = 0; i < group.pending; ++i) {
        const Result& result = group.results[i];
        if (result.group >= end) {
            if (kept != i) group.results[kept] = result;
            ++kept;
            continue;
        }
        for (u32 lane = 0; lane < GROUP; ++lane) memcpy(result.d[lane], result.values[lane], result.count * sizeof(float));
    }
    group.pending = kept;
    group.fenced = false;
}

void nothing(void* const*) {}

}  // namespace

size_t emulate::units_size() { return sizeof(Units); }

void emulate::begin_units(void* room, bool late) {
    units = static_cast<Units*>(room);
    units->copies = 0;
    units->late = late;
    memset(units->owners, 0, sizeof units->owners);
    for (Warpgroup& group : units->groups) {
        group.products = group.pending = group.committed = group.registers = 0;
        group.fenced = false;
    }
}

const char* emulate::deliver() {
    if (units->copies == 0) return "threads wait for each other, or for some that have ended";
    // The last one asked for comes first: nobody may count on an order.
    return land(units->boxes[--units->copies]);
}

const char* emulate::unfinished() {
    if (units->copies > 0) return "a copy of a box that nobody waited for";
    for (const Warpgroup& group : units->groups) {
        if (group.products > 0) return "products that nobody waited for";
    }
    return nullptr;
}

void emulate::barrier_make(u64& state, u32 arrivals) {
    if (reinterpret_cast<uintptr_t>(&state) % 8 != 0) fail("a barrier that is not aligned");
    shared_address(&state);
    if (load(state).tag == MADE) fail("a barrier that is made twice");
    State made = {};
    made.tag = MADE;
    made.expected = made.pending = arrivals;
    state = emulated_bits<u64>(made);
}

void emulate::barrier_arrive(u64& state, u32 bytes) {
    State own = made(state);
    if (own.pending == 0) fail("more arrivals than a barrier expects");
    own.bytes += bytes;
    own.pending -= 1;
    if (const char* wrong = store(state, own)) fail(wrong);
}

namespace {
struct Awaited {
    const u64* state;
    u32 parity;
};
bool is_over(const void* subject) {
    const auto* awaited = static_cast<const Awaited*>(subject);
    return load(*awaited->state).parity != awaited->parity;
}
}  // namespace

void emulate::barrier_wait(u64& state, u32 parity) {
    made(state);
    const Awaited awaited = {&state, parity};
    wait_until(is_over, &awaited);
}

void emulate::copy_box(void* to, const u64* map, u32 column, u32 row, u64& barrier) {
    const Box box = {shared_address(to), map, column, row, &barrier};
    if (reinterpret_cast<uintptr_t>(map) % 64 != 0 || map[0] != MAP) fail("a copy without a tensor map");
    if (box.to % PATTERN != 0) fail("a box that does not start with the pattern");
    made(barrier);
    if (units->copies == MAX_COPIES) fail("too many copies of boxes under way");
    memset(shared_at(box.to, map[5] * 128), 0xff, map[5] * 128);
    units->boxes[units->copies++] = box;
    const char* wrong = units->late ? nullptr : deliver();
    if (wrong) fail(wrong);
}

void emulate::group_product(const GroupProduct& own) {
    GroupProduct payload = own;
    of_warpgroup(&payload, issue);
}

void emulate::group_fence() {
    of_warpgroup(nullptr, [](void* const*) { own_group().fenced = true; });
}

void emulate::group_commit() {
    of_warpgroup(nullptr, [](void* const*) { ++own_group().committed; });
}

void emulate::group_wait(u32 left) {
    of_warpgroup(&left, [](void* const* payloads) { finish(own_group(), *static_cast<const u32*>(payloads[0])); });
}

void emulate::group_sync(u32 number) {
    const u32 group = threadIdx.x / GROUP + 1;
    if (number == 0 || number > 15) fail("a barrier of a warpgroup that is no number from 1 to 15");
    if (units->owners[number] != 0 && units->owners[number] != group) fail("two warpgroups at one barrier");
    units->owners[number] = group;
    of_warpgroup(nullptr, nothing);
}

void emulate::group_registers(u32 count) {
    if (count < 24 || count > 256 || count % 8 != 0) fail("a number of registers that no thread can have");
    own_group().registers = count;
    u32 all = 0;
    for (const Warpgroup& group : units->groups) all += group.registers * GROUP;
    if (all > REGISTERS) fail("more registers than there are");
    of_warpgroup(nullptr, nothing);
}
