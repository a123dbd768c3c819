// Linear layers with Q4_0 and Q8_0 weights. `tiles.h` has the arithmetic.

#include "kernels.h"
#include "tiles.h"

#include "ggml-cpu-impl.h"
#include "ggml-impl.h"

#include <algorithm>

namespace edgereason {

// Weights that stay in the second-level cache while all tiles of activations pass over them.
constexpr size_t CACHED_BYTES = 128 * 1024;

// Where llama.cpp's graph, as kernels.cmake changes it, puts an adapter's scale. ggml uses parameter 0 itself.
constexpr int SCALE_PARAM = 1;

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
        const weights w = of(op->src[0]);
        const int64_t n_groups = op->src[0]->ne[1] / LANES;
        // An adapter's second product has few inputs. Each thread quantizes all of them, sooner than it would wait
        // for the others.
        if (n_rows * w.blocks <= MAX_ROWS) {
            activation own[MAX_ROWS];
            quantize_rows(x, tiles, own, 0, 1);
            multiply_groups(op, w, tiles, own, params->ith * n_groups / params->nth, (params->ith + 1) * n_groups / params->nth);
            return true;
        }
        auto * activations = (activation *) params->wdata;
        quantize_rows(x, tiles, activations, params->ith, params->nth);

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

    // One of several even parts of all blocks of all rows: threads share one row alone, too.
    static void quantize_rows(const ggml_tensor * x, const tiling & tiles, activation * to, int64_t part, int64_t parts) {
        const int64_t blocks = x->ne[0] / BLOCK, total = blocks * tiles.rows;
        for (int64_t i = part * total / parts; i < (part + 1) * total / parts; ++i) {
            const int64_t r = i / blocks, b = i % blocks, t = tiles.of(r), first = tiles.begin(t);
            quantize<B>((const float *) row(x, r) + b * BLOCK, to[first * blocks + b * tiles.size(t) + (r - first)]);
        }
    }

    // An adapter's second product: it is scaled and added to the sum so far, which is in src[2] (kernels.cmake).
    static void add_scaled(ggml_tensor * op, int64_t r, int64_t first, int64_t last) {
        const float scale = ggml_get_op_params_f32(op, SCALE_PARAM);
        const auto * sum  = (const float *) row(op->src[2], r);
        auto * out        = (float *) row(op, r);
        for (int64_t i = first; i < last; ++i) out[i] = sum[i] + scale * out[i];
    }

    static void multiply_groups(ggml_tensor * op, const weights & w, const tiling & tiles, const activation * rows, int64_t first, int64_t last) {
        const int64_t step = std::max<int64_t>(1, CACHED_BYTES / (w.blocks * block_bytes<B>));
        for (int64_t g = first; g < last; g += step) {
            for (int64_t t = 0; t < tiles.count; ++t) {
                const int64_t begin = tiles.begin(t);
                const int n = (int) tiles.size(t);
                float * out[MAX_ROWS];
                for (int r = 0; r < n; ++r) out[r] = (float *) row(op, begin + r);
                const int64_t end = std::min(g + step, last);
                multiply<B>(n, w, rows + begin * w.blocks, out, g, end);
                for (int r = 0; op->src[2] && r < n; ++r) add_scaled(op, begin + r, g * LANES, end * LANES);
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

void set_linear(ggml_tensor * weights, const void * data) {
    if (weights->type == GGML_TYPE_Q4_0) linear<bits::four>::set(weights, data);
    else linear<bits::eight>::set(weights, data);
}

ggml::cpu::tensor_traits * linear_for(const ggml_tensor * w) {
    if (ggml_n_dims(w) != 2 || !ggml_is_contiguous(w) || w->ne[0] % BLOCK || w->ne[1] % LANES) return nullptr;
    if (w->type == GGML_TYPE_Q4_0) return &four;
    if (w->type == GGML_TYPE_Q8_0) return &eight;
    return nullptr;
}

}  // namespace edgereason
