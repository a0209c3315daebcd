// Operands of the kernels, and the table of kernels that is defined once per instruction set.
#pragma once

namespace mvnjac {

typedef long long index;

// Largest d for the kernels of dense rows: beyond it the d×d arrays do not fit in a core's cache, and torch's BLAS is faster.
constexpr index LARGEST = 256;
// Largest d for the SIMD-batched kernel, which holds one matrix per vector lane.
constexpr index LARGEST_SMALL = 64;
// Largest d for JᵀJ, which must fit in the cache with a block of rows.
constexpr index LARGEST_GRAM = 30;

// Rows may be summed before they are whitened if whitening amplifies errors of the sums, of size eps √(Σ_ii Σ_jj), at most this many
// times. The amplification is the spread, max_k Σ_i C_ki² Σ_ii.
constexpr int MAX_SPREAD = 8;

// Offsets in the array of a Gaussian factorised by `prepare`, whose memory the caller owns.
struct PreparedLayout {
    index mean, inverse, transposed, size;  // µ; C = L⁻¹ and Cᵀ in row-major order; element 0 is log det Σ + d log 2π, element 1 the spread
    explicit PreparedLayout(index d) {
        const index row = (d + 15) / 16 * 16;
        mean = 16;
        inverse = mean + row;
        transposed = inverse + row * row;
        size = transposed + row * row;
    }
};

// Rows x (n, d) of one Gaussian.
template <class T> struct DenseRows {
    const T *x;
    const T *prepared;
    index n, d;
    index column;  // column stride if x is column-major, 0 if it is row-major
};

// The packed derivative with respect to a matrix: out[row, k(i,j)] = c_ij left_i right_j (+ c_ij right_i left_j) + offset_k over the
// lower triangle, column by column.
template <class T> struct Packed {
    T *out;                 // (n, ...) with row stride ld
    const T *left, *right;  // (n, d) with row strides
    const T *offset;        // (patterns, size), multiplicities included
    const T *diagonal;      // (d) factors of the product's diagonal, or null
    const index *pattern;   // (n) index of each row's offset, or null for the first
    const unsigned char *observed;  // (n, d) or null; elements of missing variables are set to 0
    index n, d, ld, left_stride, right_stride, size;
    T below, on;            // c_ij below and on the diagonal
    bool both, has_diagonal;
    bool streaming;         // whether long columns use non-temporal stores
};

// A batch of Gaussians with one row each: x, mean (count, d), covariance (count, d, d).
template <class T> struct SmallBatch {
    const T *x, *mean, *covariance;
    T *log_prob, *scaled, *gradient;  // (count); a (count, d); ½ (a aᵀ − Σ⁻¹) (count, d, d) or null
    index count, d;
    T tolerance;
};

// The symmetric part of c Dᵀ (A ⊗ B) D, D the duplication matrix: A and B symmetric (d, d); out (p, p), p = d(d+1)/2, row stride ld.
template <class T> struct SymmetricKronecker {
    const T *A, *B;
    T *out;
    index d, ld;
    T coefficient;
};

// Rows and variables of a cell of a factor model, which fits in the cache with its operands; and the largest number of factors.
constexpr index CELL_ROWS = 32, CELL_VARIABLES = 128, LARGEST_RANK = 64;

// Rows x (n, d) with row stride ldx, for Σ = W Wᵀ + diag(v): mean µ and inverse_root v^-½ (d), loading B = v^-½ W (d, k).
template <class T> struct FactorModel {
    const T *x, *mean, *inverse_root, *loading;
    index ldx, k;
};

// Σ w e and Σ w e² (d), Σ w e ŵᵀ (d, k); or null pointers.
template <class T> struct FactorSums {
    T *first, *squares, *by_factor;
};

template <class T> struct Kernels {
    // returns 0, or the first error: 1 values that are not finite, 2 asymmetry, 3 not positive definite
    int (*prepare)(const T *mean, const T *covariance, index d, T tolerance, T *prepared);
    void (*prepare_triangle)(const T *mean, const T *L, index row, index column, index d, T *prepared);
    bool (*finite)(const T *x, index count);
    bool (*symmetric)(const T *A, index d);
    void (*log_prob)(const DenseRows<T> &, T *out, index first, index last);
    // sums (d + 1, d): Σ w z, then Σ w z zᵀ, then, if `fourth`, Σ w a² a²ᵀ (d, d), over rows first … last; squares may be null
    void (*moments)(const DenseRows<T> &, const T *weights, T *sums, index ld, T *squares, bool fourth, index first, index last);
    // `products` forms Σ r and Σ r rᵀ, unweighted; `whitened` whitens these sums, or returns false and leaves them if inaccurate
    void (*products)(const DenseRows<T> &, T *sums, index ld, index first, index last);
    bool (*whitened)(const T *prepared, T *sums, index ld, index n, index d, T *workspace);  // workspace: 2 ld²
    // from the whitened sums and Σ w: the total derivatives with respect to the mean (d) and Σ (d, d)
    void (*total)(const T *prepared, const T *sums, index ld, T count, index d, T *by_mean, T *by_matrix, T *workspace);  // workspace: 3 ld²
    index (*sums_stride)(index d);
    void (*offset)(const T *prepared, index d, T *packed, T *workspace);  // workspace: ld²
    void (*matrix)(const DenseRows<T> &, const T *offset, T *out, T *stage, index staged_rows, index first, index last);
    void (*packed)(const Packed<T> &, index first, index last);
    bool (*small)(const SmallBatch<T> &, index first, index last, T *workspace);  // false if one of them is invalid
    index (*small_workspace)(index d);
    void (*pairs)(const SymmetricKronecker<T> &, index first, index last);  // the lower triangle
    void (*mirror)(T *A, index ld, index p);
    // the lower triangle of Σ w J Jᵀ (p, p) with row stride ld; workspace: two blocks of 32 rows
    void (*gram)(const DenseRows<T> &, const T *weights, const T *offset, T *sums, index ld, T *workspace, index first, index last);
    void (*hessian)(const T *prepared, const T *first, const T *second, T n, index d, T *out, T *workspace);  // workspace: 5 ld²
    index (*factors_apart)(index k);
    void (*project)(const FactorModel<T> &, T *out, index first, index last, index from, index to);
    void (*factor_residuals)(const FactorModel<T> &, const T *minus_estimate, const T *weights, T *squares, const FactorSums<T> &, index first,
                  index last, index from, index to);
    // the same for rows A (n, p)
    void (*outer_products)(const T *A, index lda, const T *weights, T *sums, index ld, index p, T *workspace, index first, index last);
};

struct Instructions {
    const char *name;
    Kernels<float> f32;
    Kernels<double> f64;
};

extern const Instructions plain;
#ifdef MVNJAC_AVX2
extern const Instructions avx2;
#endif
#ifdef MVNJAC_AVX512
extern const Instructions avx512;
#endif

}  // namespace mvnjac
