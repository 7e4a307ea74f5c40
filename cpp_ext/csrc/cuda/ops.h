// The operations on a CUDA device. They queue work on `stream` and return at once: nothing is allocated, nothing waits.
//
// All pointers are to memory that the device can reach, on the current device. Results are those of the operations on
// the processor, bit by bit except where an exponential is rounded differently (gaussian, blurred crops).
//
// Which boxes count is decided on the device (core/slots.h), so that a detector's output needs no way to the host: a
// slot counts where scores are null or its score reaches the threshold, and where its box, grown by box_scale, has an
// area. Whatever is in doubt is hidden: a score that is NaN counts, and a box with a coordinate that is not finite
// covers the whole frame.
//
// Returned is cudaErrorInvalidValue for sizes beyond the limits below, or what the launch says.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/geometry.h"
#include "core/patch.h"
#include "core/slots.h"

namespace dartblur::cuda {

constexpr int kMaxFrames = 65535;
constexpr int kMaxSlots = 4096;

// Pastes the face square of each patch [frames, slots, 3, side, side] over its box: one launch for all of them. Where
// boxes overlap, the result is that of pasting one after the other.
cudaError_t composite(MutableFrames frames, Patches<const float> patches, Slots slots, Shape shape,
                      cudaStream_t stream);
cudaError_t composite(MutableFrames frames, Patches<const __half> patches, Slots slots, Shape shape,
                      cudaStream_t stream);

// Fills each box with one colour, in one launch.
cudaError_t solid(MutableFrames frames, Slots slots, const std::uint8_t color[kChannels], cudaStream_t stream);

// Boxes are worked off in order, so these take launches for each slot: pass as few slots as there are faces.
std::size_t gaussian_scratch_bytes(int frames, int slots, int height, int width);
cudaError_t gaussian(MutableFrames frames, Slots slots, void* scratch, cudaStream_t stream);
cudaError_t pixelate(MutableFrames frames, Slots slots, int blocks, cudaStream_t stream);

// Fits every frame into out [frames, 3, height, width]; by how much follows from letterbox_of() in core/letterbox.h.
cudaError_t letterbox(Frames frames, float* out, int height, int width, cudaStream_t stream);

// Cuts out [frames, slots, 3, side, side]. A slot that does not count yields defined, finite values too. Without the
// blur no scratch memory is needed.
std::size_t crop_faces_scratch_bytes(int frames, int slots, int side, int margin);
cudaError_t crop_faces(Frames frames, Slots slots, Patches<float> out, bool blur, void* scratch, cudaStream_t stream);

// Whether this build has code for the current device: cudaSuccess, or the reason why not.
cudaError_t usable();
// What it has code for, as 87 for compute capability 8.7.
std::vector<int> architectures();

}  // namespace dartblur::cuda
