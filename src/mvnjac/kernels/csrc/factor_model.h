// Rows of a factor model, Σ = W Wᵀ + diag(v), with each variable scaled by √v: u = (x − µ) / √v, B = W / √v. The variables are
// conditionally independent given the k factors, so that cells of some rows and variables are processed in the cache, and no n×d array
// is formed.
#pragma once
#include "simd.h"

namespace mvnjac {
namespace MVNJAC_SPACE {

template <class T> constexpr index factors_apart(index k) { return round_up(k, 64 / sizeof(T)); }

template <class T> struct Cell {
    alignas(64) T u[CELL_ROWS * CELL_VARIABLES];
    index rows, padded, count;

    // u, padded with zeros to whole tiles
    void fill(const FactorModel<T> &args, index first, index last, index from, index to) {
        constexpr int W = lanes<T>;
        rows = last - first, padded = round_up(rows, TILE_ROWS), count = to - from;
        const T *mean = args.mean + from, *inverse = args.inverse_root + from;
        for (index i = 0; i < rows; i++) {
            const T *x = args.x + (first + i) * args.ldx + from;
            T *row = u + i * CELL_VARIABLES;
            index j = 0;
            for (; j + W <= count; j += W) store(row + j, (load(x + j) - load(mean + j)) * load(inverse + j));
            for (; j < count; j++) row[j] = (x[j] - mean[j]) * inverse[j];
            for (; j < round_up(count, W); j++) row[j] = T(0);
        }
        memset(u + rows * CELL_VARIABLES, 0, sizeof(T) * (padded - rows) * CELL_VARIABLES);
    }

    // replaces u by e = u − B ŵ, from −ŵ and Bᵀ
    void subtract(const T *minus_estimate, index ldk, index k, const T *transposed) {
        product(u, CELL_VARIABLES, padded, count, k, minus_estimate, ldk, 1, transposed, CELL_VARIABLES, true);
    }

    T square(index i) const {
        V<T> sum = {};
        for (index j = 0; j < round_up(count, lanes<T>); j += lanes<T>) {
            const V<T> e = load(u + i * CELL_VARIABLES + j);
            sum += e * e;
        }
        return horizontal_sum<T>(sum);
    }
};

// out (rows, k) = u B over these variables; rows are padded to whole cells, with row stride `factors_apart`.
template <class T> static void project(const FactorModel<T> &args, T *out, index first, index last, index from, index to) {
    alignas(64) T loading[CELL_VARIABLES * LARGEST_RANK];
    Cell<T> cell;
    const index ld = factors_apart<T>(args.k);
    for (index v = from; v < to; v += CELL_VARIABLES) {
        const index count = v + CELL_VARIABLES < to ? CELL_VARIABLES : to - v;
        memset(loading, 0, sizeof(T) * count * ld);
        for (index j = 0; j < count; j++) memcpy(loading + j * ld, args.loading + (v + j) * args.k, sizeof(T) * args.k);
        for (index start = first; start < last; start += CELL_ROWS) {
            cell.fill(args, start, start + CELL_ROWS < last ? start + CELL_ROWS : last, v, v + count);
            product(out + (start - first) * ld, ld, cell.padded, args.k, count, cell.u, CELL_VARIABLES, 1, loading, ld, v > from);
        }
    }
}

// For e = u − B ŵ: squares (rows) += ‖e‖² over these variables; and, if sums.first is not null, adds Σ w e, Σ w e² and Σ w e ŵᵀ to the
// sums. minus_estimate: −ŵ (rows, k), padded with zeros to whole cells, with row stride `factors_apart`.
template <class T>
static void factor_residuals(const FactorModel<T> &args, const T *minus_estimate, const T *weights, T *squares, const FactorSums<T> &sums,
                  index first, index last, index from, index to) {
    constexpr int W = lanes<T>;
    alignas(64) T transposed[LARGEST_RANK * CELL_VARIABLES], by_factor[CELL_VARIABLES * LARGEST_RANK];
    alignas(64) T sum[CELL_VARIABLES], square[CELL_VARIABLES];
    Cell<T> cell, weighted;
    const index ld = factors_apart<T>(args.k);
    for (index v = from; v < to; v += CELL_VARIABLES) {
        const index count = v + CELL_VARIABLES < to ? CELL_VARIABLES : to - v, wide = round_up(count, W);
        memset(transposed, 0, sizeof(T) * args.k * CELL_VARIABLES);
        for (index j = 0; j < count; j++)
            for (index l = 0; l < args.k; l++) transposed[l * CELL_VARIABLES + j] = args.loading[(v + j) * args.k + l];
        memset(by_factor, 0, sizeof(T) * CELL_VARIABLES * ld);
        memset(sum, 0, sizeof(sum)), memset(square, 0, sizeof(square));
        for (index start = first; start < last; start += CELL_ROWS) {
            const T *w = minus_estimate + (start - first) * ld, *left = cell.u;
            cell.fill(args, start, start + CELL_ROWS < last ? start + CELL_ROWS : last, v, v + count);
            cell.subtract(w, ld, args.k, transposed);
            for (index i = 0; i < cell.rows; i++) squares[start - first + i] += cell.square(i);
            if (!sums.first) continue;
            if (weights) {
                left = weighted.u;
                for (index i = 0; i < cell.padded; i++) {
                    const T weight = i < cell.rows ? weights[start + i] : T(0);
                    for (index j = i * CELL_VARIABLES; j < i * CELL_VARIABLES + wide; j += W)
                        store(weighted.u + j, weight * load(cell.u + j));
                }
            }
            for (index j = 0; j < wide; j += W) {
                V<T> linear = {}, squared = {};
                for (index i = 0; i < cell.rows; i++) {
                    const V<T> e = load(left + i * CELL_VARIABLES + j);
                    linear += e;
                    squared += e * load(cell.u + i * CELL_VARIABLES + j);
                }
                store(sum + j, load(sum + j) + linear);
                store(square + j, load(square + j) + squared);
            }
            product(by_factor, ld, count, args.k, cell.padded, left, 1, CELL_VARIABLES, w, ld, true);
        }
        for (index j = 0; sums.first && j < count; j++) {
            sums.first[v + j] += sum[j], sums.squares[v + j] += square[j];
            for (index l = 0; l < args.k; l++) sums.by_factor[(v + j) * args.k + l] -= by_factor[j * ld + l];
        }
    }
}

}  // namespace MVNJAC_SPACE
}  // namespace mvnjac
