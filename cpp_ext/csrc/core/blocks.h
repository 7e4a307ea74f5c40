// Dividing a side into blocks as evenly as integers allow.
#pragma once

#include "geometry.h"

namespace dartblur {

// More blocks than pixels would only add empty ones.
DARTBLUR_HD int block_count(int side, int blocks) { return blocks < side ? blocks : side; }

DARTBLUR_HD int block_start(int index, int side, int blocks) {
    return static_cast<int>(static_cast<std::int64_t>(index) * side / blocks);
}

DARTBLUR_HD std::uint8_t rounded_mean(std::uint64_t sum, std::uint64_t count) {
    return static_cast<std::uint8_t>((sum + count / 2) / count);
}

}  // namespace dartblur
