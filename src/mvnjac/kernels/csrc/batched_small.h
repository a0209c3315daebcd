// SIMD-batched Gaussians of d ≤ LARGEST_SMALL with one Σ and one row each: one matrix per vector lane.
//
// Element (i, j) of the matrices of a group is one vector. The factorisation, inversion and products use 4×4 blocks that stay in
// registers; d is padded to whole blocks by the identity.
#pragma once
#include "simd_math.h"

namespace mvnjac {
namespace MVNJAC_SPACE {

// The number of variables d, padded to ld, and the block size B: known at compile time (D ≤ 4), or at run time (D = 0).
template <int D> struct Size {
    static constexpr index d = D, ld = D;
    static constexpr int B = D;
    explicit Size(index) {}
};
template <> struct Size<0> {
    static constexpr int B = 4;
    index d, ld;
    explicit Size(index variables) : d(variables), ld(round_up(variables, B)) {}
};

template <class T, int D> struct Group : Size<D> {
    using Size<D>::d;
    using Size<D>::ld;
    using Size<D>::B;
    bool uses_staging;  // whether matrices are copied in memory order first, which is faster than strided access across several pages
    T *staging;
    V<T> *A, *C, *r, *z, *a, *pivots;  // Σ, then L, then the gradient; L⁻¹; x − µ; C r; Cᵀ z; 1 / L_ii

    Group(index variables, V<T> *memory) : Size<D>(variables) {
        A = memory;
        C = A + ld * ld;
        r = C + ld * ld;
        z = r + ld;
        a = z + ld;
        pivots = a + ld;
        staging = reinterpret_cast<T *>(pivots + ld);
        uses_staging = d > 4 && lanes<T> * d * d * sizeof(T) <= 32768;
        for (index i = 0; i < 2 * ld * ld + 4 * ld; i++) memory[i] = V<T>{};
        for (index i = d; i < ld; i++) A[i * ld + i] = broadcast(T(1));
    }

    static index size(index d) {
        const index ld = Size<D>(d).ld;
        return ((2 * ld + 4) * ld + d * d + 1) * lanes<T>;
    }

    bool symmetric(T tolerance) const {
        auto differs = V<T>{} != V<T>{};
        for (index i = 0; i < d; i++)
            for (index j = 0; j < i; j++) differs |= A[i * ld + j] != A[j * ld + i];
        if (none_set(differs)) return true;
        auto bad = V<T>{} != V<T>{};
        for (index i = 0; i < d; i++)
            for (index j = 0; j < i; j++) {
                const V<T> difference = A[i * ld + j] - A[j * ld + i];
                const V<T> bound = tolerance * (root(A[i * ld + i]) * root(A[j * ld + j]));
                bad |= ~((difference <= bound) & (-difference <= bound));
            }
        return none_set(bad);
    }

    // A = L Lᵀ, L replacing the lower triangle of A
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
                    if (j + c >= d) {  // padding
                        pivots[j + c] = broadcast(T(1));
                    } else if (i == j) {
                        for (int k = 0; k < c; k++) s[c][c] -= s[c][k] * s[c][k];
                        bad |= ~((s[c][c] > V<T>{}) & (s[c][c] < broadcast(T(INFINITY))));
                        s[c][c] = root_and_inverse<T>(s[c][c], pivots[j + c]);
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
        return none_set(bad);
    }

    // C = L⁻¹, with zeros above the diagonal within diagonal blocks
    void invert() {
        for (index j = 0; j < ld; j += B)
            for (index i = j; i < ld; i += B) {
                V<T> s[B][B];
                for (int r = 0; r < B; r++)
                    for (int c = 0; c < B; c++) s[r][c] = broadcast(T(i == j && r == c));
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

    // log det Σ: logarithms of products of inverse pivots, taken before these overflow or underflow
    V<T> log_det() const {
        const T far = sizeof(T) == 8 ? T(1e100) : T(1e12);
        V<T> product = broadcast(T(1)), logs = {};
        for (index i = 0; i < d; i++) {
            product *= pivots[i];
            if (i + 1 == d || !none_set((product > broadcast(far)) | (product < broadcast(1 / far)))) {
                logs += logarithm<T>(product);
                product = broadcast(T(1));
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

    // Evaluates one group of Gaussians; false if one of them is invalid
    bool evaluate(const SmallBatch<T> &args, index n, index last, V<T> &log_prob) {
        const T *from = args.covariance + n * d * d, *end = args.covariance + last * d * d;
        if (uses_staging) {
            memcpy(staging, from, sizeof(T) * lanes<T> * d * d);
            from = staging, end = staging + lanes<T> * (d * d + 1);
        }
        gather(A, ld, from, d * d, d, end);
        gather(r, 1, args.x + n * d, d, 1, args.x + last * d);
        gather(z, 1, args.mean + n * d, d, 1, args.mean + last * d);
        for (index i = 0; i < d; i++) r[i] -= z[i];
        if (!symmetric(args.tolerance) || !factorise()) return false;
        invert();
        log_prob = T(-0.5) * (solve() + log_det() + T(d) * T(1.8378770664093454835606594728112352797));
        if (!none_set(log_prob - log_prob != V<T>{})) return false;
        if (args.gradient) differentiate();
        return true;
    }
};

template <class T> static index small_workspace(index d) { return Group<T, 0>::size(d) + lanes<T> * (2 * d * d + 3 * d + 1); }

template <class T, int D> static bool one_group(Group<T, D> &group, const SmallBatch<T> &args, index n, index last) {
    const index d = args.d;
    V<T> log_prob;
    if (!group.evaluate(args, n, last, log_prob)) return false;
    store(args.log_prob + n, log_prob);
    scatter(args.scaled + n * d, group.a, 1, d, 1, args.scaled + last * d);
    if (!args.gradient) return true;
    T *to = args.gradient + n * d * d;
    if (group.uses_staging) {
        scatter(group.staging, group.A, group.ld, d * d, d, group.staging + lanes<T> * (d * d + 1));
        memcpy(to, group.staging, sizeof(T) * lanes<T> * d * d);
    } else {
        scatter(to, group.A, group.ld, d * d, d, args.gradient + last * d * d);
    }
    return true;
}

// A group with fewer than `lanes` Gaussians: it is padded by copies of the last one, in separate memory.
template <class T, int D> static bool partial_group(Group<T, D> &group, const SmallBatch<T> &args, index first, index last, T *memory) {
    constexpr index W = lanes<T>;
    const index d = args.d, dd = d * d;
    T *x = memory, *mean = x + W * d, *scaled = mean + W * d, *covariance = scaled + W * d, *gradient = covariance + W * dd;
    T *log_prob = gradient + W * dd;
    for (index l = 0; l < W; l++) {
        const index n = first + l < last ? first + l : last - 1;
        memcpy(x + l * d, args.x + n * d, sizeof(T) * d);
        memcpy(mean + l * d, args.mean + n * d, sizeof(T) * d);
        memcpy(covariance + l * dd, args.covariance + n * dd, sizeof(T) * dd);
    }
    const SmallBatch<T> padded{x, mean, covariance, log_prob, scaled, args.gradient ? gradient : nullptr, W, d, args.tolerance};
    if (!one_group(group, padded, 0, W)) return false;
    memcpy(args.log_prob + first, log_prob, sizeof(T) * (last - first));
    memcpy(args.scaled + first * d, scaled, sizeof(T) * (last - first) * d);
    if (args.gradient) memcpy(args.gradient + first * dd, gradient, sizeof(T) * (last - first) * dd);
    return true;
}

template <class T, int D> static bool all_groups(const SmallBatch<T> &args, index first, index last, T *memory) {
    constexpr index W = lanes<T>;
    Group<T, D> group(args.d, reinterpret_cast<V<T> *>(memory));
    if (last - first < W) return partial_group(group, args, first, last, memory + group.size(args.d));
    for (index n = first; n + W <= last; n += W)
        if (!one_group(group, args, n, last)) return false;
    return (last - first) % W == 0 || one_group(group, args, last - W, last);  // the last group overlaps the previous one
}

template <class T> static bool small(const SmallBatch<T> &args, index first, index last, T *memory) {
    if (args.d == 2) return all_groups<T, 2>(args, first, last, memory);
    if (args.d == 3) return all_groups<T, 3>(args, first, last, memory);
    if (args.d == 4) return all_groups<T, 4>(args, first, last, memory);
    return all_groups<T, 0>(args, first, last, memory);
}

}  // namespace MVNJAC_SPACE
}  // namespace mvnjac
