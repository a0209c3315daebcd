// Bindings for rows of a factor model.
#pragma once
#include "binding.h"

namespace {

// The rows of a factor model in chunks, and the division of the variables into parts, which does not depend on the threads.
template <class T> struct Factors {
    FactorModel<T> args{};
    index n, d, k, most, per_part, parts;

    explicit Factors(Arguments &in) {
        args.x = in.address<T>(), args.ldx = in.integer();
        args.mean = in.address<T>(), args.inverse_root = in.address<T>(), args.loading = in.address<T>();
        n = in.integer(), d = in.integer(), args.k = k = in.integer();
        const index cells = (d + CELL_VARIABLES - 1) / CELL_VARIABLES;
        per_part = (cells + 15) / 16;
        parts = (cells + per_part - 1) / (per_part ? per_part : 1);
        most = n < 64 * CELL_ROWS ? (n + CELL_ROWS - 1) / CELL_ROWS * CELL_ROWS : 64 * CELL_ROWS;
    }
    // work(first row, last row)
    template <class Work> void in_chunks(const Work &work) const {
        for (index first = 0; first < n; first += most) work(first, first + most < n ? first + most : n);
    }
    index from(index part) const { return part * per_part * CELL_VARIABLES; }
    index to(index part) const { return from(part + 1) < d ? from(part + 1) : d; }
};

// u B (n, k), from which the factors ŵ are estimated.
template <class T> PyObject *project(Arguments in) {
    const Factors<T> rows(in);
    T *out = in.address<T>();
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    const index k = rows.k, ld = kernels<T>().factors_apart(k), each = rows.most * ld;
    if (!without_gil([&] {
            Scratch<T> scratch(rows.parts * each);
            rows.in_chunks([&](index first, index last) {
                parallel_for(rows.parts, threads, [&](index part) {
                    kernels<T>().project(rows.args, scratch.memory + part * each, first, last, rows.from(part), rows.to(part));
                });
                for (index i = 0; i < last - first; i++)
                    for (index l = 0; l < k; l++) {
                        T sum = 0;
                        for (index part = 0; part < rows.parts; part++) sum += scratch.memory[part * each + i * ld + l];
                        out[(first + i) * k + l] = sum;
                    }
            });
        }))
        return nullptr;
    Py_RETURN_NONE;
}

// For e = u − B ŵ: adds ‖e‖² to squares (n) and, if given, Σ w e and Σ w e² (d) and Σ w e ŵᵀ (d, k) to the sums.
template <class T> PyObject *factor_residuals(Arguments in) {
    const Factors<T> rows(in);
    const T *estimate = in.address<T>(), *weights = in.address<T>();
    T *squares = in.address<T>();
    FactorSums<T> sums{};
    sums.first = in.address<T>(), sums.squares = in.address<T>(), sums.by_factor = in.address<T>();
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    const index k = rows.k, ld = kernels<T>().factors_apart(k), most = rows.most;
    if (!without_gil([&] {
            Scratch<T> minus(most * ld), part_squares(rows.parts * most);
            rows.in_chunks([&](index first, index last) {
                std::fill(minus.memory, minus.memory + most * ld, T(0));
                std::fill(part_squares.memory, part_squares.memory + rows.parts * most, T(0));
                for (index i = 0; i < last - first; i++)
                    for (index l = 0; l < k; l++) minus.memory[i * ld + l] = -estimate[(first + i) * k + l];
                parallel_for(rows.parts, threads, [&](index part) {
                    kernels<T>().factor_residuals(rows.args, minus.memory, weights, part_squares.memory + part * most, sums, first, last,
                                       rows.from(part), rows.to(part));
                });
                for (index part = 0; part < rows.parts; part++)
                    for (index i = 0; i < last - first; i++) squares[first + i] += part_squares.memory[part * most + i];
            });
        }))
        return nullptr;
    Py_RETURN_NONE;
}

}  // namespace
