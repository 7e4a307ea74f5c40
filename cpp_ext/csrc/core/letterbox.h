// Fitting a frame into a network's input: shrink without aliasing, keep the aspect, fill the rest with 0.
#pragma once

#include "sample.h"

namespace dartblur {

struct Letterbox {
    double scale;                     // target pixels per frame pixel
    int height, width;                // the scaled picture, top-left in the target
    int pool;                         // side of the box mean that comes before the bilinear sampling
    int pooled_height, pooled_width;  // the frame after the box mean
    bool whole;                       // the bilinear sampling is the identity
};

DARTBLUR_HD int fitted(int side, double scale, int target) {
    return static_cast<int>(clamp(std::rint(side * scale), 1.0, static_cast<double>(target)));
}

DARTBLUR_HD Letterbox letterbox_of(int height, int width, int target_height, int target_width) {
    const double down = static_cast<double>(target_height) / height;
    const double across = static_cast<double>(target_width) / width;
    Letterbox box{};
    box.scale = down < across ? down : across;
    box.height = fitted(height, box.scale, target_height);
    box.width = fitted(width, box.scale, target_width);
    const int whole = static_cast<int>(std::floor(1.0 / box.scale + 1e-6));
    box.pool = whole > 1 ? whole : 1;
    box.pooled_height = (height + box.pool - 1) / box.pool;
    box.pooled_width = (width + box.pool - 1) / box.pool;
    // The picture may be rounded up to more cells than the frame has; then the edge must repeat.
    box.whole = std::fabs(box.scale * box.pool - 1.0) < 1e-9 && box.height <= box.pooled_height &&
                box.width <= box.pooled_width;
    return box;
}

// Where a target row or column lies among the pooled samples.
DARTBLUR_HD Tap letterbox_tap(const Letterbox& box, int index, int last) {
    return tap((index + 0.5) / (box.scale * box.pool) - 0.5, last);
}

// Sum of one channel over `columns` pixels of already summed rows.
template <class Total, class Sum>
DARTBLUR_HD Total cell_sum(const Sum* sums, int columns) {
    Total total = 0;
    for (int i = 0; i < columns; ++i) total += static_cast<Total>(sums[i * kChannels]);
    return total;
}

}  // namespace dartblur
