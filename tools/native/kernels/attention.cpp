// Flash attention over a half-precision KV cache. `attention.h` has the arithmetic.

#include "attention.h"
#include "kernels.h"

#include "ggml-cpu-impl.h"
#include "ggml-impl.h"

#include <algorithm>

namespace edgereason {

class attention final : public ggml::cpu::tensor_traits {
    bool work_size(int n_threads, const ggml_tensor * op, size_t & size) override {
        size = n_threads * cells::bytes(op->src[1]->ne[1]);
        return true;
    }

    // A unit of work is one row of one KV head, or a part of its query heads where the threads outnumber those.
    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        const ggml_tensor * q = op->src[0], * k = op->src[1];
        const int64_t rows = q->ne[1], kv_heads = k->ne[2], shared = q->ne[2] / kv_heads;
        const int64_t wanted = (params->nth + rows * kv_heads * q->ne[3] - 1) / (rows * kv_heads * q->ne[3]);
        const int64_t parts  = std::min(shared, std::max(wanted, (shared + MAX_HEADS - 1) / MAX_HEADS));
        const int64_t units  = q->ne[3] * kv_heads * parts * rows;

        if (params->ith == 0) ggml_threadpool_chunk_set(params->threadpool, params->nth);
        ggml_barrier(params->threadpool);
        for (int64_t u = params->ith; u < units; u = ggml_threadpool_chunk_add(params->threadpool, 1)) {
            const int64_t row = u % rows, part = u / rows % parts, kv_head = u / rows / parts % kv_heads;
            const int64_t first = kv_head * shared + part * shared / parts, last = kv_head * shared + (part + 1) * shared / parts;
            attend_row(params, op, u / rows / parts / kv_heads, row, first, last);
        }
        return true;
    }

    static void attend_row(const ggml_compute_params * params, ggml_tensor * op, int64_t batch, int64_t row, int64_t first, int64_t last) {
        const ggml_tensor * q = op->src[0], * k = op->src[1], * v = op->src[2], * mask = op->src[3];
        const int64_t kv_head = first / (q->ne[2] / k->ne[2]), kv_batch = batch / (q->ne[3] / k->ne[3]);
        const float * queries[MAX_HEADS];
        float * out[MAX_HEADS];
        for (int64_t h = first; h < last; ++h) {
            queries[h - first] = (const float *) ((const char *) q->data + row * q->nb[1] + h * q->nb[2] + batch * q->nb[3]);
            out[h - first]     = (float *) ((char *) op->data + ((batch * op->ne[2] + row) * op->ne[1] + h) * op->nb[1]);
        }
        const char * seen = (const char *) mask->data + row * mask->nb[1] + batch % mask->ne[3] * mask->nb[3];
        float scale;
        memcpy(&scale, op->op_params, sizeof(scale));

        run(op->ne[0])((int) (last - first), queries, at(k, kv_head, kv_batch), at(v, kv_head, kv_batch),
                       cells((char *) params->wdata + params->ith * cells::bytes(k->ne[1]), (const uint16_t *) seen, k->ne[1]),
                       scale, out);
    }

    static halves_at at(const ggml_tensor * t, int64_t head, int64_t batch) {
        return { (const char *) t->data + head * t->nb[2] + batch * t->nb[3], t->nb[1] };
    }

    using runner = void (*)(int, const float * const *, const halves_at &, const halves_at &, const cells &, float, float * const *);

  public:
    static runner run(int64_t dim) {
        switch (dim) {
            case 64:  return attend<64>;
            case 96:  return attend<96>;
            case 128: return attend<128>;
            case 256: return attend<256>;
            default:  return nullptr;
        }
    }
};

ggml::cpu::tensor_traits * attention_for(const ggml_tensor * op) {
    static attention traits;
    if (op->op != GGML_OP_FLASH_ATTN_EXT) return nullptr;
    const ggml_tensor * q = op->src[0], * k = op->src[1], * v = op->src[2], * mask = op->src[3], * sinks = op->src[4];
    float max_bias, softcap;  // of ALiBi, and of Gemma 2: left to llama.cpp, like attention sinks
    memcpy(&max_bias, op->op_params + 1, sizeof(float));
    memcpy(&softcap, op->op_params + 2, sizeof(float));
    const bool fits = q->type == GGML_TYPE_F32 && k->type == GGML_TYPE_F16 && v->type == GGML_TYPE_F16 && mask && mask->type == GGML_TYPE_F16 &&
                      mask->ne[2] == 1 && !sinks && max_bias == 0 && softcap == 0 && k->ne[0] == v->ne[0] && k->ne[2] == v->ne[2] &&
                      k->ne[3] == v->ne[3] && attention::run(k->ne[0]) && q->nb[0] == 4 && k->nb[0] == 2 && v->nb[0] == 2;
    return fits ? &traits : nullptr;
}

}  // namespace edgereason
