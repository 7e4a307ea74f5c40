// The operations on the processor. All memory is the caller's; the arguments are already validated.
#pragma once

#include "core/geometry.h"
#include "core/patch.h"
#include "core/yuv.h"

namespace dartblur {

struct Boxes {
    const Box* data;
    std::ptrdiff_t count;

    const Box* begin() const { return data; }
    const Box* end() const { return data + count; }
};

double letterbox(Frame frame, float* out, int height, int width);
void crop_faces(Frame frame, Boxes boxes, Patches<float> out, bool blur);
void composite(MutableFrame frame, Patches<const float> patches, Boxes boxes, Shape shape);
void gaussian(MutableFrame frame, Boxes boxes);
void pixelate(MutableFrame frame, Boxes boxes, int blocks);
void solid(MutableFrame frame, Boxes boxes, const std::uint8_t color[kChannels]);
void yuv_to_bgr(Yuv420<const std::uint8_t> in, Colours colours, MutableFrame out);
void bgr_to_yuv(Frame in, Colours colours, Yuv420<std::uint8_t> out);

// Loops over rows of floats that several operations share.

// out[i] = sum over t of kernel[t] * samples[i + t * step]
void convolve(const float* samples, std::ptrdiff_t step, const float* kernel, int size, float* out, int count);
// out[i] lies between a[i] and b[i]
void lerp_rows(const float* a, const float* b, float weight, int count, float* out);

}  // namespace dartblur
