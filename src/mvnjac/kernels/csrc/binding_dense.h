// Bindings for rows of one dense Gaussian: preparation, log-density, totals, the matrix and second derivatives.
#pragma once
#include "binding.h"

namespace {

PyObject *allocate_prepared(index d, index itemsize) {
    return PyBytes_FromStringAndSize(nullptr, PreparedLayout(d).size * itemsize + 64);
}

// The prepared Gaussian, or the error code of the values of x (if given), the mean and Σ.
template <class T> PyObject *prepare(Arguments in) {
    const T *x = in.address<T>(), *mean = in.address<T>(), *covariance = in.address<T>();
    const index n = in.integer(), d = in.integer();
    const T tolerance = static_cast<T>(in.real());
    PyObject *result = in.failed ? nullptr : allocate_prepared(d, sizeof(T));
    if (!result) return nullptr;
    T *prepared = Arguments{&result, 1}.prepared<T>();
    int error = 0;
    const auto work = [&] {
        error = kernels<T>().prepare(mean, covariance, d, tolerance, prepared);
        if (!error && x && !kernels<T>().finite(x, n * d)) error = 1;
    };
    if (n * d < 10000) work();
    else if (!without_gil(work)) return Py_DECREF(result), nullptr;
    if (!error) return result;
    Py_DECREF(result);
    return PyLong_FromLong(error);
}

template <class T> PyObject *prepare_triangle(Arguments in) {
    const T *mean = in.address<T>(), *L = in.address<T>();
    const index row = in.integer(), column = in.integer(), d = in.integer();
    PyObject *result = in.failed ? nullptr : allocate_prepared(d, sizeof(T));
    if (result) kernels<T>().prepare_triangle(mean, L, row, column, d, Arguments{&result, 1}.prepared<T>());
    return result;
}

template <class T> PyObject *finite(Arguments in) {
    const T *x = in.address<T>();
    const index count = in.integer();
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    std::atomic<bool> all_finite{true};
    const RowParts parts(count, 1);
    const auto work = [&] {
        parallel_for(parts.count, threads, [&](index part) {
            const index first = parts.first(part);
            if (all_finite && !kernels<T>().finite(x + first, parts.last(part, count) - first)) all_finite = false;
        });
    };
    if (count < 10000) all_finite = kernels<T>().finite(x, count);
    else if (!without_gil(work)) return nullptr;
    return PyBool_FromLong(all_finite);
}

template <class T> PyObject *symmetric(Arguments in) {
    const T *A = in.address<T>();
    const index d = in.integer();
    if (in.failed) return nullptr;
    bool same = true;
    if (!without_gil([&] { same = kernels<T>().symmetric(A, d); })) return nullptr;
    return PyBool_FromLong(same);
}

template <class T> PyObject *log_prob(Arguments in) {
    const DenseRows<T> args = dense_rows<T>(in);
    T *out = in.address<T>();
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    const RowParts parts(args.n, args.d * args.d, args.d > 64 ? 16 : 64);
    const auto work = [&] {
        parallel_for(parts.count, threads, [&](index part) { kernels<T>().log_prob(args, out, parts.first(part), parts.last(part, args.n)); });
    };
    if (args.n * args.d < 1000) work();
    else if (!without_gil(work)) return nullptr;
    Py_RETURN_NONE;
}

// Whether summing before whitening is accurate, and its d³ operations are few compared with the sums.
template <class T> bool sums_before_whitening(const DenseRows<T> &args) { return args.n >= 4 * args.d && args.prepared[1] <= T(MAX_SPREAD); }

template <class T> PyObject *whitens_sums(Arguments in) {
    DenseRows<T> args{};
    args.prepared = in.prepared<T>();
    args.n = in.integer(), args.d = in.integer();
    if (in.failed) return nullptr;
    return PyBool_FromLong(sums_before_whitening(args));
}

enum Sums { WHITENED, COMPLETED, CENTRED };

// WHITENED: Σ w z (d) and Σ w z zᵀ (d, d) of whitened rows. COMPLETED: the total derivatives with respect to the mean and Σ. CENTRED: the
// sums of centred rows, without weights. Optionally ‖z‖² of each row, and Σ w a² a²ᵀ (d, d) of a = Σ⁻¹ (x − µ).
template <class T> PyObject *sums(Arguments in) {
    DenseRows<T> args = dense_rows<T>(in);
    args.column = in.integer();
    const T *weights = in.address<T>();
    T *first = in.address<T>(), *second = in.address<T>(), *squares = in.address<T>(), *fourth = in.address<T>();
    const index kind = in.integer();
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    const Kernels<T> &k = kernels<T>();
    const index ld = k.sums_stride(args.d), size = ((fourth ? 2 : 1) * ld + 1) * ld;
    // at least d rows per part; otherwise adding the parts costs as much as forming them
    const RowParts parts(args.n, args.d * args.d, args.d > 64 ? 16 : 64, args.d);
    const auto work = [&] {
        const index total_size = size * (parts.count ? parts.count : 1);
        Scratch<T> scratch(total_size + 3 * ld * ld);
        T *sums = scratch.memory, count = T(args.n);
        const auto sum_parts = [&](const auto &sum_rows) {
            parallel_for(parts.count, threads, [&](index part) { sum_rows(sums + part * size, parts.first(part), parts.last(part, args.n)); });
            add_in_pairs(sums, size, parts.count, threads);
        };
        bool is_whitened = kind == CENTRED;
        if (is_whitened || (!weights && !squares && !fourth && !args.column && sums_before_whitening(args))) {
            sum_parts([&](T *part_sums, index first, index last) { k.products(args, part_sums, ld, first, last); });
            is_whitened = is_whitened || k.whitened(args.prepared, sums, ld, args.n, args.d, scratch.memory + total_size);
        }
        if (!is_whitened) {
            if (!parts.count) k.moments(args, weights, sums, ld, squares, fourth != nullptr, 0, 0);
            sum_parts([&](T *part_sums, index first, index last) {
                k.moments(args, weights, part_sums, ld, squares, fourth != nullptr, first, last);
            });
        }
        if (kind == COMPLETED) {
            if (weights) {
                double total_weight = 0;
                for (index i = 0; i < args.n; i++) total_weight += weights[i];
                count = T(total_weight);
            }
            k.total(args.prepared, sums, ld, count, args.d, first, second, scratch.memory + total_size);
            return;
        }
        for (index i = 0; i < args.d; i++) {
            first[i] = sums[i];
            for (index j = 0; j <= i; j++) second[i * args.d + j] = second[j * args.d + i] = sums[(1 + i) * ld + j];
        }
        for (index i = 0; fourth && i < args.d; i++)
            for (index j = 0; j <= i; j++) fourth[i * args.d + j] = fourth[j * args.d + i] = sums[(1 + ld + i) * ld + j];
    };
    if (args.n * args.d < 1000) work();
    else if (!without_gil(work)) return nullptr;
    Py_RETURN_NONE;
}

template <class T> PyObject *matrix(Arguments in) {
    const DenseRows<T> args = dense_rows<T>(in);
    T *out = in.address<T>();
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    const index size = args.d * (args.d + 1) / 2;
    const RowParts parts(args.n, args.d * args.d, 1024);
    const auto work = [&] {
        const index ld = kernels<T>().sums_stride(args.d);
        Scratch<T> offset(size + 64 + ld * ld);
        for (index i = size; i < size + 64; i++) offset.memory[i] = T(0);  // read beyond the end; the results are overwritten
        kernels<T>().offset(args.prepared, args.d, offset.memory, offset.memory + (size + 63) / 16 * 16);
        const index p = args.d + size, fit = (index(1) << 15) / (p * index(sizeof(T))), staged_rows = fit < 1 ? 1 : fit < 32 ? fit : 32;
        const bool streaming = use_streaming(out, args.n * p * index(sizeof(T)));
        parallel_for(parts.count, threads, [&](index part) {
            const index first = parts.first(part), last = parts.last(part, args.n);
            Scratch<T> stage(streaming ? staged_rows * p + 64 : 1);
            kernels<T>().matrix(args, offset.memory, out, streaming ? stage.memory : nullptr, staged_rows, first, last);
        });
    };
    if (args.n * args.d < 100) work();
    else if (!without_gil(work)) return nullptr;
    Py_RETURN_NONE;
}

// The Hessian (p, p) from the sums of whitened rows, n the number of rows or the sum of weights.
template <class T> PyObject *hessian(Arguments in) {
    const T *prepared = in.prepared<T>(), *first = in.address<T>(), *second = in.address<T>();
    const T n = static_cast<T>(in.real());
    const index d = in.integer();
    T *out = in.address<T>();
    if (in.failed) return nullptr;
    const index ld = kernels<T>().sums_stride(d);
    const auto work = [&] {
        Scratch<T> scratch(5 * ld * ld);
        kernels<T>().hessian(prepared, first, second, n, d, out, scratch.memory);
    };
    if (!without_gil(work)) return nullptr;
    Py_RETURN_NONE;
}

}  // namespace
