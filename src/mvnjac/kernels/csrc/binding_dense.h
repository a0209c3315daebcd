// Calls for rows of one dense Gaussian: prepared, then asked for values, totals, the matrix, and second derivatives.
#pragma once
#include "binding.h"

namespace {

PyObject *room(index d, index itemsize) { return PyBytes_FromStringAndSize(nullptr, Layout(d).size * itemsize + 64); }

// The prepared Gaussian, or what is wrong with the numbers of x (if given), the mean and Σ.
template <class T> PyObject *prepare(Arguments in) {
    const T *x = in.address<T>(), *mean = in.address<T>(), *covariance = in.address<T>();
    const index n = in.integer(), d = in.integer();
    const T tolerance = static_cast<T>(in.real());
    PyObject *result = in.failed ? nullptr : room(d, sizeof(T));
    if (!result) return nullptr;
    T *prepared = Arguments{&result, 1}.prepared<T>();
    int wrong = 0;
    const auto work = [&] {
        wrong = kernels<T>().prepare(mean, covariance, d, tolerance, prepared);
        if (!wrong && x && !kernels<T>().finite(x, n * d)) wrong = 1;
    };
    if (n * d < 10000) work();
    else if (!freely(work)) return Py_DECREF(result), nullptr;
    if (!wrong) return result;
    Py_DECREF(result);
    return PyLong_FromLong(wrong);
}

template <class T> PyObject *prepare_triangle(Arguments in) {
    const T *mean = in.address<T>(), *L = in.address<T>();
    const index row = in.integer(), column = in.integer(), d = in.integer();
    PyObject *result = in.failed ? nullptr : room(d, sizeof(T));
    if (result) kernels<T>().prepare_triangle(mean, L, row, column, d, Arguments{&result, 1}.prepared<T>());
    return result;
}

template <class T> PyObject *finite(Arguments in) {
    const T *x = in.address<T>();
    const index count = in.integer();
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    std::atomic<bool> all{true};
    const Parts parts(count, 1);
    const auto work = [&] {
        divide(parts.count, threads, [&](index part) {
            if (all && !kernels<T>().finite(x + parts.first(part), parts.last(part, count) - parts.first(part))) all = false;
        });
    };
    if (count < 10000) all = kernels<T>().finite(x, count);
    else if (!freely(work)) return nullptr;
    return PyBool_FromLong(all);
}

template <class T> PyObject *symmetric(Arguments in) {
    const T *A = in.address<T>();
    const index d = in.integer();
    if (in.failed) return nullptr;
    bool same = true;
    if (!freely([&] { same = kernels<T>().symmetric(A, d); })) return nullptr;
    return PyBool_FromLong(same);
}

template <class T> PyObject *log_prob(Arguments in) {
    const Dense<T> of = dense_rows<T>(in);
    T *out = in.address<T>();
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    const Parts parts(of.n, of.d * of.d, of.d > 64 ? 16 : 64);
    const auto work = [&] {
        divide(parts.count, threads, [&](index part) { kernels<T>().log_prob(of, out, parts.first(part), parts.last(part, of.n)); });
    };
    if (of.n * of.d < 1000) work();
    else if (!freely(work)) return nullptr;
    Py_RETURN_NONE;
}

// Whether half the arithmetic costs no digits, and the d³ of it are little beside that.
template <class T> bool sums_before_whitening(const Dense<T> &of) { return of.n >= 4 * of.d && of.prepared[1] <= T(NARROW); }

template <class T> PyObject *whitens_sums(Arguments in) {
    Dense<T> of{};
    of.prepared = in.prepared<T>();
    of.n = in.integer(), of.d = in.integer();
    if (in.failed) return nullptr;
    return PyBool_FromLong(sums_before_whitening(of));
}

enum Sums { WHITENED, COMPLETED, CENTRED };

// Of whitened rows Σ w z (d) and Σ w z zᵀ (d, d), or completed: the totals by the mean and by Σ; or of centred rows, without
// weights. Where wanted ‖z‖² of each row, and Σ w a² a²ᵀ (d, d) of a = Σ⁻¹ (x − µ).
template <class T> PyObject *sums(Arguments in) {
    Dense<T> of = dense_rows<T>(in);
    of.column = in.integer();
    const T *weights = in.address<T>();
    T *first = in.address<T>(), *second = in.address<T>(), *squares = in.address<T>(), *fourth = in.address<T>();
    const index what = in.integer();
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    const Kernels<T> &k = kernels<T>();
    const index ld = k.sums_stride(of.d), size = ((fourth ? 2 : 1) * ld + 1) * ld;
    const Parts parts(of.n, of.d * of.d, of.d > 64 ? 16 : 64, of.d);  // d rows at least, or adding the parts costs as much as forming them
    const auto work = [&] {
        const index room = size * (parts.count ? parts.count : 1);
        Scratch<T> scratch(room + 3 * ld * ld);
        T *sums = scratch.memory, count = T(of.n);
        const auto form = [&](const auto &formed) {
            divide(parts.count, threads, [&](index part) { formed(sums + part * size, parts.first(part), parts.last(part, of.n)); });
            add_in_pairs(sums, size, parts.count, threads);
        };
        bool done = what == CENTRED;
        if (done || (!weights && !squares && !fourth && !of.column && sums_before_whitening(of))) {
            form([&](T *own, index first, index last) { k.products(of, own, ld, first, last); });
            done = done || k.whitened(of.prepared, sums, ld, of.n, of.d, scratch.memory + room);
        }
        if (!done) {
            if (!parts.count) k.moments(of, weights, sums, ld, squares, fourth != nullptr, 0, 0);
            form([&](T *own, index first, index last) { k.moments(of, weights, own, ld, squares, fourth != nullptr, first, last); });
        }
        if (what == COMPLETED) {
            if (weights) {
                double all = 0;
                for (index i = 0; i < of.n; i++) all += weights[i];
                count = T(all);
            }
            k.total(of.prepared, sums, ld, count, of.d, first, second, scratch.memory + room);
            return;
        }
        for (index i = 0; i < of.d; i++) {
            first[i] = sums[i];
            for (index j = 0; j <= i; j++) second[i * of.d + j] = second[j * of.d + i] = sums[(1 + i) * ld + j];
        }
        for (index i = 0; fourth && i < of.d; i++)
            for (index j = 0; j <= i; j++) fourth[i * of.d + j] = fourth[j * of.d + i] = sums[(1 + ld + i) * ld + j];
    };
    if (of.n * of.d < 1000) work();
    else if (!freely(work)) return nullptr;
    Py_RETURN_NONE;
}

template <class T> PyObject *matrix(Arguments in) {
    const Dense<T> of = dense_rows<T>(in);
    T *out = in.address<T>();
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    const index size = of.d * (of.d + 1) / 2;
    const Parts parts(of.n, of.d * of.d, 1024);
    const auto work = [&] {
        const index ld = kernels<T>().sums_stride(of.d);
        Scratch<T> offset(size + 64 + ld * ld);
        for (index i = size; i < size + 64; i++) offset.memory[i] = T(0);  // read past the end, and overwritten
        kernels<T>().offset(of.prepared, of.d, offset.memory, offset.memory + (size + 63) / 16 * 16);
        const index p = of.d + size, fit = (index(1) << 15) / (p * index(sizeof(T))), staged = fit < 1 ? 1 : fit < 32 ? fit : 32;
        const bool past = streams(out, of.n * p * index(sizeof(T)));
        divide(parts.count, threads, [&](index part) {
            const index first = parts.first(part), last = parts.last(part, of.n);
            Scratch<T> stage(past ? staged * p + 64 : 1);
            kernels<T>().matrix(of, offset.memory, out, past ? stage.memory : nullptr, staged, first, last);
        });
    };
    if (of.n * of.d < 100) work();
    else if (!freely(work)) return nullptr;
    Py_RETURN_NONE;
}

// The Hessian (p, p) from the sums of n whitened rows (or weights).
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
    if (!freely(work)) return nullptr;
    Py_RETURN_NONE;
}

}  // namespace
