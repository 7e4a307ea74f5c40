// Frames, boxes and the pixels a box covers.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "portable.h"

namespace dartblur {

constexpr int kChannels = 3;

// Interleaved BGR bytes; `stride` counts bytes between rows, so a view of a larger frame works in place.
template <class Byte>
struct Image {
    Byte* data;
    int height, width;
    std::ptrdiff_t stride;

    DARTBLUR_HD Byte* row(int y) const { return data + y * stride; }
};
using Frame = Image<const std::uint8_t>;
using MutableFrame = Image<std::uint8_t>;

// Frames of one size in one piece of memory; `step` counts bytes between frames.
template <class Byte>
struct Batch {
    Byte* data;
    int count, height, width;
    std::ptrdiff_t stride, step;

    DARTBLUR_HD Image<Byte> operator[](int n) const { return {data + n * step, height, width, stride}; }
};
using Frames = Batch<const std::uint8_t>;
using MutableFrames = Batch<std::uint8_t>;

// Corners in pixels; pixel (row i, column j) covers [j, j + 1) x [i, i + 1).
struct Box {
    float x0, y0, x1, y1;
};

// Whole pixels, the far sides excluded.
struct Rect {
    int x0, y0, x1, y1;

    DARTBLUR_HD int width() const { return x1 - x0; }
    DARTBLUR_HD int height() const { return y1 - y0; }
    DARTBLUR_HD bool empty() const { return x1 <= x0 || y1 <= y0; }
    DARTBLUR_HD bool contains(int x, int y) const { return x0 <= x && x < x1 && y0 <= y && y < y1; }
    DARTBLUR_HD bool meets(const Rect& other) const {
        return x0 < other.x1 && other.x0 < x1 && y0 < other.y1 && other.y0 < y1;
    }
};

// Written so that NaN becomes `low`.
template <class Real>
DARTBLUR_HD Real clamp(Real value, Real low, Real high) {
    return value > low ? (value < high ? value : high) : low;
}

// Far beyond any frame, yet safe to turn into an int and to multiply.
constexpr float kFar = 1 << 20;

DARTBLUR_HD Box bounded(Box box) {
    return {clamp(box.x0, -kFar, kFar), clamp(box.y0, -kFar, kFar), clamp(box.x1, -kFar, kFar),
            clamp(box.y1, -kFar, kFar)};
}

// About its centre; scale 1 keeps every bit.
DARTBLUR_HD Box grown(Box box, float scale) {
    if (scale == 1.0f) return box;
    const float x = (box.x0 + box.x1) * 0.5f, half_width = (box.x1 - box.x0) * 0.5f * scale;
    const float y = (box.y0 + box.y1) * 0.5f, half_height = (box.y1 - box.y0) * 0.5f * scale;
    return {x - half_width, y - half_height, x + half_width, y + half_height};
}

// Rounds outward, because a pixel that is partly face is face; an empty box covers nothing.
DARTBLUR_HD Rect covered(Box any, int height, int width) {
    const Box box = bounded(any);
    if (!(box.x0 < box.x1 && box.y0 < box.y1)) return {0, 0, 0, 0};
    return {static_cast<int>(clamp(std::floor(box.x0), 0.0f, static_cast<float>(width))),
            static_cast<int>(clamp(std::floor(box.y0), 0.0f, static_cast<float>(height))),
            static_cast<int>(clamp(std::ceil(box.x1), 0.0f, static_cast<float>(width))),
            static_cast<int>(clamp(std::ceil(box.y1), 0.0f, static_cast<float>(height)))};
}

}  // namespace dartblur
