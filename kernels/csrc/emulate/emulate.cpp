// The scheduler of the emulation: runs the blocks of a launch one after another, and the threads of a block as fibers.
#include "emulate.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

thread_local emulate::Place emulate::place;

namespace {

constexpr unsigned MAX_THREADS = 1024, LANES = 32, WARPGROUP = 128;
constexpr size_t STACK = 128 << 10;
constexpr size_t MAX_DYNAMIC = 227 << 10, SHARED_ROOM = 320 << 10, GUARD = 64;
constexpr unsigned char POISON = 0xff, GUARD_BYTE = 0xa5;
constexpr unsigned MAX_SITES = 32, MAX_COPIES = 64;

#if defined(__x86_64__)
// Saves what a call must preserve and the stack, and goes on where `to` was saved.
struct Context {
    void* stack;
};
extern "C" void emulate_switch(void** from, void* to);
asm(R"(
.pushsection .text
.globl emulate_switch
.hidden emulate_switch
.type emulate_switch,@function
emulate_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulate_switch,.-emulate_switch
.popsection
)");
void prepare(Context& context, unsigned char* stack, void (*entry)()) {
    // Six registers, the entry, and a return address that nobody uses; the stack is aligned as after a call.
    void** top = reinterpret_cast<void**>(stack + STACK) - 8;
    memset(top, 0, 8 * sizeof(void*));
    top[6] = reinterpret_cast<void*>(entry);
    context.stack = top;
}
void go(Context& from, Context& to) { emulate_switch(&from.stack, to.stack); }
#else
struct Context {
    ucontext_t context;
};
void prepare(Context& context, unsigned char* stack, void (*entry)()) {
    getcontext(&context.context);
    context.context.uc_stack.ss_sp = stack;
    context.context.uc_stack.ss_size = STACK;
    context.context.uc_link = nullptr;
    makecontext(&context.context, entry, 0);
}
void go(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
#endif

struct Copy {
    void* to;
    const void* from;
    unsigned bytes, valid;
};

struct Fiber {
    Context context;
    bool done;
    // Goes on when `*gate` is no longer `closed`.
    const unsigned* gate;
    unsigned closed;
    // Goes on when this is true of the subject.
    bool (*ready)(const void*);
    const void* subject;
    Copy copies[MAX_COPIES];
    // How many copies the first groups have, the open one last.
    unsigned copied, groups, group_ends[MAX_COPIES];
};

// Threads that do something together.
template <unsigned SIZE> struct Party {
    unsigned arrived, turn;
    void* payloads[SIZE];
    void (*combine)(void* const*);
};

struct Site {
    const void* at;
    size_t offset, size;
};

struct Block {
    Context scheduler;
    Fiber* fibers;
    unsigned char* stacks;
    Party<LANES> warps[MAX_THREADS / LANES];
    Party<WARPGROUP> warpgroups[MAX_THREADS / WARPGROUP];
    void* units;
    unsigned threads, running, arrived, turn;
    const emulate::Entry* entry;
    const void* args;
    unsigned char* shared;
    size_t shared_used, dynamic_size;
    Site sites[MAX_SITES];
    unsigned sites_used;
    const char* failure;
};

thread_local Block* block;

Fiber& running() { return block->fibers[block->running]; }

void leave() { go(running().context, block->scheduler); }

void wait_for(const unsigned& gate) {
    running().gate = &gate;
    running().closed = gate;
    leave();
    running().gate = nullptr;
}

void fiber_main() {
    block->entry->run(block->args);
    Fiber& own = running();
    if (own.copied > 0) emulate::fail("an asynchronous copy that nobody waited for");
    own.done = true;
    leave();
    abort();
}

unsigned char* map(size_t bytes) {
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) abort();
    return static_cast<unsigned char*>(at);
}

// A place in shared memory with guard bands on both sides.
size_t take_shared(size_t size) {
    size_t offset = (block->shared_used + GUARD + 127) / 128 * 128;
    if (offset + size + GUARD > SHARED_ROOM) emulate::fail("more shared memory than there is");
    memset(block->shared + block->shared_used, GUARD_BYTE, offset - block->shared_used);
    memset(block->shared + offset, POISON, size);
    memset(block->shared + offset + size, GUARD_BYTE, GUARD);
    block->shared_used = offset + size + GUARD;
    return offset;
}

void check_guards() {
    size_t end = 0;
    for (unsigned i = 0; i <= block->sites_used; ++i) {
        size_t start = i < block->sites_used ? block->sites[i].offset : block->shared_used;
        for (size_t at = end; at < start; ++at) {
            if (block->shared[at] != GUARD_BYTE) block->failure = "a write past an end of shared memory";
        }
        if (i < block->sites_used) end = start + block->sites[i].size;
    }
}

void start_fibers() {
    for (unsigned i = 0; i < block->threads; ++i) {
        Fiber& fiber = block->fibers[i];
        fiber.done = false;
        fiber.gate = nullptr;
        fiber.ready = nullptr;
        fiber.copied = fiber.groups = 0;
        prepare(fiber.context, block->stacks + i * STACK, fiber_main);
    }
    block->arrived = 0;
    for (auto& warp : block->warps) warp.arrived = 0;
    for (auto& warpgroup : block->warpgroups) warpgroup.arrived = 0;
}

void resume(unsigned thread) {
    block->running = thread;
    emulate::place.thread = {thread, 0, 0};
    go(block->scheduler, block->fibers[thread].context);
}

void run_block(bool backwards) {
    block->shared_used = block->sites_used = 0;
    // The first site is the dynamic one.
    block->sites[0] = {nullptr, take_shared(block->dynamic_size), block->dynamic_size};
    block->sites_used = 1;
    start_fibers();
    emulate::begin_units(block->units, backwards);
    unsigned left = block->threads;
    while (left > 0 && !block->failure) {
        bool moved = false;
        for (unsigned i = 0; i < block->threads && !block->failure; ++i) {
            unsigned thread = backwards ? block->threads - 1 - i : i;
            Fiber& fiber = block->fibers[thread];
            if (fiber.done || (fiber.gate && *fiber.gate == fiber.closed)) continue;
            if (fiber.ready && !fiber.ready(fiber.subject)) continue;
            moved = true;
            resume(thread);
            if (fiber.done) --left;
        }
        if (!moved) block->failure = emulate::deliver();
    }
    if (!block->failure) block->failure = emulate::unfinished();
    if (!block->failure) check_guards();
}

// What runs where, for the message about memory that is not there.
void on_fault(int number, siginfo_t* info, void*) {
    char text[256];
    int length = 0;
    if (block) {
        const emulate::Place& at = emulate::place;
        length = snprintf(text, sizeof text, "emulated %s: access to %p, outside of every buffer; block %u %u %u thread %u\n",
                          block->entry->name, info->si_addr, at.block.x, at.block.y, at.block.z, at.thread.x);
    }
    if (length > 0 && write(2, text, static_cast<size_t>(length)) < 0) abort();
    signal(number, SIG_DFL);
    raise(number);
}

}  // namespace

