// Q4_0 and Q8_0 weights times int8 activations: the arithmetic, without anything of ggml.
//
// Weights are repacked so that one vector register holds the same four inputs (k .. k+3) of LANES
// neighbouring outputs. An activation is then four bytes that are broadcast to all lanes, and one
// instruction multiplies and adds 4 * LANES pairs. A tile is LANES outputs times 1 to 8 activation rows:
// it loads and unpacks each weight once for all of its rows. Several streams therefore share the cost
// that one stream pays.
//
// The instructions multiply unsigned by signed bytes. The weights are the unsigned side: a nibble is used
// as it is stored (0 .. 15, standing for -8 .. 7), and an 8-bit weight is stored plus 128. The surplus,
// offset * sum(activations), does not depend on the weights. It is computed once per activation block
// and is where the integer sum of the block starts.
//
// A row's result does not depend on the other rows, on the tile, or on the thread: integer sums are exact,
// and the float sum runs over the blocks in order, one fused multiply-add each. All paths below give the
// same bits.
#pragma once

#include "vectors.h"

namespace edgereason {

constexpr int BLOCK = 32;    // values that share a scale, in weights and activations
constexpr int WORDS = 8;     // groups of four values in a block: what one instruction takes
constexpr int MAX_ROWS = 8;  // activation rows of a tile

enum class bits { four, eight };

// One block of one activation row. `start` is minus the surplus described above.
struct activation {
    int8_t  values[BLOCK];
    float   scale;
    int32_t start;
};
static_assert(sizeof(activation) == 40);

// A repacked matrix: the blocks of LANES outputs are neighbours, and all values stand before all scales.
struct weights {
    const uint8_t *  values;  // [outputs / LANES][blocks][block_bytes]
    const uint16_t * scales;  // [outputs / LANES][blocks][LANES], half precision
    int              blocks;  // in one output
};

template <bits B> constexpr size_t block_bytes = size_t(LANES) * BLOCK * (B == bits::four ? 4 : 8) / 8;

// Without VNNI, 8-bit weights are used signed (see `dot` below) and need no correction.
template <bits B> constexpr int surplus() {
    if (B == bits::four) return 8;
#if defined(EDGEREASON_512) || defined(EDGEREASON_VNNI_256)
    return 128;
#else
    return 0;
#endif
}

// ---- the dot product of one word: four inputs of LANES outputs, times four bytes of one row -----------------

#if defined(EDGEREASON_512) || defined(EDGEREASON_VNNI_256)
template <bits> inline ints begin(int32_t start) { return all(start); }
template <bits> inline ints finish(ints sum, int32_t) { return sum; }
template <bits> inline ints dot(ints sum, ints w, int32_t a) {
#if defined(EDGEREASON_512)
    return _mm512_dpbusd_epi32(sum, w, all(a));
#elif defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(sum, w, all(a));
#else
    return _mm256_dpbusd_epi32(sum, w, all(a));
#endif
}
#else
// vpmaddubsw adds pairs in 16 bits. Nibbles: eight words sum to at most 8 * 2 * 15 * 127 = 30,480, which
// fits, so the sums are widened once per block. 8-bit weights: |w| * sign(a, w) is at most 2 * 128 * 127 =
// 32,512 a pair, which fits only once, so each word is widened.
template <bits> inline ints begin(int32_t) { return all(0); }
template <bits B> inline ints finish(ints sum, int32_t start) {
    if (B == bits::eight) return sum;
    return _mm256_add_epi32(_mm256_madd_epi16(sum, _mm256_set1_epi16(1)), all(start));
}
template <bits B> inline ints dot(ints sum, ints w, int32_t a) {
    if (B == bits::four) return _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, all(a)));
    const ints products = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(all(a), w));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1)));
}
#endif

// ---- the tile ------------------------------------------------------------------------------------------------

inline int32_t word(const int8_t * values, int w) {
    int32_t v;
    memcpy(&v, values + 4 * w, 4);
    return v;
}

