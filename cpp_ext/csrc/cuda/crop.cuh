// Cutting face patches out of frames, the face itself blurred.
#pragma once

#include "core/gaussian.h"
#include "core/sample.h"
#include "launch.h"
#include "weights.cuh"

namespace dartblur::cuda {
namespace {

// The blur of a patch's face square, which reads the clear context around it.
struct SquareBlur {
    int side, margin, face, size, reach, padded;

    __host__ __device__ SquareBlur(int side, int margin)
        : side(side), margin(margin), face(side - 2 * margin), size(kernel_size(face)), reach(size / 2),
          padded(face + 2 * reach) {}

    // Beyond the patch its edge repeats.
    __device__ int inside(int index) const { return clamp(margin - reach + index, 0, side - 1); }
    // Floats between the two passes, for one plane.
    __host__ __device__ std::size_t plane() const { return static_cast<std::size_t>(padded) * face; }
};

__global__ void __launch_bounds__(kThreads) sample_kernel(Frames frames, Slots slots, Patches<float> out) {
    const int slot = static_cast<int>(blockIdx.y), number = static_cast<int>(blockIdx.z);
    const Frame frame = frames[number];
    // Slots that do not count are cut out as well: what is there needs no decision.
    const Box box = bounded(grown(bounded(slots.boxes[slots.index(number, slot)]), slots.box_scale));
    const Axis across = axis_of(box.x0, box.x1, out.context), down = axis_of(box.y0, box.y1, out.context);
    float* patch = out.data + slots.index(number, slot) * kChannels * out.plane();
    const int tiles_across = ceil_div(out.side, kLanes);
    const int u = static_cast<int>(blockIdx.x) % tiles_across * kLanes + static_cast<int>(threadIdx.x);
    const int v = static_cast<int>(blockIdx.x) / tiles_across * kWarps + static_cast<int>(threadIdx.y);
    if (u >= out.side || v >= out.side) return;
    const Tap column = tap(frame_coordinate(across, u, out.side), frame.width - 1);
    const Tap row = tap(frame_coordinate(down, v, out.side), frame.height - 1);
    const std::uint8_t *upper = frame.row(row.first), *lower = frame.row(row.second);
    for (int c = 0; c < kChannels; ++c) {
        const int a = column.first * kChannels + c, b = column.second * kChannels + c;
        const float top = lerp(upper[a], upper[b], column.weight), bottom = lerp(lower[a], lower[b], column.weight);
        patch[c * out.plane() + static_cast<std::size_t>(v) * out.side + u] =
            lerp(top, bottom, row.weight) * (1.0f / 255.0f);
    }
}

__global__ void __launch_bounds__(kThreads) square_weights_kernel(double* bells, float* kernel, int size) {
    fill_bells(bells, size);
    if (thread_number() == 0) fill_kernel(kernel, size, bells);
}

// Rows of all planes, from the patches into `rows`.
__global__ void __launch_bounds__(kThreads)
    square_rows_kernel(const float* patches, float* rows, const float* kernel, SquareBlur blur) {
    const std::size_t plane = (blockIdx.z * gridDim.y + blockIdx.y) * static_cast<std::size_t>(kChannels);
    for (int line = static_cast<int>(blockIdx.x); line < kChannels * blur.padded; line += static_cast<int>(gridDim.x)) {
        const std::size_t at = plane + static_cast<std::size_t>(line / blur.padded);
        const int y = line % blur.padded;
        const float* row = patches + (at * blur.side + blur.inside(y)) * blur.side;
        for (int x = thread_number(); x < blur.face; x += kThreads) {
            float sum = 0.0f;
            for (int t = 0; t < blur.size; ++t) sum += kernel[t] * row[blur.inside(x + t)];
            rows[at * blur.plane() + static_cast<std::size_t>(y) * blur.face + x] = sum;
        }
    }
}

// Columns, from `rows` into the face squares.
__global__ void __launch_bounds__(kThreads)
    square_columns_kernel(const float* rows, float* patches, const float* kernel, SquareBlur blur) {
    const std::size_t plane = (blockIdx.z * gridDim.y + blockIdx.y) * static_cast<std::size_t>(kChannels);
    for (int line = static_cast<int>(blockIdx.x); line < kChannels * blur.face; line += static_cast<int>(gridDim.x)) {
        const std::size_t at = plane + static_cast<std::size_t>(line / blur.face);
        const int y = line % blur.face;
        const float* first = rows + at * blur.plane() + static_cast<std::size_t>(y) * blur.face;
        for (int x = thread_number(); x < blur.face; x += kThreads) {
            float sum = 0.0f;
            for (int t = 0; t < blur.size; ++t) sum += kernel[t] * first[static_cast<std::size_t>(t) * blur.face + x];
            patches[(at * blur.side + blur.margin + y) * blur.side + blur.margin + x] = sum;
        }
    }
}

}  // namespace

std::size_t crop_faces_scratch_bytes(int frames, int slots, int side, int margin) {
    const SquareBlur blur(side, margin);
    const std::size_t planes = static_cast<std::size_t>(frames) * slots * kChannels;
    return blur.size * (sizeof(double) + sizeof(float)) + planes * blur.plane() * sizeof(float);
}

cudaError_t crop_faces(Frames frames, Slots slots, Patches<float> out, bool blur, void* scratch, cudaStream_t stream) {
    if (!fits(frames.count, slots.count)) return cudaErrorInvalidValue;
    const auto grid = [&](int blocks) {
        return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(slots.count),
                    static_cast<unsigned>(frames.count));
    };
    const int tiles = ceil_div(out.side, kLanes) * ceil_div(out.side, kWarps);
    cudaError_t status = launch(sample_kernel, grid(tiles), stream, frames, slots, out);
    if (status != cudaSuccess || !blur) return status;
    const SquareBlur square(out.side, out.margin);
    auto* bells = static_cast<double*>(scratch);
    auto* kernel = reinterpret_cast<float*>(bells + square.size);
    float* rows = kernel + square.size;
    status = launch(square_weights_kernel, dim3(1), stream, bells, kernel, square.size);
    if (status != cudaSuccess) return status;
    status = launch(square_rows_kernel, grid(kChannels * square.padded), stream, out.data, rows, kernel, square);
    if (status != cudaSuccess) return status;
    return launch(square_columns_kernel, grid(kChannels * square.face), stream, rows, out.data, kernel, square);
}

}  // namespace dartblur::cuda
