// Entries of the symmetric Kronecker product, for second derivatives with respect to Σ: for each pair of unique elements (i, j), (k, l)
// c m_ij m_kl ¼ (A_ik B_jl + A_il B_jk + A_jk B_il + A_jl B_ik), with m = 1 on the diagonal and 2 off the diagonal.
#pragma once
#include "simd.h"

namespace mvnjac {
namespace MVNJAC_SPACE {

// Row (i, j), without negative zeros: the columns (k, l) with l ≤ j and k ≥ l, column by column, which include the lower triangle.
template <class T> static inline void kronecker_row(const SymmetricKronecker<T> &args, index i, index j, T *out) {
    constexpr int W = lanes<T>;
    const index d = args.d;
    const T *Ai = args.A + i * d, *Aj = args.A + j * d, *Bi = args.B + i * d, *Bj = args.B + j * d;
    const T factor = args.coefficient * (i == j ? T(0.25) : T(0.5));
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

// Copies the lower triangle to the upper one, so that the result is exactly symmetric.
template <class T> static void mirror(T *A, index ld, index p) {
    constexpr index STEP = 32;
    for (index i = 0; i < p; i += STEP)
        for (index j = 0; j <= i; j += STEP)
            for (index r = i; r < i + STEP && r < p; r++)
                for (index c = j; c < j + STEP && c < r; c++) A[c * ld + r] = A[r * ld + c];
}

template <class T> static void pairs(const SymmetricKronecker<T> &args, index first, index last) {
    index i = 0, j = 0;
    for (index row = 0; row < last; row++) {
        if (row >= first) kronecker_row(args, i, j, args.out + row * args.ld);
        if (++i == args.d) i = ++j;
    }
}

}  // namespace MVNJAC_SPACE
}  // namespace mvnjac