// LANES outputs of ROWS activation rows: out[r][0 .. LANES) = weights · row r.
// `rows` has the blocks of all rows interleaved: [blocks][ROWS].
template <bits B, int ROWS>
void tile(const uint8_t * values, const uint16_t * scales, int blocks, const activation * rows, float * const * out) {
    floats sums[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) sums[r] = zero();
    for (int b = 0; b < blocks; ++b, values += block_bytes<B>, scales += LANES, rows += ROWS) {
        ints dots[ROWS];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) dots[r] = begin<B>(rows[r].start);
#pragma GCC unroll 8
        for (int w = 0; w < WORDS; ++w) {
            ints v;
            if (B == bits::eight) v = load(values + w * 4 * LANES);
            else if (w < WORDS / 2) v = low(load(values + w * 4 * LANES));
            else v = high(load(values + (w - WORDS / 2) * 4 * LANES));
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r) dots[r] = dot<B>(dots[r], v, word(rows[r].values, w));
        }
        const floats d = halves(scales);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            sums[r] = fma(rounded(finish<B>(dots[r], rows[r].start)), mul(d, all(rows[r].scale)), sums[r]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) store(out[r], sums[r]);
}

// The groups [first, last) of LANES outputs, for a tile of 1 to 8 rows. out[r] is where output 0 of row r goes.
template <bits B, int ROWS>
void multiply(const weights & w, const activation * rows, float * const * out, int64_t first, int64_t last) {
    float * to[ROWS];
    for (int64_t g = first; g < last; ++g) {
        for (int r = 0; r < ROWS; ++r) to[r] = out[r] + g * LANES;
        tile<B, ROWS>(w.values + g * w.blocks * block_bytes<B>, w.scales + g * w.blocks * LANES, w.blocks, rows, to);
    }
}

template <bits B>
void multiply(int n_rows, const weights & w, const activation * rows, float * const * out, int64_t first, int64_t last) {
    using run = void (*)(const weights &, const activation *, float * const *, int64_t, int64_t);
    static constexpr run runs[MAX_ROWS] = { multiply<B, 1>, multiply<B, 2>, multiply<B, 3>, multiply<B, 4>,
                                            multiply<B, 5>, multiply<B, 6>, multiply<B, 7>, multiply<B, 8> };
    runs[n_rows - 1](w, rows, out, first, last);
}

// ---- activations ---------------------------------------------------------------------------------------------

// One block, with llama.cpp's Q8_0 rule, so that both kernels multiply the same integers: the scale is
// max|x| / 127 rounded to half precision, the values are rounded with the scale as it was before that.
template <bits B> void quantize(const float * x, activation & to) {
    __m256 v[4];
    __m256 largest = _mm256_setzero_ps();
    for (int i = 0; i < 4; ++i) {
        v[i]    = _mm256_loadu_ps(x + 8 * i);
        largest = _mm256_max_ps(largest, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v[i]));
    }
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
    m        = _mm_max_ps(m, _mm_movehl_ps(m, m));
    m        = _mm_max_ss(m, _mm_movehdup_ps(m));

    const float max     = _mm_cvtss_f32(m);
    const float scale   = max / 127.0f;
    const float inverse = max != 0.0f ? 127.0f / max : 0.0f;

    __m256i q[4];
    for (int i = 0; i < 4; ++i) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], _mm256_set1_ps(inverse)));
    const __m256i sums = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    s         = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
    s         = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1));

    // The packs work within 128-bit halves, so the result's 4-byte words come out of order.
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((__m256i *) to.values, _mm256_permutevar8x32_epi32(bytes, order));
    to.scale = _cvtsh_ss(_cvtss_sh(scale, _MM_FROUND_TO_NEAREST_INT));
    to.start = -surplus<B>() * _mm_cvtsi128_si32(s);
}

// ---- repacking -----------------------------------------------------------------------------------------------

// ggml's blocks: a half-precision scale and 16 bytes (the nibbles of values i and i + 16) or 32 bytes.
template <bits B> constexpr size_t source_block = 2 + (B == bits::four ? 16 : 32);

// `source` is [outputs][blocks] in ggml's layout; outputs is a multiple of LANES.
template <bits B> void repack(const uint8_t * source, int64_t outputs, int blocks, uint8_t * values, uint16_t * scales) {
    constexpr int words = B == bits::four ? WORDS / 2 : WORDS;
    for (int64_t g = 0; g < outputs / LANES; ++g) {
        for (int b = 0; b < blocks; ++b, values += block_bytes<B>, scales += LANES) {
            for (int lane = 0; lane < LANES; ++lane) {
                const uint8_t * from = source + ((g * LANES + lane) * blocks + b) * source_block<B>;
                memcpy(scales + lane, from, 2);
                for (int w = 0; w < words; ++w) {
                    uint32_t v;
                    memcpy(&v, from + 2 + 4 * w, 4);
                    if (B == bits::eight && surplus<B>()) v ^= 0x80808080u;
                    memcpy(values + (w * LANES + lane) * 4, &v, 4);
                }
            }
        }
    }
}

}  // namespace edgereason
