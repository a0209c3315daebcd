// Calls for sums of outer products, packed triangles and pairs of unique elements.
#pragma once
#include "binding.h"

namespace {

// Lower triangles of p×p sums over rows, formed part by part and added in pairs: work(part, sums, workspace of two blocks of rows).
template <class T> struct Squares {
    index p, ld, each, count;
    Scratch<T> memory;
    Squares(index p, index parts)
        : p(p), ld(kernels<T>().sums_stride(p)), each(ld * ld + 2 * 32 * ld + 64), count(parts ? parts : 1), memory(count * each) {}

    template <class Work> void form(int threads, const Work &work) {
        divide(count, threads, [&](index part) { work(part, memory.memory + part * each, memory.memory + part * each + ld * ld); });
        add_in_pairs(memory.memory, each, count, threads, ld * ld);
    }
    T at(index i, index j) const { return memory.memory[i * ld + j]; }
};

// JᵀWJ (p, p) over all columns.
template <class T> PyObject *gram(Arguments in) {
    const Dense<T> of = dense_rows<T>(in);
    const T *weights = in.address<T>();
    T *out = in.address<T>();
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    const Kernels<T> &k = kernels<T>();
    const index size = of.d * (of.d + 1) / 2, p = of.d + size, own = k.sums_stride(of.d);
    const Parts parts(of.n, p * p, 8, p);
    if (!freely([&] {
            Squares<T> sums(p, parts.count);
            Scratch<T> offset(size + 64 + own * own);
            for (index i = size; i < size + 64; i++) offset.memory[i] = T(0);  // read past the end, and overwritten
            k.offset(of.prepared, of.d, offset.memory, offset.memory + (size + 63) / 16 * 16);
            sums.form(threads, [&](index part, T *own_sums, T *workspace) {
                k.gram(of, weights, offset.memory, own_sums, sums.ld, workspace, parts.first(part), parts.last(part, of.n));
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
    const Parts parts(n, p * p, p > 64 ? 8 : 64, p);
    if (!freely([&] {
            Squares<T> sums(p, parts.count);
            sums.form(threads, [&](index part, T *own, T *workspace) {
                kernels<T>().outer_products(A, lda, weights, own, sums.ld, p, workspace, parts.first(part), parts.last(part, n));
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
    Packed<T> of{};
    of.out = in.address<T>(), of.ld = in.integer();
    of.left = in.address<T>(), of.left_stride = in.integer();
    of.right = in.address<T>(), of.right_stride = in.integer();
    of.offset = in.address<T>(), of.diagonal = in.address<T>();
    of.pattern = in.address<index>(), of.observed = in.address<unsigned char>();
    of.n = in.integer(), of.d = in.integer();
    of.below = static_cast<T>(in.real()), of.on = static_cast<T>(in.real());
    of.both = in.integer() != 0, of.with_diagonal = in.integer() != 0;
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    of.size = of.with_diagonal ? of.d * (of.d + 1) / 2 : of.d * (of.d - 1) / 2;
    of.past_caches = of.d > LARGEST && streams(of.out, ((of.n - 1) * of.ld + of.size) * index(sizeof(T)));
    const Parts parts(of.n, of.size, 1024);
    if (!freely([&] {
            divide(parts.count, threads, [&](index part) { kernels<T>().packed(of, parts.first(part), parts.last(part, of.n)); });
        }))
        return nullptr;
    Py_RETURN_NONE;
}

template <class T> PyObject *pairs(Arguments in) {
    Pairs<T> of{};
    of.A = in.address<T>(), of.B = in.address<T>(), of.out = in.address<T>();
    of.d = in.integer(), of.ld = in.integer();
    of.coefficient = static_cast<T>(in.real());
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    const index size = of.d * (of.d + 1) / 2;
    const Parts parts(size, 4 * size, 1024);
    if (!freely([&] {
            divide(parts.count, threads, [&](index part) { kernels<T>().pairs(of, parts.first(part), parts.last(part, size)); });
            kernels<T>().mirror(of.out, of.ld, size);
        }))
        return nullptr;
    Py_RETURN_NONE;
}

}  // namespace