void emulate::fail(const char* message) {
    block->failure = message;
    leave();
    abort();
}

void* emulate::shared(const void* site, size_t size) {
    for (unsigned i = 0; i < block->sites_used; ++i) {
        if (block->sites[i].at == site) return block->shared + block->sites[i].offset;
    }
    if (block->sites_used == MAX_SITES) fail("too many pieces of shared memory");
    Site& own = block->sites[block->sites_used++];
    own = {site, take_shared(size), size};
    return block->shared + own.offset;
}

unsigned char* emulate::dynamic_shared() { return block->shared + block->sites[0].offset; }

void emulate::barrier() {
    if (++block->arrived < block->threads) return wait_for(block->turn);
    block->arrived = 0;
    ++block->turn;
}

namespace {
template <unsigned SIZE> void together(Party<SIZE>& party, void* payload, void (*combine)(void* const*)) {
    if (party.arrived == 0) party.combine = combine;
    if (party.combine != combine) emulate::fail("threads of a warp or a warpgroup in different operations");
    party.payloads[block->running % SIZE] = payload;
    if (++party.arrived < SIZE) return wait_for(party.turn);
    party.arrived = 0;
    combine(party.payloads);
    ++party.turn;
}
}  // namespace

void emulate::of_warp(void* payload, void (*combine)(void* const*)) {
    together(block->warps[block->running / LANES], payload, combine);
}

void emulate::of_warpgroup(void* payload, void (*combine)(void* const*)) {
    together(block->warpgroups[block->running / WARPGROUP], payload, combine);
}

void emulate::wait_until(bool (*ready)(const void*), const void* subject) {
    if (ready(subject)) return;
    running().ready = ready;
    running().subject = subject;
    leave();
    running().ready = nullptr;
}

uint32_t emulate::shared_address(const void* at) {
    const auto* byte = static_cast<const unsigned char*>(at);
    if (byte < block->shared || byte >= block->shared + SHARED_ROOM) fail("an address outside of shared memory");
    return static_cast<uint32_t>(byte - block->shared);
}

