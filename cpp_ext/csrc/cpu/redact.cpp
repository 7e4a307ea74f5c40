#include <algorithm>
#include <cstring>
#include <vector>

#include "core/blocks.h"
#include "core/gaussian.h"
#include "core/sample.h"
#include "ops.h"

namespace dartblur {
namespace {

// The covered part of the frame as an image of its own.
MutableFrame part(MutableFrame frame, Rect rect) {
    return {frame.row(rect.y0) + rect.x0 * kChannels, rect.height(), rect.width(), frame.stride};
}

std::vector<float> byte_kernel(int side) {
    std::vector<float> kernel(kernel_size(side));
    const int size = static_cast<int>(kernel.size());
    fill_byte_kernel(kernel.data(), size, Bells{size});
    return kernel;
}

void blur(MutableFrame image) {
    const std::vector<float> across = byte_kernel(image.width), down = byte_kernel(image.height);
    const int right = static_cast<int>(across.size()) / 2, below = static_cast<int>(down.size()) / 2;
    const int length = image.width * kChannels;
    std::vector<float> padded(static_cast<std::size_t>(image.width + 2 * right) * kChannels);
    std::vector<float> rows(static_cast<std::size_t>(image.height + 2 * below) * length), sums(length);
    // Rows above and below the image are mirrored here too, so that the second pass knows no border.
    for (int y = 0; y < image.height + 2 * below; ++y) {
        const std::uint8_t* row = image.row(reflect(y - below, image.height));
        for (int x = 0; x < image.width + 2 * right; ++x) {
            const std::uint8_t* pixel = row + reflect(x - right, image.width) * kChannels;
            for (int c = 0; c < kChannels; ++c) padded[x * kChannels + c] = pixel[c];
        }
        convolve(padded.data(), kChannels, across.data(), static_cast<int>(across.size()),
                 &rows[static_cast<std::size_t>(y) * length], length);
    }
    for (int y = 0; y < image.height; ++y) {
        convolve(&rows[static_cast<std::size_t>(y) * length], length, down.data(), static_cast<int>(down.size()),
                 sums.data(), length);
        std::transform(sums.begin(), sums.end(), image.row(y), to_byte);
    }
}

void flatten(MutableFrame cell) {
    std::uint64_t sums[kChannels] = {};
    for (int y = 0; y < cell.height; ++y) {
        const std::uint8_t* row = cell.row(y);
        for (int i = 0; i < cell.width * kChannels; i += kChannels) {
            for (int c = 0; c < kChannels; ++c) sums[c] += row[i + c];
        }
    }
    std::uint8_t mean[kChannels];
    const std::uint64_t count = static_cast<std::uint64_t>(cell.width) * cell.height;
    for (int c = 0; c < kChannels; ++c) mean[c] = rounded_mean(sums[c], count);
    for (int y = 0; y < cell.height; ++y) {
        std::uint8_t* row = cell.row(y);
        for (int i = 0; i < cell.width * kChannels; ++i) row[i] = mean[i % kChannels];
    }
}

}  // namespace

void gaussian(MutableFrame frame, Boxes boxes) {
    for (const Box& box : boxes) {
        const Rect rect = covered(box, frame.height, frame.width);
        if (!rect.empty()) blur(part(frame, rect));
    }
}

void pixelate(MutableFrame frame, Boxes boxes, int blocks) {
    for (const Box& box : boxes) {
        const Rect rect = covered(box, frame.height, frame.width);
        if (rect.empty()) continue;
        const int across = block_count(rect.width(), blocks), down = block_count(rect.height(), blocks);
        const auto left = [&](int i) { return rect.x0 + block_start(i, rect.width(), across); };
        const auto top = [&](int i) { return rect.y0 + block_start(i, rect.height(), down); };
        for (int i = 0; i < down; ++i) {
            for (int j = 0; j < across; ++j) flatten(part(frame, {left(j), top(i), left(j + 1), top(i + 1)}));
        }
    }
}

void solid(MutableFrame frame, Boxes boxes, const std::uint8_t color[kChannels]) {
    std::vector<std::uint8_t> row(static_cast<std::size_t>(frame.width) * kChannels);
    for (std::size_t i = 0; i < row.size(); ++i) row[i] = color[i % kChannels];
    for (const Box& box : boxes) {
        const Rect rect = covered(box, frame.height, frame.width);
        if (rect.empty()) continue;
        for (int y = rect.y0; y < rect.y1; ++y) {
            std::memcpy(frame.row(y) + rect.x0 * kChannels, row.data(), rect.width() * std::size_t{kChannels});
        }
    }
}

}  // namespace dartblur
