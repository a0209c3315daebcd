// Rows x (n, d) of one dense Gaussian, d ≤ LARGEST: log-density, totals and the n×p matrix.
//
// Rows are centred first and whitened by the explicit C = L⁻¹ within a block that stays in the cache: a product with an inverse
// triangle is as accurate as solving with the triangle here, and sums are formed of whitened numbers of the size of 1. Only where
// that would gain no digits, at a good conditioning, totals are summed first and whitened then: half the arithmetic.
#pragma once
#include "prepared_gaussian.h"
#include "packed.h"
#include "symmetric_kronecker.h"

namespace mvnjac {
namespace MVNJAC_SPACE {

constexpr index ROWS = 32;  // of a block: its three arrays fit into the first cache

// Working arrays of a block of rows, at the distance `ld`.
template <class T> struct Block {
    alignas(64) T r[ROWS * LARGEST];
    alignas(64) T z[ROWS * LARGEST];
    index ld, rows, padded;

    explicit Block(index d) : ld(stride_of<T>(d)), rows(0), padded(0) {}

    // r = x − µ with zeros to whole tiles
    void centre(const Dense<T> &of, index first, index count) {
        const T *mean = of.prepared + Layout(of.d).mean;
        rows = count;
        padded = up(count, TALL);
        if (of.column) centre_columns(of, first, mean);
        else centre_rows(of, first, mean);
    }

    // z = C (x − µ) with zeros to whole tiles
    void whiten(const Dense<T> &of, index first, index count) {
        const Layout at(of.d);
        constexpr int W = lanes<T>;
        centre(of, first, count);
        const index across = of.column ? 1 : ld, along = of.column ? ROWS : 1;
        product<T, Shape::upper>(z, ld, padded, of.d, of.d, r, across, along, of.prepared + at.transposed, ld);
        for (index j = up(of.d, W); j < ld; j += W)
            for (index i = 0; i < padded; i++) store(z + i * ld + j, V<T>{});
    }

    // r = x − µ, row after row
    void centre_rows(const Dense<T> &of, index first, const T *mean) {
        constexpr int W = lanes<T>;
        const T *end = of.x + of.n * of.d;
        const index whole = of.d / W * W, rest = of.d - whole;
        const auto kept = first_lanes<T>(rest);
        for (index i = 0; i < rows; i++) {
            const T *x = of.x + (first + i) * of.d;
            T *row = r + i * ld;
            for (index j = 0; j < whole; j += W) store(row + j, load(x + j) - load(mean + j));
            for (index j = whole; j < ld; j += W) store(row + j, V<T>{});
            if (rest && x + whole + W <= end)
                store(row + whole, masked<T>(load(x + whole) - load(mean + whole), kept));
            else
                for (index j = whole; j < of.d; j++) row[j] = x[j] - mean[j];
        }
        memset(r + rows * ld, 0, sizeof(T) * (padded - rows) * ld);
    }

    // The same column after column, ROWS apart: a product reads r number by number, in any order.
    void centre_columns(const Dense<T> &of, index first, const T *mean) {
        for (index j = 0; j < of.d; j++) {
            const T *x = of.x + j * of.column + first, own = mean[j];
            T *column = r + j * ROWS;
            for (index i = 0; i < rows; i++) column[i] = x[i] - own;
            for (index i = rows; i < padded; i++) column[i] = T(0);
        }
    }

    // sums += the sum of some rows, which lie ld apart
    void add(T *sums, const T *some) const {
        for (index j = 0; j < ld; j += lanes<T>) {
            V<T> sum = {};
            for (index i = 0; i < rows; i++) sum += load(some + i * ld + j);
            store(sums + j, load(sums + j) + sum);
        }
    }

    T square(index i) const {
        V<T> sum = {};
        for (index j = 0; j < ld; j += lanes<T>) {
            const V<T> some = load(z + i * ld + j);
            sum += some * some;
        }
        return summed<T>(sum);
    }
};

template <class T> static void log_prob(const Dense<T> &of, T *out, index first, index last) {
    Block<T> block(of.d);
    for (index start = first; start < last; start += ROWS) {
        block.whiten(of, start, last - start < ROWS ? last - start : ROWS);
        for (index i = 0; i < block.rows; i++) out[start + i] = T(-0.5) * (of.prepared[0] + block.square(i));
    }
}

// The lower triangle of sums += Σ w row rowᵀ over a block of rows, which are 0 beyond `count`; gives w row, which lies in `weighted`
// if there are weights.
template <class T>
static inline const T *add_outer_products(T *sums, const T *rows, const T *weights, T *weighted, index ld, index p, index count,
                                          index padded) {
    const T *left = rows;
    if (weights) {
        for (index i = 0; i < padded; i++) {
            const T weight = i < count ? weights[i] : T(0);
            for (index j = 0; j < ld; j += lanes<T>) store(weighted + i * ld + j, weight * load(rows + i * ld + j));
        }
        left = weighted;
    }
    product(sums, ld, p, p, padded, left, 1, ld, rows, ld, true, true);
    return left;
}

// The same of rows of a matrix (n, p), whatever they are.
template <class T>
static void outer_products(const T *A, index lda, const T *weights, T *sums, index ld, index p, T *memory, index first, index last) {
    T *rows = memory, *weighted = rows + ROWS * ld;
    memset(sums, 0, sizeof(T) * ld * ld);
    memset(rows, 0, sizeof(T) * ROWS * ld);
    for (index start = first; start < last; start += ROWS) {
        const index count = last - start < ROWS ? last - start : ROWS, padded = up(count, TALL);
        for (index i = 0; i < count; i++) memcpy(rows + i * ld, A + (start + i) * lda, sizeof(T) * p);
        memset(rows + count * ld, 0, sizeof(T) * (padded - count) * ld);
        add_outer_products(sums, rows, weights ? weights + start : nullptr, weighted, ld, p, count, padded);
    }
}

// Of a block that is whitened: a, in the place of r.
template <class T> static inline const T *scale(Block<T> &block, const Dense<T> &of) {
    const T *C = of.prepared + Layout(of.d).inverse;
    product<T, Shape::lower>(block.r, block.ld, block.padded, of.d, of.d, block.z, block.ld, 1, C, block.ld);
    return block.r;
}

template <class T> static index sums_stride(index d) { return stride_of<T>(d); }

template <class T>
static void moments(const Dense<T> &of, const T *weights, T *sums, index ld, T *squares, bool fourth, index first, index last) {
    Block<T> block(of.d);
    alignas(64) T weighted[ROWS * LARGEST];
    T *by_mean = sums, *second = sums + ld;
    memset(sums, 0, sizeof(T) * ((fourth ? 2 : 1) * ld + 1) * ld);
    for (index start = first; start < last; start += ROWS) {
        block.whiten(of, start, last - start < ROWS ? last - start : ROWS);
        const T *own = weights ? weights + start : nullptr;
        const T *left = add_outer_products(second, block.z, own, weighted, ld, of.d, block.rows, block.padded);
        block.add(by_mean, left);
        if (squares)
            for (index i = 0; i < block.rows; i++) squares[start + i] = block.square(i);
        if (fourth) {
            scale(block, of);
            for (index i = 0; i < block.padded * ld; i += lanes<T>) {
                const V<T> some = load(block.r + i);
                store(block.r + i, some * some);
            }
            add_outer_products(second + ld * ld, block.r, own, weighted, ld, of.d, block.rows, block.padded);
        }
    }
}

// Σ r and Σ r rᵀ.
template <class T> static void products(const Dense<T> &of, T *sums, index ld, index first, index last) {
    Block<T> block(of.d);
    memset(sums, 0, sizeof(T) * (ld + 1) * ld);
    for (index start = first; start < last; start += ROWS) {
        block.centre(of, start, last - start < ROWS ? last - start : ROWS);
        add_outer_products<T>(sums + ld, block.r, nullptr, nullptr, ld, of.d, block.rows, block.padded);
        block.add(sums, block.r);
    }
}

// Σ z = C Σ r and Σ z zᵀ = C (Σ r rᵀ) Cᵀ, which are no worse than sums of whitened rows where they would not have grown by much.
template <class T> static bool whitened(const T *prepared, T *sums, index ld, index n, index d, T *memory) {
    const Layout at(d);
    const T *C = prepared + at.inverse, *Ct = prepared + at.transposed;
    T *S = sums + ld, *full = memory, *half = memory + ld * ld;
    memset(full, 0, sizeof(T) * 2 * ld * ld);
    for (index i = 0; i < d; i++)
        for (index j = 0; j <= i; j++) full[i * ld + j] = full[j * ld + i] = S[i * ld + j];
    product<T, Shape::upper>(half, ld, d, d, d, full, ld, 1, Ct, ld);  // S Cᵀ
    for (index m = 0; m < d; m += TALL) {  // the lower triangle of C S Cᵀ
        const index end = m + TALL < d ? m + TALL : d;
        product(full + m * ld, ld, end - m, end, end, C + m * ld, ld, 1, half, ld);
    }
    const T *diagonal = full;
    const T least = T(n);
    const auto size = [=](index k) { return diagonal[k * ld + k] > least ? diagonal[k * ld + k] : least; };
    if (!(spread(C, ld, d, S, ld + 1, size) <= T(NARROW))) return false;
    for (index k = d - 1; k >= 0; k--) {
        T sum = 0;
        for (index i = 0; i <= k; i++) sum += C[k * ld + i] * sums[i];
        sums[k] = sum;
        memcpy(S + k * ld, full + k * ld, sizeof(T) * (k + 1));
    }
    return true;
}

// Cᵀ s, and ½ Cᵀ (S − n I) C, symmetric to the last bit.
template <class T>
static void total(const T *prepared, const T *sums, index ld, T count, index d, T *by_mean, T *by_matrix, T *memory) {
    const Layout at(d);
    const T *C = prepared + at.inverse, *s = sums;
    T *S = memory, *half = S + ld * ld, *G = half + ld * ld;
    memcpy(S, sums + ld, sizeof(T) * ld * ld);
    for (index i = 0; i < d; i++) {
        S[i * ld + i] -= count;
        for (index j = 0; j < i; j++) S[j * ld + i] = S[i * ld + j];
    }
    for (index i = 0; i < d; i++) {
        T sum = 0;
        for (index k = i; k < d; k++) sum += C[k * ld + i] * s[k];
        by_mean[i] = sum;
    }
    if (!by_matrix) return;
    product<T, Shape::lower>(half, ld, d, d, d, S, ld, 1, C, ld);
    for (index m = 0; m < d; m += TALL) {  // the lower triangle of Cᵀ S C
        const index end = m + TALL < d ? m + TALL : d;
        product(G + m * ld, ld, end - m, end, d - m, C + m * ld + m, 1, ld, half + m * ld, ld);
    }
    for (index i = 0; i < d; i++)
        for (index j = 0; j <= i; j++) by_matrix[i * d + j] = by_matrix[j * d + i] = T(0.5) * G[i * ld + j];
}

// −½ P over the lower triangle, column after column, doubled off the diagonal.
template <class T> static void offset(const T *prepared, index d, T *packed, T *memory) {
    const Layout at(d);
    const index ld = stride_of<T>(d);
    const T *C = prepared + at.inverse;
    T *P = memory;
    product<T, Shape::lower>(P, ld, d, d, d, C, 1, ld, C, ld);
    for (index j = 0; j < d; j++)
        for (index i = j; i < d; i++) *packed++ = -(i == j ? T(0.5) : T(1)) * (i == j ? P[i * ld + i] : T(0.5) * (P[i * ld + j] + P[j * ld + i]));
}

// A row of the matrix: a, then a_i a_j − P_ij over the lower triangle, half of it on the diagonal.
template <class T> static inline void write_row(T *row, const T *a, const T *offset, index d, const T *end) {
    copied(row, a, d, end);
    square_row(row + d, a, offset, d, end);
}

// `stage`: memory for `staged` rows and a vector more, from where they are written past the caches; or null: they are written
// where they belong.
template <class T>
static void matrix(const Dense<T> &of, const T *offset, T *out, T *stage, index staged, index first, index last) {
    Block<T> block(of.d);
    const index d = of.d, p = d + d * (d + 1) / 2;
    for (index start = first; start < last; start += ROWS) {
        block.whiten(of, start, last - start < ROWS ? last - start : ROWS);
        const T *a = scale(block, of);
        if (!stage) {
            for (index i = 0; i < block.rows; i++) write_row(out + (start + i) * p, a + i * block.ld, offset, d, out + last * p);
            continue;
        }
        for (index i = 0; i < block.rows; i += staged) {
            const index count = i + staged < block.rows ? staged : block.rows - i;
            for (index r = 0; r < count; r++)
                write_row(stage + r * p, a + (i + r) * block.ld, offset, d, stage + staged * p + lanes<T>);
            streamed_copy(out + (start + i) * p, stage, count * p);
        }
    }
    streamed();
}

// Σ w J Jᵀ of some rows in the lower triangle of sums (p, p), rows ld apart: the matrix exists for one block at a time.
template <class T>
static void gram(const Dense<T> &of, const T *weights, const T *offset, T *sums, index ld, T *memory, index first, index last) {
    Block<T> block(of.d);
    const index p = of.d + of.d * (of.d + 1) / 2;
    T *rows = memory, *weighted = rows + ROWS * ld;
    memset(sums, 0, sizeof(T) * ld * ld);
    for (index start = first; start < last; start += ROWS) {
        block.whiten(of, start, last - start < ROWS ? last - start : ROWS);
        const T *a = scale(block, of);
        for (index i = 0; i < block.rows; i++) write_row(rows + i * ld, a + i * block.ld, offset, of.d, rows + ROWS * ld);
        memset(rows + block.rows * ld, 0, sizeof(T) * (block.padded - block.rows) * ld);
        add_outer_products(sums, rows, weights ? weights + start : nullptr, weighted, ld, p, block.rows, block.padded);
    }
}

// From Σ z and Σ z zᵀ of n rows the Hessian by the mean and the unique elements of Σ, (p, p): −n P; −½ m (s_i P_jk + s_j P_ik); and
// pairs of P and Q, with s = Σ a and Q = Cᵀ (2 Σ z zᵀ − n I) C.
template <class T>
static void hessian(const T *prepared, const T *first, const T *second, T n, index d, T *out, T *memory) {
    const Layout at(d);
    const index ld = stride_of<T>(d), p = d + d * (d + 1) / 2;
    const T *C = prepared + at.inverse;
    T *P = memory, *Q = P + ld * ld, *S = Q + ld * ld, *half = S + ld * ld, *s = half + ld * ld;
    product<T, Shape::lower>(half, ld, d, d, d, C, 1, ld, C, ld);
    for (index i = 0; i < d; i++)
        for (index j = 0; j < d; j++) P[i * d + j] = T(0.5) * (half[i * ld + j] + half[j * ld + i]);
    memset(S, 0, sizeof(T) * ld * ld);
    for (index i = 0; i < d; i++)
        for (index j = 0; j < d; j++) S[i * ld + j] = T(2) * second[i * d + j] - (i == j ? n : T(0));
    product<T, Shape::lower>(half, ld, d, d, d, S, ld, 1, C, ld);
    product(S, ld, d, d, d, C, 1, ld, half, ld);
    for (index i = 0; i < d; i++)
        for (index j = 0; j < d; j++) Q[i * d + j] = T(0.5) * (S[i * ld + j] + S[j * ld + i]);
    for (index i = 0; i < d; i++) {
        s[i] = T(0);
        for (index k = i; k < d; k++) s[i] += C[k * ld + i] * first[k];
        for (index j = 0; j < d; j++) out[i * p + j] = T(0) - n * P[i * d + j];
    }
    index row = d;
    for (index j = 0; j < d; j++)
        for (index i = j; i < d; i++, row++)
            for (index k = 0; k < d; k++) {
                const T value = T(0) - (i == j ? T(0.5) : T(1)) * (s[i] * P[j * d + k] + s[j] * P[i * d + k]);
                out[row * p + k] = out[k * p + row] = value;
            }
    pairs(Pairs<T>{P, Q, out + d * p + d, d, p, T(-0.5)}, 0, d * (d + 1) / 2);
    mirror(out + d * p + d, p, d * (d + 1) / 2);
}

}  // namespace MVNJAC_SPACE
}  // namespace mvnjac
