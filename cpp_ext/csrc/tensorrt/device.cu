// TensorRT gives bytes to no plugin, so that frames come as floating-point numbers. They are turned into bytes and back
// again around the compositing of cuda/ops.h: then an engine's pixels are those of every other way, to the bit.
#include "device.h"

#include <cuda_fp16.h>

#include "core/sample.h"
#include "cuda/launch.h"
#include "cuda/ops.h"

namespace dartblur::trt {
namespace {

constexpr int kAtOnce = 4;

template <class Value>
struct alignas(kAtOnce * sizeof(Value)) Four {
    Value values[kAtOnce];
};

__device__ void convert(float grey, std::uint8_t& byte) { byte = to_byte(grey); }
__device__ void convert(__half grey, std::uint8_t& byte) { byte = to_byte(__half2float(grey)); }
__device__ void convert(std::uint8_t byte, float& grey) { grey = byte; }
__device__ void convert(std::uint8_t byte, __half& grey) { grey = __ushort2half_rn(byte); }

// Tensors of TensorRT start at multiples of 256 bytes.
template <class From, class To>
__global__ void convert_kernel(const From* from, To* to, std::size_t count) {
    const std::size_t thread = static_cast<std::size_t>(blockIdx.x) * cuda::kThreads + cuda::thread_number();
    const std::size_t first = thread * kAtOnce;
    if (first + kAtOnce <= count) {
        const Four<From> old = *reinterpret_cast<const Four<From>*>(from + first);
        Four<To> converted;
        for (int k = 0; k < kAtOnce; ++k) convert(old.values[k], converted.values[k]);
        *reinterpret_cast<Four<To>*>(to + first) = converted;
        return;
    }
    for (std::size_t i = first; i < count; ++i) convert(from[i], to[i]);
}

template <class From, class To>
cudaError_t convert_all(const From* from, To* to, std::size_t count, cudaStream_t stream) {
    const std::size_t blocks = cuda::ceil_div(count, static_cast<std::size_t>(cuda::kThreads) * kAtOnce);
    return cuda::launch(convert_kernel<From, To>, dim3(static_cast<unsigned>(blocks)), stream, from, to, count);
}

template <class Paint>
cudaError_t paint(const Job& job, MutableFrames frames, cudaStream_t stream) {
    const Patches<const Paint> patches{static_cast<const Paint*>(job.patches), job.side, job.margin, job.context};
    return cuda::composite(frames, patches, job.slots, {false, 0.0f}, stream);
}

template <class Pixel>
cudaError_t composite_as(const Job& job, cudaStream_t stream) {
    const std::size_t count = workspace_bytes(job.frames, job.height, job.width);
    const std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(job.width) * kChannels;
    const MutableFrames frames{static_cast<std::uint8_t*>(job.workspace), job.frames, job.height, job.width, stride,
                               stride * job.height};
    cudaError_t error = convert_all(static_cast<const Pixel*>(job.clear), frames.data, count, stream);
    if (error != cudaSuccess) return error;
    error = job.paint == Real::kHalf ? paint<__half>(job, frames, stream) : paint<float>(job, frames, stream);
    if (error != cudaSuccess) return error;
    return convert_all(frames.data, static_cast<Pixel*>(job.redacted), count, stream);
}

}  // namespace

std::size_t workspace_bytes(int frames, int height, int width) {
    return static_cast<std::size_t>(frames) * height * width * kChannels;
}

cudaError_t composite(const Job& job, cudaStream_t stream) {
    return job.pixel == Real::kHalf ? composite_as<__half>(job, stream) : composite_as<float>(job, stream);
}

}  // namespace dartblur::trt
