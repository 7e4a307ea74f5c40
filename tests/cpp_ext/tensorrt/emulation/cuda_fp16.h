// What the plugin needs besides the other operations' half precision numbers.
#pragma once

#include_next <cuda_fp16.h>

// Of a byte, which a half precision number holds exactly.
inline __half __ushort2half_rn(unsigned short byte) {
    if (byte == 0) return {0};
    int exponent = 0;
    const float fraction = std::frexp(static_cast<float>(byte), &exponent) * 2 - 1;
    return {static_cast<std::uint16_t>((exponent + 14) << 10 | static_cast<int>(fraction * 1024))};
}
