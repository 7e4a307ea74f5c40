// Gaussian weights: the exponentials by all threads of a block at once, what must go in order by one.
#pragma once

#include "core/gaussian.h"
#include "launch.h"

namespace dartblur::cuda {
namespace {

__device__ void fill_bells(double* bells, int size) {
    for (int i = thread_number(); i < size; i += kThreads) bells[i] = bell(i, size);
    __syncthreads();
}

}  // namespace
}  // namespace dartblur::cuda
