// Rows of the packed derivative with respect to a matrix: c_ij left_i right_j + offset over the lower triangle, column by column.
#pragma once
#include "simd.h"

namespace mvnjac {
namespace MVNJAC_SPACE {

// Copies with whole vectors as long as they end before `end`: elements beyond `count` are overwritten by later writes.
template <class T> static inline void copy_row(T *out, const T *from, index count, const T *end) {
    index i = 0;
    for (; i < count && out + i + lanes<T> <= end; i += lanes<T>) store(out + i, load(from + i));
    for (; i < count; i++) out[i] = from[i];
}

// c a_i a_j + offset with c = 1 below and ½ on the diagonal; up to one vector beyond the end of `a` and `offset` is read.
template <class T> static inline void outer_product_row(T *out, const T *a, const T *offset, index d, const T *end) {
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

template <class T> static void zero_missing(T *out, const unsigned char *observed, index d, bool has_diagonal) {
    for (index j = 0; j < d; j++)
        for (index i = has_diagonal ? j : j + 1; i < d; i++, out++)
            if (!(observed[i] & observed[j])) *out = T(0);
}

// One column of the triangle of one row. The last vector overlaps the previous one, so that no access is out of bounds.
template <class T, bool BOTH>
static inline void column(T *out, const T *l, const T *r, const T *offset, T u, T v, index count, bool streaming) {
    constexpr int W = lanes<T>;
    constexpr index LINE = 64 / sizeof(T);
    const auto vector_at = [&](index i) {
        V<T> value = load(offset + i) + u * load(l + i);
        if (BOTH) value += v * load(r + i);
        return value;
    };
    const auto scalar_at = [&](index i) { out[i] = offset[i] + u * l[i] + (BOTH ? v * r[i] : T(0)); };
    index i = 0;
    if (streaming && count >= 8 * LINE) {  // whole cache lines
        for (; reinterpret_cast<size_t>(out + i) % 64; i++) scalar_at(i);
        for (; i + LINE <= count; i += LINE)
            for (index j = i; j < i + LINE; j += W) stream(out + j, vector_at(j));
        for (; i < count; i++) scalar_at(i);
        return;
    }
    if (count < W) {
        for (; i < count; i++) scalar_at(i);
        return;
    }
    for (; i + W <= count; i += W) store(out + i, vector_at(i));
    if (i < count) store(out + count - W, vector_at(count - W));
}

// Several rows together, so that shared operands are read once.
template <class T, bool BOTH> static void packed_rows(const Packed<T> &args, index first, index last) {
    index at = 0;
    for (index j = 0; j < args.d; j++) {
        const index from = args.has_diagonal ? j : j + 1, count = args.d - from;
        const T on = args.on * (args.diagonal ? args.diagonal[j] : T(1)) * (BOTH ? T(2) : T(1));
        for (index n = first; n < last; n++) {
            const T *left = args.left + n * args.left_stride, *right = args.right + n * args.right_stride;
            const T *offset = args.offset + (args.pattern ? args.pattern[n] * args.size : 0) + at;
            T *out = args.out + n * args.ld + at;
            const T v = BOTH ? args.below * left[j] : T(0);
            column<T, BOTH>(out, left + from, right + from, offset, args.below * right[j], v, count, args.streaming);
            if (args.has_diagonal) out[0] = offset[0] + on * left[j] * right[j];
        }
        at += count;
    }
}

template <class T> static void packed(const Packed<T> &args, index first, index last) {
    constexpr index ROW_BLOCK = 8;
    for (index n = first; n < last; n += ROW_BLOCK) {
        const index end = n + ROW_BLOCK < last ? n + ROW_BLOCK : last;
        if (args.both) packed_rows<T, true>(args, n, end);
        else packed_rows<T, false>(args, n, end);
        if (args.observed)
            for (index i = n; i < end; i++) zero_missing(args.out + i * args.ld, args.observed + i * args.d, args.d, args.has_diagonal);
    }
    if (args.streaming) stream_fence();
}

}  // namespace MVNJAC_SPACE
}  // namespace mvnjac
