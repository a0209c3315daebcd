// Square roots, logarithms and transpositions of vectors that hold one element of several matrices, one per lane.
#pragma once
#include "simd.h"

namespace mvnjac {
namespace MVNJAC_SPACE {

constexpr int MAX_SCALAR_LOADS = 2;

#if defined(__AVX512F__)
static inline V<double> root(V<double> v) { return _mm512_maskz_sqrt_pd(0xff, v); }
static inline V<float> root(V<float> v) { return _mm512_maskz_sqrt_ps(0xffff, v); }
template <class M> static inline bool none_set(M mask) { return !_mm512_test_epi64_mask((__m512i)mask, (__m512i)mask); }
static inline V<double> inverse_root_estimate(V<double> v) { return _mm512_maskz_rsqrt14_pd(0xff, v); }
static inline V<float> inverse_root_estimate(V<float> v) { return _mm512_maskz_rsqrt14_ps(0xffff, v); }
#elif defined(__AVX2__)
static inline V<double> root(V<double> v) { return _mm256_sqrt_pd(v); }
static inline V<float> root(V<float> v) { return _mm256_sqrt_ps(v); }
template <class M> static inline bool none_set(M mask) { return _mm256_testz_si256((__m256i)mask, (__m256i)mask); }
#else
template <class W> static inline W root(W v) {
    for (size_t i = 0; i < sizeof(W) / sizeof(v[0]); i++) v[i] = sqrt(v[i]);
    return v;
}
template <class M> static inline bool none_set(M mask) {
    unsigned long long words[BYTES / 8], any = 0;
    memcpy(words, &mask, BYTES);
    for (unsigned long long word : words) any |= word;
    return !any;
}
#endif

// √v and 1/√v to about one unit in the last place, in 15 cycles; vector division and square root take 47.
template <class T> static inline V<T> root_and_inverse(V<T> v, V<T> &inverse) {
#if defined(__AVX512F__)
    V<T> y = inverse_root_estimate(v);  // 14 correct bits
    V<T> e = T(1) - (v * y) * y;
    if (sizeof(T) == 8) {
        y += y * (e * (T(0.5) + T(0.375) * e));  // 42 correct bits
        e = T(1) - (v * y) * y;
    }
    y += T(0.5) * e * y;
    const V<T> x = v * y;
    inverse = y;
    return x + T(0.5) * y * (v - x * x);
#else
    const V<T> x = root(v);
    inverse = T(1) / x;
    return x;
#endif
}

// k and m of v = 2^k m with √½ ≤ m < √2, for v positive and normal.
template <class T> static inline V<T> exponent(V<T> v, V<T> &m) {
    constexpr int digits = sizeof(T) == 8 ? 52 : 23;
    const Bits<T> bits = reinterpret_cast<Bits<T>>(v);
    const Bits<T> root_half = reinterpret_cast<Bits<T>>(broadcast(T(0.70710678118654752440)));
    const Bits<T> k = (bits - root_half) >> digits;
    m = reinterpret_cast<V<T>>(bits - (k << digits));
    // 1.5 · 2^digits: adding k to its bits adds k to its value
    const V<T> large = broadcast(T(sizeof(T) == 8 ? 6755399441055744.0 : 12582912.0));
    return reinterpret_cast<V<T>>(reinterpret_cast<Bits<T>>(large) + k) - large;
}

// log v for v positive and normal, to about one unit in the last place: log m = 2 atanh s with s = f / (2 + f), m = 1 + f, by its series.
template <class T> static inline V<T> logarithm(V<T> v) {
    constexpr int TERMS = sizeof(T) == 8 ? 11 : 5;
    const T high = sizeof(T) == 8 ? T(0x1.62e42feep-1) : T(0x1.63p-1);  // high part of log 2, whose product with k is exact
    const T low = sizeof(T) == 8 ? T(0x1.a39ef35793c76p-33) : T(-0x1.bd0106p-13);
    V<T> m;
    const V<T> k = exponent<T>(v, m), f = m - T(1), s = f / (f + T(2)), square = s * s, half = T(0.5) * f * f;
    V<T> series = broadcast(T(2) / T(2 * TERMS + 1));
    for (int term = TERMS - 1; term > 0; term--) series = series * square + T(2) / T(2 * term + 1);
    return k * high - ((half - (s * (half + series * square) + k * low)) - f);
}

// Transposition of a lanes × lanes matrix by exchanging off-diagonal blocks of size STEP.
template <class T, int STEP, int... K> static inline void exchange(V<T> *row, LaneIndices<K...>) {
    for (int i = 0; i < lanes<T>; i++) {
        if (i & STEP) continue;
        const V<T> above = row[i], below = row[i + STEP];
        row[i] = __builtin_shufflevector(above, below, (K & STEP ? lanes<T> + K - STEP : K)...);
        row[i + STEP] = __builtin_shufflevector(above, below, (K & STEP ? lanes<T> + K : K + STEP)...);
    }
}

template <class T> static inline void transpose(V<T> *row) {
    const typename MakeLaneIndices<lanes<T>>::type all;
    if constexpr (lanes<T> > 1) exchange<T, 1>(row, all);
    if constexpr (lanes<T> > 2) exchange<T, 2>(row, all);
    if constexpr (lanes<T> > 4) exchange<T, 4>(row, all);
    if constexpr (lanes<T> > 8) exchange<T, 8>(row, all);
}

// One element of each matrix, by scalar loads.
template <class T> static inline V<T> gather_element(const T *from, index size) {
    V<T> v;
    for (int l = 0; l < lanes<T>; l++) v[l] = from[l * size];
    return v;
}

// Gather and scatter the elements of `lanes` consecutive matrices (or vectors) of `size` elements, to and from to[row * ld + column], in
// transposed blocks of lanes elements. The last block of a matrix overlaps the previous one, or uses scalar loads if it is short. For a
// matrix smaller than a vector, loads and stores extend into the following matrices, as far as these lie before `end`.
template <class T> static inline __attribute__((always_inline)) void gather(V<T> *to, index ld, const T *from, index size, index columns,
                                                                            const T *end) {
    constexpr int W = lanes<T>;
    for (index block = 0; block < size; block += W) {
        const index e = block + W <= size || size < W ? block : size - W, count = size < W ? size : W;
        index i = e / columns, j = e % columns;
        if (block > e && block + MAX_SCALAR_LOADS >= size) {
            for (index last = block; last < size; last++) to[last / columns * ld + last % columns] = gather_element(from + last, size);
            return;
        }
        V<T> part[W];
        if (from + (W - 1) * size + e + W <= end)
            for (int l = 0; l < W; l++) part[l] = load(from + l * size + e);
        else
            for (int l = 0; l < W; l++) {
                T padded[W] = {};
                for (index k = 0; k < count; k++) padded[k] = from[l * size + e + k];
                part[l] = load(padded);
            }
        transpose<T>(part);
        for (index k = 0; k < count; k++) {
            to[i * ld + j] = part[k];
            if (++j == columns) j = 0, i++;
        }
    }
}

template <class T> static inline __attribute__((always_inline)) void scatter(T *to, const V<T> *from, index ld, index size, index columns,
                                                                             const T *end) {
    constexpr int W = lanes<T>;
    for (index block = 0; block < size; block += W) {
        const index e = block + W <= size || size < W ? block : size - W, count = size < W ? size : W;
        index i = e / columns, j = e % columns;
        if (block > e && block + MAX_SCALAR_LOADS >= size) {
            for (index last = block; last < size; last++) {
                const V<T> v = from[last / columns * ld + last % columns];
                for (int l = 0; l < W; l++) to[l * size + last] = v[l];
            }
            return;
        }
        V<T> part[W];
        for (index k = 0; k < W; k++) {
            part[k] = from[i * ld + j];
            if (k + 1 < count && ++j == columns) j = 0, i++;
        }
        transpose<T>(part);
        for (int l = 0; l < W; l++) {
            T *row = to + l * size + e;
            if (row + W <= end) store(row, part[l]);
            else
                for (index k = 0; k < count; k++) row[k] = part[l][k];
        }
    }
}

}  // namespace MVNJAC_SPACE
}  // namespace mvnjac
