// Ops whose every element depends on the same elements of the inputs alone: sums, caps, gates.
//
// All memory-bound. Grids are capped on the host and threads stride over what is left, so that the number of blocks
// never limits the number of elements.
#include "device.h"

struct AddArgs {
    float* acc;
    const float* x;
    u64 len;
};

DEVICE u64 first_element() { return static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; }
DEVICE u64 stride() { return static_cast<u64>(gridDim.x) * blockDim.x; }

// acc += x
KERNEL(add, 256, AddArgs) {
    for (u64 i = first_element(); i < args.len; i += stride()) args.acc[i] += args.x[i];
}

struct SoftcapArgs {
    float* x;
    u64 len;
    float cap;
};

// x = cap * tanh(x / cap)
KERNEL(softcap, 256, SoftcapArgs) {
    for (u64 i = first_element(); i < args.len; i += stride()) args.x[i] = args.cap * tanhf(args.x[i] / args.cap);
}

struct GatedArgs {
    float* out;            // [rows, width]
    const float* gate_up;  // [rows, 2 * width], gate first
    u64 rows;
    u32 width;
};

struct Silu {
    static DEVICE float of(float x) { return x / (1.0f + expf(-x)); }
};
struct Gelu {
    static DEVICE float of(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
};
struct GeluTanh {
    static DEVICE float of(float x) {
        // sqrt(2 / pi) (x + 0.044715 x^3)
        const float inner = 0.7978846f * fmaf(x * x * x, 0.044715f, x);
        return 0.5f * x * (1.0f + tanhf(inner));
    }
};

struct Relu {
    static DEVICE float of(float x) { return fmaxf(x, 0.0f); }
};
struct Tanh {
    static DEVICE float of(float x) { return tanhf(x); }
};

// out = act(gate) * up
template <class Act> DEVICE void gated(const GatedArgs& args) {
    const u64 len = args.rows * args.width;
    for (u64 i = first_element(); i < len; i += stride()) {
        const float* gate = args.gate_up + i + i / args.width * args.width;
        args.out[i] = Act::of(gate[0]) * gate[args.width];
    }
}

KERNEL(gated_silu, 256, GatedArgs) { gated<Silu>(args); }
KERNEL(gated_gelu, 256, GatedArgs) { gated<Gelu>(args); }
KERNEL(gated_gelu_tanh, 256, GatedArgs) { gated<GeluTanh>(args); }

struct ActivateArgs {
    float* x;
    u64 len;
};

// x = act(x)
template <class Act> DEVICE void activate(const ActivateArgs& args) {
    for (u64 i = first_element(); i < args.len; i += stride()) args.x[i] = Act::of(args.x[i]);
}

KERNEL(activate_silu, 256, ActivateArgs) { activate<Silu>(args); }
KERNEL(activate_gelu, 256, ActivateArgs) { activate<Gelu>(args); }
KERNEL(activate_gelu_tanh, 256, ActivateArgs) { activate<GeluTanh>(args); }
KERNEL(activate_relu, 256, ActivateArgs) { activate<Relu>(args); }
KERNEL(activate_tanh, 256, ActivateArgs) { activate<Tanh>(args); }
