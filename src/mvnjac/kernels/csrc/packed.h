// Rows of the packed derivative by a matrix: c_ij left_i right_j + offset over the lower triangle, column after column.
#pragma once
#include "simd.h"

namespace mvnjac {
namespace MVNJAC_SPACE {

// Whole vectors are stored as long as they end before `end`: what they write too far is written again by what comes later.
template <class T> static inline void copied(T *out, const T *from, index count, const T *end) {
    index i = 0;
    for (; i < count && out + i + lanes<T> <= end; i += lanes<T>) store(out + i, load(from + i));
    for (; i < count; i++) out[i] = from[i];
}

// c a_i a_j + offset with c = 1 below and ½ on the diagonal; `a` and `offset` may be read a vector too far.
template <class T> static inline void square_row(T *out, const T *a, const T *offset, index d, const T *end) {
    constexpr int W = lanes<T>;
    for (index j = 0; j < d; j++) {
        const index count = d - j;
        const T factor = a[j];
        index i = 0;
        for (; i < count && out + i + W <= end; i += W) store(out + i, load(offset + i) + factor * load(a + j + i));
        for (; i < count; i++) out[i] = offset[i] + factor * a[j + i];
        out[0] = offset[0] + T(0.5) * factor * factor;
        out += count;
        offset += count;
    }
}

template <class T> static void zero_missing(T *out, const unsigned char *observed, index d, bool with_diagonal) {
    for (index j = 0; j < d; j++)
        for (index i = with_diagonal ? j : j + 1; i < d; i++, out++)
            if (!(observed[i] & observed[j])) *out = T(0);
}

// One column of the triangle of one row. Its last vector overlaps with the one before: nothing is read or written too far.
template <class T, bool BOTH>
static inline void column(T *out, const T *l, const T *r, const T *offset, T u, T v, index count, bool past_caches) {
    constexpr int W = lanes<T>;
    constexpr index LINE = 64 / sizeof(T);
    const auto some = [&](index i) {
        V<T> value = load(offset + i) + u * load(l + i);
        if (BOTH) value += v * load(r + i);
        return value;
    };
    const auto one = [&](index i) { out[i] = offset[i] + u * l[i] + (BOTH ? v * r[i] : T(0)); };
    index i = 0;
    if (past_caches && count >= 8 * LINE) {  // whole lines
        for (; reinterpret_cast<size_t>(out + i) % 64; i++) one(i);
        for (; i + LINE <= count; i += LINE)
            for (index j = i; j < i + LINE; j += W) stream(out + j, some(j));
        for (; i < count; i++) one(i);
        return;
    }
    if (count < W) {
        for (; i < count; i++) one(i);
        return;
    }
    for (; i + W <= count; i += W) store(out + i, some(i));
    if (i < count) store(out + count - W, some(count - W));
}

// Some rows side by side, so that what they share is read once.
template <class T, bool BOTH> static void packed_rows(const Packed<T> &of, index first, index last) {
    index at = 0;
    for (index j = 0; j < of.d; j++) {
        const index from = of.with_diagonal ? j : j + 1, count = of.d - from;
        const T on = of.on * (of.diagonal ? of.diagonal[j] : T(1)) * (BOTH ? T(2) : T(1));
        for (index n = first; n < last; n++) {
            const T *left = of.left + n * of.left_stride, *right = of.right + n * of.right_stride;
            const T *offset = of.offset + (of.pattern ? of.pattern[n] * of.size : 0) + at;
            T *out = of.out + n * of.ld + at;
            const T v = BOTH ? of.below * left[j] : T(0);
            column<T, BOTH>(out, left + from, right + from, offset, of.below * right[j], v, count, of.past_caches);
            if (of.with_diagonal) out[0] = offset[0] + on * left[j] * right[j];
        }
        at += count;
    }
}

template <class T> static void packed(const Packed<T> &of, index first, index last) {
    constexpr index ROWS_BESIDE = 8;
    for (index n = first; n < last; n += ROWS_BESIDE) {
        const index end = n + ROWS_BESIDE < last ? n + ROWS_BESIDE : last;
        if (of.both) packed_rows<T, true>(of, n, end);
        else packed_rows<T, false>(of, n, end);
        if (of.observed)
            for (index i = n; i < end; i++) zero_missing(of.out + i * of.ld, of.observed + i * of.d, of.d, of.with_diagonal);
    }
    if (of.past_caches) streamed();
}

}  // namespace MVNJAC_SPACE
}  // namespace mvnjac
