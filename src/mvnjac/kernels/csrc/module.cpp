// The Python module: integers (addresses and sizes) in, nothing of torch or numpy. The caller has checked shapes, dtypes and layout.
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <cmath>
#include <cstdlib>
#include <new>
#include <string>

#include "arguments.h"
#include "threads.h"
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace {

using namespace mvnjac;

const Instructions *chosen = &plain;

const Instructions *best(const char *wish) {
    const Instructions *known[] = {
#if defined(MVNJAC_AVX512)
        __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512bw")
            ? &avx512
            : nullptr,
#endif
#if defined(MVNJAC_AVX2)
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &avx2 : nullptr,
#endif
        &plain,
    };
    for (const Instructions *one : known)
        if (one && (!wish || std::string(wish) == one->name)) return one;
    return nullptr;
}

template <class T> const Kernels<T> &kernels();
template <> const Kernels<float> &kernels<float>() { return chosen->f32; }
template <> const Kernels<double> &kernels<double>() { return chosen->f64; }

// The arguments of a call, one after the other.
struct Arguments {
    PyObject *const *values;
    Py_ssize_t count, next = 0;
    bool failed = false;

    PyObject *take() {
        if (next < count) return values[next++];
        if (!failed) PyErr_SetString(PyExc_TypeError, "too few arguments");
        failed = true;
        return nullptr;
    }
    // What `prepare` has made: bytes, whose numbers begin at a multiple of 64.
    template <class T> T *prepared() {
        PyObject *value = take();
        char *memory = value ? PyBytes_AsString(value) : nullptr;
        if (!memory) failed = true;
        return reinterpret_cast<T *>((reinterpret_cast<size_t>(memory) + 63) / 64 * 64);
    }
    template <class P> P *address() { return reinterpret_cast<P *>(static_cast<size_t>(integer())); }
    index integer() {
        PyObject *value = take();
        const long long number = value ? PyLong_AsLongLong(value) : 0;
        if (number == -1 && PyErr_Occurred()) failed = true;
        return number;
    }
    double real() {
        PyObject *value = take();
        const double number = value ? PyFloat_AsDouble(value) : 0;
        if (number == -1 && PyErr_Occurred()) failed = true;
        return number;
    }
};

// Rows in parts whose number does not depend on the threads, so that sums do not either.
struct Parts {
    index rows, count;
    Parts(index n, index work_per_row, index most = 64, index least = 0) {
        const index enough = 1 + (index(1) << 18) / (work_per_row + 1);
        rows = (n + most - 1) / most;
        if (rows < enough) rows = enough;
        if (rows < least) rows = least;
        rows = (rows + 31) / 32 * 32;
        count = (n + rows - 1) / rows;
    }
    index first(index part) const { return part * rows; }
    index last(index part, index n) const { return (part + 1) * rows < n ? (part + 1) * rows : n; }
};

// Results of so many bytes do not stay in a cache anyway: they are written past it, where their memory has been used before
// (fresh pages have just been cleared by the system, in the cache: writing past it takes twice as long).
constexpr index STREAMED = index(4) << 20;

// Whether some pages within are there already; not where rows are likely to begin, which other columns have then been written to.
bool used_before([[maybe_unused]] const void *start, [[maybe_unused]] index bytes) {
#if defined(__linux__)
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), at = reinterpret_cast<size_t>(start);
    for (size_t part : {137, 263, 389, 521, 641, 769, 887}) {
        const size_t inside = (at + static_cast<size_t>(bytes) / 1009 * part) / page * page;
        unsigned char there = 0;
        if (mincore(reinterpret_cast<void *>(inside), page, &there) || !(there & 1)) return false;
    }
    return true;
#else
    return false;
#endif
}

bool streams(const void *out, index bytes) { return bytes >= STREAMED && used_before(out, bytes); }

template <class T> struct Scratch {
    T *memory;
    explicit Scratch(index size) : memory(static_cast<T *>(std::aligned_alloc(64, (sizeof(T) * size + 127) / 64 * 64))) {
        if (!memory) throw std::bad_alloc();
    }
    ~Scratch() { std::free(memory); }
};

// Without the interpreter's lock: whatever is thrown comes back as an exception of Python.
template <class Work> bool freely(const Work &work) {
    bool failed = false;
    PyThreadState *state = PyEval_SaveThread();
    try {
        work();
    } catch (...) {
        failed = true;
    }
    PyEval_RestoreThread(state);
    if (failed) PyErr_NoMemory();
    return !failed;
}

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
    Dense<T> of{};
    of.x = in.address<T>(), of.prepared = in.prepared<T>();
    of.n = in.integer(), of.d = in.integer();
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
    Dense<T> of{};
    of.x = in.address<T>(), of.column = in.integer(), of.prepared = in.prepared<T>();
    of.n = in.integer(), of.d = in.integer();
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
            for (index step = 1; step < parts.count; step *= 2)  // in pairs, in an order of their own
                for (index part = 0; part + step < parts.count; part += 2 * step)
                    for (index i = 0; i < size; i++) sums[part * size + i] += sums[(part + step) * size + i];
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
    Dense<T> of{};
    of.x = in.address<T>(), of.prepared = in.prepared<T>();
    of.n = in.integer(), of.d = in.integer();
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

