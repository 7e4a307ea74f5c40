// What the plugin does on the device: all that needs CUDA's compiler.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "core/slots.h"

namespace dartblur::trt {

enum class Real { kSingle, kHalf };

// Frames and patches as TensorRT hands them over, in device memory.
struct Job {
    int frames, height, width;
    Real pixel;           // of both pictures
    const void* clear;    // [frames, height, width, 3], grey levels 0 to 255
    void* redacted;       // the same shape; may be `clear` itself
    Real paint;           // of the patches
    const void* patches;  // [frames, slots.count, 3, side, side], 0 to 1
    int side, margin;
    float context;
    Slots slots;
    void* workspace;      // workspace_bytes
};

std::size_t workspace_bytes(int frames, int height, int width);

// Queues the copy of all frames, and in the copy each slot's patch over its box. Pixels come out as whole grey levels.
cudaError_t composite(const Job& job, cudaStream_t stream);

}  // namespace dartblur::trt
