// Preparation of one dense Gaussian, d ≤ LARGEST: checks of its values, the factorisation Σ = L Lᵀ, and C = L⁻¹.
#pragma once
#include "simd.h"

namespace mvnjac {
namespace MVNJAC_SPACE {

template <class T> static bool finite(const T *x, index count) {
    constexpr int W = lanes<T>;
    V<T> sum[4] = {};
    index i = 0;
    for (; i + 4 * W <= count; i += 4 * W)
        for (int u = 0; u < 4; u++) sum[u] += load(x + i + u * W) * T(0);
    T rest = 0;
    for (; i < count; i++) rest += x[i] * T(0);
    return horizontal_sum<T>(sum[0] + sum[1] + sum[2] + sum[3]) + rest == T(0);
}

// Exact symmetry, by blocks that fit in the cache with their transposed blocks.
template <class T> static bool symmetric(const T *A, index d) {
    constexpr index STEP = 32;
    bool same = true;
    for (index i = 0; i < d; i += STEP)
        for (index j = 0; j <= i; j += STEP) {
            for (index r = i; r < i + STEP && r < d; r++)
                for (index c = j; c < j + STEP && c < r; c++) same &= A[r * d + c] == A[c * d + r];
            if (!same) return false;
        }
    return true;
}

constexpr index PANEL = 16;  // rows of a factor per panel; the remaining matrix is updated by a matrix product

// U upper with A = Uᵀ U, in place: the lower triangle of A is read and overwritten; A has ld² elements, in whole tiles.
template <class T> static bool cholesky(T *A, index ld, index d) {
    alignas(64) T minus[PANEL * LARGEST];
    for (index first = 0; first < d; first += PANEL) {
        const index last = first + PANEL < d ? first + PANEL : d;
        for (index j = first; j < last; j++) {
            for (index k = j; k < d; k++) A[j * ld + k] = A[k * ld + j];
            for (index k = d; k < ld; k++) A[j * ld + k] = T(0);
        }
        for (index j = first; j < last; j++) {
            T *row = A + j * ld;
            if (!(row[j] > T(0)) || !(row[j] < T(INFINITY))) return false;
            const T pivot = sqrt(row[j]);
            for (index k = j; k < d; k++) row[k] /= pivot;
            row[j] = pivot;
            for (index i = j + 1; i < last; i++) {
                const T factor = row[i];
                T *other = A + i * ld;
                for (index k = i; k < d; k++) other[k] -= factor * row[k];
            }
        }
        if (last == d) break;
        for (index j = first; j < last; j++)
            for (index k = last; k < ld; k++) minus[(j - first) * ld + k] = -A[j * ld + k];
        product(A + last * ld + last, ld, d - last, d - last, last - first, minus + last, 1, ld, A + first * ld + last, ld, true, true);
    }
    return true;
}

// X = U⁻¹ for upper triangular U with zeros beyond column d; X must be zero initially.
template <class T> static void invert_upper(const T *U, T *X, index ld, index d) {
    for (index first = (d - 1) / PANEL * PANEL; first >= 0; first -= PANEL) {
        const index last = first + PANEL < d ? first + PANEL : d;
        const T *beyond = X + last * ld + last;
        if (last < d)
            product<T, Shape::upper>(X + first * ld + last, ld, last - first, d - last, d - last, U + first * ld + last, ld, 1, beyond, ld);
        for (index i = last - 1; i >= first; i--) {
            T *row = X + i * ld;
            for (index c = last; c < d; c++) row[c] = -row[c];
            for (index k = i + 1; k < last; k++) {
                const T factor = U[i * ld + k], *below = X + k * ld;
                for (index c = k; c < d; c++) row[c] -= factor * below[c];
            }
            const T pivot = U[i * ld + i];
            row[i] = T(1);
            for (index c = i; c < d; c++) row[c] /= pivot;
        }
    }
}

// The factor by which whitening amplifies errors of Σ r rᵀ with diagonal v: max_k Σ_i C_ki² v_i / size(k).
template <class T, class Size> static T spread(const T *C, index ld, index d, const T *v, index step, Size size) {
    T largest = 0;
    for (index k = 0; k < d; k++) {
        T sum = 0;
        for (index i = 0; i <= k; i++) sum += C[k * ld + i] * C[k * ld + i] * v[i * step];
        sum /= size(k);
        if (!(sum <= largest)) largest = sum;  // also for NaN
    }
    return largest;
}

// Completes a prepared Gaussian from U upper with Σ = Uᵀ U, given in the place of C with row stride ld; false if not finite.
template <class T> static bool complete(const T *mean, index d, T *prepared) {
    const PreparedLayout at(d);
    const index ld = row_stride<T>(d);
    T *C = prepared + at.inverse, *Ct = prepared + at.transposed;
    const T *U = C;
    T logs = 0;
    for (index j = 0; j < d; j++) logs += log(U[j * ld + j]);
    T *variance = prepared + at.mean;
    memset(variance, 0, sizeof(T) * ld);
    for (index k = 0; k < d; k++)
        for (index i = k; i < d; i++) variance[i] += U[k * ld + i] * U[k * ld + i];
    memset(Ct, 0, sizeof(T) * ld * ld);
    invert_upper(U, Ct, ld, d);
    memset(C, 0, sizeof(T) * ld * ld);
    for (index i = 0; i < d; i++)
        for (index j = 0; j <= i; j++) C[i * ld + j] = Ct[j * ld + i];
    prepared[1] = spread(C, ld, d, variance, 1, [](index) { return T(1); });
    memcpy(prepared + at.mean, mean, sizeof(T) * d);
    prepared[0] = T(2) * logs + T(d) * T(1.8378770664093454835606594728112352797);
    return prepared[0] - prepared[0] == T(0);
}

template <class T> static int prepare(const T *mean, const T *covariance, index d, T tolerance, T *prepared) {
    const index ld = row_stride<T>(d);
    if (!finite(mean, d) || !finite(covariance, d * d)) return 1;
    const bool same = symmetric(covariance, d);
    for (index i = 0; i < d && !same; i++)
        for (index j = 0; j < i; j++) {
            const T difference = covariance[i * d + j] - covariance[j * d + i];
            if (difference != T(0)) {
                const T scale = sqrt(fabs(covariance[i * d + i])) * sqrt(fabs(covariance[j * d + j]));
                if (!(fabs(difference) <= tolerance * scale)) return 2;
            }
        }
    T *U = prepared + PreparedLayout(d).inverse;
    for (index i = 0; i < d; i++) memcpy(U + i * ld, covariance + i * d, sizeof(T) * (i + 1));
    return cholesky(U, ld, d) && complete(mean, d, prepared) ? 0 : 3;
}

// Prepares a Gaussian from a given L with these row and column strides.
template <class T> static void prepare_triangle(const T *mean, const T *L, index row, index column, index d, T *prepared) {
    const index ld = row_stride<T>(d);
    T *U = prepared + PreparedLayout(d).inverse;
    for (index j = 0; j < d; j++) {
        for (index i = j; i < d; i++) U[j * ld + i] = L[i * row + j * column];
        for (index i = d; i < ld; i++) U[j * ld + i] = T(0);
    }
    complete(mean, d, prepared);
}

}  // namespace MVNJAC_SPACE
}  // namespace mvnjac
