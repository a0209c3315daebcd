// Rows x (n, d) of one dense Gaussian, d ≤ LARGEST: log-density, totals and the n×p matrix.
//
// Rows are centred and then whitened by the explicit C = L⁻¹ within a block that fits in the cache. Here a product with the inverse
// triangle is as accurate as a triangular solve, and the sums are formed from whitened values of size 1. For well-conditioned Σ, where
// both are equally accurate, rows are summed first and the sums whitened, at half the arithmetic.
#pragma once
#include "prepared_gaussian.h"
#include "packed.h"
#include "symmetric_kronecker.h"

namespace mvnjac {
namespace MVNJAC_SPACE {

constexpr index ROWS = 32;  // rows of a block, whose three arrays fit in the L1 cache

// Working arrays of a block of rows, with row stride ld.
template <class T> struct Block {
    alignas(64) T r[ROWS * LARGEST];
    alignas(64) T z[ROWS * LARGEST];
    index ld, rows, padded;

    explicit Block(index d) : ld(row_stride<T>(d)), rows(0), padded(0) {}

    // r = x − µ, padded with zeros to whole tiles
    void centre(const DenseRows<T> &args, index first, index count) {
        const T *mean = args.prepared + PreparedLayout(args.d).mean;
        rows = count;
        padded = round_up(count, TILE_ROWS);
        if (args.column) centre_columns(args, first, mean);
        else centre_rows(args, first, mean);
    }

    // z = C (x − µ), padded with zeros to whole tiles
    void whiten(const DenseRows<T> &args, index first, index count) {
        const PreparedLayout at(args.d);
        constexpr int W = lanes<T>;
        centre(args, first, count);
        const index across = args.column ? 1 : ld, along = args.column ? ROWS : 1;
        product<T, Shape::upper>(z, ld, padded, args.d, args.d, r, across, along, args.prepared + at.transposed, ld);
        for (index j = round_up(args.d, W); j < ld; j += W)
            for (index i = 0; i < padded; i++) store(z + i * ld + j, V<T>{});
    }

    // r = x − µ in row-major order
    void centre_rows(const DenseRows<T> &args, index first, const T *mean) {
        constexpr int W = lanes<T>;
        const T *end = args.x + args.n * args.d;
        const index whole = args.d / W * W, rest = args.d - whole;
        const auto mask = first_lanes<T>(rest);
        for (index i = 0; i < rows; i++) {
            const T *x = args.x + (first + i) * args.d;
            T *row = r + i * ld;
            for (index j = 0; j < whole; j += W) store(row + j, load(x + j) - load(mean + j));
            for (index j = whole; j < ld; j += W) store(row + j, V<T>{});
            if (rest && x + whole + W <= end)
                store(row + whole, masked<T>(load(x + whole) - load(mean + whole), mask));
            else
                for (index j = whole; j < args.d; j++) row[j] = x[j] - mean[j];
        }
        memset(r + rows * ld, 0, sizeof(T) * (padded - rows) * ld);
    }

    // r = x − µ in column-major order with column stride ROWS; `product` accepts any strides of its left operand.
    void centre_columns(const DenseRows<T> &args, index first, const T *mean) {
        for (index j = 0; j < args.d; j++) {
            const T *x = args.x + j * args.column + first, centre = mean[j];
            T *column = r + j * ROWS;
            for (index i = 0; i < rows; i++) column[i] = x[i] - centre;
            for (index i = rows; i < padded; i++) column[i] = T(0);
        }
    }

    // sums += the sum of the block's rows, given with row stride ld
    void add(T *sums, const T *values) const {
        for (index j = 0; j < ld; j += lanes<T>) {
            V<T> sum = {};
            for (index i = 0; i < rows; i++) sum += load(values + i * ld + j);
            store(sums + j, load(sums + j) + sum);
        }
    }

    T square(index i) const {
        V<T> sum = {};
        for (index j = 0; j < ld; j += lanes<T>) {
            const V<T> values = load(z + i * ld + j);
            sum += values * values;
        }
        return horizontal_sum<T>(sum);
    }
};

template <class T> static void log_prob(const DenseRows<T> &args, T *out, index first, index last) {
    Block<T> block(args.d);
    for (index start = first; start < last; start += ROWS) {
        block.whiten(args, start, last - start < ROWS ? last - start : ROWS);
        for (index i = 0; i < block.rows; i++) out[start + i] = T(-0.5) * (args.prepared[0] + block.square(i));
    }
}

// The lower triangle of sums += Σ w row rowᵀ over a block of rows, which are zero beyond `count`; returns the weighted rows (in
// `weighted`, or `rows` itself without weights).
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

// The same for the rows of any matrix A (n, p).
template <class T>
static void outer_products(const T *A, index lda, const T *weights, T *sums, index ld, index p, T *memory, index first, index last) {
    T *rows = memory, *weighted = rows + ROWS * ld;
    memset(sums, 0, sizeof(T) * ld * ld);
    memset(rows, 0, sizeof(T) * ROWS * ld);
    for (index start = first; start < last; start += ROWS) {
        const index count = last - start < ROWS ? last - start : ROWS, padded = round_up(count, TILE_ROWS);
        for (index i = 0; i < count; i++) memcpy(rows + i * ld, A + (start + i) * lda, sizeof(T) * p);
        memset(rows + count * ld, 0, sizeof(T) * (padded - count) * ld);
        add_outer_products(sums, rows, weights ? weights + start : nullptr, weighted, ld, p, count, padded);
    }
}

// a = Cᵀ z of a whitened block, in the place of r.
template <class T> static inline const T *scale(Block<T> &block, const DenseRows<T> &args) {
    const T *C = args.prepared + PreparedLayout(args.d).inverse;
    product<T, Shape::lower>(block.r, block.ld, block.padded, args.d, args.d, block.z, block.ld, 1, C, block.ld);
    return block.r;
}

template <class T> static index sums_stride(index d) { return row_stride<T>(d); }

template <class T>
static void moments(const DenseRows<T> &args, const T *weights, T *sums, index ld, T *squares, bool fourth, index first, index last) {
    Block<T> block(args.d);
    alignas(64) T weighted[ROWS * LARGEST];
    T *by_mean = sums, *second = sums + ld;
    memset(sums, 0, sizeof(T) * ((fourth ? 2 : 1) * ld + 1) * ld);
    for (index start = first; start < last; start += ROWS) {
        block.whiten(args, start, last - start < ROWS ? last - start : ROWS);
        const T *w = weights ? weights + start : nullptr;
        const T *left = add_outer_products(second, block.z, w, weighted, ld, args.d, block.rows, block.padded);
        block.add(by_mean, left);
        if (squares)
            for (index i = 0; i < block.rows; i++) squares[start + i] = block.square(i);
        if (fourth) {
            scale(block, args);
            for (index i = 0; i < block.padded * ld; i += lanes<T>) {
                const V<T> values = load(block.r + i);
                store(block.r + i, values * values);
            }
            add_outer_products(second + ld * ld, block.r, w, weighted, ld, args.d, block.rows, block.padded);
        }
    }
}

// Σ r and Σ r rᵀ.
template <class T> static void products(const DenseRows<T> &args, T *sums, index ld, index first, index last) {
    Block<T> block(args.d);
    memset(sums, 0, sizeof(T) * (ld + 1) * ld);
    for (index start = first; start < last; start += ROWS) {
        block.centre(args, start, last - start < ROWS ? last - start : ROWS);
        add_outer_products<T>(sums + ld, block.r, nullptr, nullptr, ld, args.d, block.rows, block.padded);
        block.add(sums, block.r);
    }
}

// Σ z = C Σ r and Σ z zᵀ = C (Σ r rᵀ) Cᵀ; false if the spread is so large that sums of whitened rows would be more accurate.
template <class T> static bool whitened(const T *prepared, T *sums, index ld, index n, index d, T *memory) {
    const PreparedLayout at(d);
    const T *C = prepared + at.inverse, *Ct = prepared + at.transposed;
    T *S = sums + ld, *full = memory, *half = memory + ld * ld;
    memset(full, 0, sizeof(T) * 2 * ld * ld);
    for (index i = 0; i < d; i++)
        for (index j = 0; j <= i; j++) full[i * ld + j] = full[j * ld + i] = S[i * ld + j];
    product<T, Shape::upper>(half, ld, d, d, d, full, ld, 1, Ct, ld);  // S Cᵀ
    for (index m = 0; m < d; m += TILE_ROWS) {  // the lower triangle of C S Cᵀ
        const index end = m + TILE_ROWS < d ? m + TILE_ROWS : d;
        product(full + m * ld, ld, end - m, end, end, C + m * ld, ld, 1, half, ld);
    }
    const T *diagonal = full;
    const T least = T(n);
    const auto size = [=](index k) { return diagonal[k * ld + k] > least ? diagonal[k * ld + k] : least; };
    if (!(spread(C, ld, d, S, ld + 1, size) <= T(MAX_SPREAD))) return false;
    for (index k = d - 1; k >= 0; k--) {
        T sum = 0;
        for (index i = 0; i <= k; i++) sum += C[k * ld + i] * sums[i];
        sums[k] = sum;
        memcpy(S + k * ld, full + k * ld, sizeof(T) * (k + 1));
    }
    return true;
}

// Cᵀ s, and ½ Cᵀ (S − n I) C, exactly symmetric.
template <class T>
static void total(const T *prepared, const T *sums, index ld, T count, index d, T *by_mean, T *by_matrix, T *memory) {
    const PreparedLayout at(d);
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
    for (index m = 0; m < d; m += TILE_ROWS) {  // the lower triangle of Cᵀ S C
        const index end = m + TILE_ROWS < d ? m + TILE_ROWS : d;
        product(G + m * ld, ld, end - m, end, d - m, C + m * ld + m, 1, ld, half + m * ld, ld);
    }
    for (index i = 0; i < d; i++)
        for (index j = 0; j <= i; j++) by_matrix[i * d + j] = by_matrix[j * d + i] = T(0.5) * G[i * ld + j];
}

// −½ P over the lower triangle, column by column, doubled off the diagonal.
template <class T> static void offset(const T *prepared, index d, T *packed, T *memory) {
    const PreparedLayout at(d);
    const index ld = row_stride<T>(d);
    const T *C = prepared + at.inverse;
    T *P = memory;
    product<T, Shape::lower>(P, ld, d, d, d, C, 1, ld, C, ld);
    for (index j = 0; j < d; j++)
        for (index i = j; i < d; i++) *packed++ = -(i == j ? T(0.5) : T(1)) * (i == j ? P[i * ld + i] : T(0.5) * (P[i * ld + j] + P[j * ld + i]));
}

// A row of the matrix: a, then a_i a_j − P_ij over the lower triangle, half of it on the diagonal.
template <class T> static inline void write_row(T *row, const T *a, const T *offset, index d, const T *end) {
    copy_row(row, a, d, end);
    outer_product_row(row + d, a, offset, d, end);
}

// stage: memory for `staged_rows` rows and one further vector, from which rows are copied to out by non-temporal stores; or null to write
// to out directly.
template <class T>
static void matrix(const DenseRows<T> &args, const T *offset, T *out, T *stage, index staged_rows, index first, index last) {
    Block<T> block(args.d);
    const index d = args.d, p = d + d * (d + 1) / 2;
    for (index start = first; start < last; start += ROWS) {
        block.whiten(args, start, last - start < ROWS ? last - start : ROWS);
        const T *a = scale(block, args);
        if (!stage) {
            for (index i = 0; i < block.rows; i++) write_row(out + (start + i) * p, a + i * block.ld, offset, d, out + last * p);
            continue;
        }
        for (index i = 0; i < block.rows; i += staged_rows) {
            const index count = i + staged_rows < block.rows ? staged_rows : block.rows - i;
            for (index r = 0; r < count; r++)
                write_row(stage + r * p, a + (i + r) * block.ld, offset, d, stage + staged_rows * p + lanes<T>);
            streaming_copy(out + (start + i) * p, stage, count * p);
        }
    }
    stream_fence();
}

// Σ w J Jᵀ over rows first … last in the lower triangle of sums (p, p), row stride ld; J is formed for one block at a time.
template <class T>
static void gram(const DenseRows<T> &args, const T *weights, const T *offset, T *sums, index ld, T *memory, index first, index last) {
    Block<T> block(args.d);
    const index p = args.d + args.d * (args.d + 1) / 2;
    T *rows = memory, *weighted = rows + ROWS * ld;
    memset(sums, 0, sizeof(T) * ld * ld);
    for (index start = first; start < last; start += ROWS) {
        block.whiten(args, start, last - start < ROWS ? last - start : ROWS);
        const T *a = scale(block, args);
        for (index i = 0; i < block.rows; i++) write_row(rows + i * ld, a + i * block.ld, offset, args.d, rows + ROWS * ld);
        memset(rows + block.rows * ld, 0, sizeof(T) * (block.padded - block.rows) * ld);
        add_outer_products(sums, rows, weights ? weights + start : nullptr, weighted, ld, p, block.rows, block.padded);
    }
}

// The Hessian (p, p) with respect to the mean and the unique elements of Σ, from Σ z and Σ z zᵀ of n rows. Blocks: −n P;
// −½ m (s_i P_jk + s_j P_ik); and −½ times the symmetric Kronecker product of P and Q, with s = Σ a and Q = Cᵀ (2 Σ z zᵀ − n I) C.
template <class T>
static void hessian(const T *prepared, const T *first, const T *second, T n, index d, T *out, T *memory) {
    const PreparedLayout at(d);
    const index ld = row_stride<T>(d), p = d + d * (d + 1) / 2;
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
    pairs(SymmetricKronecker<T>{P, Q, out + d * p + d, d, p, T(-0.5)}, 0, d * (d + 1) / 2);
    mirror(out + d * p + d, p, d * (d + 1) / 2);
}

}  // namespace MVNJAC_SPACE
}  // namespace mvnjac
