// edgereason's kernels for x86, as a part of llama.cpp's CPU backend.
//
// ggml lets a backend keep weights in a buffer type of its own and compute the operations on them itself;
// its AMX kernels and its repacked layouts work that way. This file adds one more such type, in front of
// the others. llama.cpp then asks it for each weight whether it wants it, and loads what it wants through
// `set_tensor`, which repacks. Attention is taken over in the same way. llama.cpp itself stays as it is, but for
// what lets adapters in: a condition, and an adapter's product that is scaled and added in one node (kernels.cmake).

#include "kernels.h"
#include "vectors.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"

#include <cstdlib>
#include <cstring>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace edgereason {

static ggml_backend_buffer_type_t buffer_type();

static ggml_status init_tensor(ggml_backend_buffer_t, ggml_tensor * t) {
    t->extra = linear_for(t);
    return GGML_STATUS_SUCCESS;
}

static void set_tensor(ggml_backend_buffer_t, ggml_tensor * t, const void * data, size_t offset, size_t size) {
    GGML_ASSERT(offset == 0 && size == ggml_nbytes(t));
    if (t->extra) set_linear(t, data);
    else memcpy(t->data, data, size);
}

// A step reads all weights once, from the first to the last. Pages of 2 MB spare most of the address look-ups.
static void use_huge_pages(void * base, size_t size) {
#if defined(__linux__)
    constexpr uintptr_t PAGE = 2 << 20;
    const uintptr_t first = ((uintptr_t) base + PAGE - 1) & ~(PAGE - 1), last = ((uintptr_t) base + size) & ~(PAGE - 1);
    if (first < last) madvise((void *) first, last - first, MADV_HUGEPAGE);
#endif
}

static ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    if (!buffer) return nullptr;
    use_huge_pages(ggml_backend_buffer_get_base(buffer), size);
    buffer->buft              = type;
    buffer->iface.init_tensor = init_tensor;
    buffer->iface.set_tensor  = set_tensor;
    buffer->iface.get_tensor  = nullptr;
    buffer->iface.cpy_tensor  = nullptr;
    return buffer;
}

// A model's weights are asked for before they have a place, and come here if they fit. An adapter's matrices
// come where the weights that they change are: those that don't fit stay as they are, for ggml's own code.
struct extra final : ggml::cpu::extra_buffer_type {
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        const ggml_tensor * w = op->src[0], * x = op->src[1];
        return op->op == GGML_OP_MUL_MAT && w->buffer && w->buffer->buft == buffer_type() && (linear_for(w) || w->data) &&
               x->type == GGML_TYPE_F32 && (!x->buffer || ggml_backend_buft_is_host(x->buffer->buft));
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        if (op->op != GGML_OP_MUL_MAT) return attention_for(op);
        const bool ours = op->src[0]->buffer && op->src[0]->buffer->buft == buffer_type();
        return ours ? (ggml::cpu::tensor_traits *) op->src[0]->extra : nullptr;
    }
};

static ggml_backend_buffer_type_t buffer_type() {
    static ggml_backend_buffer_type type = {
        /* .iface = */ {
            /* .get_name       = */ [](ggml_backend_buffer_type_t) { return "EDGEREASON"; },
            /* .alloc_buffer   = */ alloc_buffer,
            /* .get_alignment  = */ [](ggml_backend_buffer_type_t) { return (size_t) 64; },
            /* .get_max_size   = */ nullptr,
            /* .get_alloc_size = */ nullptr,
            /* .is_host        = */ nullptr,
        },
        /* .device  = */ ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
        /* .context = */ new extra,
    };
    return &type;
}

// When the library is loaded. EDGEREASON_KERNELS=0 leaves llama.cpp as it is, to compare with.
static const bool registered = [] {
    const char * wanted = std::getenv("EDGEREASON_KERNELS");
    if (wanted && !std::strcmp(wanted, "0")) return false;
    auto & types = ggml_backend_cpu_get_extra_buffer_types();
    types.insert(types.begin(), buffer_type());
    return true;
}();

}  // namespace edgereason

// Which kernels this library was built with and uses, for records: "avx512-vnni", or "" when switched off.
extern "C" {
GGML_BACKEND_API const char * edgereason_kernels(void) {
    return edgereason::registered ? EDGEREASON_PATH : "";
}
}
