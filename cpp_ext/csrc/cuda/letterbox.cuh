// Fitting frames into a network's input.
#pragma once

#include "core/letterbox.h"
#include "launch.h"

namespace dartblur::cuda {
namespace {

struct Pixel {
    float channels[kChannels];
};

__device__ Pixel lerp(const Pixel& a, const Pixel& b, float weight) {
    Pixel out{};
    for (int c = 0; c < kChannels; ++c) out.channels[c] = dartblur::lerp(a.channels[c], b.channels[c], weight);
    return out;
}

// The mean of a cell of pool x pool pixels; at the frame's right or lower edge of those that exist.
__device__ Pixel cell_mean(const Frame& frame, const Letterbox& box, int x, int y) {
    const int left = x * box.pool, top = y * box.pool;
    const int columns = box.pool < frame.width - left ? box.pool : frame.width - left;
    const int rows = box.pool < frame.height - top ? box.pool : frame.height - top;
    unsigned long long sums[kChannels] = {};
    for (int row = top; row < top + rows; ++row) {
        const std::uint8_t* pixels = frame.row(row) + left * kChannels;
        for (int c = 0; c < kChannels; ++c) sums[c] += cell_sum<unsigned>(pixels + c, columns);
    }
    const float share = 1.0f / (static_cast<float>(columns) * static_cast<float>(rows));
    return {static_cast<float>(sums[0]) * share, static_cast<float>(sums[1]) * share,
            static_cast<float>(sums[2]) * share};
}

__device__ Pixel sampled(const Frame& frame, const Letterbox& box, const Tap& column, const Tap& row) {
    const Pixel left = lerp(cell_mean(frame, box, column.first, row.first),
                            cell_mean(frame, box, column.first, row.second), row.weight);
    if (column.first == column.second) return left;
    const Pixel right = lerp(cell_mean(frame, box, column.second, row.first),
                             cell_mean(frame, box, column.second, row.second), row.weight);
    return lerp(left, right, column.weight);
}

__global__ void __launch_bounds__(kThreads)
    letterbox_kernel(Frames frames, Letterbox box, float* out, int height, int width) {
    __shared__ Tap columns[kLanes], rows[kWarps];
    const int x = static_cast<int>(blockIdx.x) * kLanes + static_cast<int>(threadIdx.x);
    const int y = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.y);
    // Double precision is slow on most GPUs: once a block is enough.
    if (threadIdx.y == 0) columns[threadIdx.x] = letterbox_tap(box, x, box.pooled_width - 1);
    if (threadIdx.x == 0) rows[threadIdx.y] = letterbox_tap(box, y, box.pooled_height - 1);
    __syncthreads();
    if (x >= width || y >= height) return;
    const Frame frame = frames[static_cast<int>(blockIdx.z)];
    Pixel pixel{};
    if (x < box.width && y < box.height) {
        pixel = box.whole ? cell_mean(frame, box, x, y) : sampled(frame, box, columns[threadIdx.x], rows[threadIdx.y]);
    }
    const std::size_t plane = static_cast<std::size_t>(height) * width;
    float* place = out + blockIdx.z * kChannels * plane + static_cast<std::size_t>(y) * width + x;
    for (int c = 0; c < kChannels; ++c) place[c * plane] = pixel.channels[c];
}

}  // namespace

cudaError_t letterbox(Frames frames, float* out, int height, int width, cudaStream_t stream) {
    if (!fits(frames.count, 0)) return cudaErrorInvalidValue;
    const dim3 grid(static_cast<unsigned>(ceil_div(width, kLanes)), static_cast<unsigned>(ceil_div(height, kWarps)),
                    static_cast<unsigned>(frames.count));
    return launch(letterbox_kernel, grid, stream, frames, letterbox_of(frames.height, frames.width, height, width), out,
                  height, width);
}

}  // namespace dartblur::cuda
