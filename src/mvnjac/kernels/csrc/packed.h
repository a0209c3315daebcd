// Rows of the packed derivative by a matrix: c_ij left_i right_j + offset over the lower triangle, column after column.
#pragma once
#include "vector.h"

namespace mvnjac {
namespace MVNJAC_SPACE {

// Whole vectors are stored as long as they end before `end`: what they write too far is written again by what comes later.
template <class T> static inline void copied(T *out, const T *from, index count, const T *end) {
    index i = 0;
    for (; i < count && out + i + lanes<T> <= end; i += lanes<T>) store(out + i, load(from + i));
    for (; i < count; i++) out[i] = from[i];
}

// `left`, `right` and `offset` may be read a vector too far.
template <class T, bool BOTH>
static inline void outer_row(T *out, const T *left, const T *right, const T *offset, const T *diagonal, T below, T on, index d,
                             bool with_diagonal, const T *end) {
    constexpr int W = lanes<T>;
    for (index j = 0; j < d; j++) {
        const index from = with_diagonal ? j : j + 1, count = d - from;
        const T *l = left + from, *r = right + from;
        const T u = below * right[j], v = BOTH ? below * left[j] : T(0);
        index i = 0;
        for (; i < count && out + i + W <= end; i += W) {
            V<T> value = load(offset + i) + u * load(l + i);
            if (BOTH) value += v * load(r + i);
            store(out + i, value);
        }
        for (; i < count; i++) out[i] = offset[i] + u * l[i] + (BOTH ? v * r[i] : T(0));
        if (with_diagonal) out[0] = offset[0] + (BOTH ? T(2) : T(1)) * on * (diagonal ? diagonal[j] : T(1)) * left[j] * right[j];
        out += count;
        offset += count;
    }
}

template <class T> static void zero_missing(T *out, const unsigned char *observed, index d, bool with_diagonal) {
    for (index j = 0; j < d; j++)
        for (index i = with_diagonal ? j : j + 1; i < d; i++, out++)
            if (!(observed[i] & observed[j])) *out = T(0);
}

template <class T> static void packed(const Packed<T> &of, index first, index last) {
    // A row's factors, with a vector's length of zeros behind them.
    alignas(64) T left[LONGEST + lanes<T>], right[LONGEST + lanes<T>];
    memset(left + of.d, 0, sizeof(T) * lanes<T>);
    memset(right + of.d, 0, sizeof(T) * lanes<T>);
    for (index n = first; n < last; n++) {
        T *out = of.out + n * of.ld;
        const T *offset = of.offset + (of.pattern ? of.pattern[n] * of.size : 0);
        const T *end = out + of.size;  // what follows belongs to other columns
        memcpy(left, of.left + n * of.left_stride, sizeof(T) * of.d);
        memcpy(right, of.right + n * of.right_stride, sizeof(T) * of.d);
        if (of.both)
            outer_row<T, true>(out, left, right, offset, of.diagonal, of.below, of.on, of.d, of.with_diagonal, end);
        else
            outer_row<T, false>(out, left, right, offset, of.diagonal, of.below, of.on, of.d, of.with_diagonal, end);
        if (of.observed) zero_missing(out, of.observed + n * of.d, of.d, of.with_diagonal);
    }
}

}  // namespace MVNJAC_SPACE
}  // namespace mvnjac
