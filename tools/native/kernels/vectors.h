// The vector registers of this build: LANES floats or 4-byte integers, and what both kernels do with them.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace edgereason {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)

#define EDGEREASON_PATH "avx512-vnni"
#define EDGEREASON_512 1
constexpr int LANES = 16;
using ints   = __m512i;
using floats = __m512;

inline ints   load(const uint8_t * p) { return _mm512_loadu_si512(p); }
inline ints   low(ints v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
inline ints   high(ints v) { return low(_mm512_srli_epi16(v, 4)); }
inline ints   all(int32_t v) { return _mm512_set1_epi32(v); }
inline floats all(float v) { return _mm512_set1_ps(v); }
inline floats zero() { return _mm512_setzero_ps(); }
inline floats load(const float * p) { return _mm512_loadu_ps(p); }
inline floats halves(const uint16_t * p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p)); }
inline void   store(float * p, floats v) { _mm512_storeu_ps(p, v); }
inline floats rounded(ints v) { return _mm512_cvtepi32_ps(v); }
inline floats fma(floats a, floats b, floats sum) { return _mm512_fmadd_ps(a, b, sum); }
inline floats mul(floats a, floats b) { return _mm512_mul_ps(a, b); }
inline floats add(floats a, floats b) { return _mm512_add_ps(a, b); }
inline floats sub(floats a, floats b) { return _mm512_sub_ps(a, b); }
inline floats max(floats a, floats b) { return _mm512_max_ps(a, b); }
inline ints   nearest(floats v) { return _mm512_cvtps_epi32(v); }
inline floats power_of_two(ints n) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, all(127)), 23)); }
inline floats zero_below(floats v, floats x, float limit) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, all(limit), _CMP_GE_OQ), v);
}
inline float sum(floats v) { return _mm512_reduce_add_ps(v); }
inline float largest(floats v) { return _mm512_reduce_max_ps(v); }

// The sums of LANES vectors, one a lane. Each step adds halves of two vectors into one.
inline floats sums(const floats (&v)[LANES]) {
    floats quarters[4];
    for (int i = 0; i < 4; ++i) {  // 128-bit parts: of v[i], v[i + 4], v[i + 8], v[i + 12]
        const floats a = add(_mm512_shuffle_f32x4(v[i], v[i + 4], 0x44), _mm512_shuffle_f32x4(v[i], v[i + 4], 0xEE));
        const floats b = add(_mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0x44), _mm512_shuffle_f32x4(v[i + 8], v[i + 12], 0xEE));
        quarters[i] = add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
    }
    const floats a = add(_mm512_shuffle_ps(quarters[0], quarters[1], 0x44), _mm512_shuffle_ps(quarters[0], quarters[1], 0xEE));
    const floats b = add(_mm512_shuffle_ps(quarters[2], quarters[3], 0x44), _mm512_shuffle_ps(quarters[2], quarters[3], 0xEE));
    return add(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#if defined(__AVXVNNI__) || (defined(__AVX512VL__) && defined(__AVX512VNNI__))
#define EDGEREASON_PATH "avx2-vnni"
#define EDGEREASON_VNNI_256 1
#else
#define EDGEREASON_PATH "avx2"
#endif
constexpr int LANES = 8;
using ints   = __m256i;
using floats = __m256;

inline ints   load(const uint8_t * p) { return _mm256_loadu_si256((const __m256i *) p); }
inline ints   low(ints v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
inline ints   high(ints v) { return low(_mm256_srli_epi16(v, 4)); }
inline ints   all(int32_t v) { return _mm256_set1_epi32(v); }
inline floats all(float v) { return _mm256_set1_ps(v); }
inline floats zero() { return _mm256_setzero_ps(); }
inline floats load(const float * p) { return _mm256_loadu_ps(p); }
inline floats halves(const uint16_t * p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p)); }
inline void   store(float * p, floats v) { _mm256_storeu_ps(p, v); }
inline floats rounded(ints v) { return _mm256_cvtepi32_ps(v); }
inline floats fma(floats a, floats b, floats sum) { return _mm256_fmadd_ps(a, b, sum); }
inline floats mul(floats a, floats b) { return _mm256_mul_ps(a, b); }
inline floats add(floats a, floats b) { return _mm256_add_ps(a, b); }
inline floats sub(floats a, floats b) { return _mm256_sub_ps(a, b); }
inline floats max(floats a, floats b) { return _mm256_max_ps(a, b); }
inline ints   nearest(floats v) { return _mm256_cvtps_epi32(v); }
inline floats power_of_two(ints n) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, all(127)), 23)); }
inline floats zero_below(floats v, floats x, float limit) {
    return _mm256_and_ps(v, _mm256_cmp_ps(x, all(limit), _CMP_GE_OQ));
}
inline float sum(floats v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s        = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float largest(floats v) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s        = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

// The sums of LANES vectors, one a lane. Each step adds halves of two vectors into one.
inline floats sums(const floats (&v)[LANES]) {
    floats halves[4];
    for (int i = 0; i < 4; ++i) {  // 128-bit parts: of v[i] and v[i + 4]
        halves[i] = add(_mm256_permute2f128_ps(v[i], v[i + 4], 0x20), _mm256_permute2f128_ps(v[i], v[i + 4], 0x31));
    }
    const floats a = add(_mm256_shuffle_ps(halves[0], halves[1], 0x44), _mm256_shuffle_ps(halves[0], halves[1], 0xEE));
    const floats b = add(_mm256_shuffle_ps(halves[2], halves[3], 0x44), _mm256_shuffle_ps(halves[2], halves[3], 0xEE));
    return add(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xDD));
}

#else
#error "these kernels need AVX2, FMA and F16C"
#endif

}  // namespace edgereason
