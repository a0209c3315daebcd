// Many Gaussians of d ≤ LARGEST_SMALL, each with its own Σ and one row: as many at a time as a vector has lanes.
//
// All of them are factorised, inverted and multiplied in step, in blocks of 4×4 that stay in registers; d is filled up to whole
// blocks by the identity. Element (i, j) of the matrices of a group is one vector.
#pragma once
#include "vector.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace mvnjac {
namespace MVNJAC_SPACE {

constexpr int FEW = 2;

#if defined(__AVX512F__)
static inline V<double> root(V<double> v) { return _mm512_maskz_sqrt_pd(0xff, v); }
static inline V<float> root(V<float> v) { return _mm512_maskz_sqrt_ps(0xffff, v); }
template <class M> static inline bool none(M mask) { return !_mm512_test_epi64_mask((__m512i)mask, (__m512i)mask); }
static inline V<double> inverse_root_estimate(V<double> v) { return _mm512_maskz_rsqrt14_pd(0xff, v); }
static inline V<float> inverse_root_estimate(V<float> v) { return _mm512_maskz_rsqrt14_ps(0xffff, v); }
#elif defined(__AVX2__)
static inline V<double> root(V<double> v) { return _mm256_sqrt_pd(v); }
static inline V<float> root(V<float> v) { return _mm256_sqrt_ps(v); }
template <class M> static inline bool none(M mask) { return _mm256_testz_si256((__m256i)mask, (__m256i)mask); }
#else
template <class W> static inline W root(W v) {
    for (size_t i = 0; i < sizeof(W) / sizeof(v[0]); i++) v[i] = sqrt(v[i]);
    return v;
}
template <class M> static inline bool none(M mask) {
    unsigned long long words[BYTES / 8], any = 0;
    memcpy(words, &mask, BYTES);
    for (unsigned long long word : words) any |= word;
    return !any;
}
#endif

// √v and its inverse, to about one unit in the last place: a vector's division and root take 47 cycles, this 15.
template <class T> static inline V<T> roots(V<T> v, V<T> &inverse) {
#if defined(__AVX512F__)
    V<T> y = inverse_root_estimate(v);  // 14 bits
    V<T> e = T(1) - (v * y) * y;
    if (sizeof(T) == 8) {
        y += y * (e * (T(0.5) + T(0.375) * e));  // 42
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

// 2^k m with m from √½ to √2, v positive and normal: k as a number.
template <class T> static inline V<T> exponent(V<T> v, V<T> &m) {
    constexpr int digits = sizeof(T) == 8 ? 52 : 23;
    const Bits<T> bits = reinterpret_cast<Bits<T>>(v);
    const Bits<T> root_half = reinterpret_cast<Bits<T>>(filled(T(0.70710678118654752440)));
    const Bits<T> k = (bits - root_half) >> digits;
    m = reinterpret_cast<V<T>>(bits - (k << digits));
    const V<T> large = filled(T(sizeof(T) == 8 ? 6755399441055744.0 : 12582912.0));  // 1.5 · 2^digits: its last digits are k
    return reinterpret_cast<V<T>>(reinterpret_cast<Bits<T>>(large) + k) - large;
}

// log v, v positive and normal, to about one unit in the last place: log m = 2 atanh s with s = f / (2 + f), m = 1 + f, by its series.
template <class T> static inline V<T> logarithm(V<T> v) {
    constexpr int TERMS = sizeof(T) == 8 ? 11 : 5;
    const T high = sizeof(T) == 8 ? T(0x1.62e42feep-1) : T(0x1.63p-1);  // of log 2, so that its product with k is exact
    const T low = sizeof(T) == 8 ? T(0x1.a39ef35793c76p-33) : T(-0x1.bd0106p-13);
    V<T> m;
    const V<T> k = exponent<T>(v, m), f = m - T(1), s = f / (f + T(2)), square = s * s, half = T(0.5) * f * f;
    V<T> series = filled(T(2) / T(2 * TERMS + 1));
    for (int term = TERMS - 1; term > 0; term--) series = series * square + T(2) / T(2 * term + 1);
    return k * high - ((half - (s * (half + series * square) + k * low)) - f);
}

template <int...> struct Lanes {};
template <int N, int... K> struct UpTo : UpTo<N - 1, N - 1, K...> {};
template <int... K> struct UpTo<0, K...> { typedef Lanes<K...> type; };

// Rows of a square of lanes × lanes become columns: halves, quarters, … change places.
template <class T, int STEP, int... K> static inline void exchange(V<T> *row, Lanes<K...>) {
    for (int i = 0; i < lanes<T>; i++) {
        if (i & STEP) continue;
        const V<T> above = row[i], below = row[i + STEP];
        row[i] = __builtin_shufflevector(above, below, (K & STEP ? lanes<T> + K - STEP : K)...);
        row[i + STEP] = __builtin_shufflevector(above, below, (K & STEP ? lanes<T> + K : K + STEP)...);
    }
}

template <class T> static inline void transpose(V<T> *row) {
    const typename UpTo<lanes<T>>::type all;
    if constexpr (lanes<T> > 1) exchange<T, 1>(row, all);
    if constexpr (lanes<T> > 2) exchange<T, 2>(row, all);
    if constexpr (lanes<T> > 4) exchange<T, 4>(row, all);
    if constexpr (lanes<T> > 8) exchange<T, 8>(row, all);
}

// One element of each matrix, one by one.
template <class T> static inline V<T> picked(const T *from, index size) {
    V<T> v;
    for (int l = 0; l < lanes<T>; l++) v[l] = from[l * size];
    return v;
}

// The elements of `lanes` consecutive matrices (or vectors) of `size` elements, to and from to[row * ld + column], a square of them
// at a time. The last ones of a matrix come together with some that have been already, or one by one if they are few; a matrix
// smaller than a vector is read and written as far as the next ones, where these lie before `end`.
template <class T> static inline __attribute__((always_inline)) void gathered(V<T> *to, index ld, const T *from, index size, index columns, const T *end) {
    constexpr int W = lanes<T>;
    for (index block = 0; block < size; block += W) {
        const index e = block + W <= size || size < W ? block : size - W, count = size < W ? size : W;
        index i = e / columns, j = e % columns;
        if (block > e && block + FEW >= size) {
            for (index last = block; last < size; last++) to[last / columns * ld + last % columns] = picked(from + last, size);
            return;
        }
        V<T> part[W];
        if (from + (W - 1) * size + e + W <= end)
            for (int l = 0; l < W; l++) part[l] = load(from + l * size + e);
        else
            for (int l = 0; l < W; l++) {
                T some[W] = {};
                for (index k = 0; k < count; k++) some[k] = from[l * size + e + k];
                part[l] = load(some);
            }
        transpose<T>(part);
        for (index k = 0; k < count; k++) {
            to[i * ld + j] = part[k];
            if (++j == columns) j = 0, i++;
        }
    }
}

template <class T> static inline __attribute__((always_inline)) void scattered(T *to, const V<T> *from, index ld, index size, index columns, const T *end) {
    constexpr int W = lanes<T>;
    for (index block = 0; block < size; block += W) {
        const index e = block + W <= size || size < W ? block : size - W, count = size < W ? size : W;
        index i = e / columns, j = e % columns;
        if (block > e && block + FEW >= size) {
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

// The number of variables, with what it is filled up to, and the blocks of it: known when this is compiled (D ≤ 4), or not (0).
template <int D> struct Size {
    static constexpr index d = D, ld = D;
    static constexpr int B = D;
    explicit Size(index) {}
};
template <> struct Size<0> {
    static constexpr int B = 4;
    index d, ld;
    explicit Size(index variables) : d(variables), ld(up(variables, B)) {}
};

template <class T, int D> struct Group : Size<D> {
    using Size<D>::d;
    using Size<D>::ld;
    using Size<D>::B;
    bool stages;  // matrices are copied as they lie in memory: over some pages, from front to back is faster than side by side
    T *staged;
    V<T> *A, *C, *r, *z, *a, *pivots;  // Σ, then L, then the gradient; L⁻¹; x − µ; C r; Cᵀ z; 1 / L_ii

    Group(index variables, V<T> *memory) : Size<D>(variables) {
        A = memory;
        C = A + ld * ld;
        r = C + ld * ld;
        z = r + ld;
        a = z + ld;
        pivots = a + ld;
        staged = reinterpret_cast<T *>(pivots + ld);
        stages = d > 4 && lanes<T> * d * d * sizeof(T) <= 32768;
        for (index i = 0; i < 2 * ld * ld + 4 * ld; i++) memory[i] = V<T>{};
        for (index i = d; i < ld; i++) A[i * ld + i] = filled(T(1));
    }

    static index size(index d) {
        const index ld = Size<D>(d).ld;
        return ((2 * ld + 4) * ld + d * d + 1) * lanes<T>;
    }

    bool symmetric(T tolerance) const {
        auto differs = V<T>{} != V<T>{};
        for (index i = 0; i < d; i++)
            for (index j = 0; j < i; j++) differs |= A[i * ld + j] != A[j * ld + i];
        if (none(differs)) return true;
        auto bad = V<T>{} != V<T>{};
        for (index i = 0; i < d; i++)
            for (index j = 0; j < i; j++) {
                const V<T> difference = A[i * ld + j] - A[j * ld + i];
                const V<T> bound = tolerance * (root(A[i * ld + i]) * root(A[j * ld + j]));
                bad |= ~((difference <= bound) & (-difference <= bound));
            }
        return none(bad);
    }

    // A = L Lᵀ in its lower triangle
    bool factorise() {
        auto bad = V<T>{} != V<T>{};
        for (index j = 0; j < ld; j += B)
            for (index i = j; i < ld; i += B) {
                V<T> s[B][B];
                for (int r = 0; r < B; r++)
                    for (int c = 0; c < B; c++) s[r][c] = A[(i + r) * ld + j + c];
                for (index k = 0; k < j; k++)
                    for (int r = 0; r < B; r++)
                        for (int c = 0; c < B; c++) s[r][c] -= A[(i + r) * ld + k] * A[(j + c) * ld + k];
                for (int c = 0; c < B; c++) {
                    if (j + c >= d) {  // filled up
                        pivots[j + c] = filled(T(1));
                    } else if (i == j) {
                        for (int k = 0; k < c; k++) s[c][c] -= s[c][k] * s[c][k];
                        bad |= ~((s[c][c] > V<T>{}) & (s[c][c] < filled(T(INFINITY))));
                        s[c][c] = roots<T>(s[c][c], pivots[j + c]);
                        for (int r = c + 1; r < B; r++) {
                            for (int k = 0; k < c; k++) s[r][c] -= s[r][k] * s[c][k];
                            s[r][c] *= pivots[j + c];
                        }
                    } else {
                        for (int r = 0; r < B; r++) {
                            for (int k = 0; k < c; k++) s[r][c] -= s[r][k] * A[(j + c) * ld + j + k];
                            s[r][c] *= pivots[j + c];
                        }
                    }
                }
                for (int r = 0; r < B; r++)
                    for (int c = 0; c < B; c++) A[(i + r) * ld + j + c] = s[r][c];
            }
        return none(bad);
    }

    // C = L⁻¹, zeros above the diagonal within its blocks
    void invert() {
        for (index j = 0; j < ld; j += B)
            for (index i = j; i < ld; i += B) {
                V<T> s[B][B];
                for (int r = 0; r < B; r++)
                    for (int c = 0; c < B; c++) s[r][c] = filled(T(i == j && r == c));
                for (index k = j; k < i; k++)
                    for (int r = 0; r < B; r++)
                        for (int c = 0; c < B; c++) s[r][c] -= A[(i + r) * ld + k] * C[k * ld + j + c];
                for (int r = 0; r < B; r++)
                    for (int c = 0; c < B; c++) {
                        for (int k = 0; k < r; k++) s[r][c] -= A[(i + r) * ld + i + k] * s[k][c];
                        s[r][c] *= pivots[i + r];
                        C[(i + r) * ld + j + c] = s[r][c];
                    }
            }
    }

    V<T> solve() {
        V<T> square = {};
        for (index i = 0; i < d; i++) {
            V<T> sum = {};
            for (index j = 0; j <= i; j++) sum += C[i * ld + j] * r[j];
            z[i] = sum;
            square += sum * sum;
        }
        for (index j = 0; j < d; j++) {
            V<T> sum = {};
            for (index i = j; i < d; i++) sum += C[i * ld + j] * z[i];
            a[j] = sum;
        }
        return square;
    }

    // log det Σ: the logarithm of products of pivots, taken before they leave the range of numbers
    V<T> log_det() const {
        const T far = sizeof(T) == 8 ? T(1e100) : T(1e12);
        V<T> product = filled(T(1)), logs = {};
        for (index i = 0; i < d; i++) {
            product *= pivots[i];
            if (i + 1 == d || !none((product > filled(far)) | (product < filled(1 / far)))) {
                logs += logarithm<T>(product);
                product = filled(T(1));
            }
        }
        return T(-2) * logs;
    }

    // A becomes ½ (a aᵀ − Cᵀ C)
    void differentiate() {
        for (index i = 0; i < ld; i += B)
            for (index j = 0; j <= i; j += B) {
                V<T> s[B][B] = {};
                for (index k = i; k < ld; k++)
                    for (int r = 0; r < B; r++)
                        for (int c = 0; c < B; c++) s[r][c] += C[k * ld + i + r] * C[k * ld + j + c];
                for (int r = 0; r < B && i + r < d; r++)
                    for (int c = 0; c < B && j + c < d; c++)
                        A[(i + r) * ld + j + c] = A[(j + c) * ld + i + r] = T(0.5) * (a[i + r] * a[j + c] - s[r][c]);
            }
    }

    // Σ and x − µ of one group of Gaussians; false where something is wrong with one of them
    bool work(const Small<T> &of, index n, index last, V<T> &log_prob) {
        const T *from = of.covariance + n * d * d, *end = of.covariance + last * d * d;
        if (stages) {
            memcpy(staged, from, sizeof(T) * lanes<T> * d * d);
            from = staged, end = staged + lanes<T> * (d * d + 1);
        }
        gathered(A, ld, from, d * d, d, end);
        gathered(r, 1, of.x + n * d, d, 1, of.x + last * d);
        gathered(z, 1, of.mean + n * d, d, 1, of.mean + last * d);
        for (index i = 0; i < d; i++) r[i] -= z[i];
        if (!symmetric(of.tolerance) || !factorise()) return false;
        invert();
        log_prob = T(-0.5) * (solve() + log_det() + T(d) * T(1.8378770664093454835606594728112352797));
        if (!none(log_prob - log_prob != V<T>{})) return false;
        if (of.gradient) differentiate();
        return true;
    }
};

template <class T> static index small_workspace(index d) { return Group<T, 0>::size(d) + lanes<T> * (2 * d * d + 3 * d + 1); }

template <class T, int D> static bool one_group(Group<T, D> &group, const Small<T> &of, index n, index last) {
    const index d = of.d;
    V<T> log_prob;
    if (!group.work(of, n, last, log_prob)) return false;
    store(of.log_prob + n, log_prob);
    scattered(of.scaled + n * d, group.a, 1, d, 1, of.scaled + last * d);
    if (!of.gradient) return true;
    T *to = of.gradient + n * d * d;
    if (group.stages) {
        scattered(group.staged, group.A, group.ld, d * d, d, group.staged + lanes<T> * (d * d + 1));
        memcpy(to, group.staged, sizeof(T) * lanes<T> * d * d);
    } else {
        scattered(to, group.A, group.ld, d * d, d, of.gradient + last * d * d);
    }
    return true;
}

// Fewer than one group: filled up with repetitions of the last one, in memory of its own.
template <class T, int D> static bool less_than_group(Group<T, D> &group, const Small<T> &of, index first, index last, T *memory) {
    constexpr index W = lanes<T>;
    const index d = of.d, dd = d * d;
    T *x = memory, *mean = x + W * d, *scaled = mean + W * d, *covariance = scaled + W * d, *gradient = covariance + W * dd;
    T *log_prob = gradient + W * dd;
    for (index l = 0; l < W; l++) {
        const index n = first + l < last ? first + l : last - 1;
        memcpy(x + l * d, of.x + n * d, sizeof(T) * d);
        memcpy(mean + l * d, of.mean + n * d, sizeof(T) * d);
        memcpy(covariance + l * dd, of.covariance + n * dd, sizeof(T) * dd);
    }
    const Small<T> filled_up{x, mean, covariance, log_prob, scaled, of.gradient ? gradient : nullptr, W, d, of.tolerance};
    if (!one_group(group, filled_up, 0, W)) return false;
    memcpy(of.log_prob + first, log_prob, sizeof(T) * (last - first));
    memcpy(of.scaled + first * d, scaled, sizeof(T) * (last - first) * d);
    if (of.gradient) memcpy(of.gradient + first * dd, gradient, sizeof(T) * (last - first) * dd);
    return true;
}

template <class T, int D> static bool some(const Small<T> &of, index first, index last, T *memory) {
    constexpr index W = lanes<T>;
    Group<T, D> group(of.d, reinterpret_cast<V<T> *>(memory));
    if (last - first < W) return less_than_group(group, of, first, last, memory + group.size(of.d));
    for (index n = first; n + W <= last; n += W)
        if (!one_group(group, of, n, last)) return false;
    return (last - first) % W == 0 || one_group(group, of, last - W, last);  // the last ones together with some that are done
}

template <class T> static bool small(const Small<T> &of, index first, index last, T *memory) {
    if (of.d == 2) return some<T, 2>(of, first, last, memory);
    if (of.d == 3) return some<T, 3>(of, first, last, memory);
    if (of.d == 4) return some<T, 4>(of, first, last, memory);
    return some<T, 0>(of, first, last, memory);
}

}  // namespace MVNJAC_SPACE
}  // namespace mvnjac
