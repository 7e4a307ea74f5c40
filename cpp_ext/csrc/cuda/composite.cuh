// Overwriting the covered pixels of all boxes of all frames in one launch.
//
// A block belongs to one slot of one frame and strides over the tiles of its rectangle. Each byte of the frame is read
// and written by one thread alone: the one that works for the last slot that covers it, which blends all of them in
// order. So nothing depends on the order in which blocks run.
#pragma once

#include "core/sample.h"
#include "launch.h"

namespace dartblur::cuda {
namespace {

constexpr int kWord = 4;                   // bytes that a thread writes at once; a warp then writes 128 side by side
constexpr int kRun = 8;                    // rows below one another that a thread works off
constexpr int kTileRows = kWarps * kRun;

__device__ float as_float(float value) { return value; }
__device__ float as_float(__half value) { return __half2float(value); }

// What is painted: grey levels of a face square.
template <class Value>
struct PatchPaint {
    Patches<const Value> patches;

    __device__ int side() const { return patches.side; }
    __device__ int margin() const { return patches.margin; }
    __device__ float context() const { return patches.context; }
    __device__ float grey(std::size_t slot, int channel, int row, int column) const {
        const std::size_t plane = slot * kChannels + static_cast<std::size_t>(channel);
        const Value* square = patches.data + plane * patches.plane();
        return grey_level(as_float(
            square[static_cast<std::size_t>(patches.margin + row) * patches.side + patches.margin + column]));
    }
};

// One colour is a face square of one pixel.
struct ColorPaint {
    std::uint8_t color[kChannels];

    __device__ int side() const { return 1; }
    __device__ int margin() const { return 0; }
    __device__ float context() const { return 1.0f; }
    __device__ float grey(std::size_t, int channel, int, int) const { return color[channel]; }
};

// The box of a slot, and the way from its pixels to its paint.
template <class Paint>
struct Face {
    __device__ Face(const Paint& paint, const Slots& slots, int frame, int slot, Rect bounds)
        : index(slots.index(frame, slot)) {
        const Slots::Cover cover = slots.cover(frame, slot, bounds.height(), bounds.width());
        rect = cover.rect;
        across = axis_of(cover.box.x0, cover.box.x1, paint.context());
        down = axis_of(cover.box.y0, cover.box.y1, paint.context());
    }

    std::size_t index;
    Rect rect;
    Axis across, down;
};

// Which of a frame's other slots matter for a rectangle.
struct Others {
    unsigned* bits;
    int words;

    // By all threads of a block together.
    __device__ void find(const Slots& slots, int frame, int slot, Rect rect, Rect bounds, bool opaque) {
        words = ceil_div(slots.count, 32);
        __syncthreads();
        for (int i = thread_number(); i < words; i += kThreads) bits[i] = 0;
        __syncthreads();
        // Opaque paint hides what earlier slots leave.
        for (int i = thread_number() + (opaque ? slot + 1 : 0); i < slots.count; i += kThreads) {
            const bool meets = i != slot && slots.cover(frame, i, bounds.height(), bounds.width()).rect.meets(rect);
            if (meets) atomicOr(&bits[i / 32], 1u << (i % 32));
        }
        __syncthreads();
    }

    __device__ bool none() const {
        unsigned any = 0;
        for (int i = 0; i < words; ++i) any |= bits[i];
        return any == 0;
    }

    __device__ bool has(int slot) const { return bits[slot / 32] >> (slot % 32) & 1u; }
};

// Four neighbouring bytes of a row: bytes 4 * number to 4 * number + 3, of two or three channels of two pixels.
struct Word {
    int start;
    Rect rect;

    __device__ Word(int number, Rect rect) : start(number * kWord), rect(rect) {}
    __device__ int pixel(int byte) const { return (start + byte) / kChannels; }
    __device__ int channel(int byte) const { return (start + byte) % kChannels; }
    __device__ bool inside(int byte) const {
        return rect.x0 * kChannels <= start + byte && start + byte < rect.x1 * kChannels;
    }
    __device__ unsigned covered() const {
        unsigned bytes = 0;
        for (int k = 0; k < kWord; ++k) bytes |= static_cast<unsigned>(inside(k)) << k;
        return bytes;
    }

