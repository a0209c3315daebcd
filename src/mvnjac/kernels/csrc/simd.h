// One vector of an instruction set, and the products that all kernels of dense rows are made of.
//
// Included once an instruction set, in a namespace of its own: nothing here may be shared between them, or the linker would
// choose one version for all. So no functions of the C++ library are used, which it shares.
#pragma once
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "kernel_table.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace mvnjac {
namespace MVNJAC_SPACE {

#if defined(__AVX512F__)
constexpr int BYTES = 64, TALL = 8;
#elif defined(__AVX2__)
constexpr int BYTES = 32, TALL = 4;
#else
constexpr int BYTES = 16, TALL = 4;
#endif

template <class T> struct Vector;
template <> struct Vector<double> {
    typedef double type __attribute__((vector_size(BYTES)));
    typedef double loose __attribute__((vector_size(BYTES), aligned(8), may_alias));
};
template <> struct Vector<float> {
    typedef float type __attribute__((vector_size(BYTES)));
    typedef float loose __attribute__((vector_size(BYTES), aligned(4), may_alias));
};
template <class T> using V = typename Vector<T>::type;
template <class T> constexpr int lanes = BYTES / sizeof(T);

template <class T> static inline V<T> load(const T *p) { return *reinterpret_cast<const typename Vector<T>::loose *>(p); }
template <class T> static inline void store(T *p, V<T> v) { *reinterpret_cast<typename Vector<T>::loose *>(p) = v; }
// Past the caches: what is written is not read again soon, and the lines need not be fetched to be overwritten. Aligned.
#if defined(__AVX512F__)
static inline void stream(double *p, V<double> v) { _mm512_stream_pd(p, v); }
static inline void stream(float *p, V<float> v) { _mm512_stream_ps(p, v); }
#elif defined(__AVX2__)
static inline void stream(double *p, V<double> v) { _mm256_stream_pd(p, v); }
static inline void stream(float *p, V<float> v) { _mm256_stream_ps(p, v); }
#elif defined(__SSE2__)
static inline void stream(double *p, V<double> v) { _mm_stream_pd(p, v); }
static inline void stream(float *p, V<float> v) { _mm_stream_ps(p, v); }
#else
template <class T> static inline void stream(T *p, V<T> v) { store(p, v); }
#endif
static inline void streamed() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

// A copy past the caches: whole lines, but for the first and the last.
template <class T> static inline void streamed_copy(T *to, const T *from, index count) {
    constexpr index LINE = 64 / sizeof(T);
    const index before = (LINE - reinterpret_cast<size_t>(to) / sizeof(T) % LINE) % LINE;
    index i = 0;
    for (; i < before && i < count; i++) to[i] = from[i];
    for (; i + LINE <= count; i += LINE)
        for (index j = 0; j < LINE; j += lanes<T>) stream(to + i + j, load(from + i + j));
    for (; i < count; i++) to[i] = from[i];
}

template <class T> static inline V<T> filled(T value) { return V<T>{} + value; }
template <int...> struct Lanes {};
template <int N, int... K> struct UpTo : UpTo<N - 1, N - 1, K...> {};
template <int... K> struct UpTo<0, K...> { typedef Lanes<K...> type; };

// Halves are added to each other.
template <class T, int STEP, int... K> static inline V<T> folded(V<T> v, Lanes<K...>) {
    return v + __builtin_shufflevector(v, v, (K ^ STEP)...);
}
template <class T> static inline T summed(V<T> v) {
    const typename UpTo<lanes<T>>::type all;
    if constexpr (lanes<T> > 8) v = folded<T, 8>(v, all);
    if constexpr (lanes<T> > 4) v = folded<T, 4>(v, all);
    if constexpr (lanes<T> > 2) v = folded<T, 2>(v, all);
    return v[0] + v[1];
}

template <class T> using Bits = decltype(V<T>{} < V<T>{});
template <class T> static inline Bits<T> first_lanes(index count) {
    Bits<T> kept;
    for (int i = 0; i < lanes<T>; i++) kept[i] = i < count ? -1 : 0;
    return kept;
}
template <class T> static inline V<T> masked(V<T> v, Bits<T> kept) { return reinterpret_cast<V<T>>(reinterpret_cast<Bits<T>>(v) & kept); }

static inline index up(index n, index multiple) { return (n + multiple - 1) / multiple * multiple; }

// The distance between rows of working arrays over d variables: whole vectors, and whole blocks of rows where it is transposed.
template <class T> static inline index stride_of(index d) { return up(d, lanes<T> > TALL ? lanes<T> : TALL); }

// Which k matter to the columns c of a product: all; those up to c (B is upper triangular); those from c on (lower).
enum class Shape { full, upper, lower };

template <class T, int H, int WIDE, int FROM, int TO>
static inline void steps(V<T> (&sum)[H][WIDE], index first, index last, const T *A, index am, index ak, const T *B, index ldb) {
    for (index k = first; k < last; k++) {
        V<T> b[WIDE];
        for (int w = FROM; w < TO; w++) b[w] = load(B + k * ldb + w * lanes<T>);
        for (int m = 0; m < H; m++) {
            const T a = A[m * am + k * ak];
            for (int w = FROM; w < TO; w++) sum[m][w] += a * b[w];
        }
    }
}

// H rows × (WIDE vectors) of out (+)= Σ_k A[m, k] B[k, :], in registers; c is the first column. What is added to is added last:
// the large sum is rounded once a block, and not once a row.
template <class T, int H, int WIDE, Shape SHAPE>
static inline void tile(T *out, index ldo, index c, index depth, const T *A, index am, index ak, const T *B, index ldb, bool add) {
    constexpr int W = lanes<T>;
    V<T> sum[H][WIDE];
    for (int m = 0; m < H; m++)
        for (int w = 0; w < WIDE; w++) sum[m][w] = V<T>{};
    const auto within = [depth](index k) { return k < depth ? k : depth; };
    if (SHAPE == Shape::full) steps<T, H, WIDE, 0, WIDE>(sum, 0, depth, A, am, ak, B, ldb);
    if (SHAPE == Shape::upper) {  // vector w of B ends with row c + (w + 1) W
        steps<T, H, WIDE, 0, WIDE>(sum, 0, within(c + W), A, am, ak, B, ldb);
        if constexpr (WIDE > 1) steps<T, H, WIDE, 1, WIDE>(sum, within(c + W), within(c + 2 * W), A, am, ak, B, ldb);
        if constexpr (WIDE > 2) steps<T, H, WIDE, 2, WIDE>(sum, within(c + 2 * W), within(c + 3 * W), A, am, ak, B, ldb);
    }
    if (SHAPE == Shape::lower) {  // and starts with row c + w W
        if constexpr (WIDE > 1) steps<T, H, WIDE, 0, 1>(sum, c, within(c + W), A, am, ak, B, ldb);
        if constexpr (WIDE > 2) steps<T, H, WIDE, 0, 2>(sum, within(c + W), within(c + 2 * W), A, am, ak, B, ldb);
        steps<T, H, WIDE, 0, WIDE>(sum, within(c + (WIDE - 1) * W), depth, A, am, ak, B, ldb);
    }
    for (int m = 0; m < H; m++)
        for (int w = 0; w < WIDE; w++) {
            T *o = out + m * ldo + w * W;
            store(o, add ? load(o) + sum[m][w] : sum[m][w]);
        }
}

// H rows, all columns that are wanted from c on, at most three vectors of them.
template <class T, int H, Shape SHAPE>
static inline void strip(T *out, index ldo, index c, index last, index depth, const T *A, index am, index ak, const T *B, index ldb,
                         bool add) {
    const index vectors = (last - c + lanes<T> - 1) / lanes<T>;
    if (vectors >= 3) tile<T, H, 3, SHAPE>(out, ldo, c, depth, A, am, ak, B, ldb, add);
    else if (vectors == 2) tile<T, H, 2, SHAPE>(out, ldo, c, depth, A, am, ak, B, ldb, add);
    else tile<T, H, 1, SHAPE>(out, ldo, c, depth, A, am, ak, B, ldb, add);
}

// out (rows, columns) (+)= A B with A[m am + k ak], k < depth. Rows and columns are rounded up to whole tiles, which must exist.
// mirrored: only what touches the lower triangle of out is formed.
template <class T, Shape SHAPE = Shape::full>
static void product(T *out, index ldo, index rows, index columns, index depth, const T *A, index am, index ak, const T *B,
                    index ldb, bool add = false, bool mirrored = false) {
    for (index c = 0; c < columns; c += 3 * lanes<T>)
        for (index m = mirrored ? c / TALL * TALL : 0; m < rows; m += TALL) {
            const index last = mirrored && m + TALL < columns ? m + TALL : columns, height = rows - m;
            T *o = out + m * ldo + c;
            const T *a = A + m * am, *b = B + c;
            if (height > TALL / 2) strip<T, TALL, SHAPE>(o, ldo, c, last, depth, a, am, ak, b, ldb, add);
            else if (height > TALL / 4) strip<T, TALL / 2, SHAPE>(o, ldo, c, last, depth, a, am, ak, b, ldb, add);
            else strip<T, TALL / 4, SHAPE>(o, ldo, c, last, depth, a, am, ak, b, ldb, add);
        }
}

}  // namespace MVNJAC_SPACE
}  // namespace mvnjac
