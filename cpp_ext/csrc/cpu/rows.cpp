#include "clones.h"
#include "core/sample.h"
#include "ops.h"

namespace dartblur {
namespace {

// A constant count lets the sums live in registers.
template <int Count>
DARTBLUR_INLINE void convolve_block(const float* samples, std::ptrdiff_t step, const float* kernel, int size,
                                    float* out) {
    float sums[Count] = {};
    for (int t = 0; t < size; ++t) {
        for (int i = 0; i < Count; ++i) sums[i] += kernel[t] * samples[t * step + i];
    }
    for (int i = 0; i < Count; ++i) out[i] = sums[i];
}

}  // namespace

DARTBLUR_CLONES void convolve(const float* samples, std::ptrdiff_t step, const float* kernel, int size, float* out,
                              int count) {
    int i = 0;
    for (; i + 32 <= count; i += 32) convolve_block<32>(samples + i, step, kernel, size, out + i);
    for (; i + 8 <= count; i += 8) convolve_block<8>(samples + i, step, kernel, size, out + i);
    for (; i < count; ++i) convolve_block<1>(samples + i, step, kernel, size, out + i);
}

DARTBLUR_CLONES void lerp_rows(const float* a, const float* b, float weight, int count, float* out) {
    for (int i = 0; i < count; ++i) out[i] = lerp(a[i], b[i], weight);
}

}  // namespace dartblur
