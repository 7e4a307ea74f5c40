#include "shapes.h"

#include <algorithm>
#include <cstdio>
#include <initializer_list>
#include <type_traits>

#include "cuda/ops.h"
#include "report.h"

namespace dartblur::trt {
namespace {

using nvinfer1::Dims;
using Size = std::remove_extent_t<decltype(Dims::d)>;

constexpr const char* kNames[kInputs] = {"frames", "patches", "boxes", "scores"};
constexpr Size kAny = -1;
constexpr Size kLongestSide = 1 << 16;

struct Text {
    char characters[96];
};

Text text(const Dims& dims) {
    Text text{};
    std::size_t end = 0;
    for (int i = 0; i < dims.nbDims && end < sizeof text.characters; ++i) {
        end += std::snprintf(text.characters + end, sizeof text.characters - end, i ? ", %lld" : "%lld",
                             static_cast<long long>(dims.d[i]));
    }
    return text;
}

bool agree(Size a, Size b) { return a < 0 || b < 0 || a == b; }

// Of two that agree, the one that is known.
Size either(Size a, Size b) { return a < 0 ? b : a; }

bool expect(const Shapes& shapes, Input input, std::initializer_list<Size> sizes) {
    const Dims& dims = shapes.dims[input];
    Dims expected{static_cast<std::int32_t>(sizes.size()), {}};
    std::copy(sizes.begin(), sizes.end(), expected.d);
    bool same = dims.nbDims == expected.nbDims;
    for (int i = 0; same && i < dims.nbDims; ++i) same = agree(dims.d[i], expected.d[i]);
    if (!same) {
        report("DartBlurComposite: %s: expected [%s] (-1: any), got [%s]: export the graph again", kNames[input],
               text(expected).characters, text(dims).characters);
    }
    return same;
}

bool expect_at_most(const char* what, Size size, Size most) {
    if (size <= most) return true;
    report("DartBlurComposite: %s: expected at most %lld, got %lld: export the graph with fewer", what,
           static_cast<long long>(most), static_cast<long long>(size));
    return false;
}

}  // namespace

Dims known(const nvinfer1::DimsExprs& expressions) noexcept {
    Dims dims{expressions.nbDims, {}};
    for (int i = 0; i < dims.nbDims && i < Dims::MAX_DIMS; ++i) {
        const nvinfer1::IDimensionExpr* size = expressions.d[i];
        dims.d[i] = size && size->isConstant() ? static_cast<Size>(size->getConstantValue()) : kAny;
    }
    return dims;
}

bool check(const Shapes& shapes, int margin) noexcept {
    const Dims &frames = shapes.dims[kFrames], &patches = shapes.dims[kPatches], &boxes = shapes.dims[kBoxes];
    if (!expect(shapes, kFrames, {kAny, kAny, kAny, 3}) ||
        !expect(shapes, kPatches, {frames.d[0], kAny, 3, kAny, kAny}) ||
        !expect(shapes, kPatches, {kAny, kAny, kAny, patches.d[4], patches.d[3]})) {
        return false;
    }
    const Size count = either(frames.d[0], patches.d[0]);
    if (!expect(shapes, kBoxes, {count, patches.d[1], 4}) ||
        !expect(shapes, kScores, {either(count, boxes.d[0]), either(patches.d[1], boxes.d[1])})) {
        return false;
    }
    const Size side = either(patches.d[3], patches.d[4]);
    if (side >= 0 && side <= 2 * margin) {
        report("DartBlurComposite: patches: a margin of %d leaves no face in %lld pixels: export the graph again",
               margin, static_cast<long long>(side));
        return false;
    }
    return expect_at_most("frames", count, cuda::kMaxFrames) &&
           expect_at_most("slots", patches.d[1], cuda::kMaxSlots) &&
           expect_at_most("height", frames.d[1], kLongestSide) && expect_at_most("width", frames.d[2], kLongestSide);
}

}  // namespace dartblur::trt