    // Writes those of the bytes that are named by a bit of `which`.
    __device__ void store(const MutableFrame& frame, int y, std::uint32_t value, unsigned which, bool aligned) const {
        std::uint8_t* out = frame.row(y) + start;
        if (which == 0xF && aligned) {
            *reinterpret_cast<std::uint32_t*>(out) = value;
            return;
        }
        for (int k = 0; k < kWord; ++k) {
            if (which >> k & 1u) out[k] = static_cast<std::uint8_t>(value >> (8 * k));
        }
    }
};

// The paint around a word, kept while rows lie between the same two rows of the face square.
template <class Paint>
class Column {
  public:
    __device__ Column(const Paint& paint, const Face<Paint>& face, const Word& word)
        : paint_(paint), face_(face), word_(word), held_(-1) {
        const int first = word.pixel(0);
        const Tap taps[2] = {place(face.across, first, paint.side(), paint.margin()).tap,
                             place(face.across, first + 1, paint.side(), paint.margin()).tap};
        for (int k = 0; k < kWord; ++k) taps_[k] = word.pixel(k) == first ? taps[0] : taps[1];
    }

    __device__ std::uint32_t at(const Tap& row) {
        if (row.first != held_) load(row);
        std::uint32_t value = 0;
        for (int k = 0; k < kWord; ++k) {
            // Two lerps down, with their differences kept, then one across: the processor's order.
            const float left = left_[k] + row.weight * left_step_[k];
            const float right = right_[k] + row.weight * right_step_[k];
            // Grey levels are within 0..255 already, so to_byte() would clamp for nothing.
            const float grey = lerp(left, right, taps_[k].weight) + 0.5f;
            value |= static_cast<std::uint32_t>(grey) << (8 * k);
        }
        return value;
    }

  private:
    __device__ void load(const Tap& row) {
        held_ = row.first;
        for (int k = 0; k < kWord; ++k) {
            const int channel = word_.channel(k);
            left_[k] = paint_.grey(face_.index, channel, row.first, taps_[k].first);
            right_[k] = paint_.grey(face_.index, channel, row.first, taps_[k].second);
            left_step_[k] = paint_.grey(face_.index, channel, row.second, taps_[k].first) - left_[k];
            right_step_[k] = paint_.grey(face_.index, channel, row.second, taps_[k].second) - right_[k];
        }
    }

    const Paint& paint_;
    const Face<Paint>& face_;
    const Word& word_;
    int held_;
    Tap taps_[kWord];
    float left_[kWord], left_step_[kWord], right_[kWord], right_step_[kWord];
};

// A pixel's paint, and its share.
template <class Paint>
struct Layer {
    Place across, down;
    std::size_t index;
    float share;

    __device__ Layer(const Paint& paint, const Face<Paint>& face, int x, int y, Shape shape)
        : across(place(face.across, x, paint.side(), paint.margin())),
          down(place(face.down, y, paint.side(), paint.margin())), index(face.index),
          share(opacity(shape, across.offset, down.offset)) {}

    __device__ std::uint8_t over(const Paint& paint, std::uint8_t old, int channel) const {
        if (!(share > 0.0f)) return old;
        const Tap &u = across.tap, &v = down.tap;
        const float left = lerp(paint.grey(index, channel, v.first, u.first),
                                paint.grey(index, channel, v.second, u.first), v.weight);
        const float right = lerp(paint.grey(index, channel, v.first, u.second),
                                 paint.grey(index, channel, v.second, u.second), v.weight);
        return blended(old, lerp(left, right, u.weight), share);
    }
};

template <class Paint>
struct Scene {
    MutableFrame frame;
    int number;
    Paint paint;
    Slots slots;
    Shape shape;

    __device__ Rect bounds() const { return {0, 0, frame.width, frame.height}; }
    __device__ Face<Paint> face(int slot) const { return {paint, slots, number, slot, bounds()}; }

    // A word of row y, where slots overlap or shapes are not opaque; `which` keeps the bytes that are this slot's.
    __device__ std::uint32_t layered(const Word& word, int y, int slot, const Others& others, unsigned& which) const {
        std::uint32_t value = 0;
        for (int k = 0; k < kWord; ++k) {
            if (!(which >> k & 1u)) continue;
            const int x = word.pixel(k);
            if (hidden(x, y, slot, others)) {
                which &= ~(1u << k);
                continue;
            }
            std::uint8_t byte = frame.row(y)[word.start + k];
            for (int i = 0; i <= slot; ++i) {
                if (i != slot && !others.has(i)) continue;
                const Face<Paint> one = face(i);
                if (!one.rect.contains(x, y)) continue;
                byte = Layer<Paint>(paint, one, x, y, shape).over(paint, byte, word.channel(k));
            }
            value |= static_cast<std::uint32_t>(byte) << (8 * k);
        }
        return value;
    }

    // Whether a later slot covers the pixel, and so writes it.
    __device__ bool hidden(int x, int y, int slot, const Others& others) const {
        for (int i = slot + 1; i < slots.count; ++i) {
            if (others.has(i) && slots.cover(number, i, frame.height, frame.width).rect.contains(x, y)) return true;
        }
        return false;
    }
};

// A face's tiles, counted row by row: kLanes words wide, kTileRows high.
struct Tiles {
    Rect rect;
    int first_word, across;
    long long count;

