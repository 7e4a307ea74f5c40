// The boxes of a batch of frames, as a detector leaves them: so many slots for each frame, not all of them filled.
#pragma once

#include "geometry.h"

namespace dartblur {

struct Slots {
    const Box* boxes;     // [frames, count]
    const float* scores;  // [frames, count], or null: every slot counts
    int count;
    float threshold, box_scale;

    // What a slot covers; `box` is bounded, and empty where the slot does not count.
    struct Cover {
        Box box;
        Rect rect;
    };

    DARTBLUR_HD std::size_t index(int frame, int slot) const { return static_cast<std::size_t>(frame) * count + slot; }

    DARTBLUR_HD Cover cover(int frame, int slot, int height, int width) const {
        const std::size_t at = index(frame, slot);
        // Written so that a score that is NaN counts.
        if (scores && scores[at] < threshold) return {{0, 0, 0, 0}, {0, 0, 0, 0}};
        const Box box = boxes[at];
        // Nobody knows where such a face is, and nobody can be told from here: the whole frame is hidden.
        if (!finite(box)) {
            return {{0, 0, static_cast<float>(width), static_cast<float>(height)}, {0, 0, width, height}};
        }
        const Box larger = grown(bounded(box), box_scale);
        return {bounded(larger), covered(larger, height, width)};
    }

  private:
    // A difference with itself is 0 for finite numbers alone.
    DARTBLUR_HD static bool finite(Box box) {
        return (box.x0 - box.x0) + (box.y0 - box.y0) + (box.x1 - box.x1) + (box.y1 - box.y1) == 0.0f;
    }
};

}  // namespace dartblur
