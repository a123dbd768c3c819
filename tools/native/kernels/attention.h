// Attention of one token to the cells of a KV cache in half precision, without anything of ggml.
//
// Query heads that share a KV head are taken together, so a key or value is converted once for all of them.
// LANES cells are taken together, so the softmax runs on full vectors. A row's cells are compacted first:
// in a cache that several streams share, most of the other streams' cells are not its own. The sums run over a
// row's own cells in their order, so a row's result does not depend on the other rows or on the threads.
#pragma once

#include "vectors.h"

#include <cmath>

namespace edgereason {

constexpr int MAX_HEADS = 8;  // query heads that are taken together

// The cells that one row sees, in their order, padded to full vectors: a padded place repeats a cell and has
// -inf added to its score.
struct cells {
    int       count;   // with the padding: a multiple of LANES
    int32_t * index;
    float *   added;   // from the mask
    float *   scores;  // [MAX_HEADS][count], scratch

    // Room for `n` cells in the cache, in bytes.
    static size_t bytes(int64_t n) { return padded(n) * (sizeof(int32_t) + sizeof(float) * (1 + MAX_HEADS)); }
    static int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

    // `mask` is in half precision: minus infinity where the row does not see the cell.
    cells(void * room, const uint16_t * mask, int64_t n) : count(0), index((int32_t *) room) {
        constexpr uint16_t HIDDEN = 0xFC00;
        constexpr uint64_t FOUR_HIDDEN = 0xFC00FC00FC00FC00;
        added = (float *) (index + padded(n));
        scores = added + padded(n);
        for (int64_t i = 0; i < n; i += 4) {
            uint64_t four = FOUR_HIDDEN;
            memcpy(&four, mask + i, n - i < 4 ? 2 * (n - i) : 8);
            if (four == FOUR_HIDDEN) continue;
            for (int64_t k = i; k < i + 4 && k < n; ++k) {
                if (mask[k] == HIDDEN) continue;
                index[count] = (int32_t) k;
                added[count++] = _cvtsh_ss(mask[k]);
            }
        }
        for (; count % LANES; ++count) {
            index[count] = index[count - 1];
            added[count] = -INFINITY;
        }
    }
};

// exp(x) for x <= 0, and 0 below -87. The rest after a power of two is at most ln(2) / 2, where seven terms of
// the series leave an error of 1.2e-7.
inline floats exp_negative(floats x) {
    const ints   n = nearest(mul(max(x, all(-87.0f)), all(1.44269504f)));
    const floats r = fma(rounded(n), all(2.12194440e-4f), fma(rounded(n), all(-0.693359375f), max(x, all(-87.0f))));
    constexpr float series[] = { 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f };
    floats p = all(1.0f / 720);
    for (float c : series) p = fma(p, r, all(c));
    return zero_below(mul(p, power_of_two(n)), x, -87.0f);
}

// Half-precision vectors of DIM values, `stride` bytes apart.
struct halves_at {
    const char * base;
    size_t       stride;

    const uint16_t * operator[](int64_t i) const { return (const uint16_t *) (base + i * stride); }
};

template <int DIM> using block = float[LANES][DIM];

template <int DIM> inline void convert(const halves_at & from, const int32_t * index, block<DIM> & to) {
    for (int c = 0; c < LANES; ++c) {
        const uint16_t * p = from[index[c]];
        for (int i = 0; i < DIM; i += LANES) store(to[c] + i, halves(p + i));
    }
}

// Of `vectors` sums, how many are kept in registers at a time: at most 8, and equal parts.
constexpr int in_registers(int vectors) {
    int n = 8;
    while (vectors % n) --n;
    return n;
}

// out[h] = softmax(scale * queries[h] · keys + added) · values, for heads that share keys and values.
template <int DIM>
void attend(int n_heads, const float * const * queries, const halves_at & keys, const halves_at & values,
            const cells & seen, float scale, float * const * out) {
    alignas(64) block<DIM> converted;
    floats largest_scores[MAX_HEADS];
    for (int h = 0; h < n_heads; ++h) {
        largest_scores[h] = all(-INFINITY);
        for (int i = 0; i < DIM; i += LANES) store(out[h] + i, zero());
    }
    if (!seen.count) return;

    for (int first = 0; first < seen.count; first += LANES) {
        convert<DIM>(keys, seen.index + first, converted);
        for (int h = 0; h < n_heads; ++h) {
            floats products[LANES];
#pragma GCC unroll 16
            for (int c = 0; c < LANES; ++c) products[c] = zero();
            for (int i = 0; i < DIM; i += LANES) {
                const floats q = load(queries[h] + i);
#pragma GCC unroll 16
                for (int c = 0; c < LANES; ++c) products[c] = fma(load(converted[c] + i), q, products[c]);
            }
            const floats s = fma(sums(products), all(scale), load(seen.added + first));
            store(seen.scores + h * seen.count + first, s);
            largest_scores[h] = max(largest_scores[h], s);
        }
    }

    float totals[MAX_HEADS];
    for (int h = 0; h < n_heads; ++h) {
        const floats top = all(largest(largest_scores[h]));
        floats total = zero();
        float * scores = seen.scores + h * seen.count;
        for (int c = 0; c < seen.count; c += LANES) {
            const floats p = exp_negative(sub(load(scores + c), top));
            store(scores + c, p);
            total = add(total, p);
        }
        totals[h] = sum(total);
    }

    constexpr int PIECE = LANES * in_registers(DIM / LANES);
    for (int first = 0; first < seen.count; first += LANES) {
        convert<DIM>(values, seen.index + first, converted);
        for (int h = 0; h < n_heads; ++h) {
            const float * weights = seen.scores + h * seen.count + first;
            for (int start = 0; start < DIM; start += PIECE) {
                floats sums[PIECE / LANES];
#pragma GCC unroll 8
                for (int i = 0; i < PIECE / LANES; ++i) sums[i] = load(out[h] + start + i * LANES);
                for (int c = 0; c < LANES; ++c) {
                    const floats w = all(weights[c]);
#pragma GCC unroll 8
                    for (int i = 0; i < PIECE / LANES; ++i) sums[i] = fma(load(converted[c] + start + i * LANES), w, sums[i]);
                }
#pragma GCC unroll 8
                for (int i = 0; i < PIECE / LANES; ++i) store(out[h] + start + i * LANES, sums[i]);
            }
        }
    }
    for (int h = 0; h < n_heads; ++h) {
        for (int i = 0; i < DIM; i += LANES) store(out[h] + i, mul(load(out[h] + i), all(1.0f / totals[h])));
    }
}

}  // namespace edgereason
