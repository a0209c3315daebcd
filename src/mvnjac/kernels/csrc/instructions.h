// The kernel table of one instruction set.
#pragma once
#include "dense.h"
#include "factor_model.h"
#include "batched_small.h"

namespace mvnjac {
namespace MVNJAC_SPACE {

template <class T> constexpr Kernels<T> table() {
    return {prepare<T>,  prepare_triangle<T>, finite<T>,      symmetric<T>, log_prob<T>, moments<T>,         products<T>,
            whitened<T>, total<T>,            sums_stride<T>, offset<T>,    matrix<T>,   packed<T>,          small<T>,
            small_workspace<T>, pairs<T>,     mirror<T>,      gram<T>,      hessian<T>,  factors_apart<T>, project<T>,
            factor_residuals<T>,    outer_products<T>};
}

}  // namespace MVNJAC_SPACE

const Instructions MVNJAC_ISA = {MVNJAC_NAME, MVNJAC_SPACE::table<float>(), MVNJAC_SPACE::table<double>()};

}  // namespace mvnjac
