#include <algorithm>
#include <vector>

#include "clones.h"
#include "core/gaussian.h"
#include "core/patch.h"
#include "ops.h"

namespace dartblur {
namespace {

// One patch row from two frame rows.
DARTBLUR_CLONES void sample_row(const std::uint8_t* upper, const std::uint8_t* lower, float weight, const Tap* taps,
                                int count, float* out, std::size_t plane) {
    for (int u = 0; u < count; ++u) {
        const int a = taps[u].first * kChannels;
        const int b = taps[u].second * kChannels;
        for (int c = 0; c < kChannels; ++c) {
            const float top = lerp(upper[a + c], upper[b + c], taps[u].weight);
            const float bottom = lerp(lower[a + c], lower[b + c], taps[u].weight);
            out[c * plane + u] = lerp(top, bottom, weight) * (1.0f / 255.0f);
        }
    }
}

void sample_patch(Frame frame, Box box, Patches<float> patch, std::vector<Tap>& taps) {
    const Axis across = axis_of(box.x0, box.x1, patch.context);
    const Axis down = axis_of(box.y0, box.y1, patch.context);
    for (int u = 0; u < patch.side; ++u) {
        taps[u] = tap(frame_coordinate(across, u, patch.side), frame.width - 1);
    }
    for (int v = 0; v < patch.side; ++v) {
        const Tap row = tap(frame_coordinate(down, v, patch.side), frame.height - 1);
        sample_row(frame.row(row.first), frame.row(row.second), row.weight, taps.data(), patch.side,
                   patch.data + static_cast<std::size_t>(v) * patch.side, patch.plane());
    }
}

// Blurs the face square of one plane in place; the kernel reads the clear context around it.
class SquareBlur {
  public:
    SquareBlur(int side, int margin)
        : side_(side), margin_(margin), face_(side - 2 * margin), kernel_(kernel_size(face_)),
          reach_(static_cast<int>(kernel_.size()) / 2), padded_(face_ + 2 * reach_),
          rows_(static_cast<std::size_t>(padded_.size()) * face_) {
        fill_kernel(kernel_.data(), size(), Bells{size()});
    }

    void run(float* plane) {
        const int length = static_cast<int>(padded_.size());
        for (int y = 0; y < length; ++y) {
            const float* row = plane + static_cast<std::size_t>(inside(y)) * side_;
            for (int x = 0; x < length; ++x) padded_[x] = row[inside(x)];
            convolve(padded_.data(), 1, kernel_.data(), size(), blurred(y), face_);
        }
        for (int y = 0; y < face_; ++y) {
            float* row = plane + static_cast<std::size_t>(margin_ + y) * side_ + margin_;
            convolve(blurred(y), face_, kernel_.data(), size(), row, face_);
        }
    }

  private:
    int size() const { return static_cast<int>(kernel_.size()); }
    int inside(int index) const { return std::clamp(margin_ - reach_ + index, 0, side_ - 1); }
    float* blurred(int y) { return rows_.data() + static_cast<std::size_t>(y) * face_; }

    int side_, margin_, face_;
    std::vector<float> kernel_;
    int reach_;
    std::vector<float> padded_, rows_;
};

// The face square of a patch as interleaved grey levels.
void load_square(const Patches<const float>& patch, int face, float* square) {
    for (int y = 0; y < face; ++y) {
        for (int c = 0; c < kChannels; ++c) {
            const float* row = patch.data + c * patch.plane() +
                               static_cast<std::size_t>(patch.margin + y) * patch.side + patch.margin;
            float* out = square + static_cast<std::size_t>(y) * face * kChannels + c;
            for (int x = 0; x < face; ++x) out[x * kChannels] = grey_level(row[x]);
        }
    }
}

// The grey levels of one row of covered pixels.
DARTBLUR_CLONES void spread_row(const float* samples, const Place* columns, int count, float* greys) {
    for (int x = 0; x < count; ++x) {
        const Tap tap = columns[x].tap;
        const float *a = samples + tap.first * kChannels, *b = samples + tap.second * kChannels;
        for (int c = 0; c < kChannels; ++c) greys[x * kChannels + c] = lerp(a[c], b[c], tap.weight);
    }
}

DARTBLUR_CLONES void store_row(const float* greys, int count, std::uint8_t* out) {
    for (int i = 0; i < count * kChannels; ++i) out[i] = to_byte(greys[i]);
}

DARTBLUR_CLONES void blend_row(const float* greys, const Place* columns, float dy, int count, Shape shape,
                               std::uint8_t* out) {
    for (int x = 0; x < count; ++x) {
        const float share = opacity(shape, columns[x].offset, dy);
        for (int i = x * kChannels; i < (x + 1) * kChannels && share > 0.0f; ++i) {
            out[i] = blended(out[i], greys[i], share);
        }
    }
}

}  // namespace

void crop_faces(Frame frame, Boxes boxes, Patches<float> out, bool blur) {
    std::vector<Tap> taps(out.side);
    SquareBlur square(out.side, out.margin);
    for (const Box& box : boxes) {
        sample_patch(frame, bounded(box), out, taps);
        for (int c = 0; c < kChannels; ++c, out.data += out.plane()) {
            if (blur) square.run(out.data);
        }
    }
}

void composite(MutableFrame frame, Patches<const float> patches, Boxes boxes, Shape shape) {
    const int face = patches.face();
    const int length = face * kChannels;
    std::vector<float> square(static_cast<std::size_t>(face) * length), row(length);
    std::vector<Place> columns;
    std::vector<float> greys(static_cast<std::size_t>(frame.width) * kChannels);
    for (const Box& any : boxes) {
        const Rect rect = covered(any, frame.height, frame.width);
        const Box box = bounded(any);
        const Axis across = axis_of(box.x0, box.x1, patches.context);
        const Axis down = axis_of(box.y0, box.y1, patches.context);
        load_square(patches, face, square.data());
        columns.clear();
        for (int x = rect.x0; x < rect.x1; ++x) columns.push_back(place(across, x, patches.side, patches.margin));
        for (int y = rect.y0; y < rect.y1; ++y) {
            const Place at = place(down, y, patches.side, patches.margin);
            lerp_rows(&square[static_cast<std::size_t>(at.tap.first) * length],
                      &square[static_cast<std::size_t>(at.tap.second) * length], at.tap.weight, length, row.data());
            spread_row(row.data(), columns.data(), rect.width(), greys.data());
            std::uint8_t* out = frame.row(y) + rect.x0 * kChannels;
            if (shape.opaque()) {
                store_row(greys.data(), rect.width(), out);
            } else {
                blend_row(greys.data(), columns.data(), at.offset, rect.width(), shape, out);
            }
        }
        patches.data += kChannels * patches.plane();
    }
}

}  // namespace dartblur
