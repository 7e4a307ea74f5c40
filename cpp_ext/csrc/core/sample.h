// Linear sampling along one axis, and the way back to a byte.
#pragma once

#include "geometry.h"

namespace dartblur {

// Two neighbouring samples and the weight of the second.
struct Tap {
    int first, second;
    float weight;
};

// `coordinate` counts sample centres from 0; beyond [0, last] the edge sample repeats.
template <class Real>
DARTBLUR_HD Tap tap(Real coordinate, int last) {
    const Real inside = clamp(coordinate, Real(0), Real(last));
    const int first = static_cast<int>(inside);
    return {first, first < last ? first + 1 : last, static_cast<float>(inside - Real(first))};
}

DARTBLUR_HD float lerp(float a, float b, float weight) { return a + weight * (b - a); }

// Nearest grey level, halves up.
DARTBLUR_HD std::uint8_t to_byte(float grey) {
    return static_cast<std::uint8_t>(clamp(grey + 0.5f, 0.0f, 255.0f));
}

}  // namespace dartblur
