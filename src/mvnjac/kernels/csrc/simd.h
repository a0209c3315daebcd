// SIMD vectors, and the small matrix product used by all kernels of dense rows.
//
// Included once per instruction set, in a separate namespace each: a function shared between them would be merged by the linker into
// one version for all. For this reason functions of the C++ standard library are not used here.
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
constexpr int BYTES = 64, TILE_ROWS = 8;
#elif defined(__AVX2__)
constexpr int BYTES = 32, TILE_ROWS = 4;
#else
constexpr int BYTES = 16, TILE_ROWS = 4;
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
// Non-temporal (streaming) stores, which do not read a cache line before overwriting it; for aligned results not read again soon.
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
static inline void stream_fence() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

// A copy with non-temporal stores, except for incomplete cache lines at both ends.
template <class T> static inline void streaming_copy(T *to, const T *from, index count) {
    constexpr index LINE = 64 / sizeof(T);
    const index before = (LINE - reinterpret_cast<size_t>(to) / sizeof(T) % LINE) % LINE;
    index i = 0;
    for (; i < before && i < count; i++) to[i] = from[i];
    for (; i + LINE <= count; i += LINE)
        for (index j = 0; j < LINE; j += lanes<T>) stream(to + i + j, load(from + i + j));
    for (; i < count; i++) to[i] = from[i];
}

template <class T> static inline V<T> broadcast(T value) { return V<T>{} + value; }
template <int...> struct LaneIndices {};
template <int N, int... K> struct MakeLaneIndices : MakeLaneIndices<N - 1, N - 1, K...> {};
template <int... K> struct MakeLaneIndices<0, K...> { typedef LaneIndices<K...> type; };

// Horizontal sum: halves of the vector are added repeatedly.
template <class T, int STEP, int... K> static inline V<T> fold(V<T> v, LaneIndices<K...>) {
    return v + __builtin_shufflevector(v, v, (K ^ STEP)...);
}
template <class T> static inline T horizontal_sum(V<T> v) {
    const typename MakeLaneIndices<lanes<T>>::type all;
    if constexpr (lanes<T> > 8) v = fold<T, 8>(v, all);
    if constexpr (lanes<T> > 4) v = fold<T, 4>(v, all);
    if constexpr (lanes<T> > 2) v = fold<T, 2>(v, all);
    return v[0] + v[1];
}

template <class T> using Bits = decltype(V<T>{} < V<T>{});
template <class T> static inline Bits<T> first_lanes(index count) {
    Bits<T> mask;
    for (int i = 0; i < lanes<T>; i++) mask[i] = i < count ? -1 : 0;
    return mask;
}
template <class T> static inline V<T> masked(V<T> v, Bits<T> mask) { return reinterpret_cast<V<T>>(reinterpret_cast<Bits<T>>(v) & mask); }

static inline index round_up(index n, index multiple) { return (n + multiple - 1) / multiple * multiple; }

// Row stride of working arrays with d columns: a multiple of the vector length and, for transposed use, of the tile height.
template <class T> static inline index row_stride(index d) { return round_up(d, lanes<T> > TILE_ROWS ? lanes<T> : TILE_ROWS); }

// Which k contribute to column c of a product: all; k ≤ c (B is upper triangular); k ≥ c (B is lower triangular).
enum class Shape { full, upper, lower };

template <class T, int H, int WIDE, int FROM, int TO>
static inline void accumulate(V<T> (&sum)[H][WIDE], index first, index last, const T *A, index am, index ak, const T *B, index ldb) {
    for (index k = first; k < last; k++) {
        V<T> b[WIDE];
        for (int w = FROM; w < TO; w++) b[w] = load(B + k * ldb + w * lanes<T>);
        for (int m = 0; m < H; m++) {
            const T a = A[m * am + k * ak];
            for (int w = FROM; w < TO; w++) sum[m][w] += a * b[w];
        }
    }
}

