// The shapes of the plugin's inputs, and whether they belong together.
#pragma once

#include <NvInferRuntime.h>

#include <array>

namespace dartblur::trt {

enum Input { kFrames, kPatches, kBoxes, kScores };
constexpr int kInputs = 4, kOutputs = 1;

// A negative size is not known yet.
struct Shapes {
    std::array<nvinfer1::Dims, kInputs> dims;

    int count() const { return at(kFrames, 0); }
    int height() const { return at(kFrames, 1); }
    int width() const { return at(kFrames, 2); }
    int slots() const { return at(kPatches, 1); }
    int side() const { return at(kPatches, 3); }

  private:
    int at(Input input, int axis) const { return static_cast<int>(dims[input].d[axis]); }
};

template <class DimsOf>
Shapes shapes_of(DimsOf&& dims_of) {
    return {{dims_of(kFrames), dims_of(kPatches), dims_of(kBoxes), dims_of(kScores)}};
}

// Sizes that are constants; the others are not known.
nvinfer1::Dims known(const nvinfer1::DimsExprs& expressions) noexcept;

// Whether what is known agrees; what doesn't is reported.
bool check(const Shapes& shapes, int margin) noexcept;

}  // namespace dartblur::trt
