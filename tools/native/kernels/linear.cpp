// Linear layers with Q4_0 and Q8_0 weights on x86, for llama.cpp's CPU backend.
//
// ggml lets a backend keep weights in a buffer type of its own and compute the operations on them itself;
// its AMX kernels and its repacked layouts work that way. This file adds one more such type, in front of
// the others. llama.cpp then asks it for each weight whether it wants it, and loads what it wants through
// `set_tensor`, which repacks. Nothing of llama.cpp is changed. `tiles.h` has the arithmetic.

#include "tiles.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"
#include "traits.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace edgereason {

// Weights that stay in the second-level cache while all tiles of activations pass over them.
constexpr size_t CACHED_BYTES = 128 * 1024;

template <bits B> class linear final : public ggml::cpu::tensor_traits {
    static size_t row_bytes(const ggml_tensor * x) { return x->ne[0] / BLOCK * sizeof(activation); }

    bool work_size(int, const ggml_tensor * op, size_t & size) override {
        if (op->op != GGML_OP_MUL_MAT) return false;
        size = ggml_nrows(op->src[1]) * row_bytes(op->src[1]);
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        if (op->op != GGML_OP_MUL_MAT) return false;
        const ggml_tensor * x = op->src[1];
        const int64_t n_rows  = ggml_nrows(x);
        GGML_ASSERT(params->wsize >= n_rows * row_bytes(x));

        const tiling tiles{ n_rows };
        auto * activations = (activation *) params->wdata;
        quantize_rows(params, x, tiles, activations);

        const weights w = of(op->src[0]);
        const int64_t n_groups = op->src[0]->ne[1] / LANES;
        // Four pieces a thread, so that a thread that is held up does not hold up the others for long.
        const int64_t n_chunks = std::min<int64_t>(n_groups, params->nth == 1 ? 1 : 4 * params->nth);
        if (params->ith == 0) ggml_threadpool_chunk_set(params->threadpool, params->nth);
        ggml_barrier(params->threadpool);

        for (int64_t c = params->ith; c < n_chunks; c = ggml_threadpool_chunk_add(params->threadpool, 1)) {
            multiply_groups(op, w, tiles, activations, c * n_groups / n_chunks, (c + 1) * n_groups / n_chunks);
        }
        return true;
    }

    // The rows in as few tiles as possible, of nearly equal size: nine rows are 5 + 4, not 8 + 1.
    struct tiling {
        int64_t rows;
        int64_t count = (rows + MAX_ROWS - 1) / MAX_ROWS;

        int64_t begin(int64_t tile) const { return tile * rows / count; }
        int64_t size(int64_t tile) const { return begin(tile + 1) - begin(tile); }
        int64_t of(int64_t row) const { return ((row + 1) * count - 1) / rows; }
    };

    static char * row(const ggml_tensor * t, int64_t r) {
        const int64_t i1 = r % t->ne[1], i2 = r / t->ne[1] % t->ne[2], i3 = r / t->ne[1] / t->ne[2];
        return (char *) t->data + i1 * t->nb[1] + i2 * t->nb[2] + i3 * t->nb[3];
    }

    // All blocks of all rows, split evenly over the threads: one row alone is shared too.
    static void quantize_rows(const ggml_compute_params * params, const ggml_tensor * x, const tiling & tiles, activation * to) {
        const int64_t blocks = x->ne[0] / BLOCK, total = blocks * tiles.rows;
        const int64_t last = (params->ith + 1) * total / params->nth;
        for (int64_t i = params->ith * total / params->nth; i < last; ++i) {
            const int64_t r = i / blocks, b = i % blocks, t = tiles.of(r), first = tiles.begin(t);
            quantize<B>((const float *) row(x, r) + b * BLOCK, to[first * blocks + b * tiles.size(t) + (r - first)]);
        }
    }

    static void multiply_groups(ggml_tensor * op, const weights & w, const tiling & tiles, const activation * rows, int64_t first, int64_t last) {
        const int64_t step = std::max<int64_t>(1, CACHED_BYTES / (w.blocks * block_bytes<B>));
        for (int64_t g = first; g < last; g += step) {
            for (int64_t t = 0; t < tiles.count; ++t) {
                const int64_t begin = tiles.begin(t);
                const int n = (int) tiles.size(t);
                float * out[MAX_ROWS];
                for (int r = 0; r < n; ++r) out[r] = (float *) row(op, begin + r);
                multiply<B>(n, w, rows + begin * w.blocks, out, g, std::min(g + step, last));
            }
        }
    }

  public:
    static weights of(const ggml_tensor * t) {
        const int blocks = (int) (t->ne[0] / BLOCK);
        auto * values    = (uint8_t *) t->data;
        return { values, (const uint16_t *) (values + t->ne[1] / LANES * blocks * block_bytes<B>), blocks };
    }

    static void set(const ggml_tensor * t, const void * source) {
        const weights w = of(t);
        repack<B>((const uint8_t *) source, t->ne[1], w.blocks, (uint8_t *) w.values, (uint16_t *) w.scales);
    }
};

static linear<bits::four>  four;
static linear<bits::eight> eight;

static bool fits(const ggml_tensor * t) {
    return (t->type == GGML_TYPE_Q4_0 || t->type == GGML_TYPE_Q8_0) && ggml_n_dims(t) == 2 && ggml_is_contiguous(t) &&
           t->ne[0] % BLOCK == 0 && t->ne[1] % LANES == 0;
}

// ---- ggml's interfaces -----------------------------------------------------------------------------------------

static ggml_backend_buffer_type_t buffer_type();

static ggml_status init_tensor(ggml_backend_buffer_t, ggml_tensor * t) {
    t->extra = t->type == GGML_TYPE_Q4_0 ? (void *) &four : (void *) &eight;
    return GGML_STATUS_SUCCESS;
}

static void set_tensor(ggml_backend_buffer_t, ggml_tensor * t, const void * data, size_t offset, size_t size) {
    GGML_ASSERT(offset == 0 && size == ggml_nbytes(t) && fits(t));
    if (t->type == GGML_TYPE_Q4_0) linear<bits::four>::set(t, data);
    else linear<bits::eight>::set(t, data);
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

struct extra final : ggml::cpu::extra_buffer_type {
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        const ggml_tensor * w = op->src[0], * x = op->src[1];
        return op->op == GGML_OP_MUL_MAT && w->buffer && w->buffer->buft == buffer_type() && fits(w) &&
               x->type == GGML_TYPE_F32 && (!x->buffer || ggml_backend_buft_is_host(x->buffer->buft));
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        const bool ours = op->op == GGML_OP_MUL_MAT && op->src[0]->buffer && op->src[0]->buffer->buft == buffer_type();
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