// H rows × WIDE vectors of out (+)= Σ_k A[m, k] B[k, :], in registers; c is the first column. The previous value of out is added last,
// so that a large sum is rounded once per block and not once per row.
template <class T, int H, int WIDE, Shape SHAPE>
static inline void tile(T *out, index ldo, index c, index depth, const T *A, index am, index ak, const T *B, index ldb, bool add) {
    constexpr int W = lanes<T>;
    V<T> sum[H][WIDE];
    for (int m = 0; m < H; m++)
        for (int w = 0; w < WIDE; w++) sum[m][w] = V<T>{};
    const auto within = [depth](index k) { return k < depth ? k : depth; };
    if (SHAPE == Shape::full) accumulate<T, H, WIDE, 0, WIDE>(sum, 0, depth, A, am, ak, B, ldb);
    if (SHAPE == Shape::upper) {  // vector w of B ends with row c + (w + 1) W
        accumulate<T, H, WIDE, 0, WIDE>(sum, 0, within(c + W), A, am, ak, B, ldb);
        if constexpr (WIDE > 1) accumulate<T, H, WIDE, 1, WIDE>(sum, within(c + W), within(c + 2 * W), A, am, ak, B, ldb);
        if constexpr (WIDE > 2) accumulate<T, H, WIDE, 2, WIDE>(sum, within(c + 2 * W), within(c + 3 * W), A, am, ak, B, ldb);
    }
    if (SHAPE == Shape::lower) {  // and starts with row c + w W
        if constexpr (WIDE > 1) accumulate<T, H, WIDE, 0, 1>(sum, c, within(c + W), A, am, ak, B, ldb);
        if constexpr (WIDE > 2) accumulate<T, H, WIDE, 0, 2>(sum, within(c + W), within(c + 2 * W), A, am, ak, B, ldb);
        accumulate<T, H, WIDE, 0, WIDE>(sum, within(c + (WIDE - 1) * W), depth, A, am, ak, B, ldb);
    }
    for (int m = 0; m < H; m++)
        for (int w = 0; w < WIDE; w++) {
            T *o = out + m * ldo + w * W;
            store(o, add ? load(o) + sum[m][w] : sum[m][w]);
        }
}

// H rows, the columns c … last, at most three vectors.
template <class T, int H, Shape SHAPE>
static inline void strip(T *out, index ldo, index c, index last, index depth, const T *A, index am, index ak, const T *B, index ldb,
                         bool add) {
    const index vectors = (last - c + lanes<T> - 1) / lanes<T>;
    if (vectors >= 3) tile<T, H, 3, SHAPE>(out, ldo, c, depth, A, am, ak, B, ldb, add);
    else if (vectors == 2) tile<T, H, 2, SHAPE>(out, ldo, c, depth, A, am, ak, B, ldb, add);
    else tile<T, H, 1, SHAPE>(out, ldo, c, depth, A, am, ak, B, ldb, add);
}

// out (rows, columns) (+)= A B with A[m am + k ak], k < depth. Rows and columns are rounded up to whole tiles, which must be allocated.
// mirrored: only tiles that intersect the lower triangle of out are formed.
template <class T, Shape SHAPE = Shape::full>
static void product(T *out, index ldo, index rows, index columns, index depth, const T *A, index am, index ak, const T *B,
                    index ldb, bool add = false, bool mirrored = false) {
    for (index c = 0; c < columns; c += 3 * lanes<T>)
        for (index m = mirrored ? c / TILE_ROWS * TILE_ROWS : 0; m < rows; m += TILE_ROWS) {
            const index last = mirrored && m + TILE_ROWS < columns ? m + TILE_ROWS : columns, height = rows - m;
            T *o = out + m * ldo + c;
            const T *a = A + m * am, *b = B + c;
            if (height > TILE_ROWS / 2) strip<T, TILE_ROWS, SHAPE>(o, ldo, c, last, depth, a, am, ak, b, ldb, add);
            else if (height > TILE_ROWS / 4) strip<T, TILE_ROWS / 2, SHAPE>(o, ldo, c, last, depth, a, am, ak, b, ldb, add);
            else strip<T, TILE_ROWS / 4, SHAPE>(o, ldo, c, last, depth, a, am, ak, b, ldb, add);
        }
}

}  // namespace MVNJAC_SPACE
}  // namespace mvnjac
