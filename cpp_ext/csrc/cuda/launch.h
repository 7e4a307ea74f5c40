// Starting kernels, and the sums that size their grids.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "core/geometry.h"
#include "ops.h"

namespace dartblur::cuda {

constexpr int kThreads = 128;  // of every block
constexpr int kLanes = 32;     // threads that run in step and should touch neighbouring memory
constexpr int kWarps = kThreads / kLanes;

template <class Whole>
DARTBLUR_HD Whole ceil_div(Whole a, Whole b) {
    return (a + b - 1) / b;
}

inline bool fits(int frames, int slots) { return frames <= kMaxFrames && slots <= kMaxSlots; }

// Blocks along x for work whose size only the device knows: `most` would give each block one piece of it, but there are
// `others` such rows of blocks, and idle blocks cost too. Kernels stride over their work by gridDim.x.
inline unsigned shared_blocks(long long most, long long others) {
    constexpr long long for_each_multiprocessor = 256, at_least = 8;
    int device = 0, multiprocessors = 1;
    if (cudaGetDevice(&device) == cudaSuccess) {
        cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    }
    const long long in_all = for_each_multiprocessor * multiprocessors;
    return static_cast<unsigned>(std::min(most, std::max(in_all / std::max(others, 1LL), at_least)));
}

// `args` have the parameters' very types, or convert to them.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, cudaStream_t stream, Arguments... args) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(kLanes, kWarps);
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(args)...);
}

__device__ inline int thread_number() { return static_cast<int>(threadIdx.y) * kLanes + static_cast<int>(threadIdx.x); }

}  // namespace dartblur::cuda
