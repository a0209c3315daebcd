// Many Gaussians of d ≤ LARGEST_SMALL, each with its own Σ and one row: as many at a time as a vector has lanes.
//
// All of them are factorised, inverted and multiplied in step, in blocks of 4×4 that stay in registers; d is filled up to whole
// blocks by the identity. Element (i, j) of the matrices of a group is one vector.
#pragma once
#include "simd_math.h"

namespace mvnjac {
namespace MVNJAC_SPACE {

// The number of variables, with what it is filled up to, and the blocks of it: known when this is compiled (D ≤ 4), or not (0).
template <int D> struct Size {
    static constexpr index d = D, ld = D;
    static constexpr int B = D;
    explicit Size(index) {}
};
template <> struct Size<0> {
    static constexpr int B = 4;
    index d, ld;
    explicit Size(index variables) : d(variables), ld(up(variables, B)) {}
};

template <class T, int D> struct Group : Size<D> {
    using Size<D>::d;
    using Size<D>::ld;
    using Size<D>::B;
    bool stages;  // matrices are copied as they lie in memory: over some pages, from front to back is faster than side by side
    T *staged;
    V<T> *A, *C, *r, *z, *a, *pivots;  // Σ, then L, then the gradient; L⁻¹; x − µ; C r; Cᵀ z; 1 / L_ii

    Group(index variables, V<T> *memory) : Size<D>(variables) {
        A = memory;
        C = A + ld * ld;
        r = C + ld * ld;
        z = r + ld;
        a = z + ld;
        pivots = a + ld;
        staged = reinterpret_cast<T *>(pivots + ld);
        stages = d > 4 && lanes<T> * d * d * sizeof(T) <= 32768;
        for (index i = 0; i < 2 * ld * ld + 4 * ld; i++) memory[i] = V<T>{};
        for (index i = d; i < ld; i++) A[i * ld + i] = filled(T(1));
    }

    static index size(index d) {
        const index ld = Size<D>(d).ld;
        return ((2 * ld + 4) * ld + d * d + 1) * lanes<T>;
    }

    bool symmetric(T tolerance) const {
        auto differs = V<T>{} != V<T>{};
        for (index i = 0; i < d; i++)
            for (index j = 0; j < i; j++) differs |= A[i * ld + j] != A[j * ld + i];
        if (none(differs)) return true;
        auto bad = V<T>{} != V<T>{};
        for (index i = 0; i < d; i++)
            for (index j = 0; j < i; j++) {
                const V<T> difference = A[i * ld + j] - A[j * ld + i];
                const V<T> bound = tolerance * (root(A[i * ld + i]) * root(A[j * ld + j]));
                bad |= ~((difference <= bound) & (-difference <= bound));
            }
        return none(bad);
    }

    // A = L Lᵀ in its lower triangle
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
                    if (j + c >= d) {  // filled up
                        pivots[j + c] = filled(T(1));
                    } else if (i == j) {
                        for (int k = 0; k < c; k++) s[c][c] -= s[c][k] * s[c][k];
                        bad |= ~((s[c][c] > V<T>{}) & (s[c][c] < filled(T(INFINITY))));
                        s[c][c] = roots<T>(s[c][c], pivots[j + c]);
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
        return none(bad);
    }

    // C = L⁻¹, zeros above the diagonal within its blocks
    void invert() {
        for (index j = 0; j < ld; j += B)
            for (index i = j; i < ld; i += B) {
                V<T> s[B][B];
                for (int r = 0; r < B; r++)
                    for (int c = 0; c < B; c++) s[r][c] = filled(T(i == j && r == c));
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

    // log det Σ: the logarithm of products of pivots, taken before they leave the range of numbers
    V<T> log_det() const {
        const T far = sizeof(T) == 8 ? T(1e100) : T(1e12);
        V<T> product = filled(T(1)), logs = {};
        for (index i = 0; i < d; i++) {
            product *= pivots[i];
            if (i + 1 == d || !none((product > filled(far)) | (product < filled(1 / far)))) {
                logs += logarithm<T>(product);
                product = filled(T(1));
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

    // Σ and x − µ of one group of Gaussians; false where something is wrong with one of them
    bool work(const Small<T> &of, index n, index last, V<T> &log_prob) {
        const T *from = of.covariance + n * d * d, *end = of.covariance + last * d * d;
        if (stages) {
            memcpy(staged, from, sizeof(T) * lanes<T> * d * d);
            from = staged, end = staged + lanes<T> * (d * d + 1);
        }
        gathered(A, ld, from, d * d, d, end);
        gathered(r, 1, of.x + n * d, d, 1, of.x + last * d);
        gathered(z, 1, of.mean + n * d, d, 1, of.mean + last * d);
        for (index i = 0; i < d; i++) r[i] -= z[i];
        if (!symmetric(of.tolerance) || !factorise()) return false;
        invert();
        log_prob = T(-0.5) * (solve() + log_det() + T(d) * T(1.8378770664093454835606594728112352797));
        if (!none(log_prob - log_prob != V<T>{})) return false;
        if (of.gradient) differentiate();
        return true;
    }
};

template <class T> static index small_workspace(index d) { return Group<T, 0>::size(d) + lanes<T> * (2 * d * d + 3 * d + 1); }

template <class T, int D> static bool one_group(Group<T, D> &group, const Small<T> &of, index n, index last) {
    const index d = of.d;
    V<T> log_prob;
    if (!group.work(of, n, last, log_prob)) return false;
    store(of.log_prob + n, log_prob);
    scattered(of.scaled + n * d, group.a, 1, d, 1, of.scaled + last * d);
    if (!of.gradient) return true;
    T *to = of.gradient + n * d * d;
    if (group.stages) {
        scattered(group.staged, group.A, group.ld, d * d, d, group.staged + lanes<T> * (d * d + 1));
        memcpy(to, group.staged, sizeof(T) * lanes<T> * d * d);
    } else {
        scattered(to, group.A, group.ld, d * d, d, of.gradient + last * d * d);
    }
    return true;
}

// Fewer than one group: filled up with repetitions of the last one, in memory of its own.
template <class T, int D> static bool less_than_group(Group<T, D> &group, const Small<T> &of, index first, index last, T *memory) {
    constexpr index W = lanes<T>;
    const index d = of.d, dd = d * d;
    T *x = memory, *mean = x + W * d, *scaled = mean + W * d, *covariance = scaled + W * d, *gradient = covariance + W * dd;
    T *log_prob = gradient + W * dd;
    for (index l = 0; l < W; l++) {
        const index n = first + l < last ? first + l : last - 1;
        memcpy(x + l * d, of.x + n * d, sizeof(T) * d);
        memcpy(mean + l * d, of.mean + n * d, sizeof(T) * d);
        memcpy(covariance + l * dd, of.covariance + n * dd, sizeof(T) * dd);
    }
    const Small<T> filled_up{x, mean, covariance, log_prob, scaled, of.gradient ? gradient : nullptr, W, d, of.tolerance};
    if (!one_group(group, filled_up, 0, W)) return false;
    memcpy(of.log_prob + first, log_prob, sizeof(T) * (last - first));
    memcpy(of.scaled + first * d, scaled, sizeof(T) * (last - first) * d);
    if (of.gradient) memcpy(of.gradient + first * dd, gradient, sizeof(T) * (last - first) * dd);
    return true;
}

template <class T, int D> static bool some(const Small<T> &of, index first, index last, T *memory) {
    constexpr index W = lanes<T>;
    Group<T, D> group(of.d, reinterpret_cast<V<T> *>(memory));
    if (last - first < W) return less_than_group(group, of, first, last, memory + group.size(of.d));
    for (index n = first; n + W <= last; n += W)
        if (!one_group(group, of, n, last)) return false;
    return (last - first) % W == 0 || one_group(group, of, last - W, last);  // the last ones together with some that are done
}

template <class T> static bool small(const Small<T> &of, index first, index last, T *memory) {
    if (of.d == 2) return some<T, 2>(of, first, last, memory);
    if (of.d == 3) return some<T, 3>(of, first, last, memory);
    if (of.d == 4) return some<T, 4>(of, first, last, memory);
    return some<T, 0>(of, first, last, memory);
}

}  // namespace MVNJAC_SPACE
}  // namespace mvnjac
