// Second derivatives by Σ, entry by entry: c m_ij m_kl ¼ (A_ik B_jl + A_il B_jk + A_jk B_il + A_jl B_ik) over pairs of unique
// elements, m = 1 on the diagonal and 2 off it.
#pragma once
#include "simd.h"

namespace mvnjac {
namespace MVNJAC_SPACE {

// Row (i, j) of it, without negative zeros, as far as the diagonal and a little beyond: column l ≤ j of the triangle after column, k ≥ l.
template <class T> static inline void pair_row(const Pairs<T> &of, index i, index j, T *out) {
    constexpr int W = lanes<T>;
    const index d = of.d;
    const T *Ai = of.A + i * d, *Aj = of.A + j * d, *Bi = of.B + i * d, *Bj = of.B + j * d;
    const T factor = of.coefficient * (i == j ? T(0.25) : T(0.5));
    for (index l = 0; l <= j; l++) {
        const T double_factor = T(2) * factor, ai = double_factor * Ai[l], aj = double_factor * Aj[l];
        const T bi = double_factor * Bi[l], bj = double_factor * Bj[l];
        const index count = d - l;
        const auto value = [&](index k) { return T(0) + (Ai[k] * bj + ai * Bj[k] + Aj[k] * bi + aj * Bi[k]); };
        index e = 0;
        for (; e + W <= count; e += W) {
            const index k = l + e;
            store(out + e, V<T>{} + (load(Ai + k) * bj + ai * load(Bj + k) + load(Aj + k) * bi + aj * load(Bi + k)));
        }
        for (; e < count; e++) out[e] = value(l + e);
        out[0] = T(0.5) * value(l);
        out += count;
    }
}

// The upper triangle becomes the mirror image of the lower one, so that what is symmetric is so to the last bit.
template <class T> static void mirror(T *A, index ld, index p) {
    constexpr index STEP = 32;
    for (index i = 0; i < p; i += STEP)
        for (index j = 0; j <= i; j += STEP)
            for (index r = i; r < i + STEP && r < p; r++)
                for (index c = j; c < j + STEP && c < r; c++) A[c * ld + r] = A[r * ld + c];
}

template <class T> static void pairs(const Pairs<T> &of, index first, index last) {
    index i = 0, j = 0;
    for (index row = 0; row < last; row++) {
        if (row >= first) pair_row(of, i, j, of.out + row * of.ld);
        if (++i == of.d) i = ++j;
    }
}

}  // namespace MVNJAC_SPACE
}  // namespace mvnjac