// Lower triangles of p×p sums over rows, formed part by part and added in pairs: work(part, sums, workspace of two blocks of rows).
template <class T> struct Squares {
    index p, ld, each, count;
    Scratch<T> memory;
    Squares(index p, index parts)
        : p(p), ld(kernels<T>().sums_stride(p)), each(ld * ld + 2 * 32 * ld + 64), count(parts ? parts : 1), memory(count * each) {}

    template <class Work> void form(int threads, const Work &work) {
        divide(count, threads, [&](index part) { work(part, memory.memory + part * each, memory.memory + part * each + ld * ld); });
        for (index step = 1; step < count; step *= 2)
            for (index part = 0; part + step < count; part += 2 * step)
                for (index i = 0; i < ld * ld; i++) memory.memory[part * each + i] += memory.memory[(part + step) * each + i];
    }
    T at(index i, index j) const { return memory.memory[i * ld + j]; }
};

// JᵀWJ (p, p) over all columns.
template <class T> PyObject *gram(Arguments in) {
    Dense<T> of{};
    of.x = in.address<T>(), of.prepared = in.prepared<T>();
    of.n = in.integer(), of.d = in.integer();
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

template <class T> PyObject *small(Arguments in) {
    Small<T> of{};
    of.x = in.address<T>(), of.mean = in.address<T>(), of.covariance = in.address<T>();
    of.log_prob = in.address<T>(), of.scaled = in.address<T>(), of.gradient = in.address<T>();
    of.count = in.integer(), of.d = in.integer();
    of.tolerance = static_cast<T>(in.real());
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    std::atomic<bool> good{true};
    const Parts parts(of.count, of.d * of.d * of.d, 1024);
    if (!freely([&] {
            const Kernels<T> &k = kernels<T>();
            divide(parts.count, threads, [&](index part) {
                if (!good) return;
                Scratch<T> workspace(k.small_workspace(of.d));
                if (!k.small(of, parts.first(part), parts.last(part, of.count), workspace.memory)) good = false;
            });
        }))
        return nullptr;
    return PyBool_FromLong(good);
}

PyObject *instructions(PyObject *, PyObject *) { return PyUnicode_FromString(chosen->name); }

PyObject *use_instructions(PyObject *, PyObject *name) {
    PyObject *bytes = PyUnicode_AsUTF8String(name);
    if (!bytes) return nullptr;
    const Instructions *found = best(PyBytes_AsString(bytes));
    Py_DECREF(bytes);
    if (!found) {
        PyErr_SetString(PyExc_ValueError, "these instructions are not known here, or not of this machine");
        return nullptr;
    }
    chosen = found;
    Py_RETURN_NONE;
}

PyObject *advise_huge(PyObject *, PyObject *const *values, Py_ssize_t count) {
    Arguments in{values, count};
    const size_t address = static_cast<size_t>(in.integer()), size = static_cast<size_t>(in.integer());
    if (in.failed) return nullptr;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const size_t page = 4096, first = (address + page - 1) / page * page, last = (address + size) / page * page;
    if (last > first && madvise(reinterpret_cast<void *>(first), last - first, MADV_HUGEPAGE) == 0) Py_RETURN_TRUE;
#endif
    Py_RETURN_FALSE;
}

template <PyObject *(*single)(Arguments), PyObject *(*twice)(Arguments)>
PyObject *by_size(PyObject *, PyObject *const *values, Py_ssize_t count) {
    Arguments in{values, count};
    const index itemsize = in.integer();
    if (in.failed) return nullptr;
    return itemsize == 4 ? single(in) : twice(in);
}

#define BOTH(name) (PyCFunction)(void (*)(void))by_size<name<float>, name<double>>, METH_FASTCALL, nullptr

PyMethodDef methods[] = {
    {"prepare", BOTH(prepare)},
    {"finite", BOTH(finite)},
    {"symmetric", BOTH(symmetric)},
    {"log_prob", BOTH(log_prob)},
    {"prepare_triangle", BOTH(prepare_triangle)},
    {"sums", BOTH(sums)},
    {"whitens_sums", BOTH(whitens_sums)},
    {"matrix", BOTH(matrix)},
    {"gram", BOTH(gram)},
    {"outer_products", BOTH(outer_products)},
    {"hessian", BOTH(hessian)},
    {"packed", BOTH(packed)},
    {"pairs", BOTH(pairs)},
    {"small", BOTH(small)},
    {"instructions", instructions, METH_NOARGS, nullptr},
    {"use_instructions", use_instructions, METH_O, nullptr},
    {"advise_huge", (PyCFunction)(void (*)(void))advise_huge, METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__native(void) {
    chosen = best(nullptr);
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntConstant(module, "LARGEST", LARGEST) == 0 && PyModule_AddIntConstant(module, "LARGEST_SMALL", LARGEST_SMALL) == 0 &&
        PyModule_AddIntConstant(module, "LARGEST_GRAM", LARGEST_GRAM) == 0)
        return module;
    Py_XDECREF(module);
    return nullptr;
}
