// What the kernels are called with, and the table of them that each instruction set fills in.
#pragma once

namespace mvnjac {

typedef long long index;

// d above which the kernels of dense rows are not used: Σ and what is made of it no longer stay in the cache of a core, and the
// BLAS of torch is better.
constexpr index LARGEST = 256;
// The same for many Gaussians in step, of which as many as a vector has lanes are at work.
constexpr index LARGEST_SMALL = 64;
// The same for JᵀJ, which stays in the cache with a block of rows.
constexpr index LARGEST_GRAM = 30;

// Rows may be summed before they are whitened where an error of the sums, of the size of eps √(Σ_ii Σ_jj), grows at most so many times:
// to the spread, the largest Σ_i C_ki² Σ_ii.
constexpr int NARROW = 8;

// One Gaussian, factorised by `prepare`, in memory that the caller owns: element positions in it.
struct Layout {
    index mean, inverse, transposed, size;  // µ; C = L⁻¹ and Cᵀ row by row; position 0 holds log det Σ + d log 2π, 1 the spread
    explicit Layout(index d) {
        const index row = (d + 15) / 16 * 16;
        mean = 16;
        inverse = mean + row;
        transposed = inverse + row * row;
        size = transposed + row * row;
    }
};

// Rows x (n, d) of one Gaussian. Totals are formed in `parts` of the rows, whose number does not depend on the threads.
template <class T> struct Dense {
    const T *x;
    const T *prepared;
    index n, d;
    index column;  // the distance between columns where x lies column after column, 0 where it lies row after row
};

// The packed derivative by a matrix: out[row, k(i,j)] = c_ij left_i right_j (+ c_ij right_i left_j) + offset_k over the lower
// triangle, column after column.
template <class T> struct Packed {
    T *out;                 // (n, ...) rows at a distance of ld elements
    const T *left, *right;  // (n, d) rows at distances
    const T *offset;        // (patterns, size), already with multiplicities
    const T *diagonal;      // (d) factors of the diagonal of the product, or null
    const index *pattern;   // (n) which offset a row takes, or null: the first
    const unsigned char *observed;  // (n, d) entries that are there, or null; where a variable is missing its elements are 0
    index n, d, ld, left_stride, right_stride, size;
    T below, on;            // c_ij below and on the diagonal
    bool both, with_diagonal;
    bool past_caches;       // long columns are written past the caches
};

// Many Gaussians of one row each: x, mean (count, d), covariance (count, d, d).
template <class T> struct Small {
    const T *x, *mean, *covariance;
    T *log_prob, *scaled, *gradient;  // (count), (count, d) a, (count, d, d) ½ (a aᵀ − Σ⁻¹); the last may be null
    index count, d;
    T tolerance;
};

// c Dᵀ (A ⊗ B) D made symmetric: A and B symmetric (d, d); out has d(d+1)/2 rows at the distance ld.
template <class T> struct Pairs {
    const T *A, *B;
    T *out;
    index d, ld;
    T coefficient;
};

// Cells of a factor model: some rows of some variables, which stay in the cache with what belongs to them; and its most factors.
constexpr index CELL_ROWS = 32, CELL_VARIABLES = 128, LARGEST_RANK = 64;

// Rows x (n, d) at a distance, of Σ = W Wᵀ + diag(v): µ, v^-½ (d), B = v^-½ W (d, k).
template <class T> struct FactorModel {
    const T *x, *mean, *inverse_root, *loading;
    index ldx, k;
};

// Σ w e and Σ w e² (d), Σ w e ŵᵀ (d, k); or null.
template <class T> struct FactorSums {
    T *first, *squares, *by_factor;
};

template <class T> struct Kernels {
    // 0, or the first thing found wrong: 1 numbers that are not finite, 2 asymmetry, 3 not positive definite
    int (*prepare)(const T *mean, const T *covariance, index d, T tolerance, T *prepared);
    void (*prepare_triangle)(const T *mean, const T *L, index row, index column, index d, T *prepared);
    bool (*finite)(const T *x, index count);
    bool (*symmetric)(const T *A, index d);
    void (*log_prob)(const Dense<T> &, T *out, index first, index last);
    // sums (d + 1, d): Σ w z, then Σ w z zᵀ, then, if `fourth`, (d, d) Σ w a² a²ᵀ; over rows first … last; squares may be null
    void (*moments)(const Dense<T> &, const T *weights, T *sums, index ld, T *squares, bool fourth, index first, index last);
    // the first two from Σ r and Σ r rᵀ, unweighted, which lie there already; false, and nothing done, where that would cost digits
    void (*products)(const Dense<T> &, T *sums, index ld, index first, index last);
    bool (*whitened)(const T *prepared, T *sums, index ld, index n, index d, T *workspace);  // 2 ld²
    // from these sums and Σ w: the totals by the mean (d) and by Σ (d, d)
    void (*total)(const T *prepared, const T *sums, index ld, T count, index d, T *by_mean, T *by_matrix, T *workspace);  // 3 ld²
    index (*sums_stride)(index d);
    void (*offset)(const T *prepared, index d, T *packed, T *workspace);  // ld²
    void (*matrix)(const Dense<T> &, const T *offset, T *out, T *stage, index staged, index first, index last);
    void (*packed)(const Packed<T> &, index first, index last);
    bool (*small)(const Small<T> &, index first, index last, T *workspace);  // false: something is wrong with one of them
    index (*small_workspace)(index d);
    void (*pairs)(const Pairs<T> &, index first, index last);  // the lower triangle
    void (*mirror)(T *A, index ld, index p);
    // the lower triangle of Σ w J Jᵀ (p, p), rows ld apart; workspace: two blocks of 32 rows
    void (*gram)(const Dense<T> &, const T *weights, const T *offset, T *sums, index ld, T *workspace, index first, index last);
    void (*hessian)(const T *prepared, const T *first, const T *second, T n, index d, T *out, T *workspace);  // 5 ld²
    index (*factors_apart)(index k);
    void (*project)(const FactorModel<T> &, T *out, index first, index last, index from, index to);
    void (*factor_residuals)(const FactorModel<T> &, const T *minus_estimate, const T *weights, T *squares, const FactorSums<T> &, index first,
                  index last, index from, index to);
    // the same as gram of rows A (n, p)
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
