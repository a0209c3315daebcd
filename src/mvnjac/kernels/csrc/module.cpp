// The Python module. Arguments are integers (addresses and sizes), without torch or numpy; the caller checks shapes, dtypes and strides.
#include "binding_dense.h"
#include "binding_factors.h"
#include "binding_products.h"

namespace {

template <class T> PyObject *small(Arguments in) {
    SmallBatch<T> args{};
    args.x = in.address<T>(), args.mean = in.address<T>(), args.covariance = in.address<T>();
    args.log_prob = in.address<T>(), args.scaled = in.address<T>(), args.gradient = in.address<T>();
    args.count = in.integer(), args.d = in.integer();
    args.tolerance = static_cast<T>(in.real());
    const int threads = static_cast<int>(in.integer());
    if (in.failed) return nullptr;
    std::atomic<bool> good{true};
    const RowParts parts(args.count, args.d * args.d * args.d, 1024);
    if (!without_gil([&] {
            const Kernels<T> &k = kernels<T>();
            parallel_for(parts.count, threads, [&](index part) {
                if (!good) return;
                Scratch<T> workspace(k.small_workspace(args.d));
                if (!k.small(args, parts.first(part), parts.last(part, args.count), workspace.memory)) good = false;
            });
        }))
        return nullptr;
    return PyBool_FromLong(good);
}

PyObject *instructions(PyObject *, PyObject *) { return PyUnicode_FromString(active_instructions->name); }

PyObject *use_instructions(PyObject *, PyObject *name) {
    PyObject *bytes = PyUnicode_AsUTF8String(name);
    if (!bytes) return nullptr;
    const Instructions *found = select_instructions(PyBytes_AsString(bytes));
    Py_DECREF(bytes);
    if (!found) {
        PyErr_SetString(PyExc_ValueError, "unknown instruction set, or not supported by this machine");
        return nullptr;
    }
    active_instructions = found;
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
    {"project", BOTH(project)},
    {"factor_residuals", BOTH(factor_residuals)},
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
    active_instructions = select_instructions(nullptr);
    PyObject *module = PyModule_Create(&definition);
    const struct { const char *name; index value; } limits[] = {
        {"LARGEST", LARGEST}, {"LARGEST_SMALL", LARGEST_SMALL}, {"LARGEST_GRAM", LARGEST_GRAM}, {"LARGEST_RANK", LARGEST_RANK}};
    bool good = module != nullptr;
    for (const auto &limit : limits) good = good && PyModule_AddIntConstant(module, limit.name, static_cast<long>(limit.value)) == 0;
    if (good) return module;
    Py_XDECREF(module);
    return nullptr;
}
