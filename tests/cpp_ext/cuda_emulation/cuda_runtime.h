// Stands in for the toolkit's header of this name: runs kernels on the processor, so that their very source is tested
// where there is no GPU.
//
// Blocks run one after the other, and so do a block's threads between two barriers, each on a stack of its own. Every
// order is allowed on a device, so the environment variable DARTBLUR_EMULATION_ORDER can ask for another one: a kernel
// with a data race shows by giving another result. A barrier that not all threads of a block reach ends the process.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)
#define __CUDA_ARCH_LIST__ 870

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMemoryPoolsSupported };
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice };
enum { cudaEventDisableTiming = 2 };
using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    cudaStream_t stream;
};
struct cudaFuncAttributes {};
struct cudaPointerAttributes {
    cudaMemoryType type;
    int device;
    void* devicePointer;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

class Threads {
  public:
    // Runs `body` once for each thread of a block, in the given order between barriers.
    template <class Body>
    void run(const std::vector<dim3>& threads, const Body& body) {
        reserve(threads.size());
        const auto call = +[](const void* data) { (*static_cast<const Body*>(data))(); };
        call_ = call;
        data_ = &body;
        done_.assign(threads.size(), false);
        std::size_t finished = 0;
        for (std::size_t i = 0; i < threads.size(); ++i) start(i);
        while (finished < threads.size()) {
            std::size_t ended = 0;
            for (std::size_t i = 0; i < threads.size(); ++i) {
                if (done_[i]) continue;
                current_ = i;
                threadIdx = threads[i];
                swapcontext(&home_, &contexts_[i]);
                ended += done_[i];
            }
            finished += ended;
            // Threads that are gone do not come to the barrier that others wait at.
            if (ended && finished < threads.size()) {
                std::fprintf(stderr, "a barrier that not all threads of a block reach\n");
                std::abort();
            }
        }
    }

    void barrier() { swapcontext(&contexts_[current_], &home_); }

  private:
    static constexpr std::size_t kStack = 128 << 10;

    static void enter() {
        Threads& self = instance();
        self.call_(self.data_);
        self.done_[self.current_] = true;
        swapcontext(&self.contexts_[self.current_], &self.home_);
    }
    static Threads& instance();

    void reserve(std::size_t count) {
        contexts_.resize(std::max(contexts_.size(), count));
        while (stacks_.size() < count) stacks_.emplace_back(new char[kStack]);
    }

    void start(std::size_t i) {
        getcontext(&contexts_[i]);
        contexts_[i].uc_stack.ss_sp = stacks_[i].get();
        contexts_[i].uc_stack.ss_size = kStack;
        contexts_[i].uc_link = nullptr;
        makecontext(&contexts_[i], &Threads::enter, 0);
    }

    ucontext_t home_;
    std::vector<ucontext_t> contexts_;
    std::vector<std::unique_ptr<char[]>> stacks_;
    std::vector<char> done_;
    std::size_t current_ = 0;
    void (*call_)(const void*) = nullptr;
    const void* data_ = nullptr;
};

inline Threads threads;
inline Threads& Threads::instance() { return threads; }

inline std::vector<dim3> all(dim3 size) {
    std::vector<dim3> places;
    for (unsigned z = 0; z < size.z; ++z) {
        for (unsigned y = 0; y < size.y; ++y) {
            for (unsigned x = 0; x < size.x; ++x) places.emplace_back(x, y, z);
        }
    }
    const char* order = std::getenv("DARTBLUR_EMULATION_ORDER");
    if (order && !std::strcmp(order, "backward")) std::reverse(places.begin(), places.end());
    if (order && !std::strcmp(order, "shuffled")) std::shuffle(places.begin(), places.end(), std::mt19937(1));
    return places;
}

}  // namespace emulation

inline void __syncthreads() { emulation::threads.barrier(); }

inline void atomicOr(unsigned* address, unsigned value) { *address |= value; }
inline void atomicAdd(unsigned long long* address, unsigned long long value) { *address += value; }

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
    gridDim = config->gridDim;
    blockDim = config->blockDim;
    const std::vector<dim3> threads = emulation::all(blockDim);
    for (const dim3& block : emulation::all(gridDim)) {
        blockIdx = block;
        emulation::threads.run(threads, [&] { kernel(arguments...); });
    }
    return cudaSuccess;
}

// All memory is that of device 0, which has one multiprocessor.
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
    *attributes = {cudaMemoryTypeDevice, 0, const_cast<void*>(address)};
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
    *value = 1;
    return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "invalid argument"; }
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel) {
    return cudaSuccess;
}

inline cudaError_t cudaMalloc(void** address, std::size_t bytes) {
    *address = std::malloc(bytes);
    std::memset(*address, 0xFF, bytes);  // NaN, should anything be read before it is written
    return cudaSuccess;
}
inline cudaError_t cudaMallocAsync(void** address, std::size_t bytes, cudaStream_t) {
    return cudaMalloc(address, bytes);
}
inline cudaError_t cudaFree(void* address) {
    std::free(address);
    return cudaSuccess;
}
inline cudaError_t cudaFreeAsync(void* address, cudaStream_t) { return cudaFree(address); }

inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t*, int) { return cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, int) { return cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
