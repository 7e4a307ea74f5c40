// Blurring and pixelating boxes: one slot after the other, since a later box acts on what an earlier one left.
#pragma once

#include "core/blocks.h"
#include "core/gaussian.h"
#include "core/sample.h"
#include "launch.h"
#include "weights.cuh"

namespace dartblur::cuda {
namespace {

// The parts of the scratch memory.
struct GaussianScratch {
    int longest;     // weights of the largest kernel
    double* bells;   // [frames, slots, 2, longest]
    float* weights;  // [frames, slots, 2, longest]
    float* rows;     // [frames, height * width * 3], between the two passes

    GaussianScratch(void* memory, int frames, int slots, int height, int width)
        : longest(kernel_size(std::max(height, width))), bells(static_cast<double*>(memory)) {
        const std::size_t count = static_cast<std::size_t>(frames) * slots * 2 * longest;
        weights = reinterpret_cast<float*>(bells + count);
        rows = weights + count;
    }

    __device__ std::size_t kernel(std::size_t index, int axis) const { return (index * 2 + axis) * longest; }
};

__device__ Rect covered_rect(const MutableFrames& frames, const Slots& slots, int number, int slot) {
    return slots.cover(number, slot, frames.height, frames.width).rect;
}

// Both kernels of every slot.
__global__ void __launch_bounds__(kThreads) weights_kernel(MutableFrames frames, Slots slots, GaussianScratch scratch) {
    const int axis = static_cast<int>(blockIdx.x), slot = static_cast<int>(blockIdx.y);
    const int number = static_cast<int>(blockIdx.z);
    const Rect rect = covered_rect(frames, slots, number, slot);
    if (rect.empty()) return;
    const int size = kernel_size(axis == 0 ? rect.width() : rect.height());
    const std::size_t at = scratch.kernel(slots.index(number, slot), axis);
    fill_bells(scratch.bells + at, size);
    if (thread_number() == 0) fill_byte_kernel(scratch.weights + at, size, scratch.bells + at);
}

__global__ void __launch_bounds__(kThreads)
    blur_rows_kernel(MutableFrames frames, Slots slots, int slot, GaussianScratch scratch) {
    const int number = static_cast<int>(blockIdx.z);
    const Rect rect = covered_rect(frames, slots, number, slot);
    if (rect.empty()) return;
    const MutableFrame frame = frames[number];
    const int size = kernel_size(rect.width()), length = rect.width() * kChannels;
    const float* weights = scratch.weights + scratch.kernel(slots.index(number, slot), 0);
    float* rows = scratch.rows + static_cast<std::size_t>(number) * frames.height * frames.width * kChannels;
    for (int y = static_cast<int>(blockIdx.x); y < rect.height(); y += static_cast<int>(gridDim.x)) {
        const std::uint8_t* row = frame.row(rect.y0 + y) + rect.x0 * kChannels;
        for (int i = thread_number(); i < length; i += kThreads) {
            const int x = i / kChannels - size / 2, channel = i % kChannels;
            float sum = 0.0f;
            for (int t = 0; t < size; ++t) {
                sum += weights[t] * static_cast<float>(row[reflect(x + t, rect.width()) * kChannels + channel]);
            }
            rows[static_cast<std::size_t>(y) * length + i] = sum;
        }
    }
}

__global__ void __launch_bounds__(kThreads)
    blur_columns_kernel(MutableFrames frames, Slots slots, int slot, GaussianScratch scratch) {
    const int number = static_cast<int>(blockIdx.z);
    const Rect rect = covered_rect(frames, slots, number, slot);
    if (rect.empty()) return;
    const MutableFrame frame = frames[number];
    const int size = kernel_size(rect.height()), length = rect.width() * kChannels;
    const float* weights = scratch.weights + scratch.kernel(slots.index(number, slot), 1);
    const float* rows = scratch.rows + static_cast<std::size_t>(number) * frames.height * frames.width * kChannels;
    for (int y = static_cast<int>(blockIdx.x); y < rect.height(); y += static_cast<int>(gridDim.x)) {
        std::uint8_t* row = frame.row(rect.y0 + y) + rect.x0 * kChannels;
        for (int i = thread_number(); i < length; i += kThreads) {
            float sum = 0.0f;
            for (int t = 0; t < size; ++t) {
                const int from = reflect(y - size / 2 + t, rect.height());
                sum += weights[t] * rows[static_cast<std::size_t>(from) * length + i];
            }
            row[i] = to_byte(sum);
        }
    }
}

// A block for each cell of a slot: its mean, then every pixel of it.
__global__ void __launch_bounds__(kThreads) pixelate_kernel(MutableFrames frames, Slots slots, int slot, int blocks) {
    __shared__ unsigned long long sums[kChannels];
    const int number = static_cast<int>(blockIdx.z);
    const Rect rect = covered_rect(frames, slots, number, slot);
    if (rect.empty()) return;
    const MutableFrame frame = frames[number];
    const int across = block_count(rect.width(), blocks), down = block_count(rect.height(), blocks);
    for (long long cell = blockIdx.x; cell < static_cast<long long>(across) * down; cell += gridDim.x) {
        const int i = static_cast<int>(cell / across), j = static_cast<int>(cell % across);
        const int top = rect.y0 + block_start(i, rect.height(), down);
        const int below = rect.y0 + block_start(i + 1, rect.height(), down);
        const int left = (rect.x0 + block_start(j, rect.width(), across)) * kChannels;
        const int right = (rect.x0 + block_start(j + 1, rect.width(), across)) * kChannels;
        if (thread_number() < kChannels) sums[thread_number()] = 0;
        __syncthreads();
        // Lanes step by whole pixels, so that a thread adds up one channel.
        constexpr int step = kLanes / kChannels * kChannels;
        const int lane = static_cast<int>(threadIdx.x), channel = lane % kChannels;
        unsigned long long sum = 0;
        for (int y = top + static_cast<int>(threadIdx.y); y < below; y += kWarps) {
            for (int x = left + lane; lane < step && x < right; x += step) sum += frame.row(y)[x];
        }
        atomicAdd(&sums[channel], sum);
        __syncthreads();
        const auto columns = static_cast<std::uint64_t>(right - left) / kChannels;
        const std::uint8_t mean = rounded_mean(sums[channel], columns * static_cast<std::uint64_t>(below - top));
        for (int y = top + static_cast<int>(threadIdx.y); y < below; y += kWarps) {
            for (int x = left + lane; lane < step && x < right; x += step) frame.row(y)[x] = mean;
        }
        __syncthreads();
    }
}

}  // namespace

std::size_t gaussian_scratch_bytes(int frames, int slots, int height, int width) {
    const std::size_t weights = static_cast<std::size_t>(slots) * 2 * kernel_size(std::max(height, width));
    const std::size_t rows = static_cast<std::size_t>(height) * width * kChannels;
    return frames * (weights * (sizeof(double) + sizeof(float)) + rows * sizeof(float));
}

cudaError_t gaussian(MutableFrames frames, Slots slots, void* scratch, cudaStream_t stream) {
    if (!fits(frames.count, slots.count)) return cudaErrorInvalidValue;
    const GaussianScratch parts(scratch, frames.count, slots.count, frames.height, frames.width);
    const auto count = static_cast<unsigned>(frames.count);
    cudaError_t status =
        launch(weights_kernel, dim3(2, static_cast<unsigned>(slots.count), count), stream, frames, slots, parts);
    const dim3 grid(shared_blocks(frames.height, frames.count), 1, count);
    for (int slot = 0; slot < slots.count && status == cudaSuccess; ++slot) {
        status = launch(blur_rows_kernel, grid, stream, frames, slots, slot, parts);
        if (status == cudaSuccess) status = launch(blur_columns_kernel, grid, stream, frames, slots, slot, parts);
    }
    return status;
}

cudaError_t pixelate(MutableFrames frames, Slots slots, int blocks, cudaStream_t stream) {
    if (!fits(frames.count, slots.count)) return cudaErrorInvalidValue;
    const long long across = block_count(frames.width, blocks), cells = across * block_count(frames.height, blocks);
    const dim3 grid(shared_blocks(cells, frames.count), 1, static_cast<unsigned>(frames.count));
    cudaError_t status = cudaSuccess;
    for (int slot = 0; slot < slots.count && status == cudaSuccess; ++slot) {
        status = launch(pixelate_kernel, grid, stream, frames, slots, slot, blocks);
    }
    return status;
}

}  // namespace dartblur::cuda
