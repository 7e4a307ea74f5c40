// Brightness and two colour differences to blue, green, red and back, in 16-bit whole numbers.
//
// 16 bits are what vector units multiply fastest. Every product is rounded, and sums keep 5 (to BGR) or 7 bits (from
// BGR) below the grey level: a result is within 0.55 of the exact real number, and greys stay grey.
#pragma once

#include <cstddef>
#include <cstdint>

#include "portable.h"

namespace dartblur {

// How numbers mean colours: shares of red and blue in brightness, and whether the whole 0..255 is used.
struct Colours {
    double red, blue;
    bool full;

    double green() const { return 1.0 - red - blue; }
    double luma_range() const { return full ? 255.0 : 219.0; }
    double chroma_range() const { return full ? 255.0 : 224.0; }
    int black() const { return full ? 0 : 16; }
};

template <class Byte>
struct Plane {
    Byte* data;
    std::ptrdiff_t stride;

    Byte* row(int y) const { return data + y * stride; }
};

// A picture whose colour differences have half its width and height, rounded up. Each belongs to the place where H.264
// and its successors have it unless they say otherwise: at the left pixels of its 2 x 2, halfway between their rows.
template <class Byte>
struct Yuv420 {
    Plane<Byte> y, u, v;
    int step;  // bytes from one colour difference to the next: 1, or 2 where both share a plane (NV12)
};

// value * factor / 2^15, halves up. In these steps compilers know it as one instruction where there is one.
DARTBLUR_HD std::int16_t scaled(std::int16_t value, std::int16_t factor) {
    return static_cast<std::int16_t>((((static_cast<std::int32_t>(value) * factor) >> 14) + 1) >> 1);
}

DARTBLUR_HD std::int16_t fixed(double factor, int bits) {
    const double grown = factor * (1 << bits);
    return static_cast<std::int16_t>(grown < 0 ? grown - 0.5 : grown + 0.5);
}

DARTBLUR_HD std::uint8_t grey_of(int value) {
    return static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// To BGR: brightness comes times 2^6 and its factor times 2^14, a colour difference times 2^7 and its factor times
// 2^13, so that products are grey levels times 2^5.
struct ToBgrFactors {
    std::int16_t black, luma, blue_of_u, green_of_u, green_of_v, red_of_v;

    explicit ToBgrFactors(const Colours& colours)
        : black(static_cast<std::int16_t>(colours.black())), luma(fixed(255.0 / colours.luma_range(), 14)) {
        const double u = 2 * (1 - colours.blue) * 255 / colours.chroma_range();
        const double v = 2 * (1 - colours.red) * 255 / colours.chroma_range();
        blue_of_u = fixed(u, 13);
        green_of_u = fixed(-u * colours.blue / colours.green(), 13);
        green_of_v = fixed(-v * colours.red / colours.green(), 13);
        red_of_v = fixed(v, 13);
    }
};

DARTBLUR_HD std::uint8_t from_32nds(int sum) { return grey_of((sum + 16) >> 5); }

// From BGR: bytes and their means come times 2^7, factors times 2^15; products are levels times 2^7.
struct FromBgrFactors {
    std::int16_t black, luma[3], u[3], v[3];  // for blue, green, red

    explicit FromBgrFactors(const Colours& colours) : black(static_cast<std::int16_t>(colours.black())) {
        const double luma_scale = colours.luma_range() / 255, chroma_scale = colours.chroma_range() / 255 / 2;
        const auto rounded = [](double factor) { return static_cast<int>(factor * 32768 + 0.5); };
        // What rounding takes from blue and red green gets, so that greys stay grey.
        const auto fill = [](std::int16_t* out, int blue, int red, int total) {
            out[0] = static_cast<std::int16_t>(blue);
            out[1] = static_cast<std::int16_t>(total - blue - red);
            out[2] = static_cast<std::int16_t>(red);
        };
        fill(luma, rounded(colours.blue * luma_scale), rounded(colours.red * luma_scale), rounded(luma_scale));
        fill(u, rounded(chroma_scale), -rounded(chroma_scale * colours.red / (1 - colours.blue)), 0);
        fill(v, -rounded(chroma_scale * colours.blue / (1 - colours.red)), rounded(chroma_scale), 0);
    }
};

DARTBLUR_HD int from_128ths(int sum) { return (sum + 64) >> 7; }

}  // namespace dartblur
