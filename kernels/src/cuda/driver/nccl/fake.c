/* What the tests take for NCCL: sums over memory of the host, made when the last member has asked for them. */
#include <stddef.h>
#include <stdlib.h>

enum { FLOAT32 = 7, SUM = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, MOST = 8 };

struct group {
    int count, asked;
    float *values[MOST];
    size_t len;
};

struct member {
    struct group *group;
    int rank;
};

/* Communicators that were ended. */
int fake_ended;

int ncclGetVersion(int *version) {
    *version = FAKE_VERSION;
    return 0;
}

const char *ncclGetErrorString(int status) {
    return status == SYSTEM_ERROR ? "unhandled system error" : "invalid argument";
}

const char *ncclGetLastError(void *member) {
    return member ? "a member" : "the fake's own words\n";
}

/* The GPU of number 99 is out of order. */
int ncclCommInitAll(struct member **members, int count, const int *gpus) {
    struct group *group = calloc(1, sizeof *group);
    group->count = count;
    for (int rank = 0; rank < count; rank++) {
        if (gpus[rank] == 99) return SYSTEM_ERROR;
        members[rank] = calloc(1, sizeof **members);
        *members[rank] = (struct member){group, rank};
    }
    return 0;
}

/* Members' streams are their ranks, counted from 100. */
int ncclAllReduce(const void *from, void *to, size_t len, int type, int op, struct member *member, void *stream) {
    struct group *group = member->group;
    if (from != to || type != FLOAT32 || op != SUM || stream != (void *)(size_t)(100 + member->rank)) {
        return INVALID_ARGUMENT;
    }
    group->values[member->rank] = to;
    group->len = len;
    if (++group->asked < group->count) return 0;
    group->asked = 0;
    for (size_t i = 0; i < group->len; i++) {
        float sum = 0;
        for (int rank = 0; rank < group->count; rank++) sum += group->values[rank][i];
        for (int rank = 0; rank < group->count; rank++) group->values[rank][i] = sum;
    }
    return 0;
}

int ncclCommAbort(struct member *member) {
    __atomic_add_fetch(&fake_ended, member != NULL, __ATOMIC_SEQ_CST);
    return 0;
}
