#include <algorithm>
#include <cstdint>
#include <vector>

#include "clones.h"
#include "core/yuv.h"
#include "ops.h"

// A byte may alias everything, so without this no loop here could be vectorised.
#define DARTBLUR_ALONE __restrict__

namespace dartblur {
namespace {

using Short = std::int16_t;
using Index = std::ptrdiff_t;  // of other widths the compiler must think that they wrap round, where -fwrapv says so

// A row's colour differences between two rows of the plane, times 4; the last is repeated behind them.
template <int Step>
DARTBLUR_INLINE void blend_row(const std::uint8_t* DARTBLUR_ALONE near, const std::uint8_t* DARTBLUR_ALONE far,
                               int count, Short* DARTBLUR_ALONE out) {
    for (Index i = 0; i < count; ++i) out[i] = static_cast<Short>(3 * near[i * Step] + far[i * Step]);
    out[count] = out[count - 1];
}

// Two pixels from each, now times 2^7 and about 0: the left one has it, the right one lies halfway to the next.
DARTBLUR_INLINE void widen_row(const Short* DARTBLUR_ALONE samples, int count, Short* DARTBLUR_ALONE out) {
    for (Index i = 0; i < count; ++i) {
        const int here = samples[i] - 128 * 4, next = samples[i + 1] - 128 * 4;
        out[2 * i] = static_cast<Short>(here * 32);
        out[2 * i + 1] = static_cast<Short>((here + next) * 16);
    }
}

DARTBLUR_BYTE_CLONES void chroma_row(const std::uint8_t* near, const std::uint8_t* far, int step, int count,
                                     Short* blended, Short* out) {
    if (step == 1) {
        blend_row<1>(near, far, count, blended);
    } else {
        blend_row<2>(near, far, count, blended);
    }
    widen_row(blended, count, out);
}

DARTBLUR_BYTE_CLONES void colour_row(const std::uint8_t* DARTBLUR_ALONE luma, const Short* DARTBLUR_ALONE u,
                                     const Short* DARTBLUR_ALONE v, int count, ToBgrFactors k,
                                     std::uint8_t* DARTBLUR_ALONE out) {
    for (Index x = 0; x < count; ++x) {
        const Short grey = scaled(static_cast<Short>((luma[x] - k.black) * 64), k.luma);
        const Short blue = static_cast<Short>(grey + scaled(u[x], k.blue_of_u));
        const Short green = static_cast<Short>(grey + scaled(u[x], k.green_of_u) + scaled(v[x], k.green_of_v));
        const Short red = static_cast<Short>(grey + scaled(v[x], k.red_of_v));
        out[x * kChannels] = from_32nds(blue);
        out[x * kChannels + 1] = from_32nds(green);
        out[x * kChannels + 2] = from_32nds(red);
    }
}

DARTBLUR_BYTE_CLONES void split_row(const std::uint8_t* DARTBLUR_ALONE row, int count,
                                    std::uint8_t* DARTBLUR_ALONE blue, std::uint8_t* DARTBLUR_ALONE green,
                                    std::uint8_t* DARTBLUR_ALONE red) {
    for (Index x = 0; x < count; ++x) {
        blue[x] = row[x * kChannels];
        green[x] = row[x * kChannels + 1];
        red[x] = row[x * kChannels + 2];
    }
}

DARTBLUR_BYTE_CLONES void luma_row(const std::uint8_t* DARTBLUR_ALONE blue, const std::uint8_t* DARTBLUR_ALONE green,
                                   const std::uint8_t* DARTBLUR_ALONE red, int count, FromBgrFactors k,
                                   std::uint8_t* DARTBLUR_ALONE out) {
    for (Index x = 0; x < count; ++x) {
        const Short sum = static_cast<Short>(scaled(static_cast<Short>(blue[x] * 128), k.luma[0]) +
                                             scaled(static_cast<Short>(green[x] * 128), k.luma[1]) +
                                             scaled(static_cast<Short>(red[x] * 128), k.luma[2]));
        out[x] = static_cast<std::uint8_t>(from_128ths(sum) + k.black);
    }
}

// Sums of two rows.
DARTBLUR_BYTE_CLONES void add_rows(const std::uint8_t* DARTBLUR_ALONE upper, const std::uint8_t* DARTBLUR_ALONE lower,
                                   int count, Short* DARTBLUR_ALONE out) {
    for (Index x = 0; x < count; ++x) out[x] = static_cast<Short>(upper[x] + lower[x]);
}

// Means of the columns about every second one, times 2^7: half of both neighbours is nearer to it than to others.
DARTBLUR_BYTE_CLONES void mean_columns(const Short* DARTBLUR_ALONE sums, int count, Short* DARTBLUR_ALONE out) {
    for (Index i = 0; i < count; ++i) {
        out[i] = static_cast<Short>((sums[2 * i] + 2 * sums[2 * i + 1] + sums[2 * i + 2]) * 16);
    }
}

DARTBLUR_BYTE_CLONES void difference_row(const Short* DARTBLUR_ALONE blue, const Short* DARTBLUR_ALONE green,
                                         const Short* DARTBLUR_ALONE red, int count, const Short (&k)[3], int step,
                                         std::uint8_t* DARTBLUR_ALONE out) {
    const Short of_blue = k[0], of_green = k[1], of_red = k[2];
    const auto level = [=](Index i) {
        const Short sum =
            static_cast<Short>(scaled(blue[i], of_blue) + scaled(green[i], of_green) + scaled(red[i], of_red));
        return grey_of(from_128ths(sum) + 128);
    };
    if (step == 1) {
        for (Index i = 0; i < count; ++i) out[i] = level(i);
    } else {
        for (Index i = 0; i < count; ++i) out[i * 2] = level(i);
    }
}

}  // namespace

void yuv_to_bgr(Yuv420<const std::uint8_t> in, Colours colours, MutableFrame out) {
    const ToBgrFactors factors(colours);
    const int columns = (out.width + 1) / 2, rows = (out.height + 1) / 2;
    std::vector<Short> blended(columns + 1), u(2 * columns), v(2 * columns);
    for (int y = 0; y < out.height; ++y) {
        const int near = y / 2, far = std::clamp(y % 2 ? near + 1 : near - 1, 0, rows - 1);
        chroma_row(in.u.row(near), in.u.row(far), in.step, columns, blended.data(), u.data());
        chroma_row(in.v.row(near), in.v.row(far), in.step, columns, blended.data(), v.data());
        colour_row(in.y.row(y), u.data(), v.data(), out.width, factors, out.row(y));
    }
}

void bgr_to_yuv(Frame in, Colours colours, Yuv420<std::uint8_t> out) {
    const FromBgrFactors factors(colours);
    const int columns = (in.width + 1) / 2, rows = (in.height + 1) / 2;
    std::vector<std::uint8_t> split[2][kChannels];
    for (auto& row : split) {
        for (auto& plane : row) plane.resize(in.width);
    }
    std::vector<Short> both(2 * columns + 1), means[kChannels];
    for (auto& plane : means) plane.resize(columns);
    for (int cell = 0; cell < rows; ++cell) {
        for (int r = 0; r < 2; ++r) {
            auto& [blue, green, red] = split[r];
            const int y = std::min(2 * cell + r, in.height - 1);
            split_row(in.row(y), in.width, blue.data(), green.data(), red.data());
            luma_row(blue.data(), green.data(), red.data(), in.width, factors, out.y.row(y));
        }
        for (int c = 0; c < kChannels; ++c) {
            add_rows(split[0][c].data(), split[1][c].data(), in.width, both.data() + 1);
            both.front() = both[1], both.back() = both[in.width];  // beyond the frame its edge repeats
            mean_columns(both.data(), columns, means[c].data());
        }
        const auto &[blue, green, red] = means;
        difference_row(blue.data(), green.data(), red.data(), columns, factors.u, out.step, out.u.row(cell));
        difference_row(blue.data(), green.data(), red.data(), columns, factors.v, out.step, out.v.row(cell));
    }
}

}  // namespace dartblur