    __device__ explicit Tiles(Rect rect) : rect(rect), first_word(rect.x0 * kChannels / kWord) {
        across = ceil_div(ceil_div(rect.x1 * kChannels, kWord) - first_word, kLanes);
        count = static_cast<long long>(across) * ceil_div(rect.height(), kTileRows);
    }

    __device__ int word(long long tile) const { return first_word + static_cast<int>(tile % across) * kLanes; }
    __device__ int top(long long tile) const { return rect.y0 + static_cast<int>(tile / across) * kTileRows; }
    __device__ Rect pixels(long long tile) const {
        const int left = word(tile) * kWord / kChannels, right = (word(tile) + kLanes) * kWord / kChannels + 1;
        const int below = top(tile) + kTileRows;
        return {left > rect.x0 ? left : rect.x0, top(tile), right < rect.x1 ? right : rect.x1,
                below < rect.y1 ? below : rect.y1};
    }
};

template <class Paint>
__global__ void __launch_bounds__(kThreads) paint_kernel(MutableFrames frames, Paint paint, Slots slots, Shape shape) {
    __shared__ unsigned bits[kMaxSlots / 32];
    __shared__ Tap rows[kTileRows];
    const int slot = static_cast<int>(blockIdx.y), number = static_cast<int>(blockIdx.z);
    const Scene<Paint> scene{frames[number], number, paint, slots, shape};
    const Face<Paint> face = scene.face(slot);
    if (face.rect.empty()) return;
    const Tiles tiles(face.rect);
    if (blockIdx.x >= tiles.count) return;

    const auto start = reinterpret_cast<std::uintptr_t>(scene.frame.data);
    const bool aligned = (start | static_cast<std::uintptr_t>(frames.stride)) % kWord == 0;
    Others others{bits, 0};
    others.find(slots, number, slot, face.rect, scene.bounds(), shape.opaque());
    const bool alone = others.none();

    for (long long tile = blockIdx.x; tile < tiles.count; tile += gridDim.x) {
        const int top = tiles.top(tile);
        if (!alone) others.find(slots, number, slot, tiles.pixels(tile), scene.bounds(), shape.opaque());
        __syncthreads();
        const int t = thread_number();
        if (t < kTileRows) rows[t] = place(face.down, top + t, paint.side(), paint.margin()).tap;
        __syncthreads();

        const Word word(tiles.word(tile) + static_cast<int>(threadIdx.x), face.rect);
        const unsigned covered = word.covered();
        if (covered == 0) continue;
        const bool simple = shape.opaque() && (alone || others.none());
        Column<Paint> column(paint, face, word);
        for (int i = static_cast<int>(threadIdx.y) * kRun, end = i + kRun; i < end && top + i < face.rect.y1; ++i) {
            unsigned which = covered;
            const std::uint32_t value =
                simple ? column.at(rows[i]) : scene.layered(word, top + i, slot, others, which);
            word.store(scene.frame, top + i, value, which, aligned);
        }
    }
}

template <class Paint>
cudaError_t paint_all(MutableFrames frames, Paint paint, Slots slots, Shape shape, cudaStream_t stream) {
    if (!fits(frames.count, slots.count)) return cudaErrorInvalidValue;
    const long long most = static_cast<long long>(ceil_div(frames.width * kChannels, kWord * kLanes) + 1) *
                           ceil_div(frames.height, kTileRows);
    const dim3 grid(shared_blocks(most, static_cast<long long>(frames.count) * slots.count),
                    static_cast<unsigned>(slots.count), static_cast<unsigned>(frames.count));
    return launch(paint_kernel<Paint>, grid, stream, frames, paint, slots, shape);
}

}  // namespace

cudaError_t composite(MutableFrames frames, Patches<const float> patches, Slots slots, Shape shape,
                      cudaStream_t stream) {
    return paint_all(frames, PatchPaint<float>{patches}, slots, shape, stream);
}

cudaError_t composite(MutableFrames frames, Patches<const __half> patches, Slots slots, Shape shape,
                      cudaStream_t stream) {
    return paint_all(frames, PatchPaint<__half>{patches}, slots, shape, stream);
}

cudaError_t solid(MutableFrames frames, Slots slots, const std::uint8_t color[kChannels], cudaStream_t stream) {
    return paint_all(frames, ColorPaint{{color[0], color[1], color[2]}}, slots, {false, 0.0f}, stream);
}

}  // namespace dartblur::cuda
