// The Python module: integers (addresses and sizes) in, nothing of torch or numpy. The caller has checked shapes, dtypes and layout.
#include "binding_dense.h"
#include "binding_factors.h"
#include "binding_products.h"

namespace {

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
    chosen = best(nullptr);
    PyObject *module = PyModule_Create(&definition);
    const struct { const char *name; index value; } limits[] = {
        {"LARGEST", LARGEST}, {"LARGEST_SMALL", LARGEST_SMALL}, {"LARGEST_GRAM", LARGEST_GRAM}, {"LARGEST_RANK", LARGEST_RANK}};
    bool good = module != nullptr;
    for (const auto &limit : limits) good = good && PyModule_AddIntConstant(module, limit.name, static_cast<long>(limit.value)) == 0;
    if (good) return module;
    Py_XDECREF(module);
    return nullptr;
}
