// Gaussian kernels by OpenCV's rules.
#pragma once

#include "geometry.h"

namespace dartblur {

DARTBLUR_HD int kernel_size(int side) { return (side / 2) | 1; }

// Gaussian at a kernel's place, its sigma following from the kernel's odd size; the sum is not yet 1.
DARTBLUR_HD double bell(int index, int size) {
    const double sigma = 0.3 * ((size - 1) * 0.5 - 1.0) + 0.8;
    const double x = (index - (size - 1) * 0.5) / sigma;
    return std::exp(-0.5 * x * x);
}

// All of them, computed when asked for; a table of them serves as well below.
struct Bells {
    int size;

    DARTBLUR_HD double operator[](int index) const { return bell(index, size); }
};

template <class Table>
DARTBLUR_HD double bell_total(const Table& bells, int size) {
    double total = 0.0;
    for (int i = 0; i < size; ++i) total += bells[i];
    return total;
}

// The kernel of cv2.GaussianBlur on floats.
template <class Table>
DARTBLUR_HD void fill_kernel(float* kernel, int size, const Table& bells) {
    const double total = bell_total(bells, size);
    for (int i = 0; i < size; ++i) kernel[i] = static_cast<float>(bells[i] / total);
}

// The kernel of cv2.GaussianBlur on bytes. Its weights are whole 256ths: fixed ones for the smallest sizes, else
// rounded from the rim inward, each passing its rounding error on; the centre takes what is left.
template <class Table>
DARTBLUR_HD void fill_byte_kernel(float* kernel, int size, const Table& bells) {
    constexpr std::uint8_t fixed[4][4] = {{64}, {16, 64}, {8, 28, 56}, {4, 13, 30, 51}};
    const int centre = size / 2;
    const double share = 256.0 / bell_total(bells, size);
    double error = 0.0, rest = 256.0;
    for (int i = 0; i < centre; ++i) {
        const double exact = size <= 9 ? fixed[centre - 1][i] : bells[i] * share + error;
        const double whole = std::rint(exact);
        error = exact - whole;
        rest -= 2.0 * whole;
        kernel[i] = kernel[size - 1 - i] = static_cast<float>(whole / 256.0);
    }
    kernel[centre] = static_cast<float>(rest / 256.0);
}

// Mirrors an index at the edges without repeating the edge; good for one side's length beyond them.
DARTBLUR_HD int reflect(int index, int side) {
    if (index < 0) index = -index;
    return index < side ? index : 2 * side - 2 - index;
}

}  // namespace dartblur
