#include "core/letterbox.h"

#include <algorithm>
#include <vector>

#include "clones.h"
#include "ops.h"

namespace dartblur {
namespace {

// Three planes of one row.
struct Planes {
    float *blue, *green, *red;
};

// `rows` rows of the frame added up, byte column by byte column.
template <class Sum>
DARTBLUR_INLINE void sum_rows(Frame frame, int y, int rows, Sum* sums) {
    const int count = frame.width * kChannels;
    const std::uint8_t* first = frame.row(y);
    for (int i = 0; i < count; ++i) sums[i] = first[i];
    for (int r = 1; r < rows; ++r) {
        const std::uint8_t* row = frame.row(y + r);
        for (int i = 0; i < count; ++i) sums[i] = static_cast<Sum>(sums[i] + row[i]);
    }
}

template <class Total, class Sum>
DARTBLUR_INLINE void mean_cells(const Sum* sums, int first, int last, int pool, int columns, int rows, Planes out) {
    const float share = 1.0f / (static_cast<float>(columns) * static_cast<float>(rows));
    for (int x = first; x < last; ++x) {
        const Sum* cell = sums + static_cast<std::ptrdiff_t>(x) * pool * kChannels;
        out.blue[x] = static_cast<float>(cell_sum<Total>(cell, columns)) * share;
        out.green[x] = static_cast<float>(cell_sum<Total>(cell + 1, columns)) * share;
        out.red[x] = static_cast<float>(cell_sum<Total>(cell + 2, columns)) * share;
    }
}

// A cell at the frame's right or lower edge averages only the pixels that exist.
template <class Total, class Sum>
DARTBLUR_INLINE void pool_cells(Frame frame, int pooled_y, int pool, int cells, Sum* sums, Planes out) {
    const int y = pooled_y * pool;
    const int rows = std::min(pool, frame.height - y);
    const int full = std::min(cells, frame.width / pool);
    sum_rows(frame, y, rows, sums);
    mean_cells<Total>(sums, 0, full, pool, pool, rows, out);
    if (full < cells) mean_cells<Total>(sums, full, cells, pool, frame.width - full * pool, rows, out);
}

// Small pools stand as constants, so that the compiler can unroll them and keep the sums short.
DARTBLUR_CLONES void pool_row(Frame frame, int y, int pool, int cells, std::uint32_t* sums, Planes out) {
    auto* brief = reinterpret_cast<std::uint16_t*>(sums);
    switch (pool) {
        case 1: return pool_cells<int>(frame, y, 1, cells, brief, out);
        case 2: return pool_cells<int>(frame, y, 2, cells, brief, out);
        case 3: return pool_cells<int>(frame, y, 3, cells, brief, out);
        case 4: return pool_cells<int>(frame, y, 4, cells, brief, out);
        default: return pool_cells<std::int64_t>(frame, y, pool, cells, sums, out);
    }
}

DARTBLUR_CLONES void lerp_columns(const float* row, const Tap* taps, int count, float* out) {
    for (int x = 0; x < count; ++x) out[x] = lerp(row[taps[x].first], row[taps[x].second], taps[x].weight);
}

class Letterboxer {
  public:
    Letterboxer(Frame frame, Letterbox box, float* out, int height, int width)
        : frame_(frame), box_(box), out_(out), height_(height), width_(width),
          sums_(static_cast<std::size_t>(frame.width) * kChannels) {}

    void run() {
        if (box_.whole) {
            for (int y = 0; y < box_.height; ++y) pool(y, box_.width, planes(y));
        } else {
            sample();
        }
        clear();
    }

  private:
    Planes planes(int y) const {
        const std::size_t plane = static_cast<std::size_t>(height_) * width_;
        float* row = out_ + static_cast<std::size_t>(y) * width_;
        return {row, row + plane, row + 2 * plane};
    }

    void pool(int y, int cells, Planes out) { pool_row(frame_, y, box_.pool, cells, sums_.data(), out); }

    // Bilinear: the two pooled rows in use are kept, because the next target row mostly needs them again.
    void sample() {
        const int cells = box_.pooled_width;
        std::vector<Tap> taps(box_.width);
        for (int x = 0; x < box_.width; ++x) taps[x] = letterbox_tap(box_, x, cells - 1);
        const std::size_t length = static_cast<std::size_t>(cells) * kChannels;
        std::vector<float> rows[2] = {std::vector<float>(length), std::vector<float>(length)};
        std::vector<float> between(length);
        int held[2] = {-1, -1};
        const auto pooled = [&](int y) {
            float* row = rows[y % 2].data();
            if (held[y % 2] != y) pool(y, cells, {row, row + cells, row + 2 * cells});
            held[y % 2] = y;
            return row;
        };
        for (int y = 0; y < box_.height; ++y) {
            const Tap tap = letterbox_tap(box_, y, box_.pooled_height - 1);
            const float* first = pooled(tap.first);
            const float* second = pooled(tap.second);
            lerp_rows(first, second, tap.weight, static_cast<int>(length), between.data());
            const Planes out = planes(y);
            lerp_columns(between.data(), taps.data(), box_.width, out.blue);
            lerp_columns(between.data() + cells, taps.data(), box_.width, out.green);
            lerp_columns(between.data() + 2 * cells, taps.data(), box_.width, out.red);
        }
    }

    // The buffer may hold another picture: what this one does not fill becomes 0.
    void clear() const {
        for (int y = 0; y < height_; ++y) {
            const Planes out = planes(y);
            const int filled = y < box_.height ? box_.width : 0;
            for (float* row : {out.blue, out.green, out.red}) std::fill(row + filled, row + width_, 0.0f);
        }
    }

    Frame frame_;
    Letterbox box_;
    float* out_;
    int height_, width_;
    std::vector<std::uint32_t> sums_;
};

}  // namespace

double letterbox(Frame frame, float* out, int height, int width) {
    const Letterbox box = letterbox_of(frame.height, frame.width, height, width);
    Letterboxer(frame, box, out, height, width).run();
    return box.scale;
}

}  // namespace dartblur
