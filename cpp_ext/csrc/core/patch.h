// The face patch: how a box grown by its context maps to a square patch, and back.
#pragma once

#include "sample.h"

namespace dartblur {

// Rim of clear context around the face square of a patch, in patch pixels.
DARTBLUR_HD int patch_margin(int side, double context) {
    return static_cast<int>(std::rint(side * (1.0 - 1.0 / context) / 2.0));
}

// Square planar patches [count, 3, side, side]; the face is the square inside `margin`.
template <class Value>
struct Patches {
    Value* data;
    int side, margin;
    float context;

    DARTBLUR_HD std::size_t plane() const { return static_cast<std::size_t>(side) * side; }
    DARTBLUR_HD int face() const { return side - 2 * margin; }
};

// One axis of a box: its centre, half its size, and the crop around it.
struct Axis {
    float centre, half;
    float origin, extent;
};

DARTBLUR_HD Axis axis_of(float low, float high, float context) {
    const float centre = (low + high) * 0.5f;
    const float half = (high - low) * 0.5f;
    return {centre, half, centre - half * context, half * context * 2.0f};
}

// Sample coordinate in the frame of patch pixel `index`.
DARTBLUR_HD float frame_coordinate(const Axis& axis, int index, int side) {
    return axis.origin + (index + 0.5f) / side * axis.extent - 0.5f;
}

// Sample coordinate in the patch of frame pixel `index`: the inverse of the above.
DARTBLUR_HD float patch_coordinate(const Axis& axis, int index, int side) {
    return (index + 0.5f - axis.origin) / axis.extent * side - 0.5f;
}

// Distance of a pixel centre from the box's centre, in half sizes of the box.
DARTBLUR_HD float offset(const Axis& axis, int index) { return (index + 0.5f - axis.centre) / axis.half; }

// Where a covered column or row lies in the face square, and how far from the box's centre.
struct Place {
    Tap tap;
    float offset;
};

// Clamped to the square, so that no context, which is clear, comes back.
DARTBLUR_HD Place place(const Axis& axis, int index, int side, int margin) {
    const int last = side - 2 * margin - 1;
    return {tap(patch_coordinate(axis, index, side) - static_cast<float>(margin), last), offset(axis, index)};
}

// Grey level of a patch's value; NaN and what lies below 0 become 0.
DARTBLUR_HD float grey_level(float value) { return clamp(value, 0.0f, 1.0f) * 255.0f; }

// A pixel's byte once a patch's grey level is laid over it.
DARTBLUR_HD std::uint8_t blended(std::uint8_t old, float grey, float share) {
    return to_byte(share < 1.0f ? lerp(old, grey, share) : grey);
}

struct Shape {
    bool ellipse;
    float feather;

    // Every covered pixel is replaced outright.
    DARTBLUR_HD bool opaque() const { return !ellipse && !(feather > 0.0f); }
};

// Share of the patch in a covered pixel at offset (dx, dy).
DARTBLUR_HD float opacity(Shape shape, float dx, float dy) {
    const float square = dx * dx + dy * dy;
    if (shape.ellipse && !(square <= 1.0f)) return 0.0f;
    if (!(shape.feather > 0.0f)) return 1.0f;
    const float farther = std::fabs(dx) > std::fabs(dy) ? std::fabs(dx) : std::fabs(dy);
    const float depth = 1.0f - (shape.ellipse ? std::sqrt(square) : farther);
    return clamp(depth / shape.feather, 0.0f, 1.0f);
}

}  // namespace dartblur
