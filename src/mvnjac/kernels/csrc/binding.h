// Shared by all Python bindings: arguments, the active instruction set, parts of rows, scratch memory, and release of the GIL.
#pragma once
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>
#include <string>

#include "kernel_table.h"
#include "parallel_for.h"
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace {

using namespace mvnjac;

const Instructions *active_instructions = &plain;

// The best supported instruction set, or the one of this name; null if it is not supported.
const Instructions *select_instructions(const char *requested) {
    const Instructions *supported[] = {
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
    for (const Instructions *one : supported)
        if (one && (!requested || std::string(requested) == one->name)) return one;
    return nullptr;
}

template <class T> const Kernels<T> &kernels();
template <> const Kernels<float> &kernels<float>() { return active_instructions->f32; }
template <> const Kernels<double> &kernels<double>() { return active_instructions->f64; }

// The arguments of a call, taken in order.
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
    // The result of `prepare`: a bytes object whose values begin at the first multiple of 64.
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

// Row-major rows of a prepared Gaussian.
template <class T> DenseRows<T> dense_rows(Arguments &in) {
    DenseRows<T> args{};
    args.x = in.address<T>(), args.prepared = in.prepared<T>();
    args.n = in.integer(), args.d = in.integer();
    return args;
}

// Division of rows into parts. It does not depend on the number of threads, so that sums do not depend on it either.
struct RowParts {
    index rows, count;
    RowParts(index n, index work_per_row, index most = 64, index least = 0) {
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

// Results of at least this many bytes do not fit in a cache and use non-temporal stores, if their memory has been used before. (New pages
// have just been cleared by the system and are in the cache; there non-temporal stores take twice as long.)
constexpr index STREAMING_BYTES = index(4) << 20;

// Whether sampled pages are resident. The sampled offsets are unlikely to be row starts, which writing other columns may have touched.
bool is_resident([[maybe_unused]] const void *start, [[maybe_unused]] index bytes) {
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

bool use_streaming(const void *out, index bytes) { return bytes >= STREAMING_BYTES && is_resident(out, bytes); }

template <class T> struct Scratch {
    T *memory;
    explicit Scratch(index size) {  // not std::aligned_alloc, which macOS has from 10.15 on
        void *allocated = nullptr;
        if (posix_memalign(&allocated, 64, (sizeof(T) * size + 127) / 64 * 64)) throw std::bad_alloc();
        memory = static_cast<T *>(allocated);
    }
    ~Scratch() { std::free(memory); }
};

// Runs work without the GIL; a C++ exception is raised as MemoryError in Python.
template <class Work> bool without_gil(const Work &work) {
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

// Replaces the first of `count` parts by the sum of all, pairwise in a fixed order; each has `used` elements, with stride `size`.
template <class T> void add_in_pairs(T *parts, index size, index count, int threads, index used = 0) {
    constexpr index STEP = 4096;
    used = used ? used : size;
    parallel_for((used + STEP - 1) / STEP, used * count < 1 << 16 ? 1 : threads, [&](index piece) {
        const index first = piece * STEP, last = first + STEP < used ? first + STEP : used;
        for (index step = 1; step < count; step *= 2)
            for (index part = 0; part + step < count; part += 2 * step) {
                T *to = parts + part * size;
                const T *from = parts + (part + step) * size;
                for (index i = first; i < last; i++) to[i] += from[i];
            }
    });
}

}  // namespace
