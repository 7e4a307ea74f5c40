// One translation unit: every further one would be read once more for each architecture.
#include "ops.h"

#include "composite.cuh"
#include "crop.cuh"
#include "letterbox.cuh"
#include "redact.cuh"

namespace dartblur::cuda {

cudaError_t usable() {
    cudaFuncAttributes attributes{};
    return cudaFuncGetAttributes(&attributes, paint_kernel<ColorPaint>);
}

std::vector<int> architectures() {
    std::vector<int> numbers{__CUDA_ARCH_LIST__};
    for (int& number : numbers) number /= 10;
    return numbers;
}

}  // namespace dartblur::cuda
