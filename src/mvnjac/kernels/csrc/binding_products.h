// Bindings for sums of outer products, packed triangles and symmetric Kronecker products.
#pragma once
#include "binding.h"

namespace {

// Lower triangles of p×p sums over rows, formed for each part by work(part, sums, workspace of two blocks of rows) and added pairwise.
template <class T> struct GramParts {
    index p, ld, each, count;
    Scratch<T> memory;
    GramParts(index p, index parts)
        : p(p), ld(kernels<T>().sums_stride(p)), each(ld * ld + 2 * 32 * ld + 64), count(parts ? parts : 1), memory(count * each) {}

    template <class Work> void form(int threads, const Work &work) {
        parallel_for(count, threads, [&](index part) { work(part, memory.memory + part * each, memory.memory + part * each + ld * ld); });
        add_in_pairs(memory.memory, each, count, threads, ld * ld);
    }
    T at(index i, index j) const { return memory.memory[i * ld + j]; }
};

// JᵀWJ (p, p) with respect to all parameters.
template <class T> PyObject *gram(Arguments in) {
    const DenseRows<T> args = dense_rows<T>(in);
    const T *weights = in.address<T>();
    T *out = in.address<T>();
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    const Kernels<T> &k = kernels<T>();
    const index size = args.d * (args.d + 1) / 2, p = args.d + size, ld = k.sums_stride(args.d);
    const RowParts parts(args.n, p * p, 8, p);
    if (!without_gil([&] {
            GramParts<T> sums(p, parts.count);
            Scratch<T> offset(size + 64 + ld * ld);
            for (index i = size; i < size + 64; i++) offset.memory[i] = T(0);  // read beyond the end; the results are overwritten
            k.offset(args.prepared, args.d, offset.memory, offset.memory + (size + 63) / 16 * 16);
            sums.form(threads, [&](index part, T *part_sums, T *workspace) {
                k.gram(args, weights, offset.memory, part_sums, sums.ld, workspace, parts.first(part), parts.last(part, args.n));
            });
            for (index i = 0; i < p; i++)
                for (index j = 0; j <= i; j++) out[i * p + j] = out[j * p + i] = sums.at(i, j);
        }))
        return nullptr;
    Py_RETURN_NONE;
}

// out (p, p) += Aᵀ diag(w) A for A (n, p).
template <class T> PyObject *outer_products(Arguments in) {
    const T *A = in.address<T>();
    const index lda = in.integer();
    const T *weights = in.address<T>();
    const index n = in.integer(), p = in.integer();
    T *out = in.address<T>();
    const index ldo = in.integer();
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    const RowParts parts(n, p * p, p > 64 ? 8 : 64, p);
    if (!without_gil([&] {
            GramParts<T> sums(p, parts.count);
            sums.form(threads, [&](index part, T *part_sums, T *workspace) {
                kernels<T>().outer_products(A, lda, weights, part_sums, sums.ld, p, workspace, parts.first(part), parts.last(part, n));
            });
            for (index i = 0; i < p; i++)
                for (index j = 0; j <= i; j++) {
                    out[i * ldo + j] += sums.at(i, j);
                    if (i != j) out[j * ldo + i] += sums.at(i, j);
                }
        }))
        return nullptr;
    Py_RETURN_NONE;
}

template <class T> PyObject *packed(Arguments in) {
    Packed<T> args{};
    args.out = in.address<T>(), args.ld = in.integer();
    args.left = in.address<T>(), args.left_stride = in.integer();
    args.right = in.address<T>(), args.right_stride = in.integer();
    args.offset = in.address<T>(), args.diagonal = in.address<T>();
    args.pattern = in.address<index>(), args.observed = in.address<unsigned char>();
    args.n = in.integer(), args.d = in.integer();
    args.below = static_cast<T>(in.real()), args.on = static_cast<T>(in.real());
    args.both = in.integer() != 0, args.has_diagonal = in.integer() != 0;
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    args.size = args.has_diagonal ? args.d * (args.d + 1) / 2 : args.d * (args.d - 1) / 2;
    args.streaming = args.d > LARGEST && use_streaming(args.out, ((args.n - 1) * args.ld + args.size) * index(sizeof(T)));
    const RowParts parts(args.n, args.size, 1024);
    if (!without_gil([&] {
            parallel_for(parts.count, threads, [&](index part) { kernels<T>().packed(args, parts.first(part), parts.last(part, args.n)); });
        }))
        return nullptr;
    Py_RETURN_NONE;
}

template <class T> PyObject *pairs(Arguments in) {
    SymmetricKronecker<T> args{};
    args.A = in.address<T>(), args.B = in.address<T>(), args.out = in.address<T>();
    args.d = in.integer(), args.ld = in.integer();
    args.coefficient = static_cast<T>(in.real());
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    const index size = args.d * (args.d + 1) / 2;
    const RowParts parts(size, 4 * size, 1024);
    if (!without_gil([&] {
            parallel_for(parts.count, threads, [&](index part) { kernels<T>().pairs(args, parts.first(part), parts.last(part, size)); });
            kernels<T>().mirror(args.out, args.ld, size);
        }))
        return nullptr;
    Py_RETURN_NONE;
}

}  // namespace