unsigned char* emulate::shared_at(uint32_t address, size_t bytes) {
    if (address + bytes > SHARED_ROOM) fail("an address outside of shared memory");
    return block->shared + address;
}

namespace {
struct Ballot {
    unsigned value;
};
void count(void* const* payloads) {
    unsigned all = 0;
    for (unsigned lane = 0; lane < LANES; ++lane) all |= static_cast<Ballot*>(payloads[lane])->value << lane;
    for (unsigned lane = 0; lane < LANES; ++lane) static_cast<Ballot*>(payloads[lane])->value = all;
}
void nothing(void* const*) {}
}  // namespace

unsigned emulate::vote(unsigned mask, bool value) {
    if (mask != 0xffffffffu) fail("a vote of part of a warp");
    Ballot own = {value};
    of_warp(&own, count);
    return own.value;
}

void __syncwarp(unsigned mask) {
    if (mask != 0xffffffffu) emulate::fail("a barrier of part of a warp");
    emulate::of_warp(nullptr, nothing);
}

void emulate::async_copy(void* to, const void* from, unsigned bytes, unsigned valid) {
    Fiber& own = running();
    if (own.copied == MAX_COPIES) fail("too many asynchronous copies on their way");
    if (reinterpret_cast<uintptr_t>(to) % bytes || (valid && reinterpret_cast<uintptr_t>(from) % bytes)) {
        fail("an asynchronous copy that is not aligned");
    }
    own.copies[own.copied++] = {to, from, bytes, valid};
}

void emulate::async_commit() {
    Fiber& own = running();
    if (own.groups == MAX_COPIES) fail("too many groups of asynchronous copies");
    own.group_ends[own.groups++] = own.copied;
}

void emulate::async_wait(unsigned groups_left) {
    Fiber& own = running();
    if (own.groups <= groups_left) return;
    unsigned finished = own.groups - groups_left, end = own.group_ends[finished - 1];
    for (unsigned i = 0; i < end; ++i) {
        const Copy& copy = own.copies[i];
        memcpy(copy.to, copy.from, copy.valid);
        memset(static_cast<unsigned char*>(copy.to) + copy.valid, 0, copy.bytes - copy.valid);
    }
    memmove(own.copies, own.copies + end, (own.copied - end) * sizeof(Copy));
    own.copied -= end;
    for (unsigned i = 0; i < groups_left; ++i) own.group_ends[i] = own.group_ends[finished + i] - end;
    own.groups = groups_left;
}

// Room for one launch at a time.
extern "C" void* emulate_open() {
    Block* room = reinterpret_cast<Block*>(map(sizeof(Block)));
    room->fibers = reinterpret_cast<Fiber*>(map(sizeof(Fiber) * MAX_THREADS));
    room->stacks = map(STACK * MAX_THREADS);
    room->shared = map(SHARED_ROOM);
    room->units = map(emulate::units_size());
    return room;
}

extern "C" void emulate_close(void* opened) {
    Block* room = static_cast<Block*>(opened);
    munmap(room->fibers, sizeof(Fiber) * MAX_THREADS);
    munmap(room->stacks, STACK * MAX_THREADS);
    munmap(room->shared, SHARED_ROOM);
    munmap(room->units, emulate::units_size());
    munmap(room, sizeof(Block));
}

// Runs a launch. Null if all went well, else why not; `where` tells the block then.
extern "C" const char* emulate_launch(void* room, const emulate::Entry* entry, const unsigned* grid,
                                      size_t dynamic_shared, const void* args, unsigned* where) {
    if (dynamic_shared > MAX_DYNAMIC) return "more dynamic shared memory than there is";
    block = static_cast<Block*>(room);
    block->entry = entry;
    block->args = args;
    block->threads = entry->threads;
    block->dynamic_size = dynamic_shared;
    block->failure = nullptr;
    emulate::place.threads = {entry->threads, 1, 1};
    emulate::place.blocks = {grid[0], grid[1], grid[2]};
    bool backwards = false;
    for (unsigned z = 0; z < grid[2] && !block->failure; ++z) {
        for (unsigned y = 0; y < grid[1] && !block->failure; ++y) {
            for (unsigned x = 0; x < grid[0] && !block->failure; ++x, backwards = !backwards) {
                where[0] = x, where[1] = y, where[2] = z;
                emulate::place.block = {x, y, z};
                run_block(backwards);
            }
        }
    }
    const char* failure = block->failure;
    block = nullptr;
    return failure;
}

// Says which kernel touched memory that is not there, before the process ends of it.
extern "C" void emulate_watch() {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
}
