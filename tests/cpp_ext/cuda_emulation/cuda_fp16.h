// Stands in for the toolkit's header of this name: half precision numbers on the processor.
#pragma once

#include <cmath>
#include <cstdint>

struct __half {
    std::uint16_t bits;
};

inline float __half2float(__half half) {
    const int exponent = half.bits >> 10 & 31, fraction = half.bits & 1023;
    const float sign = half.bits >> 15 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * std::ldexp(fraction / 1024.0f, -14);
    return sign * std::ldexp(1.0f + fraction / 1024.0f, exponent - 15);
}
